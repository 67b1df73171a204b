/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a decision is made with: its memory, and the maps and words that it depends on.
 *
 *   ask.bpf.h        which object, and what is to be done to it
 *   identity.bpf.h   the names of the object, and whether all of them are known
 *   requester.bpf.h  who wants to do it, and whether that is known
 *   rules.bpf.h      what the rules say, and how that is carried out
 *
 * Memory comes from a pool that is there from the start, not from storage that could be refused.
 */
#ifndef VFSGUARD_DECISION_BPF_H
#define VFSGUARD_DECISION_BPF_H

#include "folding.bpf.h"
#include "mounts.bpf.h"
#include "refusals.bpf.h"
#include "walk.bpf.h"

const volatile __u32 decision_mask = 63;
const volatile __u32 mechanism = VG_MECHANISM_LSM; /* of the programs at the object */
const volatile __u32 our_mnt_ns = 0;               /* the agent's mount namespace */
const volatile __u32 rule_capacity = 1;    /* room in rule_counts for the rules of one policy */
const volatile __u32 knows_ancestries = 0; /* forks are noted: some rule asks for ancestors */

volatile __u64 decided_operations = 0; /* that some clause is about, of any active policy */

__u32 agent_tgid = 0;  /* is never refused anything: it must not lock itself out */
__u64 agent_start = 0; /* of that process: its pid can be reused while what is pinned stays */
__u32 generation = 1;  /* raised when protected inodes, mount points or link counts change */
__u32 hook_canary = 0; /* the agent's own opens, as the hooks see them */
__u32 inodes_protected = 0; /* there are protected inodes at all */
volatile __u32 next_version = 0; /* of the policy, while it is being prepared; 0: none is */
__u64 names_to_check = 0; /* a protected name of a file with others went, or a tree came in */
__u64 inodes_freed = 0;     /* protected ones, which are gone from the map */
__u64 names_changed = 0;    /* links and renames that were asked for: what a scan can miss */
__u64 forks_noted_since = ~0ull; /* CLOCK_BOOTTIME; a process started later has an ancestry */

/* What names depend on: as long as nothing of it changed, what was found out is still right. */
struct epoch {
	__u32 renames;
	__u32 mounts;
	__u32 generation;
};

/*
 * Objects that no rule is about. The address of a dentry names one object only for as long as it
 * lives, so beside it stands what tells the next one at that address from it. A slot is written
 * without a lock: `check` tells whether it is whole.
 */
struct unprotected {
	__u64 dentry;
	__u64 mnt;
	__u64 parent;
	__u64 name; /* qstr.hash_len */
	__u64 ino;
	__u32 inode_generation;
	struct epoch epoch;
	__u64 check;
};

/* What of a file system the agent's mount namespace shows. Written without a lock, too. */
struct host_view {
	__u64 sb;
	__u64 only;       /* HOST_ONE: that mount */
	struct epoch epoch;
	__u32 kind;       /* HOST_* */
	__u64 check;
};
enum {
	HOST_NONE,       /* it is not mounted there */
	HOST_IRRELEVANT, /* no protected path can lead to it */
	HOST_ONE,        /* one mount that a protected path can lead through */
	HOST_SEVERAL,
};

#define SETS_MAX 16 /* names of one object that rules are about; a power of two */

struct decision {
	__u32 taken;
	__u32 rule;       /* of the deciding clause so far; ~0: none */
	__u64 operations; /* what is asked for: any of them */
	__u64 dentry;
	__u64 mnt;        /* 0: the hook does not say */
	__u64 to;         /* where a directory is moved to */
	__u64 root;       /* the directory whose former mount points are looked for */
	__u64 inode;      /* that protect_by_sets protects */
	__u64 about;      /* the object that the deciding clause was found by */
	__u8 verdict;
	__u8 code;
	__u8 enforce;
	__u8 by;          /* VG_MECHANISM_*: who carries it out */
	__u8 no_kill;     /* the subject did not choose this object */
	__u8 source;      /* VG_MATCHED_*: of the name that is being looked for, or considered */
	__u8 matched_by;  /* of the deciding one */
	__u8 cause;       /* VG_UNKNOWN_*: of a refusal that is no rule's */
	__u8 by_name_only; /* identify does not look at protected inodes */
	__u8 moves_out;   /* what is protected now keeps that without a protected name */
	__u8 pad8[6];
	__u32 unknown;    /* VG_UNKNOWN_*: why not all names of the object are known; 0: they are */
	__u32 may_hold;   /* a clause was taken to apply because the requester is not known */
	__u32 set_count;  /* of the object: match sets of all its names */
	__u32 sets[SETS_MAX];
	__u8 sources[SETS_MAX];
	__u32 path_known; /* in the caller's mounts or the agent's, or that there is none */
	__u32 known;      /* bit per VG_WHO_*: looked up already */
	__u32 uid[2];     /* by whose rights it acts now (an overlay acts by its mounter's, */
	__u32 gid[2];     /* io_uring by a personality's), and whose task it is */
	__u32 comm;
	__u32 cgroup;     /* of the whole path, and of that part of it */
	__u32 trusted_cgroup; /* whose groups belong to root */
	__u32 exe[2];     /* by the path in the task's mounts, and in the agent's */
	__u32 above;      /* ancestors */
	__u32 above_cut;  /* there are more, which are not known */
	__u32 ancestors[2][VG_ANCESTORS_MAX];
	__u64 cursor;
	struct mount_cursor mounts;
	struct host_view view;
	struct unprotected now;
	struct walk walk;
	struct folding folding;
	struct component work;
};

/* Sized before loading: four a CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct decision);
} decisions SEC(".maps");

#define UNPROTECTED_BITS 13

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << UNPROTECTED_BITS);
	__type(key, __u32);
	__type(value, struct unprotected);
} unprotected_cache SEC(".maps");

#define HOST_VIEW_BITS 6

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << HOST_VIEW_BITS);
	__type(key, __u32);
	__type(value, struct host_view);
} host_views SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct vg_inode_key);
	__type(value, struct vg_protection);
} protected_inodes SEC(".maps");

/* With the leaders of processes that were forked since forks are noted, and with their threads. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct vg_ancestry);
} ancestries SEC(".maps");

/* Where directories of file systems are mounted in the agent's namespace, or were. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct vg_mount_point_key);
	__type(value, struct vg_mount_point);
} mount_points SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2); /* twice rule_capacity: by the lowest bit of the version */
	__type(key, __u32);
	__type(value, struct vg_rule_counts);
} rule_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vg_enforcement);
} enforcement SEC(".maps");

/* fs/dcache.c, fs/namespace.c: both begin with a counter that is odd during a change. */
extern const void rename_lock __ksym __weak;
extern const void mount_lock __ksym __weak;

static __always_inline struct vg_enforcement *my_enforcement(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&enforcement, &zero);
}

#define COUNT(member)                                                    \
	({                                                               \
		struct vg_enforcement *e_ = my_enforcement();            \
		if (e_)                                                  \
			__sync_fetch_and_add(&e_->member, 1);            \
	})

/* False where nothing may be remembered now. */
static __always_inline bool take_epoch(struct epoch *e, __u32 version)
{
	e->renames = 1;
	e->mounts = 1;
	/* Both only grow: no two pairs of them that follow each other have one sum. */
	e->generation = generation + version;
	if (&rename_lock)
		e->renames = FIELD(struct seqcount, &rename_lock, sequence);
	if (&mount_lock)
		e->mounts = FIELD(struct seqcount, &mount_lock, sequence);
	return !((e->renames | e->mounts) & 1);
}

static __always_inline bool is_same_epoch(const struct epoch *a, const struct epoch *b)
{
	return a->renames == b->renames && a->mounts == b->mounts &&
	       a->generation == b->generation;
}

static __always_inline bool is_epoch_now(const struct epoch *then, __u32 version)
{
	struct epoch now;

	return take_epoch(&now, version) && is_same_epoch(&now, then);
}

static __always_inline const struct vg_tables *tables_for(const struct decision *d)
{
	return d ? tables_of(d->walk.version) : NULL;
}

/*
 * The slot of a free one, taken; -1: there is none. A global function: for the verifier its answer
 * is one number, whichever slot that is.
 */
__noinline int take_slot(void)
{
	__u32 first = bpf_get_smp_processor_id() * 4, slot;
	struct decision *d;

	for (__u32 i = 0; i < 16; i++) {
		slot = (first + i) & decision_mask;
		d = bpf_map_lookup_elem(&decisions, &slot);
		if (d && !__sync_val_compare_and_swap(&d->taken, 0, 1))
			return slot;
	}
	COUNT(no_memory);
	return -1;
}

static __always_inline struct decision *claim_decision(void)
{
	__u32 slot = take_slot();

	return bpf_map_lookup_elem(&decisions, &slot);
}

static __always_inline void release_decision(struct decision *d)
{
	__sync_lock_test_and_set(&d->taken, 0);
}

static __always_inline void begin_decision(struct decision *d, __u64 operations, __u64 dentry,
					   __u64 mnt)
{
	d->walk.version = policy_version;
	d->operations = operations;
	d->dentry = dentry;
	d->mnt = mnt;
	d->rule = ~0u;
	d->known = 0;
	d->enforce = 0;
	d->no_kill = 0;
	d->by_name_only = 0;
	d->moves_out = 0;
	d->unknown = 0;
	d->may_hold = 0;
	d->cause = 0;
	d->about = 0;
	d->by = mechanism;
}

/* The automaton's answer for one way up; how far it came stands in d->walk. */
static __always_inline __u32 match_from(struct decision *d, __u32 start, __u64 dentry, __u64 mnt)
{
	const struct vg_tables *t = tables_for(d);

	if (!t)
		return 0;
	walk_begin(&d->walk, bpf_get_current_task_btf(), dentry, mnt);
	d->walk.state = start;
	return dfa_accept(t, walk_match(&d->walk, &d->work));
}

#endif
