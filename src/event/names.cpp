// SPDX-License-Identifier: Apache-2.0
#include "event/names.h"

#include <array>
#include <cstring>

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <fmt/format.h>

#include "abi/events.h"

namespace vfsguard::event {

namespace {

constexpr std::array<std::string_view, VG_OP_COUNT> kOperations{
    "",      "open",  "exec",   "create",   "rename",      "unlink", "rmdir",  "mkdir",      "mknod",  "link", "symlink", "truncate",
    "chmod", "chown", "utimes", "setxattr", "removexattr", "mount",  "umount", "pivot_root", "chroot", "read", "write",   "close"};

struct Call {
  std::string_view name;
  unsigned operation = 0;
};
// As in bpf/lib/calls.bpf.h.
constexpr std::array<Call, VG_CALL_COUNT> kCalls{{
    {},
    {"open", VG_OP_OPEN},
    {"openat", VG_OP_OPEN},
    {"openat2", VG_OP_OPEN},
    {"creat", VG_OP_OPEN},
    {"open_by_handle_at", VG_OP_OPEN},
    {"execve", VG_OP_EXEC},
    {"execveat", VG_OP_EXEC},
    {"rename", VG_OP_RENAME},
    {"renameat", VG_OP_RENAME},
    {"renameat2", VG_OP_RENAME},
    {"unlink", VG_OP_UNLINK},
    {"unlinkat", VG_OP_UNLINK},
    {"rmdir", VG_OP_RMDIR},
    {"mkdir", VG_OP_MKDIR},
    {"mkdirat", VG_OP_MKDIR},
    {"mknod", VG_OP_MKNOD},
    {"mknodat", VG_OP_MKNOD},
    {"link", VG_OP_LINK},
    {"linkat", VG_OP_LINK},
    {"symlink", VG_OP_SYMLINK},
    {"symlinkat", VG_OP_SYMLINK},
    {"truncate", VG_OP_TRUNCATE},
    {"ftruncate", VG_OP_TRUNCATE},
    {"truncate64", VG_OP_TRUNCATE},
    {"ftruncate64", VG_OP_TRUNCATE},
    {"fallocate", VG_OP_TRUNCATE},
    {"chmod", VG_OP_CHMOD},
    {"fchmod", VG_OP_CHMOD},
    {"fchmodat", VG_OP_CHMOD},
    {"fchmodat2", VG_OP_CHMOD},
    {"chown", VG_OP_CHOWN},
    {"fchown", VG_OP_CHOWN},
    {"lchown", VG_OP_CHOWN},
    {"fchownat", VG_OP_CHOWN},
    {"chown16", VG_OP_CHOWN},
    {"fchown16", VG_OP_CHOWN},
    {"lchown16", VG_OP_CHOWN},
    {"utime", VG_OP_UTIMES},
    {"utimes", VG_OP_UTIMES},
    {"futimesat", VG_OP_UTIMES},
    {"utimensat", VG_OP_UTIMES},
    {"setxattr", VG_OP_SETXATTR},
    {"lsetxattr", VG_OP_SETXATTR},
    {"fsetxattr", VG_OP_SETXATTR},
    {"setxattrat", VG_OP_SETXATTR},
    {"removexattr", VG_OP_REMOVEXATTR},
    {"lremovexattr", VG_OP_REMOVEXATTR},
    {"fremovexattr", VG_OP_REMOVEXATTR},
    {"removexattrat", VG_OP_REMOVEXATTR},
    {"mount", VG_OP_MOUNT},
    {"umount2", VG_OP_UMOUNT},
    {"umount", VG_OP_UMOUNT},
    {"pivot_root", VG_OP_PIVOT_ROOT},
    {"chroot", VG_OP_CHROOT},
    {"move_mount", VG_OP_MOUNT},
    {"read", VG_OP_READ},
    {"pread64", VG_OP_READ},
    {"readv", VG_OP_READ},
    {"preadv", VG_OP_READ},
    {"preadv2", VG_OP_READ},
    {"getdents", VG_OP_READ},
    {"getdents64", VG_OP_READ},
    {"write", VG_OP_WRITE},
    {"pwrite64", VG_OP_WRITE},
    {"writev", VG_OP_WRITE},
    {"pwritev", VG_OP_WRITE},
    {"pwritev2", VG_OP_WRITE},
    {"sendfile", VG_OP_READ},
    {"splice", VG_OP_READ},
    {"tee", VG_OP_READ},
    {"copy_file_range", VG_OP_READ},
    {"close", VG_OP_CLOSE},
    {"close_range", VG_OP_CLOSE},
    {"dup2", VG_OP_CLOSE},
    {"dup3", VG_OP_CLOSE},
}};
constexpr std::array<std::string_view, 4> kVia{"syscall", "compat32", "io_uring", "x32"};
constexpr std::array<std::string_view, 4> kHooks{"", "tracepoint", "kprobe", "lsm"};

// Values of x86-64 (include/uapi/asm-generic/fcntl.h); glibc's O_LARGEFILE is 0 there and its O_SYNC two bits.
struct FlagName {
  std::uint64_t bits;
  std::string_view name;
};
constexpr FlagName kOpenFlags[] = {
    {0100, "O_CREAT"},        {0200, "O_EXCL"},        {0400, "O_NOCTTY"},      {01000, "O_TRUNC"},      {02000, "O_APPEND"},      {04000, "O_NONBLOCK"},
    {04010000, "O_SYNC"},     {010000, "O_DSYNC"},     {020000, "O_ASYNC"},     {040000, "O_DIRECT"},    {0100000, "O_LARGEFILE"}, {020200000, "O_TMPFILE"},
    {0200000, "O_DIRECTORY"}, {0400000, "O_NOFOLLOW"}, {01000000, "O_NOATIME"}, {02000000, "O_CLOEXEC"}, {010000000, "O_PATH"},
};
constexpr FlagName kAtFlags[] = {
    {AT_EMPTY_PATH, "AT_EMPTY_PATH"}, {AT_SYMLINK_NOFOLLOW, "AT_SYMLINK_NOFOLLOW"}, {AT_SYMLINK_FOLLOW, "AT_SYMLINK_FOLLOW"}, {0x10000, "AT_EXECVE_CHECK"}};
constexpr FlagName kUnlinkFlags[] = {{AT_REMOVEDIR, "AT_REMOVEDIR"}};
constexpr FlagName kRenameFlags[] = {{1, "RENAME_NOREPLACE"}, {2, "RENAME_EXCHANGE"}, {4, "RENAME_WHITEOUT"}};
constexpr FlagName kFallocateFlags[] = {{0x01, "FALLOC_FL_KEEP_SIZE"},   {0x02, "FALLOC_FL_PUNCH_HOLE"},   {0x08, "FALLOC_FL_COLLAPSE_RANGE"},
                                        {0x10, "FALLOC_FL_ZERO_RANGE"},  {0x20, "FALLOC_FL_INSERT_RANGE"}, {0x40, "FALLOC_FL_UNSHARE_RANGE"},
                                        {0x80, "FALLOC_FL_WRITE_ZEROES"}};
constexpr FlagName kXattrFlags[] = {{1, "XATTR_CREATE"}, {2, "XATTR_REPLACE"}};
constexpr FlagName kMountFlags[] = {
    {MS_RDONLY, "MS_RDONLY"},   {MS_NOSUID, "MS_NOSUID"},   {MS_NODEV, "MS_NODEV"},       {MS_NOEXEC, "MS_NOEXEC"},          {MS_SYNCHRONOUS, "MS_SYNCHRONOUS"},
    {MS_REMOUNT, "MS_REMOUNT"}, {MS_DIRSYNC, "MS_DIRSYNC"}, {MS_NOATIME, "MS_NOATIME"},   {MS_NODIRATIME, "MS_NODIRATIME"},  {MS_BIND, "MS_BIND"},
    {MS_MOVE, "MS_MOVE"},       {MS_REC, "MS_REC"},         {MS_SILENT, "MS_SILENT"},     {MS_UNBINDABLE, "MS_UNBINDABLE"},  {MS_PRIVATE, "MS_PRIVATE"},
    {MS_SLAVE, "MS_SLAVE"},     {MS_SHARED, "MS_SHARED"},   {MS_RELATIME, "MS_RELATIME"}, {MS_STRICTATIME, "MS_STRICTATIME"}};
constexpr FlagName kUmountFlags[] = {{MNT_FORCE, "MNT_FORCE"}, {MNT_DETACH, "MNT_DETACH"}, {MNT_EXPIRE, "MNT_EXPIRE"}, {8, "UMOUNT_NOFOLLOW"}};
constexpr FlagName kMoveMountFlags[] = {{0x01, "MOVE_MOUNT_F_SYMLINKS"}, {0x02, "MOVE_MOUNT_F_AUTOMOUNTS"}, {0x04, "MOVE_MOUNT_F_EMPTY_PATH"},
                                        {0x10, "MOVE_MOUNT_T_SYMLINKS"}, {0x20, "MOVE_MOUNT_T_AUTOMOUNTS"}, {0x40, "MOVE_MOUNT_T_EMPTY_PATH"},
                                        {0x100, "MOVE_MOUNT_SET_GROUP"}, {0x200, "MOVE_MOUNT_BENEATH"}};
constexpr FlagName kResolveFlags[] = {{RESOLVE_NO_XDEV, "RESOLVE_NO_XDEV"},         {RESOLVE_NO_MAGICLINKS, "RESOLVE_NO_MAGICLINKS"},
                                      {RESOLVE_NO_SYMLINKS, "RESOLVE_NO_SYMLINKS"}, {RESOLVE_BENEATH, "RESOLVE_BENEATH"},
                                      {RESOLVE_IN_ROOT, "RESOLVE_IN_ROOT"},         {RESOLVE_CACHED, "RESOLVE_CACHED"}};

// include/linux/errno.h: never seen by the caller, but by whoever looks at the exit of the call.
constexpr struct {
  int code;
  std::string_view name;
} kKernelErrors[] = {{512, "ERESTARTSYS"}, {513, "ERESTARTNOINTR"}, {514, "ERESTARTNOHAND"}, {516, "ERESTART_RESTARTBLOCK"}, {517, "EPROBE_DEFER"},
                     {518, "EOPENSTALE"},  {521, "EBADHANDLE"},     {524, "ENOTSUPP"},       {530, "ERECALLCONFLICT"}};

constexpr std::uint64_t bit(unsigned operation) { return std::uint64_t{1} << operation; }

template <std::size_t N>
std::string_view at(const std::array<std::string_view, N>& names, unsigned index) {
  return index < N ? names[index] : std::string_view{};
}

void append_named(std::uint64_t flags, const FlagName* names, std::size_t count, std::string& out) {
  bool first = out.empty();
  const auto add = [&](std::string_view name) {
    if (!first) {
      out += '|';
    }
    first = false;
    out += name;
  };
  for (std::size_t i = 0; i < count; ++i) {
    if ((flags & names[i].bits) == names[i].bits) {
      add(names[i].name);
      flags &= ~names[i].bits;
    }
  }
  if (flags != 0) {
    add(fmt::format("0x{:x}", flags));
  }
}

}  // namespace

std::string_view operation_name(unsigned operation) { return at(kOperations, operation); }
std::string_view call_name(unsigned call) { return call < kCalls.size() ? kCalls[call].name : std::string_view{}; }
unsigned call_operation(unsigned call) { return call < kCalls.size() ? kCalls[call].operation : 0; }
std::string_view via_name(unsigned via) { return at(kVia, via); }
std::string_view hook_name(unsigned hook) { return at(kHooks, hook); }

std::optional<std::uint64_t> operations_from_name(std::string_view name) {
  if (name == "all") {
    return ~std::uint64_t{0};
  }
  for (unsigned i = 1; i < kOperations.size(); ++i) {
    if (kOperations[i] == name) {
      switch (i) {
        case VG_OP_OPEN: return bit(VG_OP_OPEN) | bit(VG_OP_CREATE);
        case VG_OP_READ:
        case VG_OP_WRITE: return bit(i) | bit(VG_OP_CLOSE);
        case VG_OP_CLOSE: return bit(VG_OP_READ) | bit(VG_OP_WRITE) | bit(VG_OP_CLOSE);
        default: return bit(i);
      }
    }
  }
  return std::nullopt;
}

std::string operation_list() {
  std::string list;
  for (unsigned i = 1; i < kOperations.size(); ++i) {
    list += (i > 1 ? ", " : "");
    list += kOperations[i];
  }
  return list + ", all";
}

std::string_view file_type_name(std::uint32_t imode) {
  switch (imode & S_IFMT) {
    case S_IFREG: return "regular";
    case S_IFDIR: return "directory";
    case S_IFLNK: return "symlink";
    case S_IFIFO: return "fifo";
    case S_IFSOCK: return "socket";
    case S_IFCHR: return "char_device";
    case S_IFBLK: return "block_device";
    default: return {};
  }
}

std::string error_name(int code) {
  if (const char* name = strerrorname_np(code)) {
    return name;
  }
  for (const auto& known : kKernelErrors) {
    if (known.code == code) {
      return std::string(known.name);
    }
  }
  return std::to_string(code);
}

void append_open_flags(std::uint64_t flags, std::string& out) {
  switch (flags & O_ACCMODE) {
    case O_RDONLY: out += "O_RDONLY"; break;
    case O_WRONLY: out += "O_WRONLY"; break;
    case O_RDWR: out += "O_RDWR"; break;
    default: out += "O_ACCMODE";
  }
  flags &= ~static_cast<std::uint64_t>(O_ACCMODE);
  if (flags != 0) {
    append_named(flags, kOpenFlags, std::size(kOpenFlags), out);
  }
}

void append_call_flags(unsigned call, std::uint64_t flags, std::string& out) {
  if (flags == 0) {
    out += '0';
    return;
  }
  const auto named = [&]<std::size_t N>(const FlagName(&names)[N]) { append_named(flags, names, N, out); };
  switch (call) {
    case VG_CALL_RENAMEAT2: return named(kRenameFlags);
    case VG_CALL_UNLINKAT: return named(kUnlinkFlags);
    case VG_CALL_FALLOCATE: return named(kFallocateFlags);
    case VG_CALL_SETXATTR:
    case VG_CALL_LSETXATTR:
    case VG_CALL_FSETXATTR: return named(kXattrFlags);
    case VG_CALL_MOUNT: return named(kMountFlags);
    case VG_CALL_UMOUNT2: return named(kUmountFlags);
    case VG_CALL_MOVE_MOUNT: return named(kMoveMountFlags);
    default: return named(kAtFlags);
  }
}

void append_resolve_flags(std::uint64_t flags, std::string& out) { append_named(flags, kResolveFlags, std::size(kResolveFlags), out); }

std::string_view fmode_name(std::uint32_t fmode, std::uint64_t flags) {
  constexpr std::uint32_t kRead = 1;
  constexpr std::uint32_t kWrite = 2;
  constexpr std::uint32_t kExec = 0x20;
  constexpr std::uint32_t kPath = 1u << 14;
  if ((fmode & kPath) != 0 || (flags & O_PATH) != 0) {
    return "path";
  }
  if ((fmode & kExec) != 0) {
    return "rx";
  }
  switch (fmode & (kRead | kWrite)) {
    case kRead: return "r";
    case kWrite: return "w";
    case kRead | kWrite: return "rw";
    default: return "none";
  }
}

}  // namespace vfsguard::event
