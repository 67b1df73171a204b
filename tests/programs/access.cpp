// SPDX-License-Identifier: Apache-2.0
// Reads or writes one file over and over: access FILE read|write SIZE COUNT. Used by the bench.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: access FILE read|write SIZE COUNT\n");
    return 64;
  }
  const bool writes = std::string_view(argv[2]) == "write";
  std::vector<char> buffer(static_cast<std::size_t>(std::atol(argv[3])));
  const int fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || pwrite(fd, buffer.data(), buffer.size(), 0) < 0) {
    std::perror(argv[1]);
    return 1;
  }
  for (long i = std::atol(argv[4]); i > 0; --i) {
    if ((writes ? pwrite(fd, buffer.data(), buffer.size(), 0) : pread(fd, buffer.data(), buffer.size(), 0)) < 0) {
      std::perror(argv[1]);
      return 1;
    }
  }
}
