// SPDX-License-Identifier: Apache-2.0
#include "sensor/call_functions.h"

#include <algorithm>

#include "abi/control.h"
#include "event/names.h"

namespace vfsguard::sensor {

namespace {

struct Function {
  unsigned call;
  const char* native;  // behind __x64_sys_; null: no such call
  const char* compat;  // behind __ia32_compat_sys_ or __ia32_sys_
  bool same = false;   // the second of these, although the first is there: left over in kernel/sys_ni.c, in no table of calls
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
    {VG_CALL_READ, "read", "read"},
    {VG_CALL_PREAD64, "pread64", "ia32_pread64"},
    {VG_CALL_READV, "readv", "readv"},
    {VG_CALL_PREADV, "preadv", "preadv"},
    {VG_CALL_PREADV2, "preadv2", "preadv2"},
    {VG_CALL_GETDENTS, "getdents", "getdents"},
    {VG_CALL_GETDENTS64, "getdents64", "getdents64"},
    {VG_CALL_WRITE, "write", "write"},
    {VG_CALL_PWRITE64, "pwrite64", "ia32_pwrite64"},
    {VG_CALL_WRITEV, "writev", "writev"},
    {VG_CALL_PWRITEV, "pwritev", "pwritev"},
    {VG_CALL_PWRITEV2, "pwritev2", "pwritev2"},
    {VG_CALL_SENDFILE, "sendfile64", "sendfile"},
    {VG_CALL_SENDFILE, nullptr, "sendfile64"},
    {VG_CALL_SPLICE, "splice", "splice"},
    {VG_CALL_TEE, "tee", "tee"},
    {VG_CALL_COPY_FILE_RANGE, "copy_file_range", "copy_file_range"},
    {VG_CALL_CLOSE, "close", "close"},
    {VG_CALL_CLOSE_RANGE, "close_range", "close_range"},
    {VG_CALL_DUP2, "dup2", "dup2"},
    {VG_CALL_DUP3, "dup3", "dup3"},
    {VG_CALL_MMAP, "mmap", nullptr},
    {VG_CALL_MMAP2, nullptr, "mmap_pgoff"},
    {VG_CALL_OLD_MMAP, nullptr, "ia32_mmap"},
    {VG_CALL_MPROTECT, "mprotect", "mprotect"},
    {VG_CALL_PKEY_MPROTECT, "pkey_mprotect", "pkey_mprotect"},
    {VG_CALL_IOCTL, "ioctl", "ioctl"},
    {VG_CALL_CONNECT, "connect", "connect"},
    {VG_CALL_BIND, "bind", "bind"},
    {VG_CALL_SOCKETCALL, nullptr, "socketcall"},
    {VG_CALL_PTRACE, "ptrace", "ptrace"},
    {VG_CALL_PROCESS_VM_READV, "process_vm_readv", "process_vm_readv", true},
    {VG_CALL_PROCESS_VM_WRITEV, "process_vm_writev", "process_vm_writev", true},
    {VG_CALL_PIDFD_GETFD, "pidfd_getfd", "pidfd_getfd"},
    {VG_CALL_BPF, "bpf", "bpf"},
    {VG_CALL_KILL, "kill", "kill"},
    {VG_CALL_TKILL, "tkill", "tkill"},
    {VG_CALL_TGKILL, "tgkill", "tgkill"},
    {VG_CALL_RT_SIGQUEUEINFO, "rt_sigqueueinfo", "rt_sigqueueinfo"},
    {VG_CALL_RT_TGSIGQUEUEINFO, "rt_tgsigqueueinfo", "rt_tgsigqueueinfo"},
    {VG_CALL_PIDFD_SEND_SIGNAL, "pidfd_send_signal", "pidfd_send_signal"},
    {VG_CALL_SETUID, "setuid", "setuid"},
    {VG_CALL_SETGID, "setgid", "setgid"},
    {VG_CALL_SETREUID, "setreuid", "setreuid"},
    {VG_CALL_SETREGID, "setregid", "setregid"},
    {VG_CALL_SETRESUID, "setresuid", "setresuid"},
    {VG_CALL_SETRESGID, "setresgid", "setresgid"},
    {VG_CALL_SETFSUID, "setfsuid", "setfsuid"},
    {VG_CALL_SETFSGID, "setfsgid", "setfsgid"},
    {VG_CALL_SETGROUPS, "setgroups", "setgroups"},
    {VG_CALL_CAPSET, "capset", "capset"},
    {VG_CALL_SETUID16, nullptr, "setuid16"},
    {VG_CALL_SETGID16, nullptr, "setgid16"},
    {VG_CALL_SETREUID16, nullptr, "setreuid16"},
    {VG_CALL_SETREGID16, nullptr, "setregid16"},
    {VG_CALL_SETRESUID16, nullptr, "setresuid16"},
    {VG_CALL_SETRESGID16, nullptr, "setresgid16"},
    {VG_CALL_SETFSUID16, nullptr, "setfsuid16"},
    {VG_CALL_SETFSGID16, nullptr, "setfsgid16"},
    {VG_CALL_SETGROUPS16, nullptr, "setgroups16"},
    {VG_CALL_CLONE, "clone", "ia32_clone"},
    {VG_CALL_CLONE3, "clone3", "clone3"},
    {VG_CALL_FORK, "fork", nullptr},
    {VG_CALL_VFORK, "vfork", nullptr},
};

constexpr ObjectHook kObjectHooks[] = {
    {"file_open", VG_AT_FILE_OPEN, event::operation_bit(VG_OP_OPEN) | event::operation_bit(VG_OP_EXEC)},
    {"mmap_file", VG_AT_MMAP_FILE, event::operation_bit(VG_OP_MMAP)},
    {"file_mprotect", VG_AT_FILE_MPROTECT, event::operation_bit(VG_OP_MMAP)},
    {"file_ioctl", VG_AT_FILE_IOCTL, event::operation_bit(VG_OP_IOCTL)},
    {"file_ioctl_compat", VG_AT_FILE_IOCTL, event::operation_bit(VG_OP_IOCTL)},
    {"path_unlink", VG_AT_PATH_UNLINK, event::operation_bit(VG_OP_UNLINK)},
    {"path_rmdir", VG_AT_PATH_RMDIR, event::operation_bit(VG_OP_UNLINK) | event::operation_bit(VG_OP_RMDIR)},
    {"path_mkdir", VG_AT_PATH_MKDIR, event::operation_bit(VG_OP_MKDIR)},
    {"path_mknod", VG_AT_PATH_MKNOD, event::operation_bit(VG_OP_MKNOD) | event::operation_bit(VG_OP_BIND)},
    {"path_symlink", VG_AT_PATH_SYMLINK, event::operation_bit(VG_OP_SYMLINK)},
    {"path_link", VG_AT_PATH_LINK, event::operation_bit(VG_OP_LINK)},
    {"path_rename", VG_AT_PATH_RENAME, event::operation_bit(VG_OP_RENAME)},
    {"path_truncate", VG_AT_PATH_TRUNCATE, event::operation_bit(VG_OP_TRUNCATE)},
    {"file_truncate", VG_AT_FILE_TRUNCATE, event::operation_bit(VG_OP_TRUNCATE)},
    {"path_chmod", VG_AT_PATH_CHMOD, event::operation_bit(VG_OP_CHMOD)},
    {"path_chown", VG_AT_PATH_CHOWN, event::operation_bit(VG_OP_CHOWN)},
    {"inode_setattr", VG_AT_INODE_SETATTR, event::operation_bit(VG_OP_UTIMES)},
    {"inode_setxattr", VG_AT_INODE_SETXATTR, event::operation_bit(VG_OP_SETXATTR)},
    {"inode_set_acl", VG_AT_INODE_SETXATTR, event::operation_bit(VG_OP_SETXATTR)},
    {"inode_removexattr", VG_AT_INODE_REMOVEXATTR, event::operation_bit(VG_OP_REMOVEXATTR)},
    {"inode_remove_acl", VG_AT_INODE_REMOVEXATTR, event::operation_bit(VG_OP_REMOVEXATTR)},
    {"sb_mount", VG_AT_SB_MOUNT, event::operation_bit(VG_OP_MOUNT)},
    {"sb_umount", VG_AT_SB_UMOUNT, event::operation_bit(VG_OP_UMOUNT)},
    {"sb_pivotroot", VG_AT_SB_PIVOTROOT, event::operation_bit(VG_OP_PIVOT_ROOT)},
    {"move_mount", VG_AT_MOVE_MOUNT, event::operation_bit(VG_OP_MOUNT)},
    {"path_chroot", VG_AT_PATH_CHROOT, event::operation_bit(VG_OP_CHROOT)},
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
    if ((operations & event::operation_bit(event::call_operation(f.call))) == 0) {
      continue;
    }
    if (f.native != nullptr) {
      // A call without arguments is one function by several names, for both ABIs; type information has one of the names.
      add({std::string("__x64_sys_") + f.native, std::string("__do_sys_") + f.native}, f.call, VG_VIA_SYSCALL);
    }
    if (f.compat == nullptr) {
      continue;
    }
    const std::string same = std::string("__ia32_sys_") + f.compat;
    if (f.same) {
      add({same}, f.call, VG_VIA_COMPAT32);
    } else {
      add({std::string("__ia32_compat_sys_") + f.compat, same}, f.call, VG_VIA_COMPAT32);
    }
  }
  return probes;
}

std::vector<Probe> request_probes(std::uint64_t operations, const HasFunction& has) {
  static constexpr std::pair<const char*, std::uint64_t> kRequests[] = {
      {"io_openat2", event::operation_bit(VG_OP_OPEN)},  // of openat too
      {"io_renameat", event::operation_bit(VG_OP_RENAME)},    {"io_unlinkat", event::operation_bit(VG_OP_UNLINK)},
      {"io_mkdirat", event::operation_bit(VG_OP_MKDIR)},      {"io_symlinkat", event::operation_bit(VG_OP_SYMLINK)},
      {"io_linkat", event::operation_bit(VG_OP_LINK)},        {"io_fallocate", event::operation_bit(VG_OP_TRUNCATE)},
      {"io_ftruncate", event::operation_bit(VG_OP_TRUNCATE)}, {"io_setxattr", event::operation_bit(VG_OP_SETXATTR)},
      {"io_fsetxattr", event::operation_bit(VG_OP_SETXATTR)}, {"io_connect", event::operation_bit(VG_OP_CONNECT)},
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
  if ((operations & (event::operation_bit(VG_OP_OPEN) | event::operation_bit(VG_OP_EXEC))) != 0 && has("vfs_open")) {
    probes.push_back({"vfs_open", VG_AT_VFS_OPEN});
  }
  for (const ObjectHook& hook : kObjectHooks) {
    if (const std::string symbol = std::string("security_") + hook.name; (hook.operations & operations) != 0 && has(symbol)) {
      probes.push_back({symbol, hook.where});
    }
  }
  return probes;
}

std::vector<Unserved> unserved(std::uint64_t operations, const std::string& prefix, bool by_functions, const HasFunction& has) {
  std::vector<Unserved> result;
  for (unsigned operation = 1; operation < VG_OP_COUNT; ++operation) {
    const std::uint64_t one = event::operation_bit(operation);
    if ((operations & one) == 0 || operation == VG_OP_CREATE || operation == VG_OP_EXIT) {
      continue;  // a create is an open, and an exit no call
    }
    if (by_functions && call_probes(one, has).empty()) {
      const auto* function = std::ranges::find_if(kFunctions, [&](const Function& f) { return event::call_operation(f.call) == operation && f.native; });
      result.push_back({operation, std::string("__x64_sys_") + function->native, true});
      continue;
    }
    const auto serves = [&](const ObjectHook& hook) { return (hook.operations & one) != 0; };
    const auto* hook = std::ranges::find_if(kObjectHooks, serves);
    if (hook != std::end(kObjectHooks) && std::ranges::none_of(kObjectHooks, [&](const ObjectHook& h) { return serves(h) && has(prefix + h.name); })) {
      result.push_back({operation, prefix + hook->name, false});
    }
  }
  return result;
}

}  // namespace vfsguard::sensor
