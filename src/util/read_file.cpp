// SPDX-License-Identifier: Apache-2.0
#include "util/read_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <fstream>

#include "util/fd.h"

namespace vfsguard::util {

bool read_all(int fd, std::string& text) {
  std::array<char, 4096> chunk;
  ssize_t n = 0;
  while ((n = read(fd, chunk.data(), chunk.size())) > 0) {
    text.append(chunk.data(), static_cast<std::size_t>(n));
  }
  return n == 0;
}

std::optional<std::string> read_file(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  return fd && read_all(fd.get(), text) ? std::optional(std::move(text)) : std::nullopt;
}

std::optional<std::string> read_text(const std::string& path, std::size_t limit) {
  std::ifstream in(path);
  if (!in) {
    return std::nullopt;
  }
  std::string text;
  std::array<char, 65536> chunk;
  while (text.size() <= limit && (in.read(chunk.data(), chunk.size()) || in.gcount() > 0)) {
    text.append(chunk.data(), static_cast<std::size_t>(in.gcount()));
  }
  return text;
}

}  // namespace vfsguard::util
