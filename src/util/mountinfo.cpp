// SPDX-License-Identifier: Apache-2.0
#include "util/mountinfo.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "util/read_file.h"

namespace vfsguard::util {

namespace {

// Blanks, newlines and backslashes are written as \ooo.
std::string unescape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      unsigned value = 0;
      std::from_chars(text.data() + i + 1, text.data() + i + 4, value, 8);
      out += static_cast<char>(value);
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

template <typename T>
bool to_number(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

std::string_view take_field(std::string_view& line) {
  const std::size_t blank = std::min(line.find(' '), line.size());
  const std::string_view field = line.substr(0, blank);
  line.remove_prefix(std::min(blank + 1, line.size()));
  return field;
}

}  // namespace

std::vector<Mount> parse_mountinfo(std::string_view text) {
  std::vector<Mount> mounts;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    std::array<std::string_view, 5> fields;  // id, parent, major:minor, root, mount point
    for (std::string_view& field : fields) {
      field = take_field(line);
    }
    const std::size_t colon = fields[2].find(':');
    Mount mount;
    std::uint32_t major = 0;
    std::uint32_t minor = 0;
    if (colon == std::string_view::npos || !to_number(fields[0], mount.id) || !to_number(fields[2].substr(0, colon), major) ||
        !to_number(fields[2].substr(colon + 1), minor) || fields[4].empty()) {
      continue;
    }
    mount.dev = major << 20 | minor;
    mount.root = unescape(fields[3]);
    mount.point = unescape(fields[4]);
    if (const std::size_t separator = line.find("- "); separator != std::string_view::npos) {
      line.remove_prefix(separator + 2);
      mount.type = take_field(line);
    }
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

std::vector<Mount> read_mountinfo(int fd) {
  std::string text;
  lseek(fd, 0, SEEK_SET);
  (void)read_all(fd, text);
  return parse_mountinfo(text);
}

}  // namespace vfsguard::util
