/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The system calls that are operations: their numbers by ABI (arch/x86/entry/syscalls/syscall_{64,32}.tbl) and where each keeps what
 * an event tells. A new call is a line here, its name in src/event/names.cpp, and its functions in src/sensor for the kprobes.
 */
#ifndef VFSGUARD_CALLS_BPF_H
#define VFSGUARD_CALLS_BPF_H

#include "kernel.h"
#include "../abi/events.h"

/* Positions in the call's arguments, counted from 1; 0: the call has none. */
struct call_shape {
	__u8 operation;
	__u8 dirfd;
	__u8 path;
	__u8 dirfd2;
	__u8 path2;
	__u8 text;   /* a string that is no path of ours: a link's target, an attribute's name, a mount's source */
	__u8 fd;     /* the object's own descriptor; of reads the one that is read */
	__u8 fd2;    /* the descriptor that is written; of close_range the last */
	__u8 flags;
	__u8 mode;
	__u8 value;
	__u8 value2;
	__u8 form;   /* SHAPE_* */
};
#define SHAPE_WIDE 1   /* 32-bit ABI: values are pairs of registers, low half first */
#define SHAPE_SHORT 2  /* values are 16 bits wide, all ones meaning "as it is" */
#define SHAPE_FSTYPE 4 /* mount: the third argument names the file system type */
#define SHAPE_SPECIAL 8 /* lib/special.bpf.h */

#define SHAPE_TABLE 128 /* a power of two: the verifier of 6.1 follows a mask, not a comparison */
_Static_assert(VG_CALL_COUNT <= SHAPE_TABLE, "too many calls");
static const struct call_shape call_shapes[SHAPE_TABLE] = {
	[VG_CALL_OPEN] = {VG_OP_OPEN, .path = 1, .flags = 2, .mode = 3},
	[VG_CALL_OPENAT] = {VG_OP_OPEN, .dirfd = 1, .path = 2, .flags = 3, .mode = 4},
	[VG_CALL_OPENAT2] = {VG_OP_OPEN, .dirfd = 1, .path = 2}, /* and struct open_how */
	[VG_CALL_CREAT] = {VG_OP_OPEN, .path = 1, .mode = 2},
	[VG_CALL_OPEN_BY_HANDLE_AT] = {VG_OP_OPEN, .dirfd = 1, .flags = 3},
	[VG_CALL_EXECVE] = {VG_OP_EXEC, .path = 1},
	[VG_CALL_EXECVEAT] = {VG_OP_EXEC, .dirfd = 1, .path = 2, .flags = 5},
	[VG_CALL_RENAME] = {VG_OP_RENAME, .path = 1, .path2 = 2},
	[VG_CALL_RENAMEAT] = {VG_OP_RENAME, .dirfd = 1, .path = 2, .dirfd2 = 3, .path2 = 4},
	[VG_CALL_RENAMEAT2] = {VG_OP_RENAME, .dirfd = 1, .path = 2, .dirfd2 = 3, .path2 = 4, .flags = 5},
	[VG_CALL_UNLINK] = {VG_OP_UNLINK, .path = 1},
	[VG_CALL_UNLINKAT] = {VG_OP_UNLINK, .dirfd = 1, .path = 2, .flags = 3}, /* AT_REMOVEDIR: rmdir */
	[VG_CALL_RMDIR] = {VG_OP_RMDIR, .path = 1},
	[VG_CALL_MKDIR] = {VG_OP_MKDIR, .path = 1, .mode = 2},
	[VG_CALL_MKDIRAT] = {VG_OP_MKDIR, .dirfd = 1, .path = 2, .mode = 3},
	[VG_CALL_MKNOD] = {VG_OP_MKNOD, .path = 1, .mode = 2, .value = 3},
	[VG_CALL_MKNODAT] = {VG_OP_MKNOD, .dirfd = 1, .path = 2, .mode = 3, .value = 4},
	[VG_CALL_LINK] = {VG_OP_LINK, .path = 1, .path2 = 2},
	[VG_CALL_LINKAT] = {VG_OP_LINK, .dirfd = 1, .path = 2, .dirfd2 = 3, .path2 = 4, .flags = 5},
	[VG_CALL_SYMLINK] = {VG_OP_SYMLINK, .text = 1, .path = 2},
	[VG_CALL_SYMLINKAT] = {VG_OP_SYMLINK, .text = 1, .dirfd = 2, .path = 3},
	[VG_CALL_TRUNCATE] = {VG_OP_TRUNCATE, .path = 1, .value = 2},
	[VG_CALL_FTRUNCATE] = {VG_OP_TRUNCATE, .fd = 1, .value = 2},
	[VG_CALL_TRUNCATE64] = {VG_OP_TRUNCATE, .path = 1, .value = 2, .form = SHAPE_WIDE},
	[VG_CALL_FTRUNCATE64] = {VG_OP_TRUNCATE, .fd = 1, .value = 2, .form = SHAPE_WIDE},
	[VG_CALL_FALLOCATE] = {VG_OP_TRUNCATE, .fd = 1, .flags = 2, .value = 3, .value2 = 4, .form = SHAPE_WIDE},
	[VG_CALL_CHMOD] = {VG_OP_CHMOD, .path = 1, .mode = 2},
	[VG_CALL_FCHMOD] = {VG_OP_CHMOD, .fd = 1, .mode = 2},
	[VG_CALL_FCHMODAT] = {VG_OP_CHMOD, .dirfd = 1, .path = 2, .mode = 3},
	[VG_CALL_FCHMODAT2] = {VG_OP_CHMOD, .dirfd = 1, .path = 2, .mode = 3, .flags = 4},
	[VG_CALL_CHOWN] = {VG_OP_CHOWN, .path = 1, .value = 2, .value2 = 3},
	[VG_CALL_FCHOWN] = {VG_OP_CHOWN, .fd = 1, .value = 2, .value2 = 3},
	[VG_CALL_LCHOWN] = {VG_OP_CHOWN, .path = 1, .value = 2, .value2 = 3},
	[VG_CALL_FCHOWNAT] = {VG_OP_CHOWN, .dirfd = 1, .path = 2, .value = 3, .value2 = 4, .flags = 5},
	[VG_CALL_CHOWN16] = {VG_OP_CHOWN, .path = 1, .value = 2, .value2 = 3, .form = SHAPE_SHORT},
	[VG_CALL_FCHOWN16] = {VG_OP_CHOWN, .fd = 1, .value = 2, .value2 = 3, .form = SHAPE_SHORT},
	[VG_CALL_LCHOWN16] = {VG_OP_CHOWN, .path = 1, .value = 2, .value2 = 3, .form = SHAPE_SHORT},
	[VG_CALL_UTIME] = {VG_OP_UTIMES, .path = 1},
	[VG_CALL_UTIMES] = {VG_OP_UTIMES, .path = 1},
	[VG_CALL_FUTIMESAT] = {VG_OP_UTIMES, .dirfd = 1, .path = 2},
	[VG_CALL_UTIMENSAT] = {VG_OP_UTIMES, .dirfd = 1, .path = 2, .flags = 4}, /* a null path: the descriptor's own object */
	[VG_CALL_SETXATTR] = {VG_OP_SETXATTR, .path = 1, .text = 2, .value = 4, .flags = 5},
	[VG_CALL_LSETXATTR] = {VG_OP_SETXATTR, .path = 1, .text = 2, .value = 4, .flags = 5},
	[VG_CALL_FSETXATTR] = {VG_OP_SETXATTR, .fd = 1, .text = 2, .value = 4, .flags = 5},
	[VG_CALL_SETXATTRAT] = {VG_OP_SETXATTR, .dirfd = 1, .path = 2, .flags = 3, .text = 4},
	[VG_CALL_REMOVEXATTR] = {VG_OP_REMOVEXATTR, .path = 1, .text = 2},
	[VG_CALL_LREMOVEXATTR] = {VG_OP_REMOVEXATTR, .path = 1, .text = 2},
	[VG_CALL_FREMOVEXATTR] = {VG_OP_REMOVEXATTR, .fd = 1, .text = 2},
	[VG_CALL_REMOVEXATTRAT] = {VG_OP_REMOVEXATTR, .dirfd = 1, .path = 2, .flags = 3, .text = 4},
	[VG_CALL_MOUNT] = {VG_OP_MOUNT, .text = 1, .path = 2, .flags = 4, .form = SHAPE_FSTYPE},
	[VG_CALL_UMOUNT2] = {VG_OP_UMOUNT, .path = 1, .flags = 2},
	[VG_CALL_UMOUNT] = {VG_OP_UMOUNT, .path = 1},
	[VG_CALL_PIVOT_ROOT] = {VG_OP_PIVOT_ROOT, .path = 1, .path2 = 2},
	[VG_CALL_CHROOT] = {VG_OP_CHROOT, .path = 1},
	[VG_CALL_MOVE_MOUNT] = {VG_OP_MOUNT, .dirfd = 1, .path = 2, .dirfd2 = 3, .path2 = 4, .flags = 5},
	[VG_CALL_READ] = {VG_OP_READ, .fd = 1},
	[VG_CALL_PREAD64] = {VG_OP_READ, .fd = 1},
	[VG_CALL_READV] = {VG_OP_READ, .fd = 1},
	[VG_CALL_PREADV] = {VG_OP_READ, .fd = 1},
	[VG_CALL_PREADV2] = {VG_OP_READ, .fd = 1},
	[VG_CALL_GETDENTS] = {VG_OP_READ, .fd = 1},
	[VG_CALL_GETDENTS64] = {VG_OP_READ, .fd = 1},
	[VG_CALL_WRITE] = {VG_OP_WRITE, .fd2 = 1},
	[VG_CALL_PWRITE64] = {VG_OP_WRITE, .fd2 = 1},
	[VG_CALL_WRITEV] = {VG_OP_WRITE, .fd2 = 1},
	[VG_CALL_PWRITEV] = {VG_OP_WRITE, .fd2 = 1},
	[VG_CALL_PWRITEV2] = {VG_OP_WRITE, .fd2 = 1},
	[VG_CALL_SENDFILE] = {VG_OP_READ, .fd = 2, .fd2 = 1},
	[VG_CALL_SPLICE] = {VG_OP_READ, .fd = 1, .fd2 = 3},
	[VG_CALL_TEE] = {VG_OP_READ, .fd = 1, .fd2 = 2},
	[VG_CALL_COPY_FILE_RANGE] = {VG_OP_READ, .fd = 1, .fd2 = 3},
	[VG_CALL_CLOSE] = {VG_OP_CLOSE, .fd = 1},
	[VG_CALL_CLOSE_RANGE] = {VG_OP_CLOSE, .fd = 1, .fd2 = 2, .flags = 3},
	[VG_CALL_DUP2] = {VG_OP_CLOSE, .fd = 2}, /* what stood there before */
	[VG_CALL_DUP3] = {VG_OP_CLOSE, .fd = 2},
	[VG_CALL_MMAP] = {VG_OP_MMAP, .fd = 5, .mode = 3, .flags = 4, .value = 6, .value2 = 2, .form = SHAPE_SPECIAL},
	[VG_CALL_MMAP2] = {VG_OP_MMAP, .fd = 5, .mode = 3, .flags = 4, .value = 6, .value2 = 2, .form = SHAPE_SPECIAL},
	[VG_CALL_OLD_MMAP] = {VG_OP_MMAP, .form = SHAPE_SPECIAL}, /* all in a struct */
	[VG_CALL_MPROTECT] = {VG_OP_MMAP, .mode = 3, .value2 = 2, .form = SHAPE_SPECIAL},
	[VG_CALL_PKEY_MPROTECT] = {VG_OP_MMAP, .mode = 3, .value2 = 2, .form = SHAPE_SPECIAL},
	[VG_CALL_IOCTL] = {VG_OP_IOCTL, .fd = 1, .flags = 2, .form = SHAPE_SPECIAL},
	[VG_CALL_CONNECT] = {VG_OP_CONNECT, .form = SHAPE_SPECIAL},
	[VG_CALL_BIND] = {VG_OP_BIND, .form = SHAPE_SPECIAL},
	[VG_CALL_SOCKETCALL] = {VG_OP_CONNECT, .form = SHAPE_SPECIAL}, /* becomes one of the two above */
	[VG_CALL_PTRACE] = {VG_OP_PTRACE, .value = 1, .value2 = 2, .form = SHAPE_SPECIAL},
	[VG_CALL_PROCESS_VM_READV] = {VG_OP_PTRACE, .value2 = 1},
	[VG_CALL_PROCESS_VM_WRITEV] = {VG_OP_PTRACE, .value2 = 1},
	[VG_CALL_PIDFD_GETFD] = {VG_OP_PTRACE, .value = 2, .form = SHAPE_SPECIAL},
	[VG_CALL_BPF] = {VG_OP_BPF, .value = 1, .form = SHAPE_SPECIAL},
	[VG_CALL_KILL] = {VG_OP_KILL, .value2 = 1, .value = 2, .form = SHAPE_SPECIAL},
	[VG_CALL_TKILL] = {VG_OP_KILL, .value2 = 1, .value = 2, .form = SHAPE_SPECIAL},
	[VG_CALL_TGKILL] = {VG_OP_KILL, .value2 = 1, .value = 3, .form = SHAPE_SPECIAL},
	[VG_CALL_RT_SIGQUEUEINFO] = {VG_OP_KILL, .value2 = 1, .value = 2, .form = SHAPE_SPECIAL},
	[VG_CALL_RT_TGSIGQUEUEINFO] = {VG_OP_KILL, .value2 = 1, .value = 3, .form = SHAPE_SPECIAL},
	[VG_CALL_PIDFD_SEND_SIGNAL] = {VG_OP_KILL, .value = 2, .form = SHAPE_SPECIAL},
	[VG_CALL_SETUID] = {VG_OP_SETUID, .value = 1},
	[VG_CALL_SETGID] = {VG_OP_SETUID, .value = 1},
	[VG_CALL_SETREUID] = {VG_OP_SETUID, .value = 1, .value2 = 2},
	[VG_CALL_SETREGID] = {VG_OP_SETUID, .value = 1, .value2 = 2},
	[VG_CALL_SETRESUID] = {VG_OP_SETUID, .value = 1, .value2 = 2, .mode = 3},
	[VG_CALL_SETRESGID] = {VG_OP_SETUID, .value = 1, .value2 = 2, .mode = 3},
	[VG_CALL_SETFSUID] = {VG_OP_SETUID, .value = 1},
	[VG_CALL_SETFSGID] = {VG_OP_SETUID, .value = 1},
	[VG_CALL_SETGROUPS] = {VG_OP_SETUID, .value = 1},
	[VG_CALL_CAPSET] = {VG_OP_SETUID},
	[VG_CALL_SETUID16] = {VG_OP_SETUID, .value = 1, .form = SHAPE_SHORT},
	[VG_CALL_SETGID16] = {VG_OP_SETUID, .value = 1, .form = SHAPE_SHORT},
	[VG_CALL_SETREUID16] = {VG_OP_SETUID, .value = 1, .value2 = 2, .form = SHAPE_SHORT},
	[VG_CALL_SETREGID16] = {VG_OP_SETUID, .value = 1, .value2 = 2, .form = SHAPE_SHORT},
	[VG_CALL_SETRESUID16] = {VG_OP_SETUID, .value = 1, .value2 = 2, .mode = 3, .form = SHAPE_SHORT},
	[VG_CALL_SETRESGID16] = {VG_OP_SETUID, .value = 1, .value2 = 2, .mode = 3, .form = SHAPE_SHORT},
	[VG_CALL_SETFSUID16] = {VG_OP_SETUID, .value = 1, .form = SHAPE_SHORT},
	[VG_CALL_SETFSGID16] = {VG_OP_SETUID, .value = 1, .form = SHAPE_SHORT},
	[VG_CALL_SETGROUPS16] = {VG_OP_SETUID, .value = 1},
	[VG_CALL_CLONE] = {VG_OP_FORK, .flags = 1, .form = SHAPE_SPECIAL},
	[VG_CALL_CLONE3] = {VG_OP_FORK, .form = SHAPE_SPECIAL},
	[VG_CALL_FORK] = {VG_OP_FORK},
	[VG_CALL_VFORK] = {VG_OP_FORK},
	[VG_CALL_EXIT] = {VG_OP_EXIT},
};

#define CALL_TABLE 548
static const __u8 native_calls[CALL_TABLE] = {
	[2] = VG_CALL_OPEN,         [85] = VG_CALL_CREAT,         [257] = VG_CALL_OPENAT,       [437] = VG_CALL_OPENAT2,
	[304] = VG_CALL_OPEN_BY_HANDLE_AT,
	[59] = VG_CALL_EXECVE,      [322] = VG_CALL_EXECVEAT,     [520] = VG_CALL_EXECVE,       [545] = VG_CALL_EXECVEAT, /* 512 and up: x32 */
	[82] = VG_CALL_RENAME,      [264] = VG_CALL_RENAMEAT,     [316] = VG_CALL_RENAMEAT2,
	[87] = VG_CALL_UNLINK,      [263] = VG_CALL_UNLINKAT,     [84] = VG_CALL_RMDIR,
	[83] = VG_CALL_MKDIR,       [258] = VG_CALL_MKDIRAT,      [133] = VG_CALL_MKNOD,        [259] = VG_CALL_MKNODAT,
	[86] = VG_CALL_LINK,        [265] = VG_CALL_LINKAT,       [88] = VG_CALL_SYMLINK,       [266] = VG_CALL_SYMLINKAT,
	[76] = VG_CALL_TRUNCATE,    [77] = VG_CALL_FTRUNCATE,     [285] = VG_CALL_FALLOCATE,
	[90] = VG_CALL_CHMOD,       [91] = VG_CALL_FCHMOD,        [268] = VG_CALL_FCHMODAT,     [452] = VG_CALL_FCHMODAT2,
	[92] = VG_CALL_CHOWN,       [93] = VG_CALL_FCHOWN,        [94] = VG_CALL_LCHOWN,        [260] = VG_CALL_FCHOWNAT,
	[132] = VG_CALL_UTIME,      [235] = VG_CALL_UTIMES,       [261] = VG_CALL_FUTIMESAT,    [280] = VG_CALL_UTIMENSAT,
	[188] = VG_CALL_SETXATTR,   [189] = VG_CALL_LSETXATTR,    [190] = VG_CALL_FSETXATTR,    [463] = VG_CALL_SETXATTRAT,
	[197] = VG_CALL_REMOVEXATTR, [198] = VG_CALL_LREMOVEXATTR, [199] = VG_CALL_FREMOVEXATTR, [466] = VG_CALL_REMOVEXATTRAT,
	[165] = VG_CALL_MOUNT,      [166] = VG_CALL_UMOUNT2,      [155] = VG_CALL_PIVOT_ROOT,   [161] = VG_CALL_CHROOT,
	[429] = VG_CALL_MOVE_MOUNT,
	[0] = VG_CALL_READ,         [17] = VG_CALL_PREAD64,       [19] = VG_CALL_READV,         [295] = VG_CALL_PREADV,    [327] = VG_CALL_PREADV2,
	[78] = VG_CALL_GETDENTS,    [217] = VG_CALL_GETDENTS64,
	[1] = VG_CALL_WRITE,        [18] = VG_CALL_PWRITE64,      [20] = VG_CALL_WRITEV,        [296] = VG_CALL_PWRITEV,   [328] = VG_CALL_PWRITEV2,
	[40] = VG_CALL_SENDFILE,    [275] = VG_CALL_SPLICE,       [276] = VG_CALL_TEE,          [326] = VG_CALL_COPY_FILE_RANGE,
	[3] = VG_CALL_CLOSE,        [436] = VG_CALL_CLOSE_RANGE,  [33] = VG_CALL_DUP2,          [292] = VG_CALL_DUP3,
	[9] = VG_CALL_MMAP,         [10] = VG_CALL_MPROTECT,      [329] = VG_CALL_PKEY_MPROTECT, [16] = VG_CALL_IOCTL,
	[42] = VG_CALL_CONNECT,     [49] = VG_CALL_BIND,          [101] = VG_CALL_PTRACE,       [321] = VG_CALL_BPF,
	[62] = VG_CALL_KILL,        [200] = VG_CALL_TKILL,        [234] = VG_CALL_TGKILL,       [129] = VG_CALL_RT_SIGQUEUEINFO,
	[297] = VG_CALL_RT_TGSIGQUEUEINFO, [424] = VG_CALL_PIDFD_SEND_SIGNAL,
	[310] = VG_CALL_PROCESS_VM_READV, [311] = VG_CALL_PROCESS_VM_WRITEV, [438] = VG_CALL_PIDFD_GETFD,
	[105] = VG_CALL_SETUID,     [106] = VG_CALL_SETGID,       [113] = VG_CALL_SETREUID,     [114] = VG_CALL_SETREGID,
	[117] = VG_CALL_SETRESUID,  [119] = VG_CALL_SETRESGID,    [122] = VG_CALL_SETFSUID,     [123] = VG_CALL_SETFSGID,
	[116] = VG_CALL_SETGROUPS,  [126] = VG_CALL_CAPSET,
	[56] = VG_CALL_CLONE,       [435] = VG_CALL_CLONE3,       [57] = VG_CALL_FORK,          [58] = VG_CALL_VFORK,
	[514] = VG_CALL_IOCTL,      [515] = VG_CALL_READV,        [516] = VG_CALL_WRITEV,       [521] = VG_CALL_PTRACE, /* x32 */
	[524] = VG_CALL_RT_SIGQUEUEINFO, [536] = VG_CALL_RT_TGSIGQUEUEINFO, [539] = VG_CALL_PROCESS_VM_READV, [540] = VG_CALL_PROCESS_VM_WRITEV,
	[534] = VG_CALL_PREADV,     [535] = VG_CALL_PWRITEV,      [546] = VG_CALL_PREADV2,      [547] = VG_CALL_PWRITEV2,
};
static const __u8 compat_calls[CALL_TABLE] = {
	[5] = VG_CALL_OPEN,         [8] = VG_CALL_CREAT,          [295] = VG_CALL_OPENAT,       [437] = VG_CALL_OPENAT2,
	[342] = VG_CALL_OPEN_BY_HANDLE_AT,
	[11] = VG_CALL_EXECVE,      [358] = VG_CALL_EXECVEAT,
	[38] = VG_CALL_RENAME,      [302] = VG_CALL_RENAMEAT,     [353] = VG_CALL_RENAMEAT2,
	[10] = VG_CALL_UNLINK,      [301] = VG_CALL_UNLINKAT,     [40] = VG_CALL_RMDIR,
	[39] = VG_CALL_MKDIR,       [296] = VG_CALL_MKDIRAT,      [14] = VG_CALL_MKNOD,         [297] = VG_CALL_MKNODAT,
	[9] = VG_CALL_LINK,         [303] = VG_CALL_LINKAT,       [83] = VG_CALL_SYMLINK,       [304] = VG_CALL_SYMLINKAT,
	[92] = VG_CALL_TRUNCATE,    [93] = VG_CALL_FTRUNCATE,     [193] = VG_CALL_TRUNCATE64,   [194] = VG_CALL_FTRUNCATE64,
	[324] = VG_CALL_FALLOCATE,
	[15] = VG_CALL_CHMOD,       [94] = VG_CALL_FCHMOD,        [306] = VG_CALL_FCHMODAT,     [452] = VG_CALL_FCHMODAT2,
	[212] = VG_CALL_CHOWN,      [207] = VG_CALL_FCHOWN,       [198] = VG_CALL_LCHOWN,       [298] = VG_CALL_FCHOWNAT,
	[182] = VG_CALL_CHOWN16,    [95] = VG_CALL_FCHOWN16,      [16] = VG_CALL_LCHOWN16,
	[30] = VG_CALL_UTIME,       [271] = VG_CALL_UTIMES,       [299] = VG_CALL_FUTIMESAT,    [320] = VG_CALL_UTIMENSAT, [412] = VG_CALL_UTIMENSAT,
	[226] = VG_CALL_SETXATTR,   [227] = VG_CALL_LSETXATTR,    [228] = VG_CALL_FSETXATTR,    [463] = VG_CALL_SETXATTRAT,
	[235] = VG_CALL_REMOVEXATTR, [236] = VG_CALL_LREMOVEXATTR, [237] = VG_CALL_FREMOVEXATTR, [466] = VG_CALL_REMOVEXATTRAT,
	[21] = VG_CALL_MOUNT,       [52] = VG_CALL_UMOUNT2,       [22] = VG_CALL_UMOUNT,        [217] = VG_CALL_PIVOT_ROOT,
	[61] = VG_CALL_CHROOT,      [429] = VG_CALL_MOVE_MOUNT,
	[3] = VG_CALL_READ,         [180] = VG_CALL_PREAD64,      [145] = VG_CALL_READV,        [333] = VG_CALL_PREADV,    [378] = VG_CALL_PREADV2,
	[141] = VG_CALL_GETDENTS,   [220] = VG_CALL_GETDENTS64,
	[4] = VG_CALL_WRITE,        [181] = VG_CALL_PWRITE64,     [146] = VG_CALL_WRITEV,       [334] = VG_CALL_PWRITEV,   [379] = VG_CALL_PWRITEV2,
	[187] = VG_CALL_SENDFILE,   [239] = VG_CALL_SENDFILE,     [313] = VG_CALL_SPLICE,       [315] = VG_CALL_TEE,       [377] = VG_CALL_COPY_FILE_RANGE,
	[6] = VG_CALL_CLOSE,        [436] = VG_CALL_CLOSE_RANGE,  [63] = VG_CALL_DUP2,          [330] = VG_CALL_DUP3,
	[90] = VG_CALL_OLD_MMAP,    [192] = VG_CALL_MMAP2,        [125] = VG_CALL_MPROTECT,     [380] = VG_CALL_PKEY_MPROTECT, [54] = VG_CALL_IOCTL,
	[362] = VG_CALL_CONNECT,    [361] = VG_CALL_BIND,         [102] = VG_CALL_SOCKETCALL,   [26] = VG_CALL_PTRACE,     [357] = VG_CALL_BPF,
	[37] = VG_CALL_KILL,        [238] = VG_CALL_TKILL,        [270] = VG_CALL_TGKILL,       [178] = VG_CALL_RT_SIGQUEUEINFO,
	[335] = VG_CALL_RT_TGSIGQUEUEINFO, [424] = VG_CALL_PIDFD_SEND_SIGNAL,
	[347] = VG_CALL_PROCESS_VM_READV, [348] = VG_CALL_PROCESS_VM_WRITEV, [438] = VG_CALL_PIDFD_GETFD,
	[213] = VG_CALL_SETUID,     [214] = VG_CALL_SETGID,       [203] = VG_CALL_SETREUID,     [204] = VG_CALL_SETREGID,
	[208] = VG_CALL_SETRESUID,  [210] = VG_CALL_SETRESGID,    [215] = VG_CALL_SETFSUID,     [216] = VG_CALL_SETFSGID,
	[206] = VG_CALL_SETGROUPS,  [185] = VG_CALL_CAPSET,
	[23] = VG_CALL_SETUID16,    [46] = VG_CALL_SETGID16,      [70] = VG_CALL_SETREUID16,    [71] = VG_CALL_SETREGID16,
	[164] = VG_CALL_SETRESUID16, [170] = VG_CALL_SETRESGID16, [138] = VG_CALL_SETFSUID16,   [139] = VG_CALL_SETFSGID16,
	[81] = VG_CALL_SETGROUPS16,
	[120] = VG_CALL_CLONE,      [435] = VG_CALL_CLONE3,       [2] = VG_CALL_FORK,           [190] = VG_CALL_VFORK,
};

static __always_inline const struct call_shape *shape_of(__u32 call)
{
	call &= SHAPE_TABLE - 1;
	barrier_var(call);
	return &call_shapes[call];
}

/* The call behind a system call number, 0 where it is not ours. */
static __always_inline __u32 call_of(struct task_struct *task, __u64 nr, __u32 *via)
{
	__u32 index = (__u32)nr & ~X32_SYSCALL_BIT;

	barrier_var(index); /* one register, so that the verifier sees the bound */
	if (index >= CALL_TABLE || !(native_calls[index] | compat_calls[index]))
		return 0;
	if (TASK(task, thread_info.status) & TS_COMPAT) {
		*via = VG_VIA_COMPAT32;
		return compat_calls[index];
	}
	*via = (__u32)nr & X32_SYSCALL_BIT ? VG_VIA_X32 : VG_VIA_SYSCALL;
	return native_calls[index];
}

static __always_inline __u32 operation_of(__u32 call)
{
	return shape_of(call)->operation;
}

#endif
