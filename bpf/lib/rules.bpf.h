/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the rules say about an identified object, and how that is carried out.
 *
 * The rule with the lowest place in the policy decides, among those that apply by any name of the
 * object. Costs nothing per rule: a match set has the clauses that are about it, in order.
 *
 * Where names of the object or the requester are not known, what could apply does: the operation is
 * refused with EACCES, as nobody's rule (rule ~0) and with the cause. Nobody is killed for that.
 *
 * Somebody is killed only for what he chose himself: not for a descriptor that was sent to him or
 * opened by another user, and not for a file that is protected by another name of its inode. That
 * is refused instead.
 */
#ifndef VFSGUARD_RULES_BPF_H
#define VFSGUARD_RULES_BPF_H

#include "identity.bpf.h"
#include "requester.bpf.h"

struct considering {
	struct decision *d;
	const struct vg_tables *tables;
	__u32 first;
};

static long clause_step(__u32 i, struct considering *c)
{
	const struct vg_tables *t = c->tables;
	struct decision *d = c->d;
	const __u32 *index = table_at(t, t->order_at + (c->first + i) * sizeof(__u32),
				      sizeof(__u32));
	const struct vg_clause *clause = table_at(
		t, t->clauses_at + *index * sizeof(struct vg_clause), sizeof(struct vg_clause));
	__u32 only = HOLDS, unless = DOES_NOT_HOLD;

	if (clause->rule >= d->rule)
		return 1; /* in order: one that comes before has been found by another name */
	if (!(clause->operations & d->operations))
		return 0;
	if (clause->only_kinds)
		only = conditions_hold(d, clause, 0);
	if (!(only & HOLDS))
		return 0;
	if (clause->unless_kinds)
		unless = conditions_hold(d, clause, 1);
	if (!(unless & DOES_NOT_HOLD))
		return 0;
	/* Nobody hides behind a rule that only observes by not being known. */
	if (!clause->enforce && (only == MAY_HOLD || unless == MAY_HOLD))
		return 0;
	d->rule = clause->rule;
	d->about = d->dentry;
	d->matched_by = d->source;
	d->verdict = clause->verdict;
	d->code = clause->code;
	d->enforce = clause->enforce;
	d->may_hold = only == MAY_HOLD || unless == MAY_HOLD;
	return 1;
}

/*
 * What a match set says; the first rule that applies stays in d. `known`: all that is asked of the
 * requester was looked up.
 */
static __always_inline int consider_set(struct decision *d, __u32 set, bool known)
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

__noinline int consider(struct decision *d, __u32 set)
{
	return d ? consider_set(d, set, false) : 0;
}

/* For programs that may sleep, in which a task's leader is not to be trusted by the verifier. */
__noinline int consider_known(struct decision *d, __u32 set)
{
	return d ? consider_set(d, set, true) : 0;
}

/*
 * What could apply to an object of which not all names are known, where no known name has a rule
 * that refuses it: any clause that enforces.
 */
static __always_inline void consider_unknown(struct decision *d)
{
	const struct vg_tables *t = tables_for(d);

	if (!t || (d->rule != ~0u && d->enforce))
		return;
	d->source = VG_MATCHED_NONE;
	d->rule = ~0u;
	consider(d, t->any_set);
	if (d->rule == ~0u)
		return;
	COUNT(unknown);
	d->cause = d->unknown;
	d->verdict = VG_VERDICT_DENY;
	d->code = EACCES;
}

/* What all sets that were found say, and what could apply besides. */
static __always_inline void consider_all(struct decision *d)
{
	for (__u32 i = 0; i < SETS_MAX; i++) {
		if (i >= d->set_count)
			break;
		d->source = d->sources[i];
		consider(d, d->sets[i]);
	}
	if (d->unknown)
		consider_unknown(d);
}

/* The rules about d->dentry by all of its names. Its match sets stay in d->sets. */
__noinline int decide(struct decision *d)
{
	if (d && identify(d))
		consider_all(d);
	return 0;
}

/* The match set of paths below a directory, where it has another one in its new place. */
static __always_inline void add_move(struct decision *d, __u64 mnt)
{
	const struct vg_tables *t = tables_for(d);
	__u32 from, to;

	if (!t)
		return;
	from = match_from(d, t->above_start, d->dentry, mnt);
	if (!d->walk.done)
		d->unknown = VG_UNKNOWN_LONG_PATH;
	to = match_from(d, t->above_start, d->to, mnt);
	if (!d->walk.done)
		d->unknown = VG_UNKNOWN_LONG_PATH;
	if (from != to)
		add_set(d, from);
}

static long move_step(__u32 i, struct decision **of)
{
	struct decision *d = *of;
	__u64 mnt = next_mount(&d->mounts);

	if (!mnt)
		return 1;
	if (mnt != d->mnt && is_ours(mnt))
		add_move(d, mnt);
	return 0;
}

/* A directory that protected paths lead through is not moved to where they would be others. */
__noinline int decide_move(struct decision *d)
{
	__u64 operations;

	if (!d)
		return 0;
	d->set_count = 0;
	d->unknown = 0;
	d->source = VG_MATCHED_PATH;
	if (d->mnt && !is_internal(d->mnt))
		add_move(d, d->mnt);
	d->source = VG_MATCHED_HOST_PATH;
	each_mount(d, (__u64)FIELD(struct dentry, d->dentry, d_sb), move_step);
	operations = d->operations;
	d->operations = ~0ull;
	consider_all(d);
	d->operations = operations;
	return 0;
}

/* Puts down what was refused, for the programs that write events. */
static __always_inline void note_refusal(struct decision *d, struct vg_refusal *refusal)
{
	struct task_struct *task = bpf_get_current_task_btf();

	refusal->inode = (__u64)FIELD(struct dentry, d->about, d_inode);
	refusal->rule = d->rule;
	refusal->version = d->walk.version;
	refusal->mechanism = d->by;
	refusal->code = d->verdict == VG_VERDICT_KILL ? EACCES : d->code;
	refusal->cause = d->cause;
	refusal->matched_by = d->matched_by;
	refusal->verdict = d->by == VG_MECHANISM_SIGNAL ? VG_VERDICT_KILL : d->verdict;
	if (TASK(task, flags) & PF_IO_WORKER) {
		struct vg_worker_key key = {.inode = refusal->inode, .tgid = TASK(task, tgid)};

		bpf_map_update_elem(&worker_refusals, &key, refusal, BPF_ANY);
	}
}

/*
 * Carries the verdict out; returns what the caller is to be answered. By signal alone, there is no
 * other answer: the call goes on.
 */
__noinline int conclude(struct decision *d)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct vg_refusal *refusal;
	struct vg_rule_counts *counts = NULL;
	__u32 rule, signal;

	if (!d || d->rule == ~0u || !d->enforce)
		return 0;
	if (d->may_hold && !d->cause)
		d->cause = VG_UNKNOWN_REQUESTER;
	/* A signal is all that there is here, and it would be a third party's. */
	if (d->by == VG_MECHANISM_SIGNAL && (d->no_kill || d->cause))
		return 0;
	if (d->verdict == VG_VERDICT_KILL &&
	    (d->no_kill || d->cause || d->matched_by == VG_MATCHED_INODE) &&
	    d->by != VG_MECHANISM_SIGNAL) {
		d->verdict = VG_VERDICT_DENY;
		d->code = EACCES;
	}
	refusal = bpf_task_storage_get(&refusals, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	signal = d->verdict == VG_VERDICT_KILL ? d->code : SIGKILL;
	/* A call goes on after the signal, and comes by here again: it has been counted. */
	if (d->by == VG_MECHANISM_SIGNAL && signal == SIGKILL && refusal && refusal->verdict &&
	    refusal->mechanism == VG_MECHANISM_SIGNAL)
		return 0;
	if (d->cause) {
		COUNT(refused_unknown);
		d->rule = ~0u;
		d->verdict = VG_VERDICT_DENY;
		d->code = EACCES;
	} else {
		rule = d->rule + (d->walk.version & 1) * rule_capacity;
		counts = bpf_map_lookup_elem(&rule_counts, &rule);
		if (counts)
			__sync_fetch_and_add(&counts->stopped, 1);
	}
	if (refusal)
		note_refusal(d, refusal);
	if (d->verdict == VG_VERDICT_KILL || d->by == VG_MECHANISM_SIGNAL) {
		if (bpf_send_signal(signal) && counts)
			__sync_fetch_and_add(&counts->kill_failed, 1);
		return -EACCES;
	}
	return -(int)d->code;
}

#endif
