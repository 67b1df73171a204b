/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The wire between the kernel side and user space: what lies in the ring buffer.
 *
 * Every record begins with `struct vg_record`. Structs hold fixed-width integers only, largest first, padding named, nothing packed;
 * sizes are asserted on both sides. Identifiers are append-only. VG_ABI_VERSION changes with any layout; the loader compares it with
 * the one that the BPF object carries and refuses to start on a difference.
 *
 * Paths travel as a *walk*: components from the leaf up to the root, each followed by NUL ("shadow\0etc\0"), because that is the
 * order in which the kernel side meets them and no name can hold NUL. User space turns a walk into text.
 */
#ifndef VFSGUARD_ABI_EVENTS_H
#define VFSGUARD_ABI_EVENTS_H

#ifdef __cplusplus
#include <cstdint>
typedef std::uint8_t vg_u8;
typedef std::uint16_t vg_u16;
typedef std::uint32_t vg_u32;
typedef std::int32_t vg_s32;
typedef std::uint64_t vg_u64;
typedef std::int64_t vg_s64;
#define VG_ASSERT(condition) static_assert(condition, #condition)
#else
#include <linux/types.h>
typedef __u8 vg_u8;
typedef __u16 vg_u16;
typedef __u32 vg_u32;
typedef __s32 vg_s32;
typedef __u64 vg_u64;
typedef __s64 vg_s64;
#define VG_ASSERT(condition) _Static_assert(condition, #condition)
#endif

#define VG_ABI_VERSION 7

/* Record kinds. */
#define VG_RECORD_EVENT 1   /* struct vg_event: one completed operation */
#define VG_RECORD_PROCESS 2 /* struct vg_process: describes the process image that later events refer to */
#define VG_RECORD_EXIT 3    /* struct vg_exit: a described process is gone */

/* Operations (kernel-neutral). */
#define VG_OP_OPEN 1
#define VG_OP_EXEC 2
#define VG_OP_CREATE 3   /* an open that brought the file into being */
#define VG_OP_RENAME 4
#define VG_OP_UNLINK 5
#define VG_OP_RMDIR 6
#define VG_OP_MKDIR 7
#define VG_OP_MKNOD 8
#define VG_OP_LINK 9
#define VG_OP_SYMLINK 10
#define VG_OP_TRUNCATE 11 /* fallocate too, in all its modes */
#define VG_OP_CHMOD 12
#define VG_OP_CHOWN 13
#define VG_OP_UTIMES 14
#define VG_OP_SETXATTR 15
#define VG_OP_REMOVEXATTR 16
#define VG_OP_MOUNT 17
#define VG_OP_UMOUNT 18
#define VG_OP_PIVOT_ROOT 19
#define VG_OP_CHROOT 20
#define VG_OP_READ 21     /* the first of a session (bpf/lib/access.bpf.h), or each */
#define VG_OP_WRITE 22
#define VG_OP_CLOSE 23    /* the end of a session: struct vg_access follows as the second name */
#define VG_OP_MMAP 24     /* shared and writable, or executable; mprotect to either; with reads or writes, each first one of a session */
#define VG_OP_IOCTL 25    /* chosen requests: attributes (chattr), clones, freezing, verity, ... */
#define VG_OP_CONNECT 26
#define VG_OP_BIND 27
#define VG_OP_PTRACE 28   /* chosen requests: those that take control or change the tracee */
#define VG_OP_BPF 29      /* chosen commands: those that bring in or reach programs, maps, links */
#define VG_OP_KILL 30
#define VG_OP_SETUID 31   /* any change of credentials by a call */
#define VG_OP_FORK 32     /* processes, not threads */
#define VG_OP_EXIT 33     /* of a process's last thread; no call */
#define VG_OP_COUNT 34 /* one past the last */
#define VG_OP_SLOTS 64 /* room in tables: a power of two, a bit each in a mask of 64 */

/* The call as made. */
#define VG_CALL_OPEN 1
#define VG_CALL_OPENAT 2
#define VG_CALL_OPENAT2 3
#define VG_CALL_CREAT 4
#define VG_CALL_OPEN_BY_HANDLE_AT 5
#define VG_CALL_EXECVE 6
#define VG_CALL_EXECVEAT 7
#define VG_CALL_RENAME 8
#define VG_CALL_RENAMEAT 9
#define VG_CALL_RENAMEAT2 10
#define VG_CALL_UNLINK 11
#define VG_CALL_UNLINKAT 12
#define VG_CALL_RMDIR 13
#define VG_CALL_MKDIR 14
#define VG_CALL_MKDIRAT 15
#define VG_CALL_MKNOD 16
#define VG_CALL_MKNODAT 17
#define VG_CALL_LINK 18
#define VG_CALL_LINKAT 19
#define VG_CALL_SYMLINK 20
#define VG_CALL_SYMLINKAT 21
#define VG_CALL_TRUNCATE 22
#define VG_CALL_FTRUNCATE 23
#define VG_CALL_TRUNCATE64 24
#define VG_CALL_FTRUNCATE64 25
#define VG_CALL_FALLOCATE 26
#define VG_CALL_CHMOD 27
#define VG_CALL_FCHMOD 28
#define VG_CALL_FCHMODAT 29
#define VG_CALL_FCHMODAT2 30
#define VG_CALL_CHOWN 31
#define VG_CALL_FCHOWN 32
#define VG_CALL_LCHOWN 33
#define VG_CALL_FCHOWNAT 34
#define VG_CALL_CHOWN16 35
#define VG_CALL_FCHOWN16 36
#define VG_CALL_LCHOWN16 37
#define VG_CALL_UTIME 38
#define VG_CALL_UTIMES 39
#define VG_CALL_FUTIMESAT 40
#define VG_CALL_UTIMENSAT 41
#define VG_CALL_SETXATTR 42
#define VG_CALL_LSETXATTR 43
#define VG_CALL_FSETXATTR 44
#define VG_CALL_SETXATTRAT 45
#define VG_CALL_REMOVEXATTR 46
#define VG_CALL_LREMOVEXATTR 47
#define VG_CALL_FREMOVEXATTR 48
#define VG_CALL_REMOVEXATTRAT 49
#define VG_CALL_MOUNT 50
#define VG_CALL_UMOUNT2 51
#define VG_CALL_UMOUNT 52
#define VG_CALL_PIVOT_ROOT 53
#define VG_CALL_CHROOT 54
#define VG_CALL_MOVE_MOUNT 55
#define VG_CALL_READ 56
#define VG_CALL_PREAD64 57
#define VG_CALL_READV 58
#define VG_CALL_PREADV 59
#define VG_CALL_PREADV2 60
#define VG_CALL_GETDENTS 61
#define VG_CALL_GETDENTS64 62
#define VG_CALL_WRITE 63
#define VG_CALL_PWRITE64 64
#define VG_CALL_WRITEV 65
#define VG_CALL_PWRITEV 66
#define VG_CALL_PWRITEV2 67
#define VG_CALL_SENDFILE 68
#define VG_CALL_SPLICE 69
#define VG_CALL_TEE 70
#define VG_CALL_COPY_FILE_RANGE 71
#define VG_CALL_CLOSE 72
#define VG_CALL_CLOSE_RANGE 73
#define VG_CALL_DUP2 74
#define VG_CALL_DUP3 75
#define VG_CALL_MMAP 76
#define VG_CALL_MMAP2 77
#define VG_CALL_OLD_MMAP 78
#define VG_CALL_MPROTECT 79
#define VG_CALL_PKEY_MPROTECT 80
#define VG_CALL_IOCTL 81
#define VG_CALL_CONNECT 82
#define VG_CALL_BIND 83
#define VG_CALL_SOCKETCALL 84
#define VG_CALL_PTRACE 85
#define VG_CALL_BPF 86
#define VG_CALL_KILL 87
#define VG_CALL_TKILL 88
#define VG_CALL_TGKILL 89
#define VG_CALL_RT_SIGQUEUEINFO 90
#define VG_CALL_RT_TGSIGQUEUEINFO 91
#define VG_CALL_PIDFD_SEND_SIGNAL 92
#define VG_CALL_SETUID 93
#define VG_CALL_SETGID 94
#define VG_CALL_SETREUID 95
#define VG_CALL_SETREGID 96
#define VG_CALL_SETRESUID 97
#define VG_CALL_SETRESGID 98
#define VG_CALL_SETFSUID 99
#define VG_CALL_SETFSGID 100
#define VG_CALL_SETGROUPS 101
#define VG_CALL_CAPSET 102
#define VG_CALL_SETUID16 103
#define VG_CALL_SETGID16 104
#define VG_CALL_SETREUID16 105
#define VG_CALL_SETREGID16 106
#define VG_CALL_SETRESUID16 107
#define VG_CALL_SETRESGID16 108
#define VG_CALL_SETFSUID16 109
#define VG_CALL_SETFSGID16 110
#define VG_CALL_SETGROUPS16 111
#define VG_CALL_CLONE 112
#define VG_CALL_CLONE3 113
#define VG_CALL_FORK 114
#define VG_CALL_VFORK 115
#define VG_CALL_EXIT 116
#define VG_CALL_PROCESS_VM_READV 117
#define VG_CALL_PROCESS_VM_WRITEV 118
#define VG_CALL_PIDFD_GETFD 119
#define VG_CALL_COUNT 120

/* How it came in. */
#define VG_VIA_SYSCALL 0
#define VG_VIA_COMPAT32 1
#define VG_VIA_IO_URING 2
#define VG_VIA_X32 3

/* Mechanism. */
#define VG_HOOK_TRACEPOINT 1
#define VG_HOOK_KPROBE 2
#define VG_HOOK_LSM 3

/* What is known about a walk or a name (vg_event.path_flags, vg_process.exe_flags). */
#define VG_PATH_OBJECT (1u << 0)      /* the walk leads to the object itself; otherwise to the directory that path_raw starts from */
#define VG_PATH_TRUNCATED (1u << 1)   /* longer than the record can hold */
#define VG_PATH_DELETED (1u << 2)     /* the object has no name any more */
#define VG_PATH_OUTSIDE (1u << 3)     /* not below the caller's root directory */
#define VG_PATH_DETACHED (1u << 4)    /* on a mount that is in no mount namespace */
#define VG_PATH_ANONYMOUS (1u << 5)   /* never had a name: memfd, pipe, ... */
#define VG_PATH_DISCONNECTED (1u << 6) /* the kernel itself holds no path to it (file handle without dentry) */
#define VG_RAW_PRESENT (1u << 7)      /* path_raw was read */
#define VG_RAW_TRUNCATED (1u << 8)
#define VG_RAW_FAULT (1u << 9)        /* the caller's pointer could not be read */
#define VG_RAW_CHANGED (1u << 10)     /* the name in the caller's memory changed while the call ran */
#define VG_BASE_UNKNOWN (1u << 11)    /* relative name, and its directory is not known (closed or replaced) */
#define VG_NO_RESULT (1u << 12)       /* submitted to io_uring with IOSQE_CQE_SKIP_SUCCESS: the kernel reports no result */
#define VG_CMDLINE_TRUNCATED (1u << 13)
#define VG_CMDLINE_FAULT (1u << 14)
#define VG_CWD_TRUNCATED (1u << 15)
#define VG_CWD_DELETED (1u << 16)
#define VG_HAVE_ARGS (1u << 17)       /* flags, mode, dirfd are known */
#define VG_HAVE_DIRFD (1u << 18)
#define VG_HAVE_FD (1u << 19)         /* the call was made on a descriptor */

#define VG_EXEC_BY_THREAD (1u << 20)  /* exec: by a thread that was not the process's first */

#define VG_PATH_NOT_ON_HOST (1u << 21) /* user space: the object's file system is not mounted where the agent lives; path is the caller's view */

#define VG_PATH_AMBIGUOUS (1u << 22)  /* its file system does not tell this name from others */

/* On which layer of an overlay the object lies (vg_event.layer). */
#define VG_LAYER_NONE 0 /* no overlay, or not known */
#define VG_LAYER_UPPER 1
#define VG_LAYER_LOWER 2

/* What was refused has a ring of its own, so that a flood of the rest cannot push it out. */
#define VG_LANE_BULK 0
#define VG_LANE_PRIORITY 1
#define VG_LANE_COUNT 2

#define VG_ANCESTORS_MAX 16
#define VG_PATH_MAX 4096
#define VG_NAME_MAX 256 /* one component with its NUL */
#define VG_COMM_LEN 16
#define VG_FSTYPE_LEN 16

struct vg_record {
	vg_u32 size; /* whole record, bytes */
	vg_u16 cpu;
	vg_u8 kind;
	vg_u8 version; /* VG_ABI_VERSION */
};

/* What was decided about an operation. */
#define VG_VERDICT_NONE 0
#define VG_VERDICT_DENY 1
#define VG_VERDICT_KILL 2

/* Who carried it out. */
#define VG_MECHANISM_NONE 0
#define VG_MECHANISM_LSM 1
#define VG_MECHANISM_OVERRIDE 2
#define VG_MECHANISM_SIGNAL 3
#define VG_MECHANISM_FANOTIFY 4

/* By which of its names an object was found to be protected. */
#define VG_MATCHED_NONE 0
#define VG_MATCHED_PATH 1      /* in the caller's mounts */
#define VG_MATCHED_HOST_PATH 2 /* in the agent's mounts */
#define VG_MATCHED_INODE 3     /* it has several names, or was moved */

/* Why not all names of an object, or the requester, could be found out. */
#define VG_UNKNOWN_NONE 0
#define VG_UNKNOWN_LONG_PATH 1      /* more components than a walk follows */
#define VG_UNKNOWN_DISCONNECTED 2   /* no directory leads to it: a file handle without its path */
#define VG_UNKNOWN_AMBIGUOUS_NAME 3 /* its file system does not tell this name from others */
#define VG_UNKNOWN_MOUNTS 4         /* mounts changed while they were read */
#define VG_UNKNOWN_MANY_NAMES 5     /* more protected names than are kept */
#define VG_UNKNOWN_DESCRIPTORS 6    /* more open files than are looked at */
#define VG_UNKNOWN_REQUESTER 7      /* executable, ancestors or control group */
#define VG_UNKNOWN_COUNT 8

/* A thread's last refused operation, until its event is written. */
struct vg_refusal {
	vg_u64 inode;     /* of the object; 0: it did not exist */
	vg_u32 rule;
	vg_u16 version;   /* of the policy, its lower half */
	vg_u8 verdict;    /* VG_VERDICT_NONE: told already */
	vg_u8 mechanism;
	vg_u8 code;       /* the errno that the call was refused with */
	vg_u8 cause;      /* VG_UNKNOWN_*; with one, `rule` is ~0: nobody's */
	vg_u8 matched_by; /* VG_MATCHED_* */
	vg_u8 pad[5];
};

/* Of io_uring's workers it is found by the process and the object. */
struct vg_worker_key {
	vg_u64 inode;
	vg_u32 tgid;
	vg_u32 pad;
};

struct vg_event {
	struct vg_record head;
	vg_u64 time_ns;    /* CLOCK_BOOTTIME at completion */
	vg_u64 seq;        /* per CPU and lane, counts emitted and lost events */
	vg_u64 start_ns;   /* thread group leader's start, CLOCK_BOOTTIME; pid + start_ns + exec_id name the process image */
	vg_u64 exec_id;
	vg_u64 cgroup_id;
	vg_u64 aggregate;  /* names the entry that counts what is like this event (bpf/lib/aggregate.bpf.h); its lowest bit: which table. 0: none */
	vg_u64 ino;
	vg_u64 dst_ino;    /* what stood at the second path before: replaced, or exchanged */
	vg_s64 retval;
	vg_u64 flags;      /* open flags, AT_*, RENAME_*, MS_* ... as the call has them */
	vg_u64 value;      /* openat2: resolve; truncate: length; fallocate: offset; chown: uid; mknod: device number */
	vg_u64 value2;     /* chown: gid; fallocate: length */
	vg_u32 mode;       /* creation or permission mode as given */
	vg_s32 dirfd;
	vg_s32 dirfd2;
	vg_s32 fd;         /* the descriptor that the call was made on */
	vg_u32 dev;        /* kernel-internal encoding: major << 20 | minor */
	vg_u32 dst_dev;
	vg_u32 imode;      /* inode mode; 0: no object */
	vg_u32 fmode;
	vg_u32 nlink;
	vg_u32 pid;
	vg_u32 tid;
	vg_u32 ppid;
	vg_u32 uid;
	vg_u32 gid;
	vg_u32 euid;
	vg_u32 egid;
	vg_u32 loginuid;
	vg_u32 session;
	vg_u32 mnt_ns;
	vg_u32 pid_ns;
	vg_u32 path_flags;
	vg_u32 path2_flags;
	vg_u32 match;      /* what the automaton said: index into the loaded match sets */
	vg_u32 match2;     /* of the second path */
	vg_u32 generation; /* of the inode, where its file system has them */
	vg_u32 mnt_id;     /* as in /proc/PID/mountinfo */
	vg_u16 path_len;   /* bytes of the strings that follow the struct, in this order */
	vg_u16 raw_len;
	vg_u16 cwd_len;
	vg_u16 path2_len;
	vg_u16 raw2_len;   /* the second name as given; a symbolic link's target, an attribute's name, a mount's source */
	vg_u16 fs_len;     /* the walk inside the object's own file system, for callers in another mount namespace than the agent's */
	vg_u16 root_at;    /* bytes of the path's walk below the caller's root; what follows lies above it */
	vg_u8 operation;
	vg_u8 call;
	vg_u8 via;
	vg_u8 hook;
	vg_u8 layer;       /* VG_LAYER_* */
	vg_u8 lane;        /* VG_LANE_* */
	vg_u8 verdict;     /* VG_VERDICT_*: what enforcement did to it; the others are VG_VERDICT_NONE */
	vg_u8 mechanism;   /* VG_MECHANISM_*: who carried that out */
	vg_u16 rule_version; /* of the policy in which it has that place: its lower half */
	vg_u32 rule;       /* the deciding one's place in the policy */
	vg_u32 policy_version; /* that match and match2 are of */
	vg_u8 cause;       /* VG_UNKNOWN_*: why it was refused without a rule */
	vg_u8 matched_by;  /* VG_MATCHED_*: of what enforcement refused */
	vg_u8 pad[6];
	char comm[VG_COMM_LEN];
	char parent_comm[VG_COMM_LEN];
	char fs_type[VG_FSTYPE_LEN];
};

/* What a process did with an open file; times as in vg_event. */
struct vg_access {
	vg_u64 reads;
	vg_u64 bytes_read;
	vg_u64 writes;
	vg_u64 bytes_written;
	vg_u64 failed_reads;
	vg_u64 failed_writes;
	vg_u64 maps;
	vg_u64 first_ns;
	vg_u64 last_ns;
};

struct vg_process {
	struct vg_record head;
	vg_u64 start_ns;
	vg_u64 exec_id;
	vg_u64 cgroup_id;
	vg_u64 exe_ino;
	vg_u32 exe_dev;
	vg_u32 pid;
	vg_u32 exe_flags; /* VG_PATH_*, VG_CMDLINE_* */
	vg_u16 exe_len;   /* strings that follow: exe walk, command line (NUL between arguments), cgroup walk */
	vg_u16 cmdline_len;
	vg_u16 cgroup_len;
	vg_u16 ancestors; /* struct vg_ancestor follow the strings: parent first */
	vg_u16 pad[2];
};

/* Who forked whom, as recorded at the fork: it does not change when a parent ends and its children are given to another. */
struct vg_ancestor {
	vg_u64 start_ns;
	vg_u32 pid;
	vg_u32 exec_id; /* its image at the time of the fork */
};

struct vg_exit {
	struct vg_record head;
	vg_u64 start_ns;
	vg_u32 pid;
	vg_u32 pad;
};

VG_ASSERT(sizeof(struct vg_record) == 8);
VG_ASSERT(sizeof(struct vg_event) == 296);
VG_ASSERT(sizeof(struct vg_ancestor) == 16);
VG_ASSERT(sizeof(struct vg_access) == 72);
VG_ASSERT(sizeof(struct vg_process) == 64);
VG_ASSERT(sizeof(struct vg_exit) == 24);

#endif
