// SPDX-License-Identifier: Apache-2.0
#include "event/names.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/fs.h>
#include <linux/fscrypt.h>
#include <linux/fsverity.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <fmt/format.h>

#include "abi/events.h"
#include "util/suggestion.h"

namespace vfsguard::event {

namespace {

constexpr std::array<std::string_view, VG_OP_COUNT> kOperations{
    "",      "open",  "exec",    "create",   "rename",      "unlink", "rmdir",  "mkdir",      "mknod",  "link", "symlink", "truncate",
    "chmod", "chown", "utimes",  "setxattr", "removexattr", "mount",  "umount", "pivot_root", "chroot", "read", "write",   "close",
    "mmap",  "ioctl", "connect", "bind",     "ptrace",      "bpf",    "kill",   "setuid",     "fork",   "exit"};

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
    {"mmap", VG_OP_MMAP},
    {"mmap2", VG_OP_MMAP},
    {"old_mmap", VG_OP_MMAP},
    {"mprotect", VG_OP_MMAP},
    {"pkey_mprotect", VG_OP_MMAP},
    {"ioctl", VG_OP_IOCTL},
    {"connect", VG_OP_CONNECT},
    {"bind", VG_OP_BIND},
    {"socketcall", VG_OP_CONNECT},
    {"ptrace", VG_OP_PTRACE},
    {"bpf", VG_OP_BPF},
    {"kill", VG_OP_KILL},
    {"tkill", VG_OP_KILL},
    {"tgkill", VG_OP_KILL},
    {"rt_sigqueueinfo", VG_OP_KILL},
    {"rt_tgsigqueueinfo", VG_OP_KILL},
    {"pidfd_send_signal", VG_OP_KILL},
    {"setuid", VG_OP_SETUID},
    {"setgid", VG_OP_SETUID},
    {"setreuid", VG_OP_SETUID},
    {"setregid", VG_OP_SETUID},
    {"setresuid", VG_OP_SETUID},
    {"setresgid", VG_OP_SETUID},
    {"setfsuid", VG_OP_SETUID},
    {"setfsgid", VG_OP_SETUID},
    {"setgroups", VG_OP_SETUID},
    {"capset", VG_OP_SETUID},
    {"setuid16", VG_OP_SETUID},
    {"setgid16", VG_OP_SETUID},
    {"setreuid16", VG_OP_SETUID},
    {"setregid16", VG_OP_SETUID},
    {"setresuid16", VG_OP_SETUID},
    {"setresgid16", VG_OP_SETUID},
    {"setfsuid16", VG_OP_SETUID},
    {"setfsgid16", VG_OP_SETUID},
    {"setgroups16", VG_OP_SETUID},
    {"clone", VG_OP_FORK},
    {"clone3", VG_OP_FORK},
    {"fork", VG_OP_FORK},
    {"vfork", VG_OP_FORK},
    {"exit", VG_OP_EXIT},
    {"process_vm_readv", VG_OP_PTRACE},
    {"process_vm_writev", VG_OP_PTRACE},
    {"pidfd_getfd", VG_OP_PTRACE},
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

constexpr FlagName kProtections[] = {{PROT_READ, "PROT_READ"}, {PROT_WRITE, "PROT_WRITE"}, {PROT_EXEC, "PROT_EXEC"}};
constexpr FlagName kMapFlags[] = {{MAP_SHARED_VALIDATE, "MAP_SHARED_VALIDATE"},
                                  {MAP_SHARED, "MAP_SHARED"},
                                  {MAP_PRIVATE, "MAP_PRIVATE"},
                                  {MAP_FIXED, "MAP_FIXED"},
                                  {MAP_32BIT, "MAP_32BIT"},
                                  {MAP_GROWSDOWN, "MAP_GROWSDOWN"},
                                  {MAP_DENYWRITE, "MAP_DENYWRITE"},
                                  {MAP_EXECUTABLE, "MAP_EXECUTABLE"},
                                  {MAP_LOCKED, "MAP_LOCKED"},
                                  {MAP_NORESERVE, "MAP_NORESERVE"},
                                  {MAP_POPULATE, "MAP_POPULATE"},
                                  {MAP_NONBLOCK, "MAP_NONBLOCK"},
                                  {MAP_STACK, "MAP_STACK"},
                                  {MAP_HUGETLB, "MAP_HUGETLB"},
                                  {MAP_SYNC, "MAP_SYNC"},
                                  {MAP_FIXED_NOREPLACE, "MAP_FIXED_NOREPLACE"}};
constexpr FlagName kCloneFlags[] = {{CLONE_VM, "CLONE_VM"},
                                    {CLONE_FS, "CLONE_FS"},
                                    {CLONE_FILES, "CLONE_FILES"},
                                    {CLONE_SIGHAND, "CLONE_SIGHAND"},
                                    {CLONE_PIDFD, "CLONE_PIDFD"},
                                    {CLONE_PTRACE, "CLONE_PTRACE"},
                                    {CLONE_VFORK, "CLONE_VFORK"},
                                    {CLONE_PARENT, "CLONE_PARENT"},
                                    {CLONE_NEWNS, "CLONE_NEWNS"},
                                    {CLONE_SYSVSEM, "CLONE_SYSVSEM"},
                                    {CLONE_SETTLS, "CLONE_SETTLS"},
                                    {CLONE_PARENT_SETTID, "CLONE_PARENT_SETTID"},
                                    {CLONE_CHILD_CLEARTID, "CLONE_CHILD_CLEARTID"},
                                    {CLONE_UNTRACED, "CLONE_UNTRACED"},
                                    {CLONE_CHILD_SETTID, "CLONE_CHILD_SETTID"},
                                    {CLONE_NEWCGROUP, "CLONE_NEWCGROUP"},
                                    {CLONE_NEWUTS, "CLONE_NEWUTS"},
                                    {CLONE_NEWIPC, "CLONE_NEWIPC"},
                                    {CLONE_NEWUSER, "CLONE_NEWUSER"},
                                    {CLONE_NEWPID, "CLONE_NEWPID"},
                                    {CLONE_NEWNET, "CLONE_NEWNET"},
                                    {CLONE_IO, "CLONE_IO"},
                                    {0x100000000, "CLONE_CLEAR_SIGHAND"},
                                    {0x200000000, "CLONE_INTO_CGROUP"}};
constexpr FlagName kAttributes[] = {
    {FS_SECRM_FL, "secure_deletion"}, {FS_UNRM_FL, "undelete"}, {FS_COMPR_FL, "compress"},          {FS_SYNC_FL, "sync"},
    {FS_IMMUTABLE_FL, "immutable"},   {FS_APPEND_FL, "append"}, {FS_NODUMP_FL, "nodump"},           {FS_NOATIME_FL, "noatime"},
    {FS_JOURNAL_DATA_FL, "journal"},  {FS_NOTAIL_FL, "notail"}, {FS_DIRSYNC_FL, "dirsync"},         {FS_TOPDIR_FL, "topdir"},
    {FS_EXTENT_FL, "extents"},        {FS_NOCOW_FL, "nocow"},   {FS_PROJINHERIT_FL, "projinherit"}, {FS_CASEFOLD_FL, "casefold"}};
constexpr FlagName kXattributes[] = {{FS_XFLAG_REALTIME, "realtime"},
                                     {FS_XFLAG_PREALLOC, "prealloc"},
                                     {FS_XFLAG_IMMUTABLE, "immutable"},
                                     {FS_XFLAG_APPEND, "append"},
                                     {FS_XFLAG_SYNC, "sync"},
                                     {FS_XFLAG_NOATIME, "noatime"},
                                     {FS_XFLAG_NODUMP, "nodump"},
                                     {FS_XFLAG_PROJINHERIT, "projinherit"},
                                     {FS_XFLAG_DAX, "dax"}};

struct Numbered {
  std::uint64_t number;
  std::string_view name;
};
constexpr Numbered kIoctls[] = {{FS_IOC_SETFLAGS, "FS_IOC_SETFLAGS"},
                                {FS_IOC32_SETFLAGS, "FS_IOC32_SETFLAGS"},
                                {FS_IOC_FSSETXATTR, "FS_IOC_FSSETXATTR"},
                                {FS_IOC_SETFSLABEL, "FS_IOC_SETFSLABEL"},
                                {FICLONE, "FICLONE"},
                                {FICLONERANGE, "FICLONERANGE"},
                                {FIDEDUPERANGE, "FIDEDUPERANGE"},
                                {FIFREEZE, "FIFREEZE"},
                                {FITHAW, "FITHAW"},
                                {FITRIM, "FITRIM"},
                                {FS_IOC_ENABLE_VERITY, "FS_IOC_ENABLE_VERITY"},
                                {FS_IOC_SET_ENCRYPTION_POLICY, "FS_IOC_SET_ENCRYPTION_POLICY"},
                                {TIOCSTI, "TIOCSTI"}};
// Requests of file systems by type and number (bpf/lib/ioctl.bpf.h): 32-bit callers have another size.
constexpr Numbered kFileSystemIoctls[] = {{'v' << 8 | 2, "FS_IOC_SETVERSION"},
                                          {'f' << 8 | 4, "EXT4_IOC_SETVERSION"},
                                          {'f' << 8 | 15, "EXT4_IOC_MOVE_EXT"},
                                          {'f' << 8 | 17, "EXT4_IOC_SWAP_BOOT"},
                                          {'X' << 8 | 10, "XFS_IOC_ALLOCSP"},
                                          {'X' << 8 | 11, "XFS_IOC_FREESP"},
                                          {'X' << 8 | 36, "XFS_IOC_ALLOCSP64"},
                                          {'X' << 8 | 37, "XFS_IOC_FREESP64"},
                                          {'X' << 8 | 40, "FS_IOC_RESVSP"},
                                          {'X' << 8 | 41, "FS_IOC_UNRESVSP"},
                                          {'X' << 8 | 42, "FS_IOC_RESVSP64"},
                                          {'X' << 8 | 43, "FS_IOC_UNRESVSP64"},
                                          {'X' << 8 | 57, "FS_IOC_ZERO_RANGE"},
                                          {'X' << 8 | 109, "XFS_IOC_SWAPEXT"},
                                          {'X' << 8 | 121, "XFS_IOC_FSSETDM_BY_HANDLE"},
                                          {'X' << 8 | 123, "XFS_IOC_ATTRMULTI_BY_HANDLE"},
                                          {'X' << 8 | 129, "XFS_IOC_EXCHANGE_RANGE"},
                                          {'X' << 8 | 131, "XFS_IOC_COMMIT_RANGE"},
                                          {0x94 << 8 | 1, "BTRFS_IOC_SNAP_CREATE"},
                                          {0x94 << 8 | 14, "BTRFS_IOC_SUBVOL_CREATE"},
                                          {0x94 << 8 | 15, "BTRFS_IOC_SNAP_DESTROY"},
                                          {0x94 << 8 | 17, "BTRFS_IOC_TREE_SEARCH"},
                                          {0x94 << 8 | 23, "BTRFS_IOC_SNAP_CREATE_V2"},
                                          {0x94 << 8 | 24, "BTRFS_IOC_SUBVOL_CREATE_V2"},
                                          {0x94 << 8 | 26, "BTRFS_IOC_SUBVOL_SETFLAGS"},
                                          {0x94 << 8 | 37, "BTRFS_IOC_SET_RECEIVED_SUBVOL"},
                                          {0x94 << 8 | 38, "BTRFS_IOC_SEND"},
                                          {0x94 << 8 | 63, "BTRFS_IOC_SNAP_DESTROY_V2"},
                                          {0x94 << 8 | 64, "BTRFS_IOC_ENCODED_IO"},
                                          {0xf5 << 8 | 9, "F2FS_IOC_MOVE_RANGE"}};
constexpr Numbered kPtraceRequests[] = {{PTRACE_TRACEME, "PTRACE_TRACEME"},  {PTRACE_POKETEXT, "PTRACE_POKETEXT"},   {PTRACE_POKEDATA, "PTRACE_POKEDATA"},
                                        {PTRACE_POKEUSER, "PTRACE_POKEUSR"}, {PTRACE_SETREGS, "PTRACE_SETREGS"},     {PTRACE_SETFPREGS, "PTRACE_SETFPREGS"},
                                        {PTRACE_ATTACH, "PTRACE_ATTACH"},    {PTRACE_SETREGSET, "PTRACE_SETREGSET"}, {PTRACE_SEIZE, "PTRACE_SEIZE"}};
// include/uapi/linux/bpf.h, by number.
constexpr std::string_view kBpfCommands[] = {"BPF_MAP_CREATE",        "BPF_MAP_LOOKUP_ELEM",
                                             "BPF_MAP_UPDATE_ELEM",   "BPF_MAP_DELETE_ELEM",
                                             "BPF_MAP_GET_NEXT_KEY",  "BPF_PROG_LOAD",
                                             "BPF_OBJ_PIN",           "BPF_OBJ_GET",
                                             "BPF_PROG_ATTACH",       "BPF_PROG_DETACH",
                                             "BPF_PROG_TEST_RUN",     "BPF_PROG_GET_NEXT_ID",
                                             "BPF_MAP_GET_NEXT_ID",   "BPF_PROG_GET_FD_BY_ID",
                                             "BPF_MAP_GET_FD_BY_ID",  "BPF_OBJ_GET_INFO_BY_FD",
                                             "BPF_PROG_QUERY",        "BPF_RAW_TRACEPOINT_OPEN",
                                             "BPF_BTF_LOAD",          "BPF_BTF_GET_FD_BY_ID",
                                             "BPF_TASK_FD_QUERY",     "BPF_MAP_LOOKUP_AND_DELETE_ELEM",
                                             "BPF_MAP_FREEZE",        "BPF_BTF_GET_NEXT_ID",
                                             "BPF_MAP_LOOKUP_BATCH",  "BPF_MAP_LOOKUP_AND_DELETE_BATCH",
                                             "BPF_MAP_UPDATE_BATCH",  "BPF_MAP_DELETE_BATCH",
                                             "BPF_LINK_CREATE",       "BPF_LINK_UPDATE",
                                             "BPF_LINK_GET_FD_BY_ID", "BPF_LINK_GET_NEXT_ID",
                                             "BPF_ENABLE_STATS",      "BPF_ITER_CREATE",
                                             "BPF_LINK_DETACH",       "BPF_PROG_BIND_MAP",
                                             "BPF_TOKEN_CREATE",      "BPF_PROG_STREAM_READ_BY_FD"};
constexpr Numbered kFamilies[] = {{AF_UNSPEC, "AF_UNSPEC"}, {AF_UNIX, "AF_UNIX"},       {AF_INET, "AF_INET"},
                                  {AF_INET6, "AF_INET6"},   {AF_NETLINK, "AF_NETLINK"}, {AF_PACKET, "AF_PACKET"},
                                  {AF_ALG, "AF_ALG"},       {AF_VSOCK, "AF_VSOCK"},     {AF_BLUETOOTH, "AF_BLUETOOTH"}};
constexpr Numbered kSocketTypes[] = {{SOCK_STREAM, "stream"}, {SOCK_DGRAM, "dgram"}, {SOCK_RAW, "raw"}, {SOCK_SEQPACKET, "seqpacket"}, {SOCK_PACKET, "packet"}};
constexpr Numbered kProtocols[] = {{1, "icmp"}, {6, "tcp"}, {17, "udp"}, {58, "icmpv6"}, {132, "sctp"}, {136, "udplite"}, {262, "mptcp"}};

template <std::size_t N>
std::string name_of(const Numbered (&names)[N], std::uint64_t number) {
  for (const Numbered& one : names) {
    if (one.number == number) {
      return std::string(one.name);
    }
  }
  return number > 0xffff ? fmt::format("0x{:x}", number) : std::to_string(number);
}

// include/linux/errno.h: never seen by the caller, but by whoever looks at the exit of the call.
constexpr struct {
  int code;
  std::string_view name;
} kKernelErrors[] = {{512, "ERESTARTSYS"}, {513, "ERESTARTNOINTR"}, {514, "ERESTARTNOHAND"}, {516, "ERESTART_RESTARTBLOCK"}, {517, "EPROBE_DEFER"},
                     {518, "EOPENSTALE"},  {521, "EBADHANDLE"},     {524, "ENOTSUPP"},       {530, "ERECALLCONFLICT"}};

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
std::uint64_t call_operations(unsigned call) {
  const unsigned first = call_operation(call);
  const std::uint64_t all = operation_bit(first);
  switch (call) {
    case VG_CALL_SENDFILE:
    case VG_CALL_SPLICE:
    case VG_CALL_TEE:
    case VG_CALL_COPY_FILE_RANGE: return all | operation_bit(VG_OP_WRITE);
    case VG_CALL_SOCKETCALL: return all | operation_bit(VG_OP_BIND);
    default: break;
  }
  switch (first) {
    case VG_OP_OPEN: return all | operation_bit(VG_OP_CREATE);
    case VG_OP_UNLINK: return all | operation_bit(VG_OP_RMDIR);
    default: return all;
  }
}
std::string_view second_name(unsigned call) {
  switch (call_operation(call)) {
    case VG_OP_SYMLINK: return "target";
    case VG_OP_SETXATTR:
    case VG_OP_REMOVEXATTR: return "xattr";
    case VG_OP_MOUNT: return call == VG_CALL_MOUNT ? "source" : "dst_path_raw";
    case VG_OP_CONNECT:
    case VG_OP_BIND: return "address";
    default: return "dst_path_raw";
  }
}
std::string_view via_name(unsigned via) { return at(kVia, via); }
std::string_view cause_name(unsigned cause) {
  static constexpr std::array<std::string_view, VG_UNKNOWN_COUNT> kCauses{"",       "long_path",  "disconnected",     "ambiguous_name",
                                                                          "mounts", "many_names", "many_descriptors", "unknown_requester"};
  return cause < kCauses.size() ? kCauses[cause] : std::string_view{};
}

std::string_view matched_by_name(unsigned matched_by) {
  static constexpr std::array<std::string_view, 4> kNames{"", "path", "host_path", "inode"};
  return matched_by < kNames.size() ? kNames[matched_by] : std::string_view{};
}

std::string_view mechanism_name(unsigned mechanism) {
  switch (mechanism) {
    case VG_MECHANISM_LSM: return "lsm";
    case VG_MECHANISM_OVERRIDE: return "override";
    case VG_MECHANISM_SIGNAL: return "signal";
    case VG_MECHANISM_FANOTIFY: return "fanotify";
    default: return "";
  }
}

std::string_view hook_name(unsigned hook) { return at(kHooks, hook); }

std::optional<unsigned> operation_from_name(std::string_view name) {
  for (unsigned i = 1; i < kOperations.size(); ++i) {
    if (kOperations[i] == name) {
      return i;
    }
  }
  return std::nullopt;
}

std::optional<std::uint64_t> operations_from_name(std::string_view name) {
  if (name == "all") {
    return ~std::uint64_t{0};
  }
  const auto operation = operation_from_name(name);
  if (!operation) {
    return std::nullopt;
  }
  switch (*operation) {
    case VG_OP_OPEN: return operation_bit(VG_OP_OPEN) | operation_bit(VG_OP_CREATE);
    case VG_OP_READ:
    case VG_OP_WRITE: return operation_bit(*operation) | operation_bit(VG_OP_CLOSE) | operation_bit(VG_OP_MMAP);
    case VG_OP_CLOSE: return kAccesses | operation_bit(VG_OP_MMAP);
    default: return operation_bit(*operation);
  }
}

std::string operation_names(std::uint64_t operations) {
  std::string list;
  for (unsigned i = 1; i < kOperations.size(); ++i) {
    if ((operations & operation_bit(i)) != 0) {
      list += list.empty() ? "" : ", ";
      list += kOperations[i];
    }
  }
  return list;
}

std::string operation_list() { return operation_names(~std::uint64_t{0}) + ", all"; }

std::string nearest_operation(std::string_view word) {
  std::vector<std::string_view> known(kOperations.begin() + 1, kOperations.end());
  known.emplace_back("all");
  return util::suggestion(word, known);
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
    case VG_CALL_MMAP:
    case VG_CALL_MMAP2:
    case VG_CALL_OLD_MMAP: return named(kMapFlags);
    case VG_CALL_CLONE: flags &= ~std::uint64_t{0xff}; [[fallthrough]];  // the signal that tells of the child's end
    case VG_CALL_CLONE3:
      if (flags != 0) {
        return named(kCloneFlags);
      }
      out += '0';
      return;
    default: return named(kAtFlags);
  }
}

void append_resolve_flags(std::uint64_t flags, std::string& out) { append_named(flags, kResolveFlags, std::size(kResolveFlags), out); }

void append_protection(std::uint32_t protection, std::string& out) {
  if (protection == PROT_NONE) {
    out += "PROT_NONE";
  } else {
    append_named(protection, kProtections, std::size(kProtections), out);
  }
}

bool append_attributes(std::uint32_t request, std::uint64_t value, std::string& out) {
  switch (request) {
    case FS_IOC_FSSETXATTR: append_named(value & ~std::uint64_t{FS_XFLAG_HASATTR}, kXattributes, std::size(kXattributes), out); return true;
    case FS_IOC_SETFLAGS:
    case FS_IOC32_SETFLAGS: append_named(value, kAttributes, std::size(kAttributes), out); return true;
    default: return false;
  }
}

std::string ioctl_name(std::uint32_t request) {
  const auto exact = std::ranges::find(kIoctls, request, &Numbered::number);
  const auto* sizeless = std::ranges::find(kFileSystemIoctls, request & 0xffff, &Numbered::number);
  return exact == std::end(kIoctls) && sizeless != std::end(kFileSystemIoctls) ? std::string(sizeless->name) : name_of(kIoctls, request);
}
std::string ptrace_name(std::uint64_t request) { return name_of(kPtraceRequests, request); }
std::string bpf_name(std::uint64_t command) { return command < std::size(kBpfCommands) ? std::string(kBpfCommands[command]) : std::to_string(command); }
std::string family_name(unsigned family) { return name_of(kFamilies, family); }
std::string socket_type_name(unsigned type) { return name_of(kSocketTypes, type); }
std::string protocol_name(unsigned protocol) { return name_of(kProtocols, protocol); }

std::string signal_name(std::uint64_t signal) {
  if (const char* name = signal < 65 ? sigabbrev_np(static_cast<int>(signal)) : nullptr) {
    return fmt::format("SIG{}", name);
  }
  return signal >= 34 && signal <= 64 ? fmt::format("SIGRTMIN+{}", signal - 34) : std::to_string(signal);
}

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
