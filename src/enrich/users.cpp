// SPDX-License-Identifier: Apache-2.0
#include "enrich/users.h"

#include <pwd.h>
#include <sys/stat.h>

#include <cstdio>
#include <memory>

#include "util/clock.h"

namespace vfsguard::enrich {

void Users::read_again_where_changed() {
  constexpr std::uint64_t kLookEveryNs = 1'000'000'000u;
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC_COARSE);
  if (looked_ns_ != 0 && now - looked_ns_ < kLookEveryNs) {
    return;
  }
  looked_ns_ = now;
  struct stat status{};
  if (stat(file_.c_str(), &status) != 0 || (status.st_mtim.tv_sec == changed_.tv_sec && status.st_mtim.tv_nsec == changed_.tv_nsec)) {
    return;
  }
  const std::unique_ptr<FILE, decltype([](FILE* f) { fclose(f); })> file(fopen(file_.c_str(), "re"));
  if (!file) {
    return;
  }
  changed_ = status.st_mtim;
  names_.clear();
  while (const passwd* entry = fgetpwent(file.get())) {
    names_.try_emplace(entry->pw_uid, entry->pw_name);  // the first of several counts, as for getpwuid
  }
}

std::string_view Users::name(std::uint32_t uid) {
  read_again_where_changed();
  const auto it = names_.find(uid);
  return it == names_.end() ? std::string_view{} : std::string_view{it->second};
}

}  // namespace vfsguard::enrich
