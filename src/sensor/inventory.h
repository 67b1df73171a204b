// SPDX-License-Identifier: Apache-2.0
// What of ours is in the kernel, as it says itself: names and values to compare (guard/integrity.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace vfsguard::sensor {

class Loaded;

using Inventory = std::map<std::string, std::string>;

// "program OWNER/NAME": its id and tag (the kernel's digest of its instructions); "map OWNER/NAME": its id, and whether it is frozen.
void add_object(Inventory& inventory, const std::string& owner, const Loaded& object);
void add_program(Inventory& inventory, const std::string& owner, const std::string& name, int fd);
// "link OWNER/NAME": its id and kind, the program that it calls, and where it is attached as far as the kernel says.
void add_link(Inventory& inventory, const std::string& owner, const std::string& name, int fd);
// "tables OWNER": the SHA-256 of what lies at an index of a map.
void add_contents(Inventory& inventory, const std::string& owner, int map_fd, std::uint32_t index, std::size_t value_size);

}  // namespace vfsguard::sensor
