// SPDX-License-Identifier: Apache-2.0
// Does one thing to one file over and over: access FILE WHAT SIZE COUNT. Prints nanoseconds=N, of the repetitions alone. Used by the bench.
// `each` opens FILE.1, FILE.2, ..., each of them once; what is not there it makes before.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: access FILE read|write|open|each|rename|unlink|chmod|mmap SIZE COUNT\n");
    return 64;
  }
  const std::string file = argv[1];
  const std::string other = file + ".other";
  std::vector<char> buffer(static_cast<std::size_t>(std::atol(argv[3])));
  const int fd = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || pwrite(fd, buffer.data(), buffer.size(), 0) < 0) {
    std::perror(argv[1]);
    return 1;
  }
  bool there = true;
  std::vector<std::string> names;
  for (long i = std::atol(argv[4]); i > 0; --i) {
    names.push_back(file + "." + std::to_string(i));
  }
  std::size_t next = 0;
  const std::map<std::string, std::function<bool()>> kinds{
      {"read", [&] { return pread(fd, buffer.data(), buffer.size(), 0) >= 0; }},
      {"write", [&] { return pwrite(fd, buffer.data(), buffer.size(), 0) >= 0; }},
      {"open", [&] { return close(open(file.c_str(), O_RDONLY | O_CLOEXEC)) == 0; }},
      {"each", [&] { return close(open(names[next++].c_str(), O_RDONLY | O_CLOEXEC)) == 0; }},
      {"rename",
       [&] {
         there = !there;
         return (there ? rename(other.c_str(), file.c_str()) : rename(file.c_str(), other.c_str())) == 0;
       }},
      {"unlink", [&] { return link(file.c_str(), other.c_str()) == 0 && unlink(other.c_str()) == 0; }},  // and the link before it
      {"chmod", [&] { return chmod(file.c_str(), 0600) == 0; }},
      {"mmap",
       [&] {
         void* map = mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
         return map != MAP_FAILED && munmap(map, 4096) == 0;
       }},
  };
  const auto kind = kinds.find(argv[2]);
  if (kind == kinds.end()) {
    std::fprintf(stderr, "access: no '%s'\n", argv[2]);
    return 64;
  }
  if (std::string(argv[2]) == "each") {
    for (const std::string& name : names) {
      if (access(name.c_str(), F_OK) != 0) {
        close(open(name.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0600));
      }
    }
  }
  const auto start = std::chrono::steady_clock::now();
  for (long i = std::atol(argv[4]); i > 0; --i) {
    if (!kind->second()) {
      std::perror(argv[1]);
      return 1;
    }
  }
  std::printf("nanoseconds=%lld\n", static_cast<long long>((std::chrono::steady_clock::now() - start).count()));
}
