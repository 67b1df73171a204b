/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The one function that decides, whoever carries its verdict out: an object, what is to be done to it, the current task as the subject.
 *
 * An object is protected by every name that leads to it: its path as the caller's mounts have it, its path as the agent's own mounts have
 * it (bind mounts, other namespaces), and its label, where it has several names or was moved. The rule with the lowest place among those
 * that apply decides. What cannot be read is decided by every rule: enforcement fails closed.
 *
 * Costs nothing per rule: a walk to the root through the automaton gives a match set, and only its clauses are looked at. An object that no
 * rule is about is remembered until anything on the machine is renamed or mounted.
 *
 * Memory comes from a pool that is there from the start (struct deed), not from storage that could be refused.
 */
#ifndef VFSGUARD_JUDGE_BPF_H
#define VFSGUARD_JUDGE_BPF_H

#include "decisions.bpf.h"
#include "walk.bpf.h"

const volatile __u32 deed_mask = 63;
const volatile __u32 mechanism = VG_MECHANISM_LSM; /* of the programs at the object */
const volatile __u32 our_mnt_ns = 0;         /* the agent's */
const volatile __u32 rule_capacity = 1;      /* room in rule_counts for the rules of one policy */

const volatile __u32 knows_lineages = 0;     /* forks are noted: some rule asks for ancestors */

volatile __u64 decided_operations = 0; /* that some clause is about, of any policy that still decides */

__u32 agent_tgid = 0;   /* locks itself out never */
__u64 agent_start = 0;  /* of that process: another one may have its pid once it is gone, and what is pinned stays */
__u32 generation = 1;   /* raised when homes, labels or the number of a file's names change: what was remembered is void */
__u32 hook_canary = 0;  /* the agent's own opens, as the hooks see them */
__u32 labels_given = 0; /* there are labels at all */

/*
 * Objects that no rule is about. The address of a dentry names one object only for as long as it lives, so beside it stands what tells the
 * next one at that address from it: its parent, its name, its inode's number and generation. A slot is written without a lock: `check` tells
 * whether it is whole.
 */
struct free_object {
	__u64 dentry;
	__u64 mnt;
	__u64 parent;
	__u64 name; /* qstr.hash_len */
	__u64 ino;
	__u32 inode_generation;
	__u32 renames;
	__u32 mounts;
	__u32 generation;
	__u64 check;
};

/* A decision that is being made. */
struct deed {
	__u32 taken;
	__u32 set;        /* of the object: the last that matched */
	__u64 operations; /* what is asked for: any of them */
	__u64 dentry;
	__u64 mnt;        /* 0: the hook does not say */
	__u64 to;         /* where a directory is moved to */
	__u64 about;      /* the one that the deciding clause was found by */
	__u32 rule;       /* of the deciding clause so far; ~0: none */
	__u8 verdict;
	__u8 code;
	__u8 enforce;
	__u8 by;          /* VG_MECHANISM_*: who carries it out */
	__u32 known;      /* bit per VG_WHO_*: looked up already */
	__u32 uid[2];     /* by whose rights it acts now (an overlay acts by its mounter's, io_uring by a personality's), and whose task it is */
	__u32 gid[2];
	__u32 comm;
	__u32 cgroup;
	__u32 above;      /* ancestors */
	__u32 exe[2];     /* by the path that the task's mounts give it, and by the agent's */
	__u32 ancestors[2][VG_ANCESTORS_MAX];
	__u64 cursor;
	struct free_object now;
	struct walk walk;
	struct component work;
};

/* Sized before loading: four a CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct deed);
} deeds SEC(".maps");

#define FREE_BITS 13

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << FREE_BITS);
	__type(key, __u32);
	__type(value, struct free_object);
} free_objects SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct vg_label);
	__type(value, struct vg_mark);
} labels SEC(".maps");

/* With the leaders of processes that were forked since forks are noted. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct vg_lineage);
} lineages SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32); /* super_block.s_dev */
	__type(value, struct vg_home);
} homes SEC(".maps");

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

/* fs/dcache.c, fs/namespace.c: both begin with a counter that is odd while a change is under way. */
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

struct epoch {
	__u32 renames;
	__u32 mounts;
	__u32 generation;
};

/* False where nothing may be remembered now. */
static __always_inline bool take_epoch(struct epoch *e, __u32 version)
{
	e->renames = 1;
	e->mounts = 1;
	e->generation = generation + version; /* both only grow: no two pairs of them that follow each other have one sum */
	if (&rename_lock)
		e->renames = FIELD(struct seqcount, &rename_lock, sequence);
	if (&mount_lock)
		e->mounts = FIELD(struct seqcount, &mount_lock, sequence);
	return !((e->renames | e->mounts) & 1);
}

static __always_inline struct free_object *free_slot(__u64 dentry, __u64 mnt)
{
	__u32 slot = ((dentry ^ mnt << 1) * 0x9e3779b97f4a7c15ull) >> (64 - FREE_BITS);

	return bpf_map_lookup_elem(&free_objects, &slot);
}

static __always_inline __u64 free_check(const struct free_object *f)
{
	__u64 mix = f->dentry * 0x9e3779b97f4a7c15ull ^ f->mnt;

	mix = mix * 0xff51afd7ed558ccdull ^ f->parent;
	mix = mix * 0xc4ceb9fe1a85ec53ull ^ f->name;
	mix = mix * 0x9e3779b97f4a7c15ull ^ f->ino;
	mix = mix * 0xff51afd7ed558ccdull ^ ((__u64)f->inode_generation << 32 | f->generation);
	return mix * 0xc4ceb9fe1a85ec53ull ^ ((__u64)f->renames << 32 | f->mounts) ^ mix >> 29;
}

/* What would be remembered of it now. False: nothing, it has several names, or names are changing at this moment. */
static __always_inline bool describe_free(struct free_object *f, __u64 dentry, __u64 mnt, __u32 version)
{
	__u64 inode = (__u64)FIELD(struct dentry, dentry, d_inode);
	struct epoch e;

	/* Of several names another may be protected. Directories have one, whatever their link count. */
	if (!inode || (!is_directory(inode) && FIELD(struct inode, inode, i_nlink) > 1) || !take_epoch(&e, version))
		return false;
	f->dentry = dentry;
	f->mnt = mnt;
	f->parent = (__u64)FIELD(struct dentry, dentry, d_parent);
	f->name = FIELD(struct dentry, dentry, d_name.hash) | (__u64)FIELD(struct dentry, dentry, d_name.len) << 32;
	f->ino = FIELD(struct inode, inode, i_ino);
	f->inode_generation = FIELD(struct inode, inode, i_generation);
	f->renames = e.renames;
	f->mounts = e.mounts;
	f->generation = e.generation;
	f->check = 0;
	return true;
}

static __always_inline bool is_known_free(const struct free_object *now)
{
	const struct free_object *f = free_slot(now->dentry, now->mnt);

	return f && f->dentry == now->dentry && f->mnt == now->mnt && f->parent == now->parent && f->name == now->name && f->ino == now->ino &&
	       f->inode_generation == now->inode_generation && f->renames == now->renames && f->mounts == now->mounts && f->generation == now->generation &&
	       f->check == free_check(now);
}

/* Where nothing was renamed, linked, removed or mounted since it was described. */
static __always_inline void remember_free(struct deed *d)
{
	struct free_object *f = free_slot(d->dentry, d->mnt);
	struct epoch e;

	if (!f || !take_epoch(&e, d->walk.version) || e.renames != d->now.renames || e.mounts != d->now.mounts || e.generation != d->now.generation)
		return;
	f->check = 0;
	__builtin_memcpy(f, &d->now, offsetof(struct free_object, check));
	f->check = free_check(&d->now);
}

/* The place of a free one, taken; -1: there is none. A global function: for the verifier its answer is one number, whichever place that is. */
__noinline int take_place(void)
{
	__u32 first = bpf_get_smp_processor_id() * 4, slot;
	struct deed *d;

	for (__u32 i = 0; i < 16; i++) {
		slot = (first + i) & deed_mask;
		d = bpf_map_lookup_elem(&deeds, &slot);
		if (d && !__sync_val_compare_and_swap(&d->taken, 0, 1))
			return slot;
	}
	COUNT(no_memory);
	return -1;
}

static __always_inline struct deed *claim_deed(void)
{
	__u32 slot = take_place();

	return bpf_map_lookup_elem(&deeds, &slot);
}

static __always_inline void release_deed(struct deed *d)
{
	__sync_lock_test_and_set(&d->taken, 0);
}

static __always_inline bool is_ours(__u64 mnt)
{
	__u64 ns = (__u64)FIELD(struct mount, mount_of(mnt), mnt_ns);

	return ns && FIELD(struct mnt_namespace, ns, ns.inum) == our_mnt_ns;
}

/* Where the agent sees the file system that this lies on; 0: nowhere. */
static __always_inline __u64 home_of(__u64 dentry)
{
	__u64 sb = (__u64)FIELD(struct dentry, dentry, d_sb);
	__u32 dev = FIELD(struct super_block, sb, s_dev);
	struct vg_home *home = bpf_map_lookup_elem(&homes, &dev);

	if (!home || FIELD(struct mount, mount_of(home->mnt), mnt_id) != home->mnt_id || (__u64)FIELD(struct vfsmount, home->mnt, mnt_sb) != sb)
		return 0;
	return home->mnt;
}

static __always_inline const struct vg_tables *tables_for(const struct deed *d)
{
	return d ? tables_of(d->walk.version) : NULL;
}

/* The automaton's answer for one way up. */
static __always_inline __u32 match_from(struct deed *d, __u32 start, __u64 dentry, __u64 mnt)
{
	const struct vg_tables *t = tables_for(d);

	if (!t)
		return 0;
	walk_begin(&d->walk, bpf_get_current_task_btf(), dentry, mnt);
	d->walk.state = start;
	return dfa_accept(t, walk_match(&d->walk, &d->work));
}

/* The match set that a mark stands for in this version; 0: none. */
static __always_inline __u32 set_of(const struct vg_tables *t, __u32 version, const volatile struct vg_mark *mark, __u32 translate_at, __u32 translated)
{
	__u64 now = mark->by[version & 1], before;

	if (now >> 32 == version)
		return now;
	before = mark->by[~version & 1];
	if (before >> 32 != version - 1 || (__u32)before >= translated)
		return 0;
	return *(const __u32 *)table_at(t, translate_at + (__u32)before * sizeof(__u32), sizeof(__u32));
}

static __always_inline __u32 exe_set_of(const struct vg_tables *t, __u32 version, const volatile struct vg_mark *mark)
{
	return set_of(t, version, mark, t->exe_translate_at, t->exes_translated);
}

/* Its executable's match sets: as its own mounts name it, and as the agent's do. What was deleted matches nothing. */
static __always_inline void match_executable(struct deed *d, __u64 file, __u32 *own, __u32 *ours)
{
	const struct vg_tables *t = tables_for(d);
	__u64 dentry, mnt, home;

	*own = 0;
	*ours = 0;
	if (!file || !t)
		return;
	dentry = file_dentry_of(file);
	mnt = file_mount_of(file);
	if (deleted_flag(dentry))
		return;
	*own = match_from(d, t->exe_start, dentry, mnt);
	if (is_ours(mnt)) {
		*ours = *own;
		return;
	}
	home = home_of(dentry);
	if (home)
		*ours = match_from(d, t->exe_start, dentry, home);
}

__noinline int learn_executable(struct deed *d)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (!d)
		return 0;
	match_executable(d, TASK(task, mm) ? (__u64)TASK(task, mm->exe_file) : 0, &d->exe[0], &d->exe[1]);
	return 0;
}

static long ancestor_step(__u32 i, struct deed **of)
{
	struct deed *d = *of;
	__u64 parent = (__u64)FIELD(struct task_struct, d->cursor, real_parent), leader, mm;

	if (!parent || i >= VG_ANCESTORS_MAX)
		return 1;
	leader = (__u64)FIELD(struct task_struct, parent, group_leader);
	if (!FIELD(struct task_struct, leader, tgid))
		return 1;
	mm = (__u64)FIELD(struct task_struct, leader, mm);
	match_executable(d, mm ? (__u64)FIELD(struct mm_struct, mm, exe_file) : 0, &d->ancestors[0][i], &d->ancestors[1][i]);
	d->above = i + 1;
	d->cursor = leader;
	return 0;
}

/* The parents that live. Inlined: a program may not go deeper than 8 calls. */
static __always_inline int read_parents(struct deed *d)
{
	struct task_struct *task = bpf_get_current_task_btf();

	d->above = 0;
	d->cursor = (__u64)TASK(task, group_leader);
	bpf_loop(VG_ANCESTORS_MAX, ancestor_step, &d, 0);
	return 0;
}

__noinline int learn_parents(struct deed *d)
{
	return d ? read_parents(d) : 0;
}

struct lining {
	struct deed *d;
	const struct vg_tables *tables;
	struct vg_lineage *lineage;
};

static long lineage_step(__u32 i, struct lining *l)
{
	if (i >= VG_ANCESTORS_MAX || i >= l->lineage->count)
		return 1;
	l->d->ancestors[0][i] = exe_set_of(l->tables, l->d->walk.version, &l->lineage->above[i].own);
	l->d->ancestors[1][i] = exe_set_of(l->tables, l->d->walk.version, &l->lineage->above[i].ours);
	l->d->above = i + 1;
	return 0;
}

/* Those that forked it, whoever it was given to since; of a process that is older than that is noted, the parents that live. */
__noinline int learn_ancestors(struct deed *d)
{
	struct task_struct *leader = bpf_get_current_task_btf()->group_leader;
	const struct vg_tables *t = tables_for(d);
	struct vg_lineage *lineage;
	struct lining l;

	if (!d || !t || !leader)
		return 0;
	lineage = knows_lineages ? bpf_task_storage_get(&lineages, leader, 0, 0) : NULL;
	if (!lineage || !lineage->count)
		return read_parents(d);
	l.d = d;
	l.tables = t;
	l.lineage = lineage;
	d->above = 0;
	bpf_loop(VG_ANCESTORS_MAX, lineage_step, &l, 0);
	return 0;
}

static long control_group_step(__u32 i, struct deed **of)
{
	struct deed *d = *of;
	const struct vg_tables *t = tables_for(d);
	__u64 parent, name;
	long n;

	parent = kernfs_parent(d->cursor);
	if (!parent || !t)
		return 1;
	name = (__u64)FIELD(struct kernfs_node, d->cursor, name);
	n = text_length(bpf_probe_read_kernel_str(d->work.bytes, VG_NAME_MAX, (void *)name));
	if (n <= 0)
		return 1;
	d->walk.state = dfa_step(t, dfa_feed(t, d->walk.state, &d->work, n), '/');
	d->walk.off = i + 1;
	d->cursor = parent;
	return 0;
}

__noinline int learn_control_group(struct deed *d)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const struct vg_tables *t = tables_for(d);

	if (!d || !t)
		return 0;
	d->cursor = (__u64)FIELD(struct cgroup, TASK(task, cgroups->dfl_cgrp), kn);
	d->walk.state = t->cgroup_start;
	d->walk.off = 0;
	bpf_loop(64, control_group_step, &d, 0);
	if (!d->walk.off)
		d->walk.state = dfa_step(t, d->walk.state, '/');
	d->cgroup = dfa_accept(t, d->walk.state);
	return 0;
}

__noinline int learn_name(struct deed *d)
{
	const struct vg_tables *t = tables_for(d);
	__u32 len = 0;

	if (!d || !t)
		return 0;
	bpf_get_current_comm(d->work.bytes, VG_COMM_LEN);
	while (len < VG_COMM_LEN && d->work.bytes[len])
		len++;
	d->comm = dfa_accept(t, dfa_feed(t, t->comm_start, &d->work, len));
	return 0;
}

/* Looks up what the clauses of a range ask of the subject. */
static __always_inline void learn(struct deed *d, __u32 kinds)
{
	struct task_struct *task = bpf_get_current_task_btf();

	kinds &= ~d->known;
	if (!kinds)
		return;
	d->known |= kinds;
	d->uid[0] = TASK(task, cred->uid.val);
	d->gid[0] = TASK(task, cred->gid.val);
	d->uid[1] = TASK(task, real_cred->uid.val);
	d->gid[1] = TASK(task, real_cred->gid.val);
	if (kinds & (1 << VG_WHO_COMM))
		learn_name(d);
	if (kinds & (1 << VG_WHO_CGROUP | 1 << VG_WHO_CONTAINER))
		learn_control_group(d);
	if (kinds & (1 << VG_WHO_EXE))
		learn_executable(d);
	if (kinds & (1 << VG_WHO_ANCESTOR))
		learn_ancestors(d);
}

static __noinline bool is_member(__u32 version, __u32 list, __u32 value)
{
	const struct vg_tables *t = tables_of(version);
	__u32 hash = VG_MEMBER_HASH(list, value);

	if (!t)
		return false;
	for (__u32 i = 0; i < VG_MEMBER_PROBES; i++) {
		const struct vg_member *m = table_at(t, t->members_at + (hash + i & t->members_mask) * sizeof(*m), sizeof(*m));

		if (m->list == list && m->value == value)
			return true;
		if (!m->list)
			return false;
	}
	return false;
}

static __always_inline bool is_either(__u32 version, __u32 list, const __u32 *id, bool both)
{
	if (both)
		return is_member(version, list, id[0]) && is_member(version, list, id[1]);
	return is_member(version, list, id[0]) || is_member(version, list, id[1]);
}

/*
 * `ours`: for conditions that let somebody through. By the agent's own names, which who can mount cannot forge, and by both of the identities
 * that a task can have at once; else either will do.
 */
static __always_inline bool condition_holds(const struct deed *d, __u32 kind, __u32 list, bool ours)
{
	__u32 version = d->walk.version;

	switch (kind) {
	case VG_WHO_UID:
		return is_either(version, list, d->uid, ours);
	case VG_WHO_GID:
		return is_either(version, list, d->gid, ours);
	case VG_WHO_EXE:
		return is_member(version, list, d->exe[1]) || (!ours && is_member(version, list, d->exe[0]));
	case VG_WHO_COMM:
		return is_member(version, list, d->comm);
	case VG_WHO_CGROUP:
	case VG_WHO_CONTAINER:
		return is_member(version, list, d->cgroup);
	case VG_WHO_ANCESTOR:
		for (__u32 i = 0; i < VG_ANCESTORS_MAX; i++) {
			if (i >= d->above)
				return false;
			if (is_member(version, list, d->ancestors[1][i]) || (!ours && is_member(version, list, d->ancestors[0][i])))
				return true;
		}
	}
	return false;
}

/* All that are given. Not inlined: it is a loop, and the verifier would go through it for every way to get here. */
__noinline int conditions_hold(const struct deed *d, const struct vg_clause *clause, int ours)
{
	__u32 list;

	if (!d || !clause)
		return 0;
	for (__u32 kind = 0; kind < VG_WHO_COUNT; kind++) {
		list = ours ? clause->unless[kind] : clause->only[kind];
		if (list && !condition_holds(d, kind, list, ours))
			return 0;
	}
	return 1;
}

struct considering {
	struct deed *d;
	const struct vg_tables *tables;
	__u32 first;
};

static long clause_step(__u32 i, struct considering *c)
{
	const struct vg_tables *t = c->tables;
	struct deed *d = c->d;
	const __u32 *index = table_at(t, t->order_at + (c->first + i) * sizeof(__u32), sizeof(__u32));
	const struct vg_clause *clause = table_at(t, t->clauses_at + *index * sizeof(struct vg_clause), sizeof(struct vg_clause));

	if (clause->rule >= d->rule)
		return 1; /* in order: one that comes before has been found by another name */
	if (!(clause->operations & d->operations))
		return 0;
	if (clause->only_kinds && !conditions_hold(d, clause, 0))
		return 0;
	if (clause->unless_kinds && conditions_hold(d, clause, 1))
		return 0;
	d->rule = clause->rule;
	d->about = d->dentry;
	d->verdict = clause->verdict;
	d->code = clause->code;
	d->enforce = clause->enforce;
	return 1;
}

/* What a match set says; the first rule that applies stays in d. `known`: all that is asked of the subject was looked up. */
static __always_inline int consider_set(struct deed *d, __u32 set, bool known)
{
	const struct vg_tables *t = tables_for(d);
	const struct vg_range *range;
	struct considering c;

	if (!t || !set)
		return 0;
	range = table_at(t, t->ranges_at + set * sizeof(*range), sizeof(*range));
	if (!(range->operations & d->operations))
		return 0;
	if (!known)
		learn(d, range->kinds);
	c.d = d;
	c.tables = t;
	c.first = range->first;
	bpf_loop(range->count, clause_step, &c, 0);
	return 0;
}

__noinline int consider(struct deed *d, __u32 set)
{
	return d ? consider_set(d, set, false) : 0;
}

/* For programs that may sleep, in which a task's leader is not to be trusted by the verifier. */
__noinline int consider_known(struct deed *d, __u32 set)
{
	return d ? consider_set(d, set, true) : 0;
}

static __always_inline void read_label(struct vg_label *label, __u64 inode)
{
	__u64 sb = (__u64)FIELD(struct inode, inode, i_sb);

	label->ino = FIELD(struct inode, inode, i_ino);
	label->dev = FIELD(struct super_block, sb, s_dev);
	label->generation = FIELD(struct inode, inode, i_generation);
}

static __always_inline __u32 marked_as(const struct vg_tables *t, __u32 version, const volatile struct vg_mark *mark)
{
	return mark ? set_of(t, version, mark, t->translate_at, t->translated) : 0;
}

/* By every name of d->dentry. The match set that protects it stays in d->set; 0: none does. */
__noinline int judge(struct deed *d)
{
	const struct vg_tables *t = tables_for(d);
	__u64 inode, home;
	struct vg_label label = {};
	bool steady;
	__u32 set;

	if (!d || !t)
		return 0;
	d->set = 0;
	steady = describe_free(&d->now, d->dentry, d->mnt, d->walk.version);
	if (steady && is_known_free(&d->now)) {
		COUNT(known);
		return 0;
	}
	COUNT(asked);
	if (d->mnt && !is_internal(d->mnt)) {
		set = match_from(d, t->path_start, d->dentry, d->mnt);
		if (!d->walk.done || d->walk.flags & VG_PATH_DISCONNECTED) {
			/* Nobody can say where it lies. */
			COUNT(unreadable);
			set = t->any_set;
		}
		d->set = set;
		consider(d, set);
	}
	home = home_of(d->dentry);
	if (home && home != d->mnt) {
		set = match_from(d, t->path_start, d->dentry, home);
		if (set && set != d->set && !(d->walk.flags & VG_PATH_DISCONNECTED)) {
			d->set = set;
			consider(d, set);
		}
	}
	inode = (__u64)FIELD(struct dentry, d->dentry, d_inode);
	if (labels_given && inode) {
		read_label(&label, inode);
		set = marked_as(t, d->walk.version, bpf_map_lookup_elem(&labels, &label));
		if (set && set != d->set) {
			d->set = set;
			consider(d, set);
		}
	}
	if (!d->set && steady)
		remember_free(d);
	return 0;
}

/* A directory that protected paths lead through is not moved to where they would have other names. */
__noinline int judge_move(struct deed *d)
{
	const struct vg_tables *t = tables_for(d);
	__u64 operations, home;
	__u32 from_set, to_set;

	if (!d || !t)
		return 0;
	from_set = match_from(d, t->above_start, d->dentry, d->mnt);
	to_set = match_from(d, t->above_start, d->to, d->mnt);
	operations = d->operations;
	d->operations = ~0ull;
	if (from_set != to_set)
		consider(d, from_set);
	home = home_of(d->dentry);
	if (home && home != d->mnt) {
		from_set = match_from(d, t->above_start, d->dentry, home);
		to_set = match_from(d, t->above_start, d->to, home);
		if (from_set != to_set)
			consider(d, from_set);
	}
	d->operations = operations;
	return 0;
}

/* What protects this object from now on, whatever its path says. In place, so that nothing that another program notes there is lost. */
static __always_inline bool put_mark(const struct vg_label *label, __u32 version, __u32 set)
{
	struct vg_mark fresh = {};
	volatile struct vg_mark *mark;

	fresh.by[version & 1] = VG_MARK(version, set);
	if (!bpf_map_update_elem(&labels, label, &fresh, BPF_NOEXIST)) {
		labels_given = 1;
		return true;
	}
	mark = bpf_map_lookup_elem(&labels, label);
	if (!mark)
		return false;
	mark->by[version & 1] = VG_MARK(version, set);
	return true;
}

/* It gets another name: what protects it now goes along. False where that could not be noted. */
static __always_inline bool mark(const struct vg_tables *t, __u32 version, __u64 inode, __u32 set)
{
	struct vg_label label = {};

	read_label(&label, inode);
	return marked_as(t, version, bpf_map_lookup_elem(&labels, &label)) || put_mark(&label, version, set);
}

/* Carries the verdict out; returns what the caller is to be answered. By signal alone, there is no other answer: the call goes on. */
__noinline int conclude(struct deed *d)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct vg_decision *decision;
	struct vg_rule_counts *counts;
	__u32 rule, signal;

	if (!d || d->rule == ~0u || !d->enforce)
		return 0;
	decision = bpf_task_storage_get(&decisions, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	signal = d->verdict == VG_VERDICT_KILL ? d->code : SIGKILL;
	/* A call goes on after the signal, and comes by here again: it has been told, and counted. */
	if (d->by == VG_MECHANISM_SIGNAL && signal == SIGKILL && decision && decision->verdict && decision->mechanism == VG_MECHANISM_SIGNAL)
		return 0;
	rule = d->rule + (d->walk.version & 1) * rule_capacity;
	counts = bpf_map_lookup_elem(&rule_counts, &rule);
	if (counts)
		__sync_fetch_and_add(&counts->stopped, 1);
	if (decision) {
		decision->inode = (__u64)FIELD(struct dentry, d->about, d_inode);
		decision->rule = d->rule;
		decision->version = d->walk.version;
		decision->mechanism = d->by;
		decision->code = d->verdict == VG_VERDICT_KILL ? EACCES : d->code;
		decision->verdict = d->by == VG_MECHANISM_SIGNAL ? VG_VERDICT_KILL : d->verdict;
	}
	if (decision && TASK(task, flags) & PF_IO_WORKER) {
		struct vg_worker_key key = {.inode = decision->inode, .tgid = TASK(task, tgid)};

		bpf_map_update_elem(&worker_decisions, &key, decision, BPF_ANY);
	}
	if (d->verdict == VG_VERDICT_KILL || d->by == VG_MECHANISM_SIGNAL) {
		if (bpf_send_signal(signal) && counts)
			__sync_fetch_and_add(&counts->kill_failed, 1);
		return -EACCES;
	}
	return -(int)d->code;
}

static __always_inline void begin_deed(struct deed *d, __u64 operations, __u64 dentry, __u64 mnt)
{
	d->walk.version = policy_version;
	d->operations = operations;
	d->dentry = dentry;
	d->mnt = mnt;
	d->rule = ~0u;
	d->known = 0;
	d->enforce = 0;
	d->by = mechanism;
}

#endif
