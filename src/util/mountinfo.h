// SPDX-License-Identifier: Apache-2.0
// /proc/PID/mountinfo, as proc_pid_mountinfo(5) describes it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vfsguard::util {

struct Mount {
  std::uint32_t id = 0;
  std::uint32_t dev = 0;  // kernel-internal encoding: major << 20 | minor
  std::string root;       // the part of the file system that is seen
  std::string point;
  std::string type;  // of the file system
};

// Whether a path is a directory's own, or of something in it.
inline bool is_below(std::string_view path, std::string_view directory) {
  return directory == "/" || (path.starts_with(directory) && (path.size() == directory.size() || path[directory.size()] == '/'));
}

// All of an open mountinfo, from its beginning.
std::vector<Mount> read_mountinfo(int fd);

// A mount a line; lines that are none are left out.
std::vector<Mount> parse_mountinfo(std::string_view text);

}  // namespace vfsguard::util
