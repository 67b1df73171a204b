/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A question about one or two objects, from whatever stands where they are used: who asks is the current task. */
#ifndef VFSGUARD_ASK_BPF_H
#define VFSGUARD_ASK_BPF_H

#include "judge.bpf.h"
#include "mounts.bpf.h"

#define DO(operation) (1ull << VG_OP_##operation)

static __always_inline bool is_agent(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return (__u32)TASK(task, tgid) == agent_tgid && TASK(task, group_leader->start_boottime) == agent_start;
}

static __always_inline bool concerns(__u64 operations)
{
	return (operations & decided_operations) && !is_agent();
}

/* Ends a decision; the hook's answer, within the bounds that the verifier asks for. */
static __always_inline int answer_with(struct deed *d, bool refuse)
{
	int answer = conclude(d);

	if (!answer && refuse)
		answer = -EACCES;
	release_deed(d);
	barrier_var(answer);
	if (answer < -4095 || answer > 0)
		return -EACCES;
	return answer;
}

/* Two objects, either of which the rules may be about; to: 0, one. */
static __always_inline int ask_two(__u64 operations, __u64 from, __u64 from_mnt, __u64 to, __u64 to_mnt)
{
	struct deed *d;

	if (!concerns(operations))
		return 0;
	d = claim_deed();
	if (!d)
		return -EACCES;
	begin_deed(d, operations, from, from_mnt);
	judge(d);
	if (to) {
		d->dentry = to;
		d->mnt = to_mnt;
		judge(d);
	}
	return answer_with(d, false);
}

static __always_inline int ask(__u64 operations, __u64 dentry, __u64 mnt)
{
	return ask_two(operations, dentry, mnt, 0, 0);
}

static __always_inline int ask_path(__u64 operations, __u64 path)
{
	return ask(operations, (__u64)FIELD(struct path, path, dentry), (__u64)FIELD(struct path, path, mnt));
}

static __always_inline int ask_child(__u64 operations, __u64 dir, __u64 dentry)
{
	return ask(operations, dentry, (__u64)FIELD(struct path, dir, mnt));
}

/*
 * Until 6.5 what an overlay opens beneath carries the overlay's path: its inode is another one. Any name of that inode will do, as its own file
 * system has it.
 */
static __always_inline __u64 dentry_in(__u64 file, __u64 *mnt)
{
	__u64 dentry = file_dentry_of(file), inode = (__u64)FIELD(struct file, file, f_inode), alias;

	*mnt = file_mount_of(file);
	if ((__u64)FIELD(struct dentry, dentry, d_inode) == inode)
		return dentry;
	*mnt = 0;
	alias = (__u64)FIELD(struct inode, inode, i_dentry.first);
	return alias ? alias - bpf_core_field_offset(struct dentry, d_u.d_alias) : 0;
}

static __always_inline int ask_file(__u64 operations, __u64 file)
{
	__u64 mnt, dentry = dentry_in(file, &mnt);

	return dentry ? ask(operations, dentry, mnt) : 0;
}

/* One call reads from one file and writes to another: by one version of the policy. Either may be 0. */
static __always_inline int ask_both(__u64 operations, __u64 file, __u64 to_operations, __u64 to)
{
	__u64 mnt, dentry;
	struct deed *d;

	if (!concerns((file ? operations : 0) | (to ? to_operations : 0)))
		return 0;
	d = claim_deed();
	if (!d)
		return -EACCES;
	begin_deed(d, operations, 0, 0);
	dentry = file ? dentry_in(file, &mnt) : 0;
	if (dentry) {
		d->dentry = dentry;
		d->mnt = mnt;
		judge(d);
	}
	dentry = to ? dentry_in(to, &mnt) : 0;
	if (dentry) {
		d->operations = to_operations;
		d->dentry = dentry;
		d->mnt = mnt;
		judge(d);
	}
	return answer_with(d, false);
}

/* The object keeps what protects it under its new name. */
static __always_inline bool carry(const struct deed *d, __u64 dentry, __u32 set, __u32 to_set)
{
	const struct vg_tables *t = tables_for(d);
	__u64 inode = (__u64)FIELD(struct dentry, dentry, d_inode);
	const struct vg_range *range;

	if (!t || !set || set == to_set || !inode || is_directory(inode))
		return true;
	range = table_at(t, t->ranges_at + set * sizeof(*range), sizeof(*range));
	if (!range->count || mark(t, d->walk.version, inode, set))
		return true;
	COUNT(labels_full);
	return false;
}

/* A name goes: what was remembered about its object, or beneath it, may be about another soon. */
static __always_inline void forget_free(void)
{
	__sync_fetch_and_add(&generation, 1);
}

/* The same, of a file whose name is removed: only where it has others. */
static __always_inline void forget_name(__u64 dentry)
{
	__u64 inode = (__u64)FIELD(struct dentry, dentry, d_inode);

	if (inode && FIELD(struct inode, inode, i_nlink) > 1)
		forget_free();
}

/* Rename and link, which give an object another name: asked whatever operations the rules are about. */
static __always_inline int ask_naming(__u64 operations, __u64 from, __u64 to, __u64 mnt, bool moves, bool exchanges)
{
	struct deed *d;
	__u32 from_set, to_set;
	bool refuse;

	if (is_agent())
		return 0;
	d = claim_deed();
	if (!d)
		return -EACCES;
	begin_deed(d, operations, from, mnt);
	judge(d);
	from_set = d->set;
	d->to = to;
	if (moves && is_directory((__u64)FIELD(struct dentry, from, d_inode)))
		judge_move(d);
	d->dentry = to;
	judge(d);
	to_set = d->set;
	d->to = from;
	if (exchanges && is_directory((__u64)FIELD(struct dentry, to, d_inode)))
		judge_move(d);
	d->dentry = from;
	/* Marked before it is known whether it goes through: a label too many protects too much for as long as the inode lives. */
	refuse = !(d->rule != ~0u && d->enforce) && (!carry(d, from, from_set, to_set) || (exchanges && !carry(d, to, to_set, from_set)));
	return answer_with(d, refuse);
}

static __always_inline __u64 open_operations(__u64 file)
{
	__u64 operations = FIELD(struct file, file, f_flags) & FMODE_EXEC ? DO(EXEC) : DO(OPEN);

	return FIELD(struct file, file, f_mode) & FMODE_CREATED ? operations | DO(CREATE) : operations;
}

/* What may not be opened may not be read or written by a descriptor that is there already. */
static __always_inline __u64 access_operations(__u64 mask)
{
	__u64 operations = 0;

	if (mask & MAY_READ)
		operations |= DO(READ) | DO(OPEN);
	if (mask & (MAY_WRITE | MAY_APPEND))
		operations |= DO(WRITE) | DO(OPEN);
	return operations;
}

static __always_inline __u64 node_operations(__u64 mode)
{
	if ((mode & S_IFMT) == S_IFREG || !(mode & S_IFMT))
		return DO(CREATE);
	return (mode & S_IFMT) == S_IFSOCK ? DO(MKNOD) | DO(BIND) : DO(MKNOD);
}

static __always_inline __u64 map_operations(__u64 protection, bool shared)
{
	__u64 operations = DO(OPEN);

	if (protection & PROT_READ)
		operations |= DO(READ);
	if (protection & PROT_EXEC)
		operations |= DO(MMAP);
	if (shared && protection & PROT_WRITE)
		operations |= DO(MMAP) | DO(WRITE);
	return operations;
}

static __always_inline int ask_dentry(__u64 operations, __u64 dentry)
{
	if (!concerns(operations))
		return 0;
	return ask(operations, dentry, some_mount(bpf_get_current_task_btf(), (__u64)FIELD(struct dentry, dentry, d_sb)));
}

#endif
