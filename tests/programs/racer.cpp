// SPDX-License-Identifier: Apache-2.0
// Opens a name that another thread keeps rewriting, and prints for each open what the kernel really gave: the object behind the
// descriptor, or the error. racer DIRECTORY OPENS; DIRECTORY holds a/x and b/x. The names have the same length.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

int main(int argc, char** argv) {
  if (argc < 3) {
    return 64;
  }
  const std::string one = std::string(argv[1]) + "/a/x";
  const std::string two = std::string(argv[1]) + "/b/x";
  const std::size_t at = std::strlen(argv[1]) + 1;
  static char name[4096];
  std::strcpy(name, one.c_str());
  std::atomic<bool> stop{false};
  std::thread rewriter([&] {
    volatile char* letter = &name[at];
    while (!stop) {
      *letter = 'a';
      *letter = 'b';
      *letter = 'c';  // does not exist
    }
  });
  std::string report;
  for (int i = 0; i < std::atoi(argv[2]); ++i) {
    const int fd = open(name, O_RDONLY);
    if (fd < 0) {
      report += std::string("- ") + strerrorname_np(errno) + "\n";
      continue;
    }
    char link[64];
    char target[4096];
    std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(link, target, sizeof target);
    report.append(target, static_cast<std::size_t>(n > 0 ? n : 0));
    report += "\n";
    close(fd);
  }
  stop = true;
  rewriter.join();
  std::fputs(report.c_str(), stdout);
}
