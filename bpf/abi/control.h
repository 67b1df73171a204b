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

/*
 * Everything that decides lies in one value of the map `tables`, a power of two in size: this head, then the sections at their byte offsets,
 * which are multiples of 16. One value, so that a look-up is an addition and that it can be replaced as a whole.
 */
struct vg_tables {
	vg_u8 class_of[256];
	vg_u32 path_start; /* start state of the automaton for objects */
	vg_u32 exe_start;  /* start state of the automaton for executables */
	vg_u32 states_at;  /* struct vg_dfa_state */
	vg_u32 edges_at;   /* struct vg_dfa_edge */
	vg_u32 sets_at;    /* vg_u64 per match set: bit per VG_OP_* */
	/* What enforcement needs beyond that (bpf/lib/rules.bpf.h); 0 in tables that only record. */
	vg_u32 comm_start;   /* start state for process names, */
	vg_u32 cgroup_start; /* for control groups' paths, */
	vg_u32 above_start;  /* for directories that protected paths lead through */
	vg_u32 ranges_at;    /* struct vg_range per match set; those of `above` come after those of the paths */
	vg_u32 order_at;     /* vg_u32: indexes of clauses, which ranges are cut from */
	vg_u32 clauses_at;   /* struct vg_clause */
	vg_u32 members_at;   /* struct vg_member, a hash table with linear probing */
	vg_u32 members_mask; /* its size, a power of two, less one */
	vg_u32 any_set;      /* the range of every clause that enforces: for what is not known */
	vg_u32 translate_at; /* vg_u32 per match set of the version before: the set that says the same here; 0: there was none before */
	vg_u32 translated;   /* how many */
	vg_u32 exe_translate_at; /* the same of match sets of executables */
	vg_u32 exes_translated;
	vg_u32 globs;      /* VG_GLOBS_* */
	vg_u32 pad;
	vg_u64 anywhere;   /* bit per VG_OP_*: of tables that record, what is told whatever its path; bit 0: of opens only those that write */
	vg_u64 pad2;
};

#define VG_GLOBS_NOT_ASCII 1u /* some path glob has a byte above 127 */

#define VG_ANYWHERE_WRITES 1ull

#define VG_FIRST_VERSION 1 /* of the policy; each that takes its place has the next */

/* The clauses about what lies in a match set, in the order of their rules. */
struct vg_range {
	vg_u32 first;      /* in the order */
	vg_u32 count;
	vg_u32 kinds;      /* bit per VG_WHO_*: what they ask of the subject */
	vg_u32 pad;
	vg_u64 operations; /* of all of them */
	vg_u64 pad2;
};

/* Conditions on the subject. Each names a list of values; a value is a number (uid, gid) or the match set of a name. */
#define VG_WHO_UID 0
#define VG_WHO_GID 1
#define VG_WHO_EXE 2
#define VG_WHO_COMM 3
#define VG_WHO_ANCESTOR 4
#define VG_WHO_CGROUP 5
#define VG_WHO_CONTAINER 6 /* by the control group's path too */
#define VG_WHO_COUNT 7
#define VG_WHO_SLOTS 8

/* A rule that denies or kills. */
struct vg_clause {
	vg_u64 operations;
	vg_u32 rule;     /* its place in the policy: the lowest decides */
	vg_u8 verdict;   /* VG_VERDICT_* */
	vg_u8 code;      /* errno or signal */
	vg_u8 enforce;   /* 0: it decides, and nothing is stopped */
	vg_u8 pad;
	vg_u32 only[VG_WHO_SLOTS];   /* lists; 0: not asked. All must hold */
	vg_u32 unless[VG_WHO_SLOTS]; /* all that are given hold: the rule is not about this subject */
	vg_u32 only_kinds;
	vg_u32 unless_kinds;
	vg_u32 pad2[10];
};

struct vg_member {
	vg_u32 list; /* 0: free */
	vg_u32 value;
};
#define VG_MEMBER_PROBES 8 /* the table is made large enough for no entry to lie further from its place */
#define VG_MEMBER_HASH(list, value) (((list) * 0x9e3779b1u ^ (value) * 0x85ebca6bu) >> 7)

/* Per rule, since it was loaded. */
struct vg_rule_counts {
	vg_u64 stopped;
	vg_u64 kill_failed; /* the signal could not be sent; the operation was refused all the same */
};

/* What enforcement itself went through. */
struct vg_enforcement {
	vg_u64 asked;           /* decisions that were made */
	vg_u64 known;           /* answered without: the object was known to be unprotected */
	vg_u64 unknown;         /* objects of which not all names could be found out */
	vg_u64 refused_unknown; /* refused, because the object or the requester was not known */
	vg_u64 no_memory;       /* refused: more decisions at once than there is memory for */
	vg_u64 no_ancestors;    /* forked, and its ancestors could not be noted: they are unknown */
	vg_u64 protected_inodes_full; /* a protected object was moved or linked, and there was no room
					 to protect its inode: refused */
};

/* An inode as the kernel knows it. A copy in a snapshot of btrfs has the same, and is protected too. */
struct vg_inode_key {
	vg_u64 ino;
	vg_u32 dev; /* super_block.s_dev, kernel-internal encoding */
	vg_u32 generation;
};

/* A match set of a version of the policy: version << 32 | set. */
#define VG_VERSIONED_SET(version, set) ((vg_u64)(version) << 32 | (set))
#define VG_SET_UNKNOWN 0xffffffffu /* which one could not be found out */

#define VG_PROTECTION_SETS 4 /* a power of two */

/*
 * What protects an inode whatever its path says: the match sets of its names, by version (its lowest
 * bit). Slots of the version before count too, by the translation of the one in force.
 */
struct vg_protection {
	vg_u64 by[2][VG_PROTECTION_SETS];
	vg_u32 flags; /* VG_PROTECTION_* */
	vg_u32 pad;
};

#define VG_PROTECTION_MOVED 1 /* it was moved out: it stays protected without a protected name */

/* One match set, by version (its lowest bit). */
struct vg_versioned_set {
	vg_u64 by[2];
};

/*
 * Who forked a process, or an ancestor of it: the match sets of its executable as of then, by its
 * own mounts and by the agent's. Neighbours that conditions cannot tell apart are one.
 */
struct vg_ancestor_exe {
	struct vg_versioned_set own;
	struct vg_versioned_set ours;
};

struct vg_ancestry {
	vg_u32 count; /* 0: not known */
	vg_u32 cut;   /* there are more, which are not known */
	struct vg_ancestor_exe above[VG_ANCESTORS_MAX]; /* parent first */
};

/* BPF_PROG_TEST_RUN of the program `protect`. */
struct vg_protect {
	struct vg_inode_key object;
	vg_u32 version;
	vg_u32 set;
};

/* BPF_PROG_TEST_RUN of the program `protect_named`: the name that a descriptor was opened by. */
struct vg_protect_named {
	vg_s32 fd;
	vg_u32 sets; /* the answer: how many protect the object by that name; ~0: there was no room */
	struct vg_inode_key object; /* the answer */
};

#define VG_MOUNT_POINTS 8 /* of one directory that are kept */

/* A directory of a file system that is mounted, or was, in the agent's mount namespace. */
struct vg_mount_point_key {
	vg_u64 root_ino;
	vg_u32 dev; /* kernel-internal encoding; numbers of file systems without a device come again, */
	vg_u32 generation; /* and their root directories have another generation then */
	vg_u32 index;
	vg_u32 pad;
};

struct vg_mount_point {
	vg_u32 len; /* 0: the root directory */
	vg_u32 pad;
	char path[VG_PATH_MAX];
};

/* BPF_PROG_TEST_RUN of the program `try_rule`: what the tables of a version say to an operation by somebody. */
struct vg_try {
	vg_u64 path; /* address in the caller */
	vg_u64 operations;
	vg_u32 version;
	vg_u32 uid;
	vg_u32 gid;
	vg_u32 exe; /* match sets, as the others of names */
	vg_u32 comm;
	vg_u32 cgroup;
	vg_u32 ancestor;
	vg_u32 rule; /* the answer: the deciding one's place; ~0: none */
	vg_u8 verdict;
	vg_u8 code;
	vg_u8 enforce;
	vg_u8 pad[5];
};

/* BPF_PROG_TEST_RUN of the program `look`: who is behind this descriptor of the agent's? */
struct vg_look {
	vg_s32 fd;
	vg_u32 mnt_id;
	vg_u64 inode; /* its address */
	struct vg_inode_key object;
	struct vg_mount_point_key mount; /* what of its file system is mounted there */
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
#define VG_CAUSE_AGGREGATES_FULL 8 /* no room to count another kind of event: it is written by itself */
#define VG_CAUSE_COUNT 9

struct vg_counters { /* per CPU */
	vg_u64 seen[VG_OP_SLOTS];
	vg_u64 filtered[VG_OP_SLOTS];
	vg_u64 aggregated[VG_OP_SLOTS]; /* counted in a session that an event tells of */
	vg_u64 emitted[VG_OP_SLOTS];
	vg_u64 lost[VG_OP_SLOTS];
	vg_u64 cause[VG_CAUSE_COUNT];
	vg_u64 seq[VG_LANE_COUNT];
	vg_u64 aggregates; /* entries made so far */
};

/* Events that are alike: one process image did one thing to one object with one result. */
struct vg_aggregate_key {
	vg_u64 start_ns;
	vg_u64 object;  /* the inode's number or, where none is known, a hash of the name */
	vg_u64 second;  /* a hash of the second name */
	vg_u32 pid;
	vg_u32 exec_id;
	vg_u32 dev;     /* 0: object is a hash */
	vg_s32 error;   /* 0 or the negative errno */
	vg_u32 call;
	vg_u32 operation;
};

struct vg_aggregate {
	vg_u64 id;      /* vg_event.aggregate of the first */
	vg_u64 count;
	vg_u64 last_ns;
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
#define VG_AT_MMAP_FILE 22
#define VG_AT_FILE_MPROTECT 23
#define VG_AT_FILE_IOCTL 24 /* file_ioctl_compat too */
#define VG_AT_FILE_PERMISSION 25 /* these only where it is enforced */
#define VG_AT_FILE_RECEIVE 26
#define VG_AT_INODE_CREATE 27
#define VG_AT_INODE_MKNOD 28
#define VG_AT_INODE_MKDIR 29
#define VG_AT_INODE_SYMLINK 30
#define VG_AT_INODE_UNLINK 31
#define VG_AT_INODE_RMDIR 32
#define VG_AT_INODE_LINK 33
#define VG_AT_INODE_RENAME 34

VG_ASSERT(VG_OP_COUNT <= VG_OP_SLOTS);
VG_ASSERT(sizeof(struct vg_tables) == 352);
VG_ASSERT(sizeof(struct vg_ancestor_exe) == 32);
VG_ASSERT(sizeof(struct vg_protection) == 72);
VG_ASSERT(sizeof(struct vg_mount_point_key) == 24);
VG_ASSERT(sizeof(struct vg_range) == 32);
VG_ASSERT(sizeof(struct vg_clause) == 128);
VG_ASSERT(sizeof(struct vg_dfa_state) == 16);
VG_ASSERT(sizeof(struct vg_dfa_edge) == 8);

#endif
