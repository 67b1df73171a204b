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
// The one operation of that name (VG_OP_*).
std::optional<unsigned> operation_from_name(std::string_view name);
// An operation's bit in a set of operations.
constexpr std::uint64_t operation_bit(unsigned operation) { return std::uint64_t{1} << operation; }
// Reads and writes, as sessions or each.
inline constexpr std::uint64_t kAccesses = operation_bit(VG_OP_READ) | operation_bit(VG_OP_WRITE) | operation_bit(VG_OP_CLOSE);
// What is done to no file of its own, but tells what goes on around the files.
inline constexpr std::uint64_t kContext = operation_bit(VG_OP_CONNECT) | operation_bit(VG_OP_BIND) | operation_bit(VG_OP_PTRACE) | operation_bit(VG_OP_BPF) |
                                          operation_bit(VG_OP_KILL) | operation_bit(VG_OP_SETUID) | operation_bit(VG_OP_FORK) | operation_bit(VG_OP_EXIT);
// What is watched where nothing else is said: what opens, executes or changes. Reads, writes and maps are many, the rest is context.
inline constexpr std::uint64_t kDefaultOperations = ~(kAccesses | kContext | operation_bit(VG_OP_MMAP));
std::string operation_names(std::uint64_t operations);  // "open, exec"
std::string operation_list();                           // "open, exec, ...", for messages
std::string nearest_operation(std::string_view word);   // "did you mean 'open'?", or all, where none is near

std::string_view call_name(unsigned call);
// The operation that a call is unless its result or flags say otherwise (VG_OP_*).
unsigned call_operation(unsigned call);
// All that it can be, a bit each.
std::uint64_t call_operations(unsigned call);
// What a call's second string is: "dst_path_raw" where it is a path, else "target", "xattr", "source" or "address".
std::string_view second_name(unsigned call);
std::string_view via_name(unsigned via);
std::string_view hook_name(unsigned hook);
// Why an object or a requester was not known (VG_UNKNOWN_*), and by which of its names an object was
// (VG_MATCHED_*); empty for none.
std::string_view cause_name(unsigned cause);
std::string_view matched_by_name(unsigned matched_by);
std::string_view mechanism_name(unsigned mechanism);  // who carried a verdict out (VG_MECHANISM_*)
std::string_view file_type_name(std::uint32_t imode);

// "EACCES"; knows the kernel's own codes too (ERESTARTSYS), which system call exits show before a signal is handled.
std::string error_name(int code);

// "O_WRONLY|O_CREAT|O_TRUNC"; bits without a name as hexadecimal.
void append_open_flags(std::uint64_t flags, std::string& out);
// The flags of any other call by its own names: AT_*, RENAME_*, FALLOC_FL_*, MS_*, MNT_*, XATTR_*, MAP_*, CLONE_*.
void append_call_flags(unsigned call, std::uint64_t flags, std::string& out);
// "RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS".
void append_resolve_flags(std::uint64_t flags, std::string& out);
// "PROT_READ|PROT_EXEC".
void append_protection(std::uint32_t protection, std::string& out);
// "immutable|append": the inode attributes of chattr (FS_*_FL), or those of FS_IOC_FSSETXATTR (FS_XFLAG_*).
// False where the request sets none.
bool append_attributes(std::uint32_t request, std::uint64_t value, std::string& out);
// By name, or the number as text where it has none that we know.
std::string ioctl_name(std::uint32_t request);
std::string ptrace_name(std::uint64_t request);
std::string bpf_name(std::uint64_t command);
std::string signal_name(std::uint64_t signal);
std::string family_name(unsigned family);
std::string socket_type_name(unsigned type);
std::string protocol_name(unsigned protocol);
// How the file was opened: "r", "w", "rw", "rx", "path".
std::string_view fmode_name(std::uint32_t fmode, std::uint64_t flags);

}  // namespace vfsguard::event
