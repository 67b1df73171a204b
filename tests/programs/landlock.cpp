// SPDX-License-Identifier: Apache-2.0
// Runs a command under Landlock, the kernel's own sandbox: landlock FORBIDDEN COMMAND ARG... . Everything is allowed but what lies in FORBIDDEN:
// rules can only allow, so each directory beside it, on the way down from the root, gets one. Used by the bench, as a peer of enforcement.
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>

namespace {

constexpr __u64 kAll = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
constexpr __u64 kOfFiles = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE;

bool allow(int rules, const std::filesystem::path& path) {
  landlock_path_beneath_attr beneath{};
  beneath.allowed_access = std::filesystem::is_directory(path) ? kAll : kOfFiles;
  beneath.parent_fd = open(path.c_str(), O_PATH | O_CLOEXEC);
  const bool ok = beneath.parent_fd >= 0 && syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) == 0;
  close(beneath.parent_fd);
  return ok;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: landlock FORBIDDEN COMMAND ARG...\n");
    return 64;
  }
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs = kAll;
  const int rules = static_cast<int>(syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0));
  if (rules < 0) {
    std::perror("landlock");
    return 69;
  }
  std::filesystem::path way = "/";
  for (const auto& step : std::filesystem::path(argv[1]).relative_path()) {
    for (const auto& beside : std::filesystem::directory_iterator(way)) {
      if (beside.path().filename() != step && !allow(rules, beside.path()) && errno != EINVAL && errno != EBADF) {
        std::fprintf(stderr, "landlock: cannot allow %s\n", beside.path().c_str());
      }
    }
    way /= step;
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || syscall(SYS_landlock_restrict_self, rules, 0) != 0) {
    std::perror("landlock");
    return 71;
  }
  execvp(argv[2], argv + 2);
  std::perror(argv[2]);
  return 71;
}
