// SPDX-License-Identifier: Apache-2.0
#include "enforce/hooks.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace vfsguard::enforce {

namespace {

// A read or a write also ends what an open that is forbidden now began.
constexpr EnforcedHook kHooks[] = {
    {"file_open", bit(VG_OP_OPEN) | bit(VG_OP_EXEC) | bit(VG_OP_CREATE), VG_AT_FILE_OPEN},
    {"file_permission", kContents, VG_AT_FILE_PERMISSION},
    {"file_receive", bit(VG_OP_OPEN), VG_AT_FILE_RECEIVE},
    {"mmap_file", kContents | bit(VG_OP_MMAP), VG_AT_MMAP_FILE},
    {"file_mprotect", kContents | bit(VG_OP_MMAP), VG_AT_FILE_MPROTECT},
    {"file_ioctl", bit(VG_OP_IOCTL) | kContents | bit(VG_OP_UNLINK), VG_AT_FILE_IOCTL},
    {"file_ioctl_compat", bit(VG_OP_IOCTL) | kContents | bit(VG_OP_UNLINK), VG_AT_FILE_IOCTL},
    {"path_unlink", bit(VG_OP_UNLINK), VG_AT_PATH_UNLINK},
    {"path_rmdir", bit(VG_OP_RMDIR), VG_AT_PATH_RMDIR},
    {"path_mkdir", bit(VG_OP_MKDIR), VG_AT_PATH_MKDIR},
    {"path_mknod", bit(VG_OP_MKNOD) | bit(VG_OP_CREATE) | bit(VG_OP_BIND), VG_AT_PATH_MKNOD},
    {"path_symlink", bit(VG_OP_SYMLINK), VG_AT_PATH_SYMLINK},
    {"path_link", bit(VG_OP_LINK), VG_AT_PATH_LINK},
    {"path_rename", bit(VG_OP_RENAME), VG_AT_PATH_RENAME},
    {"path_truncate", bit(VG_OP_TRUNCATE), VG_AT_PATH_TRUNCATE},
    {"file_truncate", bit(VG_OP_TRUNCATE), VG_AT_FILE_TRUNCATE},
    {"path_chmod", bit(VG_OP_CHMOD), VG_AT_PATH_CHMOD},
    {"path_chown", bit(VG_OP_CHOWN), VG_AT_PATH_CHOWN},
    {"inode_create", bit(VG_OP_CREATE), VG_AT_INODE_CREATE},
    {"inode_mknod", bit(VG_OP_MKNOD) | bit(VG_OP_CREATE) | bit(VG_OP_BIND), VG_AT_INODE_MKNOD},
    {"inode_mkdir", bit(VG_OP_MKDIR), VG_AT_INODE_MKDIR},
    {"inode_symlink", bit(VG_OP_SYMLINK), VG_AT_INODE_SYMLINK},
    {"inode_unlink", bit(VG_OP_UNLINK), VG_AT_INODE_UNLINK},
    {"inode_rmdir", bit(VG_OP_RMDIR), VG_AT_INODE_RMDIR},
    {"inode_link", bit(VG_OP_LINK), VG_AT_INODE_LINK},
    {"inode_rename", bit(VG_OP_RENAME), VG_AT_INODE_RENAME},
    {"inode_free_security", 0, 0},
    {"inode_setattr", bit(VG_OP_UTIMES) | bit(VG_OP_CHMOD) | bit(VG_OP_CHOWN) | bit(VG_OP_TRUNCATE), VG_AT_INODE_SETATTR},
    {"inode_setxattr", bit(VG_OP_SETXATTR), VG_AT_INODE_SETXATTR},
    {"inode_set_acl", bit(VG_OP_SETXATTR), VG_AT_INODE_SETXATTR},
    {"inode_removexattr", bit(VG_OP_REMOVEXATTR), VG_AT_INODE_REMOVEXATTR},
    {"inode_remove_acl", bit(VG_OP_REMOVEXATTR), VG_AT_INODE_REMOVEXATTR},
    {"sb_mount", bit(VG_OP_MOUNT), VG_AT_SB_MOUNT},
    {"move_mount", bit(VG_OP_MOUNT), VG_AT_MOVE_MOUNT},
    {"sb_umount", bit(VG_OP_UMOUNT), VG_AT_SB_UMOUNT},
    {"sb_pivotroot", bit(VG_OP_PIVOT_ROOT), VG_AT_SB_PIVOTROOT},
    {"path_chroot", bit(VG_OP_CHROOT), VG_AT_PATH_CHROOT},
};

// Always: they give what is protected another name, or end what was remembered.
constexpr std::array<std::string_view, 7> kAlways{"path_link", "path_rename", "path_unlink", "path_rmdir", "inode_link", "inode_rename", "inode_free_security"};

constexpr std::array<std::string_view, 4> kNewer{"file_truncate", "inode_set_acl", "inode_remove_acl", "file_ioctl_compat"};

}  // namespace

std::span<const EnforcedHook> enforced_hooks() { return kHooks; }

std::uint64_t beyond_hooks() {
  std::uint64_t stopped = 0;
  for (const EnforcedHook& hook : kHooks) {
    stopped |= hook.operations;
  }
  return ~stopped & kAll;
}

bool came_later(const EnforcedHook& hook) { return std::ranges::find(kNewer, hook.name) != kNewer.end(); }

bool is_needed(const EnforcedHook& hook, std::uint64_t operations) {
  // The first also shows that hooks are called at all.
  return (hook.operations & operations) != 0 || &hook == kHooks || std::ranges::find(kAlways, hook.name) != kAlways.end();
}

std::uint64_t with_opens(std::uint64_t operations) {
  if ((operations & (bit(VG_OP_CREATE) | bit(VG_OP_TRUNCATE))) != 0) {
    operations |= bit(VG_OP_OPEN);
  }
  if ((operations & bit(VG_OP_RMDIR)) != 0) {
    operations |= bit(VG_OP_UNLINK);
  }
  return (operations & bit(VG_OP_OPEN)) != 0 ? operations | kContents : operations;
}

}  // namespace vfsguard::enforce
