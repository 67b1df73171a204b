// SPDX-License-Identifier: Apache-2.0
#include "util/memory.h"

#include <malloc.h>
#include <sys/mman.h>

#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>

#include "util/read_file.h"

namespace vfsguard::util {

void give_back_memory() {
  malloc_trim(0);
  // /proc/self/smaps (Documentation/filesystems/proc.rst): "BEGIN-END RIGHTS ...  /PATH", then "Anonymous:  N kB" among the counts of that map.
  const std::string text = read_file("/proc/self/smaps").value_or("");
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t stop = std::min(text.find('\n', at), text.size());
    const std::string_view line(text.data() + at, stop - at);
    at = stop + 1;
    constexpr std::string_view kOwn = "Anonymous:";
    if (line.starts_with(kOwn)) {
      const std::size_t digit = line.find_first_not_of(' ', kOwn.size());
      if (begin != 0 && digit != std::string_view::npos && line.substr(digit) == "0 kB") {
        // NOLINTNEXTLINE(performance-no-int-to-ptr): the kernel says it as a number
        (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
      }
      begin = 0;
      continue;
    }
    const std::size_t dash = line.find('-');
    const std::size_t space = line.find(' ');
    if (dash == std::string_view::npos || space == std::string_view::npos || dash > space) {
      continue;
    }
    const std::string_view rights = line.substr(space + 1, 4);
    begin = 0;
    if ((rights == "r-xp" || rights == "r--p") && line.find(" /") != std::string_view::npos) {
      std::from_chars(line.data(), line.data() + dash, begin, 16);
      std::from_chars(line.data() + dash + 1, line.data() + space, end, 16);
    }
  }
}

}  // namespace vfsguard::util
