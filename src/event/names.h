// SPDX-License-Identifier: Apache-2.0
// Numbers to the field's own names, and back where the command line needs it. Unknown values give an empty view or their number.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "abi/events.h"

namespace vfsguard::event {

std::string_view operation_name(unsigned operation);
// The operations that a name asks for, bit per VG_OP_*. "open" asks for those that create the file too.
std::optional<std::uint64_t> operations_from_name(std::string_view name);
// What is watched where nothing else is said: all but reads, writes and closes, which are many.
inline constexpr std::uint64_t kDefaultOperations = ~(std::uint64_t{1} << VG_OP_READ | std::uint64_t{1} << VG_OP_WRITE | std::uint64_t{1} << VG_OP_CLOSE);
std::string operation_list();  // "open, exec, ...", for messages

std::string_view call_name(unsigned call);
// The operation that a call is unless its result or flags say otherwise (VG_OP_*).
unsigned call_operation(unsigned call);
std::string_view via_name(unsigned via);
std::string_view hook_name(unsigned hook);
std::string_view file_type_name(std::uint32_t imode);

// "EACCES"; knows the kernel's own codes too (ERESTARTSYS), which system call exits show before a signal is handled.
std::string error_name(int code);

// "O_WRONLY|O_CREAT|O_TRUNC"; bits without a name as hexadecimal.
void append_open_flags(std::uint64_t flags, std::string& out);
// The flags of any other call by its own names: AT_*, RENAME_*, FALLOC_FL_*, MS_*, MNT_*, XATTR_*.
void append_call_flags(unsigned call, std::uint64_t flags, std::string& out);
// "RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS".
void append_resolve_flags(std::uint64_t flags, std::string& out);
// How the file was opened: "r", "w", "rw", "rx", "path".
std::string_view fmode_name(std::uint32_t fmode, std::uint64_t flags);

}  // namespace vfsguard::event
