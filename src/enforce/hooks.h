// SPDX-License-Identifier: Apache-2.0
// The places in the kernel that enforcement needs, and what each stops.
#pragma once

#include <cstdint>
#include <span>

#include "abi/control.h"
#include "event/names.h"

namespace vfsguard::enforce {

struct EnforcedHook {
  const char* name;
  std::uint64_t operations;  // bit per VG_OP_*
  unsigned where;            // for the program at security_NAME (VG_AT_*)
};

constexpr std::uint64_t bit(unsigned operation) { return event::operation_bit(operation); }

constexpr std::uint64_t kAll = (std::uint64_t{1} << VG_OP_COUNT) - 2;
constexpr std::uint64_t kContents = bit(VG_OP_READ) | bit(VG_OP_WRITE) | bit(VG_OP_OPEN);

// What is only told of: the end of a session and of a process.
constexpr std::uint64_t kEnds = bit(VG_OP_CLOSE) | bit(VG_OP_EXIT);

// What the arguments of a call tell before it is carried out; maps and requests to drivers are left to what stands at the object.
constexpr std::uint64_t kByCall = kContents | bit(VG_OP_EXEC) | bit(VG_OP_UNLINK) | bit(VG_OP_RMDIR) | bit(VG_OP_MKDIR) | bit(VG_OP_MKNOD) |
                                  bit(VG_OP_SYMLINK) | bit(VG_OP_LINK) | bit(VG_OP_RENAME) | bit(VG_OP_TRUNCATE) | bit(VG_OP_CHMOD) | bit(VG_OP_CHOWN) |
                                  bit(VG_OP_UTIMES) | bit(VG_OP_SETXATTR) | bit(VG_OP_REMOVEXATTR) | bit(VG_OP_MOUNT) | bit(VG_OP_UMOUNT) |
                                  bit(VG_OP_PIVOT_ROOT) | bit(VG_OP_CHROOT);

// What a call has got when it returns: all that can be told then, before its caller goes on.
constexpr std::uint64_t kAtReturn = kContents | bit(VG_OP_EXEC) | bit(VG_OP_CREATE) | bit(VG_OP_MMAP);

std::span<const EnforcedHook> enforced_hooks();

// Operations that no hook of the kernel could stop.
std::uint64_t beyond_hooks();

// Hooks that came after the oldest kernel that this runs on; what they stop is stopped by another one there.
bool came_later(const EnforcedHook& hook);

// Whether rules about these operations take it.
bool is_needed(const EnforcedHook& hook, std::uint64_t operations);

// A create and a truncation can be an open, a removed directory an unlinkat, and what is opened is read and written.
std::uint64_t with_opens(std::uint64_t operations);

}  // namespace vfsguard::enforce
