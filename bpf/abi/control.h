/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What user space writes for the kernel side (filters, the path automaton) and what it reads back (counters).
 *
 * The automaton reads a path from its last byte to its first, so that the walk from a dentry to the root can feed it as it goes and
 * stop at the first component that rules a match out. It is a DFA in row-displacement form: state s on byte c goes to
 * edge[base(s) + class(c)].next if that edge's check is s, else to fallback(s).
 */
#ifndef VFSGUARD_ABI_CONTROL_H
#define VFSGUARD_ABI_CONTROL_H

#include "events.h"

#define VG_STATE_DEAD (1u << 0)  /* nothing that follows can match */
#define VG_STATE_FINAL (1u << 1) /* whatever follows, the answer stays */

struct vg_dfa_head {
	vg_u8 class_of[256];
	vg_u32 path_start; /* start state of the automaton for objects */
	vg_u32 exe_start;  /* start state of the automaton for executables */
	vg_u32 pad[2];
};

struct vg_dfa_state {
	vg_u32 base;
	vg_u32 fallback;
	vg_u32 accept; /* match set, 0: none */
	vg_u32 flags;
};

struct vg_dfa_edge {
	vg_u32 check;
	vg_u32 next;
};

/* Why something could not be recorded completely (vg_counters.cause). */
#define VG_CAUSE_RING_FULL 0      /* event lost: no room in the ring buffer */
#define VG_CAUSE_NO_STORAGE 1     /* task storage refused: the call's arguments were taken at exit instead */
#define VG_CAUSE_PATH_TRUNCATED 2
#define VG_CAUSE_CONTEXT_LOST 3   /* process record lost; the next event of that process sends it again */
#define VG_CAUSE_NO_COMPLETE 4    /* begin without complete: a return probe was missed */
#define VG_CAUSE_URING_FULL 5     /* io_uring request not followed: table full */
#define VG_CAUSE_NAME_FAULT 6
#define VG_CAUSE_SESSIONS_FULL 7  /* no room to follow another open file: each read and write is an event */
#define VG_CAUSE_COUNT 8

struct vg_counters { /* per CPU */
	vg_u64 seen[VG_OP_SLOTS];
	vg_u64 filtered[VG_OP_SLOTS];
	vg_u64 aggregated[VG_OP_SLOTS]; /* counted in a session that an event tells of */
	vg_u64 emitted[VG_OP_SLOTS];
	vg_u64 lost[VG_OP_SLOTS];
	vg_u64 cause[VG_CAUSE_COUNT];
	vg_u64 seq;
};

/* Attach cookies: what a kprobe program that serves several functions is at. */
#define VG_COOKIE_CALL(call, via) ((call) | (via) << 8) /* a system call: VG_CALL_*, VG_VIA_* */
#define VG_COOKIE_CALL_OF(cookie) ((cookie) & 0xff)
#define VG_COOKIE_VIA_OF(cookie) ((cookie) >> 8 & 0xff)
#define VG_COOKIE_REQUEST (1u << 16)                    /* an io_uring request's function */

/* Where the object is seen: arguments as in include/linux/lsm_hook_defs.h, of the security_* function and of the LSM hook alike. */
#define VG_AT_VFS_OPEN 1
#define VG_AT_FILE_OPEN 2
#define VG_AT_PATH_UNLINK 3
#define VG_AT_PATH_RMDIR 4
#define VG_AT_PATH_MKDIR 5
#define VG_AT_PATH_MKNOD 6
#define VG_AT_PATH_SYMLINK 7
#define VG_AT_PATH_LINK 8
#define VG_AT_PATH_RENAME 9
#define VG_AT_PATH_TRUNCATE 10
#define VG_AT_FILE_TRUNCATE 11
#define VG_AT_PATH_CHMOD 12
#define VG_AT_PATH_CHOWN 13
#define VG_AT_INODE_SETATTR 14
#define VG_AT_INODE_SETXATTR 15 /* inode_set_acl too */
#define VG_AT_INODE_REMOVEXATTR 16 /* inode_remove_acl too */
#define VG_AT_SB_MOUNT 17
#define VG_AT_SB_UMOUNT 18
#define VG_AT_SB_PIVOTROOT 19
#define VG_AT_MOVE_MOUNT 20
#define VG_AT_PATH_CHROOT 21

VG_ASSERT(VG_OP_COUNT <= VG_OP_SLOTS);
VG_ASSERT(sizeof(struct vg_dfa_head) == 272);
VG_ASSERT(sizeof(struct vg_dfa_state) == 16);
VG_ASSERT(sizeof(struct vg_dfa_edge) == 8);

#endif
