// SPDX-License-Identifier: Apache-2.0
// The memory of this process, as the kernel has it in /proc/self/smaps (Documentation/filesystems/proc.rst).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vfsguard::util {

struct Map {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  std::string rights;         // "r-xp"
  std::string offset;         // in the file, hexadecimal
  std::string name;           // the file's path, "[heap]" and the like; empty: neither
  std::uint64_t own_kib = 0;  // of it not as in the file: pages that were written to
};

// All of this process, in the order of their addresses.
std::vector<Map> own_maps();

// Of a container that is empty then. To assign `{}` keeps the memory: it is taken for an empty list.
template <typename Container>
void free_memory_of(Container& container) {
  Container().swap(container);
}

// Gives back what a start or a reload has used and what follows does not: free memory of the heap, and pages of the program and its libraries, which are read
// again from the file where they are needed after all. Maps with pages of this process's own (relocations, say) are left as they are.
void give_back_memory();

}  // namespace vfsguard::util
