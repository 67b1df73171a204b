// SPDX-License-Identifier: Apache-2.0
#include "enforce/names.h"

#include <filesystem>

#include <fmt/format.h>

namespace vfsguard::enforce {

std::string fixed_part(const std::string& glob) {
  const std::size_t special = glob.find_first_of("*?[\\");
  if (special == std::string::npos) {
    return glob;
  }
  const std::size_t slash = glob.rfind('/', special);
  return slash == 0 ? "/" : glob.substr(0, slash);
}

bool for_each_linked_file(const policy::Policy& policy, const std::set<std::string>& known,
                          const std::function<void(const std::string& path, const struct stat& status)>& each) {
  std::set<std::string> from;
  for (const policy::Rule& rule : policy.rules) {
    if (rule.decides() && rule.enforce) {
      for (const policy::Glob& glob : rule.paths) {
        if (!known.contains(glob.text)) {
          from.insert(fixed_part(glob.text));
        }
      }
    }
  }
  const auto consider = [&](const std::string& path, const struct stat& status) {
    if (S_ISREG(status.st_mode) && status.st_nlink > 1) {
      each(path, status);
    }
  };
  std::size_t looked = 0;
  std::string last;
  for (const std::string& path : from) {
    if (!last.empty() && path.starts_with(last == "/" ? "/" : last + "/")) {
      continue;  // walked already
    }
    struct stat status{};
    if (lstat(path.c_str(), &status) != 0) {
      continue;
    }
    consider(path, status);
    if (!S_ISDIR(status.st_mode)) {
      continue;
    }
    last = path;
    std::error_code error;
    std::filesystem::recursive_directory_iterator it(path, std::filesystem::directory_options::skip_permission_denied, error);
    for (; !error && it != std::filesystem::recursive_directory_iterator() && looked < kMaxLooked; it.increment(error)) {
      ++looked;
      const std::string& name = it->path().native();
      if (name == "/proc" || name == "/sys") {
        it.disable_recursion_pending();
        continue;
      }
      if (lstat(name.c_str(), &status) == 0) {
        consider(name, status);
      }
    }
  }
  return looked < kMaxLooked;
}

std::string not_all_looked_at() {
  return fmt::format("the first {} files below the protected paths were looked at for hard links; of the others only the protected names hold", kMaxLooked);
}

}  // namespace vfsguard::enforce
