// SPDX-License-Identifier: Apache-2.0
#include "sensor/call_functions.h"

#include "abi/control.h"
#include "event/names.h"

namespace vfsguard::sensor {

namespace {

struct Function {
  unsigned call;
  const char* native;  // behind __x64_sys_; null: no such call
  const char* compat;  // behind __ia32_compat_sys_ or __ia32_sys_
};

constexpr Function kFunctions[] = {
    {VG_CALL_OPEN, "open", "open"},
    {VG_CALL_OPENAT, "openat", "openat"},
    {VG_CALL_OPENAT2, "openat2", "openat2"},
    {VG_CALL_CREAT, "creat", "creat"},
    {VG_CALL_OPEN_BY_HANDLE_AT, "open_by_handle_at", "open_by_handle_at"},
    {VG_CALL_EXECVE, "execve", "execve"},
    {VG_CALL_EXECVEAT, "execveat", "execveat"},
    {VG_CALL_RENAME, "rename", "rename"},
    {VG_CALL_RENAMEAT, "renameat", "renameat"},
    {VG_CALL_RENAMEAT2, "renameat2", "renameat2"},
    {VG_CALL_UNLINK, "unlink", "unlink"},
    {VG_CALL_UNLINKAT, "unlinkat", "unlinkat"},
    {VG_CALL_RMDIR, "rmdir", "rmdir"},
    {VG_CALL_MKDIR, "mkdir", "mkdir"},
    {VG_CALL_MKDIRAT, "mkdirat", "mkdirat"},
    {VG_CALL_MKNOD, "mknod", "mknod"},
    {VG_CALL_MKNODAT, "mknodat", "mknodat"},
    {VG_CALL_LINK, "link", "link"},
    {VG_CALL_LINKAT, "linkat", "linkat"},
    {VG_CALL_SYMLINK, "symlink", "symlink"},
    {VG_CALL_SYMLINKAT, "symlinkat", "symlinkat"},
    {VG_CALL_TRUNCATE, "truncate", "truncate"},
    {VG_CALL_FTRUNCATE, "ftruncate", "ftruncate"},
    {VG_CALL_TRUNCATE64, nullptr, "ia32_truncate64"},
    {VG_CALL_FTRUNCATE64, nullptr, "ia32_ftruncate64"},
    {VG_CALL_FALLOCATE, "fallocate", "ia32_fallocate"},
    {VG_CALL_CHMOD, "chmod", "chmod"},
    {VG_CALL_FCHMOD, "fchmod", "fchmod"},
    {VG_CALL_FCHMODAT, "fchmodat", "fchmodat"},
    {VG_CALL_FCHMODAT2, "fchmodat2", "fchmodat2"},
    {VG_CALL_CHOWN, "chown", "chown"},
    {VG_CALL_FCHOWN, "fchown", "fchown"},
    {VG_CALL_LCHOWN, "lchown", "lchown"},
    {VG_CALL_FCHOWNAT, "fchownat", "fchownat"},
    {VG_CALL_CHOWN16, nullptr, "chown16"},
    {VG_CALL_FCHOWN16, nullptr, "fchown16"},
    {VG_CALL_LCHOWN16, nullptr, "lchown16"},
    {VG_CALL_UTIME, "utime", "utime32"},
    {VG_CALL_UTIMES, "utimes", "utimes_time32"},
    {VG_CALL_FUTIMESAT, "futimesat", "futimesat_time32"},
    {VG_CALL_UTIMENSAT, "utimensat", "utimensat"},
    {VG_CALL_UTIMENSAT, nullptr, "utimensat_time32"},
    {VG_CALL_SETXATTR, "setxattr", "setxattr"},
    {VG_CALL_LSETXATTR, "lsetxattr", "lsetxattr"},
    {VG_CALL_FSETXATTR, "fsetxattr", "fsetxattr"},
    {VG_CALL_SETXATTRAT, "setxattrat", "setxattrat"},
    {VG_CALL_REMOVEXATTR, "removexattr", "removexattr"},
    {VG_CALL_LREMOVEXATTR, "lremovexattr", "lremovexattr"},
    {VG_CALL_FREMOVEXATTR, "fremovexattr", "fremovexattr"},
    {VG_CALL_REMOVEXATTRAT, "removexattrat", "removexattrat"},
    {VG_CALL_MOUNT, "mount", "mount"},
    {VG_CALL_UMOUNT2, "umount", "umount"},
    {VG_CALL_UMOUNT, nullptr, "oldumount"},
    {VG_CALL_PIVOT_ROOT, "pivot_root", "pivot_root"},
    {VG_CALL_CHROOT, "chroot", "chroot"},
    {VG_CALL_MOVE_MOUNT, "move_mount", "move_mount"},
};

constexpr std::uint64_t bit(unsigned operation) { return std::uint64_t{1} << operation; }

constexpr ObjectHook kObjectHooks[] = {
    {"file_open", VG_AT_FILE_OPEN, bit(VG_OP_OPEN) | bit(VG_OP_EXEC)},
    {"path_unlink", VG_AT_PATH_UNLINK, bit(VG_OP_UNLINK)},
    {"path_rmdir", VG_AT_PATH_RMDIR, bit(VG_OP_UNLINK) | bit(VG_OP_RMDIR)},
    {"path_mkdir", VG_AT_PATH_MKDIR, bit(VG_OP_MKDIR)},
    {"path_mknod", VG_AT_PATH_MKNOD, bit(VG_OP_MKNOD)},
    {"path_symlink", VG_AT_PATH_SYMLINK, bit(VG_OP_SYMLINK)},
    {"path_link", VG_AT_PATH_LINK, bit(VG_OP_LINK)},
    {"path_rename", VG_AT_PATH_RENAME, bit(VG_OP_RENAME)},
    {"path_truncate", VG_AT_PATH_TRUNCATE, bit(VG_OP_TRUNCATE)},
    {"file_truncate", VG_AT_FILE_TRUNCATE, bit(VG_OP_TRUNCATE)},
    {"path_chmod", VG_AT_PATH_CHMOD, bit(VG_OP_CHMOD)},
    {"path_chown", VG_AT_PATH_CHOWN, bit(VG_OP_CHOWN)},
    {"inode_setattr", VG_AT_INODE_SETATTR, bit(VG_OP_UTIMES)},
    {"inode_setxattr", VG_AT_INODE_SETXATTR, bit(VG_OP_SETXATTR)},
    {"inode_set_acl", VG_AT_INODE_SETXATTR, bit(VG_OP_SETXATTR)},
    {"inode_removexattr", VG_AT_INODE_REMOVEXATTR, bit(VG_OP_REMOVEXATTR)},
    {"inode_remove_acl", VG_AT_INODE_REMOVEXATTR, bit(VG_OP_REMOVEXATTR)},
    {"sb_mount", VG_AT_SB_MOUNT, bit(VG_OP_MOUNT)},
    {"sb_umount", VG_AT_SB_UMOUNT, bit(VG_OP_UMOUNT)},
    {"sb_pivotroot", VG_AT_SB_PIVOTROOT, bit(VG_OP_PIVOT_ROOT)},
    {"move_mount", VG_AT_MOVE_MOUNT, bit(VG_OP_MOUNT)},
    {"path_chroot", VG_AT_PATH_CHROOT, bit(VG_OP_CHROOT)},
};

}  // namespace

std::span<const ObjectHook> object_hooks() { return kObjectHooks; }

std::vector<Probe> call_probes(std::uint64_t operations, const HasFunction& has) {
  std::vector<Probe> probes;
  const auto add = [&](std::initializer_list<std::string> candidates, unsigned call, unsigned via) {
    for (const std::string& symbol : candidates) {
      if (has(symbol)) {
        probes.push_back({symbol, VG_COOKIE_CALL(call, via)});
        return;
      }
    }
  };
  for (const Function& f : kFunctions) {
    if ((operations & bit(event::call_operation(f.call))) == 0) {
      continue;
    }
    if (f.native != nullptr) {
      add({std::string("__x64_sys_") + f.native}, f.call, VG_VIA_SYSCALL);
    }
    add({std::string("__ia32_compat_sys_") + f.compat, std::string("__ia32_sys_") + f.compat}, f.call, VG_VIA_COMPAT32);
  }
  return probes;
}

std::vector<Probe> request_probes(std::uint64_t operations, const HasFunction& has) {
  static constexpr std::pair<const char*, std::uint64_t> kRequests[] = {
      {"io_openat2", bit(VG_OP_OPEN)},  // of openat too
      {"io_renameat", bit(VG_OP_RENAME)},    {"io_unlinkat", bit(VG_OP_UNLINK)},   {"io_mkdirat", bit(VG_OP_MKDIR)},
      {"io_symlinkat", bit(VG_OP_SYMLINK)},  {"io_linkat", bit(VG_OP_LINK)},       {"io_fallocate", bit(VG_OP_TRUNCATE)},
      {"io_ftruncate", bit(VG_OP_TRUNCATE)}, {"io_setxattr", bit(VG_OP_SETXATTR)}, {"io_fsetxattr", bit(VG_OP_SETXATTR)},
  };
  std::vector<Probe> probes;
  for (const auto& [symbol, of] : kRequests) {
    if ((operations & of) != 0 && has(symbol)) {
      probes.push_back({symbol, VG_COOKIE_REQUEST});
    }
  }
  return probes;
}

std::vector<Probe> object_probes(std::uint64_t operations, const HasFunction& has) {
  std::vector<Probe> probes;
  if ((operations & (bit(VG_OP_OPEN) | bit(VG_OP_EXEC))) != 0 && has("vfs_open")) {
    probes.push_back({"vfs_open", VG_AT_VFS_OPEN});
  }
  for (const ObjectHook& hook : kObjectHooks) {
    if (const std::string symbol = std::string("security_") + hook.name; (hook.operations & operations) != 0 && has(symbol)) {
      probes.push_back({symbol, hook.where});
    }
  }
  return probes;
}

}  // namespace vfsguard::sensor
