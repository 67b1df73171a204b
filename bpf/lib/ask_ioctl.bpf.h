/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * ioctl(2) on an open file. What a request does to the file it is made on is asked as what it is.
 * A request that names other descriptors in its argument is refused where the process has any open
 * file that it could not do that to: the argument lies in memory that another thread can change
 * after it was looked at, a descriptor table can only get what was opened or received.
 */
#ifndef VFSGUARD_ASK_IOCTL_BPF_H
#define VFSGUARD_ASK_IOCTL_BPF_H

#include "ask.bpf.h"
#include "ioctl.bpf.h"

#define CANDIDATES_MAX 64   /* open files on the same file system; with more, they are not known */
#define DESCRIPTORS_MAX 65536

struct candidates {
	__u32 taken;
	__u32 count;
	__u32 cut;
	__u32 next;
	__u64 sb;
	__u64 file;
	__u64 open[CANDIDATES_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, struct candidates);
} candidates SEC(".maps");

static long candidate_step(__u32 i, struct candidates **of)
{
	struct candidates *c = *of;
	__u64 file = file_of_fd(bpf_get_current_task_btf(), i), inode;
	__u32 n = c->count;

	if (i >= c->next)
		return 1;
	if (!file || file == c->file)
		return 0;
	inode = (__u64)FIELD(struct file, file, f_inode);
	if ((__u64)FIELD(struct inode, inode, i_sb) != c->sb)
		return 0;
	if (n >= CANDIDATES_MAX) {
		c->cut = 1;
		return 1;
	}
	c->open[n & (CANDIDATES_MAX - 1)] = file;
	c->count = n + 1;
	return 0;
}

/* The other open files of the process on the file system of c->file. */
__noinline int find_candidates(struct candidates *c)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 inode;

	if (!c)
		return 0;
	c->count = 0;
	c->cut = 0;
	inode = (__u64)FIELD(struct file, c->file, f_inode);
	c->sb = (__u64)FIELD(struct inode, inode, i_sb);
	c->next = TASK(task, files->fdt)->max_fds;
	if (c->next > DESCRIPTORS_MAX)
		c->cut = 1;
	bpf_loop(DESCRIPTORS_MAX, candidate_step, &c, 0);
	return 1;
}

/* The clauses about paths below a directory, by the mount that it was reached by and the host's. */
__noinline int decide_below(struct decision *d)
{
	const struct vg_tables *t = tables_for(d);
	__u32 set;

	if (!d || !t)
		return 0;
	d->source = VG_MATCHED_PATH;
	d->view.sb = (__u64)FIELD(struct dentry, d->dentry, d_sb);
	find_view(d);
	if (d->view.kind == HOST_NONE || d->view.kind == HOST_IRRELEVANT)
		return 0;
	if (d->view.kind == HOST_SEVERAL) {
		consider(d, t->any_set);
		return 0;
	}
	d->source = VG_MATCHED_HOST_PATH;
	set = match_from(d, t->above_start, d->dentry, d->view.only);
	if (!d->walk.done || !d->walk.off || d->walk.flags & VG_PATH_DISCONNECTED)
		set = t->any_set; /* the root, or nobody knows */
	consider(d, set);
	return 0;
}

static __always_inline struct candidates *claim_candidates(void)
{
	struct candidates *c;
	__u32 slot;

	for (__u32 i = 0; i < 8; i++) {
		slot = i;
		c = bpf_map_lookup_elem(&candidates, &slot);
		if (c && !__sync_val_compare_and_swap(&c->taken, 0, 1))
			return c;
	}
	COUNT(no_memory);
	return NULL;
}

/* d->dentry, d->mnt: what the file is; all that the request does to it. */
static __always_inline void decide_effects(struct decision *d, __u32 effects)
{
	__u64 operations = DO(IOCTL);

	if (effects & IOCTL_CONTENT)
		operations |= DO(READ) | DO(WRITE) | DO(OPEN);
	if (effects & IOCTL_COPIES)
		operations |= DO(READ) | DO(OPEN);
	if (effects & IOCTL_REMOVES)
		operations |= DO(UNLINK) | DO(RMDIR);
	if (effects & IOCTL_CREATES)
		operations |= DO(MKDIR);
	if (effects & IOCTL_HANDLES)
		operations |= DO(READ) | DO(OPEN) | DO(SETXATTR);
	if (effects & IOCTL_RENUMBERS)
		operations = ~0ull;
	d->operations = operations;
	decide(d);
	if (effects & (IOCTL_COPIES | IOCTL_CREATES | IOCTL_REMOVES | IOCTL_HANDLES))
		decide_below(d);
}

/* Inlined: a program may not go deeper than 8 calls. */
static __always_inline void decide_ioctl(struct decision *d, struct candidates *c, __u32 effects)
{
	__u64 mnt;

	decide_effects(d, effects);
	if (!c)
		return;
	for (__u32 i = 0; i < CANDIDATES_MAX; i++) {
		if (i >= c->count)
			break;
		d->dentry = dentry_in(c->open[i], &mnt);
		d->mnt = mnt;
		if (d->dentry)
			decide_effects(d, effects);
	}
	if (c->cut) {
		d->unknown = VG_UNKNOWN_DESCRIPTORS;
		consider_unknown(d);
	}
}

static __always_inline int ask_ioctl(__u64 file, __u32 request)
{
	__u32 effects = effects_of_ioctl(request);
	struct candidates *c = NULL;
	__u64 mnt, dentry;
	struct decision *d;

	if (!effects || is_agent())
		return 0;
	/* Protection by inode is kept whatever operations the rules are about. */
	if (!(effects & IOCTL_RENUMBERS) && !decided_operations)
		return 0;
	dentry = dentry_in(file, &mnt);
	if (!dentry)
		return 0;
	d = claim_decision();
	if (!d)
		return -EACCES;
	if (effects & IOCTL_OTHERS) {
		c = claim_candidates();
		if (!c) {
			release_decision(d);
			return -EACCES;
		}
		c->file = file;
		find_candidates(c);
	}
	begin_decision(d, 0, dentry, mnt);
	d->no_kill = is_foreign(file);
	decide_ioctl(d, c, effects);
	if (c)
		__sync_lock_test_and_set(&c->taken, 0);
	return answer_with(d, false);
}

#endif
