// SPDX-License-Identifier: Apache-2.0
// What of ours is in the kernel, as it says itself: names and values to compare (guard/integrity.h).
#pragma once

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

// What of an inventory has an id, by kind (VG_GUARDED_*) and id, as VG_GUARDED_KEY has them.
std::map<std::uint64_t, std::string> ids_of(const Inventory& inventory);

}  // namespace vfsguard::sensor
