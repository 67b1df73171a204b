// SPDX-License-Identifier: Apache-2.0
#include "enrich/mounts.h"

#include <fcntl.h>
#include <poll.h>

#include <algorithm>

namespace vfsguard::enrich {

void Mounts::read_again_where_changed() {
  if (kept_) {
    return;
  }
  if (!file_) {
    file_.reset(open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  }
  pollfd changed{file_.get(), POLLPRI, 0};
  if (!file_ || (read_ && poll(&changed, 1, 0) == 0)) {
    return;
  }
  read_ = true;
  mounts_ = util::read_mountinfo(file_.get());
}

std::optional<util::Mount> Mounts::by_id(std::uint32_t id) {
  read_again_where_changed();
  const auto found = std::ranges::find(mounts_, id, &util::Mount::id);
  return found == mounts_.end() ? std::nullopt : std::optional(*found);
}

std::optional<std::string> Mounts::host_path(std::uint32_t dev, std::string_view fs_path) {
  read_again_where_changed();
  const util::Mount* best = nullptr;
  for (const util::Mount& mount : mounts_) {
    if (mount.dev == dev && util::is_below(fs_path, mount.root) && (best == nullptr || mount.root.size() > best->root.size())) {
      best = &mount;
    }
  }
  if (best == nullptr) {
    return std::nullopt;
  }
  std::string_view rest = fs_path.substr(best->root == "/" ? 0 : best->root.size());
  if (rest == "/") {
    rest = {};
  }
  if (best->point == "/") {
    return rest.empty() ? std::string("/") : std::string(rest);
  }
  return best->point + std::string(rest);
}

}  // namespace vfsguard::enrich
