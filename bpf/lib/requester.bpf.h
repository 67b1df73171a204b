/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who wants to do it: what conditions of rules ask of the current task. What cannot be found out is
 * VG_SET_UNKNOWN, not "no match": it satisfies `only`, which makes a rule apply, and never
 * `unless`, which lets somebody pass.
 */
#ifndef VFSGUARD_REQUESTER_BPF_H
#define VFSGUARD_REQUESTER_BPF_H

#include "host_mounts.bpf.h"

/* The match set that a versioned set stands for in this version; 0: none. */
static __always_inline __u32 set_of(const struct vg_tables *t, __u32 version,
				    const volatile struct vg_versioned_set *of, __u32 translate_at,
				    __u32 translated)
{
	__u64 now = of->by[version & 1], before;

	if (now >> 32 == version)
		return now;
	before = of->by[~version & 1];
	if (before >> 32 != version - 1)
		return 0;
	if ((__u32)before == VG_SET_UNKNOWN)
		return VG_SET_UNKNOWN;
	if ((__u32)before >= translated)
		return 0;
	return *(const __u32 *)table_at(t, translate_at + (__u32)before * sizeof(__u32),
					sizeof(__u32));
}

static __always_inline __u32 exe_set_of(const struct vg_tables *t, __u32 version,
					const volatile struct vg_versioned_set *of)
{
	return set_of(t, version, of, t->exe_translate_at, t->exes_translated);
}

/*
 * An executable's match sets: by the path in its own mounts, and in the agent's. The kernel opens
 * what it executes with FMODE_EXEC, which open(2) cannot ask for; a file without it was put there
 * by prctl (PR_SET_MM_EXE_FILE, PR_SET_MM_MAP). A deleted one is known by nothing that could let
 * it pass.
 */
static __always_inline void match_executable(struct decision *d, __u64 file, __u32 *own,
					     __u32 *ours)
{
	const struct vg_tables *t = tables_for(d);
	__u64 dentry, mnt, host;

	*own = 0;
	*ours = 0;
	if (!file || !t)
		return;
	if (!(FIELD(struct file, file, f_flags) & FMODE_EXEC)) {
		*own = VG_SET_UNKNOWN;
		*ours = VG_SET_UNKNOWN;
		return;
	}
	dentry = file_dentry_of(file);
	mnt = file_mount_of(file);
	*own = match_from(d, t->exe_start, dentry, mnt);
	if (!d->walk.done)
		*own = VG_SET_UNKNOWN;
	if (deleted_flag(dentry))
		return;
	if (is_ours(mnt)) {
		*ours = *own;
		return;
	}
	host = host_mount_of(d, dentry);
	if (!host)
		return;
	*ours = match_from(d, t->exe_start, dentry, host);
	if (!d->walk.done)
		*ours = VG_SET_UNKNOWN;
	else if (d->walk.flags & (VG_PATH_DISCONNECTED | VG_PATH_DETACHED))
		*ours = 0;
}

__noinline int learn_executable(struct decision *d)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (!d)
		return 0;
	match_executable(d, TASK(task, mm) ? (__u64)TASK(task, mm->exe_file) : 0, &d->exe[0],
			 &d->exe[1]);
	return 0;
}

static long ancestor_step(__u32 i, struct decision **of)
{
	struct decision *d = *of;
	__u64 parent = (__u64)FIELD(struct task_struct, d->cursor, real_parent), leader, mm;
	__u32 n = d->above;

	if (!parent)
		return 1;
	leader = (__u64)FIELD(struct task_struct, parent, group_leader);
	if (!FIELD(struct task_struct, leader, tgid))
		return 1;
	if (n >= VG_ANCESTORS_MAX) {
		d->above_cut = 1;
		return 1;
	}
	mm = (__u64)FIELD(struct task_struct, leader, mm);
	match_executable(d, mm ? (__u64)FIELD(struct mm_struct, mm, exe_file) : 0,
			 &d->ancestors[0][n], &d->ancestors[1][n]);
	/* Of the same rules' concern as the one below it: conditions cannot tell them apart. */
	if (!n || d->ancestors[0][n] != d->ancestors[0][(n - 1) & (VG_ANCESTORS_MAX - 1)] ||
	    d->ancestors[1][n] != d->ancestors[1][(n - 1) & (VG_ANCESTORS_MAX - 1)])
		d->above = n + 1;
	d->cursor = leader;
	return 0;
}

#define ANCESTORS_READ 1024 /* living parents; more leave the rest unknown */

/* The parents that live. Inlined: a program may not go deeper than 8 calls. */
static __always_inline int read_parents(struct decision *d)
{
	struct task_struct *task = bpf_get_current_task_btf();

	d->above = 0;
	d->above_cut = 0;
	d->cursor = (__u64)TASK(task, group_leader);
	if (bpf_loop(ANCESTORS_READ, ancestor_step, &d, 0) == ANCESTORS_READ)
		d->above_cut = 1;
	return 0;
}

__noinline int learn_parents(struct decision *d)
{
	return d ? read_parents(d) : 0;
}

struct ancestry_reading {
	struct decision *d;
	const struct vg_tables *tables;
	struct vg_ancestry *ancestry;
};

static long ancestry_step(__u32 i, struct ancestry_reading *l)
{
	if (i >= VG_ANCESTORS_MAX || i >= l->ancestry->count)
		return 1;
	l->d->ancestors[0][i] =
		exe_set_of(l->tables, l->d->walk.version, &l->ancestry->above[i].own);
	l->d->ancestors[1][i] =
		exe_set_of(l->tables, l->d->walk.version, &l->ancestry->above[i].ours);
	l->d->above = i + 1;
	return 0;
}

/*
 * Those that forked it, whoever it was given to since. Of a process that is older than the noting
 * of forks, the parents that live; of a younger one that has no ancestry nothing is known.
 */
__noinline int learn_ancestors(struct decision *d)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_struct *leader = task->group_leader;
	const struct vg_tables *t = tables_for(d);
	struct vg_ancestry *ancestry = NULL;
	struct ancestry_reading l;

	if (!d || !t || !leader)
		return 0;
	if (knows_ancestries) {
		ancestry = bpf_task_storage_get(&ancestries, leader, 0, 0);
		if (!ancestry || !ancestry->count)
			ancestry = bpf_task_storage_get(&ancestries, task, 0, 0);
	}
	if (!ancestry || !ancestry->count) {
		read_parents(d);
		if (TASK(task, group_leader->start_boottime) > forks_noted_since)
			d->above_cut = 1;
		return 0;
	}
	l.d = d;
	l.tables = t;
	l.ancestry = ancestry;
	d->above = 0;
	d->above_cut = ancestry->cut;
	bpf_loop(VG_ANCESTORS_MAX, ancestry_step, &l, 0);
	return 0;
}

#define CONTROL_GROUPS_MAX 1024 /* levels; deeper ones are not known */

static long control_group_step(__u32 i, struct decision **of)
{
	struct decision *d = *of;
	const struct vg_tables *t = tables_for(d);
	__u64 parent, name, attributes;
	long n;

	parent = kernfs_parent(d->cursor);
	if (!parent || !t) {
		d->walk.done = 1;
		return 1;
	}
	name = (__u64)FIELD(struct kernfs_node, d->cursor, name);
	n = text_length(bpf_probe_read_kernel_str(d->work.bytes, VG_NAME_MAX, (void *)name));
	if (n <= 0)
		return 1;
	d->walk.state = dfa_step(t, dfa_feed(t, d->walk.state, &d->work, n), '/');
	d->walk.off = i + 1;
	/* What is not root's own, its owner may have made and named: what lies above is trusted. */
	attributes = (__u64)FIELD(struct kernfs_node, d->cursor, iattr);
	if (attributes && FIELD(struct kernfs_iattrs, attributes, ia_uid.val)) {
		d->cgroup = t->cgroup_start;
		d->walk.skip = 0;
	} else {
		d->cgroup = dfa_step(t, dfa_feed(t, d->cgroup, &d->work, n), '/');
		d->walk.skip = 1;
	}
	d->cursor = parent;
	return 0;
}

/* The states of the two automata stand in d->walk.state and, of the trusted part, d->cgroup. */
__noinline int learn_control_group(struct decision *d)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const struct vg_tables *t = tables_for(d);
	__u32 trusted;

	if (!d || !t)
		return 0;
	d->cursor = (__u64)FIELD(struct cgroup, TASK(task, cgroups->dfl_cgrp), kn);
	d->walk.state = t->cgroup_start;
	d->walk.off = 0;
	d->walk.done = 0;
	d->walk.skip = 0;
	d->cgroup = t->cgroup_start;
	bpf_loop(CONTROL_GROUPS_MAX, control_group_step, &d, 0);
	if (!d->walk.done) {
		d->cgroup = VG_SET_UNKNOWN;
		d->trusted_cgroup = VG_SET_UNKNOWN;
		return 0;
	}
	if (!d->walk.off)
		d->walk.state = dfa_step(t, d->walk.state, '/');
	trusted = d->cgroup;
	if (!d->walk.skip)
		trusted = dfa_step(t, t->cgroup_start, '/');
	d->cgroup = dfa_accept(t, d->walk.state);
	d->trusted_cgroup = dfa_accept(t, trusted);
	return 0;
}

__noinline int learn_name(struct decision *d)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const struct vg_tables *t = tables_for(d);
	long len;

	if (!d || !t)
		return 0;
	len = text_length(bpf_probe_read_kernel_str(d->work.bytes, VG_COMM_LEN, &task->comm));
	d->comm = dfa_accept(t, dfa_feed(t, t->comm_start, &d->work, len < 0 ? 0 : len));
	return 0;
}

/* Looks up what the clauses of a range ask of the requester. */
static __always_inline void learn(struct decision *d, __u32 kinds)
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
	if (kinds & (1 << VG_WHO_CGROUP | 1 << VG_WHO_CONTAINER)) {
		d->known |= 1 << VG_WHO_CGROUP | 1 << VG_WHO_CONTAINER;
		learn_control_group(d);
	}
	if (kinds & (1 << VG_WHO_EXE))
		learn_executable(d);
	if (kinds & (1 << VG_WHO_ANCESTOR))
		learn_ancestors(d);
}

/* A global function: the verifier looks at it once, not once for every condition. */
__noinline int is_member(__u32 version, __u32 list, __u32 value)
{
	const struct vg_tables *t = tables_of(version);
	__u32 hash = VG_MEMBER_HASH(list, value);

	if (!t)
		return 0;
	for (__u32 i = 0; i < VG_MEMBER_PROBES; i++) {
		__u32 at = t->members_at + (hash + i & t->members_mask) * sizeof(struct vg_member);
		const struct vg_member *m = table_at(t, at, sizeof(*m));

		if (m->list == list && m->value == value)
			return 1;
		if (!m->list)
			return 0;
	}
	return 0;
}

/* Whether a condition holds; both bits: nobody knows. */
#define DOES_NOT_HOLD 1
#define HOLDS 2
#define MAY_HOLD (DOES_NOT_HOLD | HOLDS)

static __always_inline __u32 holds(bool yes)
{
	return yes ? HOLDS : DOES_NOT_HOLD;
}

static __always_inline __u32 id_holds(__u32 version, __u32 list, const __u32 *id, bool both)
{
	if (both)
		return holds(is_member(version, list, id[0]) && is_member(version, list, id[1]));
	return holds(is_member(version, list, id[0]) || is_member(version, list, id[1]));
}

static __always_inline __u32 set_holds(__u32 version, __u32 list, __u32 set)
{
	return set == VG_SET_UNKNOWN ? MAY_HOLD : holds(is_member(version, list, set));
}

/* Of two names of one thing: either will do. */
static __always_inline __u32 either(__u32 a, __u32 b)
{
	if (a == HOLDS || b == HOLDS)
		return HOLDS;
	return a | b;
}

/* Global functions from here on: the verifier looks at each once, not once for every condition. */
__noinline int ancestors_hold(const struct decision *d, __u32 list, int passing)
{
	__u32 version, answer;

	if (!d)
		return DOES_NOT_HOLD;
	version = d->walk.version;
	answer = d->above_cut ? MAY_HOLD : DOES_NOT_HOLD;
	for (__u32 i = 0; i < VG_ANCESTORS_MAX; i++) {
		if (i >= d->above)
			break;
		if (is_member(version, list, d->ancestors[1][i]) ||
		    (!passing && is_member(version, list, d->ancestors[0][i])))
			return HOLDS;
		if (d->ancestors[1][i] == VG_SET_UNKNOWN || d->ancestors[0][i] == VG_SET_UNKNOWN)
			answer = MAY_HOLD;
	}
	return answer;
}

/*
 * `passing`: for conditions that let somebody pass. By the agent's own names, which who can mount
 * cannot forge, by groups that belong to root, and by both of the identities that a task can have
 * at once; else either will do.
 */
__noinline int condition_holds(const struct decision *d, __u32 kind, __u32 list, int passing)
{
	__u32 version, answer;

	if (!d)
		return DOES_NOT_HOLD;
	version = d->walk.version;
	switch (kind) {
	case VG_WHO_UID:
		return id_holds(version, list, d->uid, passing);
	case VG_WHO_GID:
		return id_holds(version, list, d->gid, passing);
	case VG_WHO_EXE:
		answer = set_holds(version, list, d->exe[1]);
		return passing ? answer : either(answer, set_holds(version, list, d->exe[0]));
	case VG_WHO_COMM:
		return set_holds(version, list, d->comm);
	case VG_WHO_CGROUP:
	case VG_WHO_CONTAINER:
		answer = set_holds(version, list, d->trusted_cgroup);
		return passing ? answer : either(answer, set_holds(version, list, d->cgroup));
	case VG_WHO_ANCESTOR:
		return ancestors_hold(d, list, passing);
	}
	return DOES_NOT_HOLD;
}

/* All that are given. */
__noinline int conditions_hold(const struct decision *d, const struct vg_clause *clause,
			       int passing)
{
	__u32 list, answer = HOLDS, one;

	if (!d || !clause)
		return 0;
	for (__u32 kind = 0; kind < VG_WHO_COUNT; kind++) {
		list = passing ? clause->unless[kind] : clause->only[kind];
		if (!list)
			continue;
		one = condition_holds(d, kind, list, passing);
		if (one == DOES_NOT_HOLD)
			return DOES_NOT_HOLD;
		answer |= one;
	}
	return answer;
}

#endif
