// SPDX-License-Identifier: Apache-2.0
// Works against a policy that is changed all the time: swing DIR, until SIGTERM. In DIR: never/* may never be opened and always/* always; x and y may
// never be exchanged, by one policy because of x (EPERM), by the other because of y (EACCES): a decision made by half of each would let them.
// Prints: rounds, exchanges refused by either, and what went wrong.
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <vector>

namespace {

volatile sig_atomic_t ending = 0;

std::vector<std::string> files(const std::string& directory) {
  std::vector<std::string> names;
  DIR* d = opendir(directory.c_str());
  while (const dirent* entry = d != nullptr ? readdir(d) : nullptr) {
    if (entry->d_name[0] != '.') {
      names.push_back(directory + "/" + entry->d_name);
    }
  }
  if (d != nullptr) {
    closedir(d);
  }
  return names;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: swing DIR\n");
    return 64;
  }
  const std::string d = argv[1];
  const auto never = files(d + "/never");
  const auto always = files(d + "/always");
  struct sigaction action{};
  action.sa_handler = [](int) { ending = 1; };
  sigaction(SIGTERM, &action, nullptr);
  long rounds = 0;
  long by_x = 0;
  long by_y = 0;
  long opened = 0;
  long refused = 0;
  long exchanged = 0;
  while (ending == 0) {
    ++rounds;
    for (const std::string& file : never) {
      const int fd = open(file.c_str(), O_RDONLY);
      if (fd >= 0) {
        ++opened;
        close(fd);
      }
    }
    for (const std::string& file : always) {
      const int fd = open(file.c_str(), O_RDONLY);
      if (fd < 0) {
        ++refused;
      } else {
        close(fd);
      }
    }
    if (syscall(SYS_renameat2, AT_FDCWD, (d + "/x").c_str(), AT_FDCWD, (d + "/y").c_str(), RENAME_EXCHANGE) == 0) {
      ++exchanged;
    } else if (errno == EPERM) {
      ++by_x;
    } else if (errno == EACCES) {
      ++by_y;
    } else {
      ++exchanged;
    }
  }
  printf("%ld %ld %ld %ld %ld %ld\n", rounds, by_x, by_y, opened, refused, exchanged);
  return 0;
}
