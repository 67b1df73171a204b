// SPDX-License-Identifier: Apache-2.0
#include "util/memory.h"

#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "util/read_file.h"

namespace vfsguard::util {

namespace {

std::string_view next_word(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  const std::size_t end = std::min(line.find(' '), line.size());
  const std::string_view word = line.substr(0, end);
  line.remove_prefix(end);
  return word;
}

template <typename T>
void number(std::string_view text, T& into, int base) {
  std::from_chars(text.data(), text.data() + text.size(), into, base);
}

}  // namespace

// A line a map, "BEGIN-END RIGHTS OFFSET DEVICE INODE NAME", then a line for each of its counts, "Name: N kB".
std::vector<Map> own_maps() {
  std::vector<Map> maps;
  const std::string text = read_file("/proc/self/smaps").value_or("");
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line(text.data() + at, end - at);
    at = end + 1;
    const std::string_view first = next_word(line);
    if (first.ends_with(':')) {
      if (first == "Anonymous:" && !maps.empty()) {
        number(next_word(line), maps.back().own_kib, 10);
      }
      continue;
    }
    const std::size_t dash = std::min(first.find('-'), first.size() - 1);
    Map& map = maps.emplace_back();
    number(first.substr(0, dash), map.begin, 16);
    number(first.substr(dash + 1), map.end, 16);
    map.rights = next_word(line);
    map.offset = next_word(line);
    next_word(line);  // device
    next_word(line);  // inode
    map.name = line.substr(std::min(line.find_first_not_of(' '), line.size()));
  }
  return maps;
}

void give_back_memory() {
  malloc_trim(0);
  for (const Map& map : own_maps()) {
    if ((map.rights == "r-xp" || map.rights == "r--p") && map.name.starts_with('/') && map.own_kib == 0) {
      // NOLINTNEXTLINE(performance-no-int-to-ptr): the kernel says it as a number
      (void)madvise(reinterpret_cast<void*>(map.begin), map.end - map.begin, MADV_DONTNEED);
    }
  }
}

}  // namespace vfsguard::util
