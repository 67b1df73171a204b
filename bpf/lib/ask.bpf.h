/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A question about one or two objects, from whatever stands where they are used: who asks is the
 * current task. Hooks say which object it is and what is asked; everything else is decided here
 * and below.
 */
#ifndef VFSGUARD_ASK_BPF_H
#define VFSGUARD_ASK_BPF_H

#include "protected_inodes.bpf.h"
#include "rules.bpf.h"

#define DO(operation) (1ull << VG_OP_##operation)

static __always_inline bool is_agent(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return (__u32)TASK(task, tgid) == agent_tgid &&
	       TASK(task, group_leader->start_boottime) == agent_start;
}

static __always_inline bool concerns(__u64 operations)
{
	return (operations & decided_operations) && !is_agent();
}

/* Ends a decision; the hook's answer, within the bounds that the verifier asks for. */
static __always_inline int answer_with(struct decision *d, bool refuse)
{
	int answer = conclude(d);

	if (!answer && refuse)
		answer = -EACCES;
	release_decision(d);
	barrier_var(answer);
	if (answer < -4095 || answer > 0)
		return -EACCES;
	return answer;
}

/* Two objects, either of which the rules may be about; to: 0, one. */
static __always_inline int ask_two(__u64 operations, __u64 from, __u64 from_mnt, __u64 to,
				   __u64 to_mnt)
{
	struct decision *d;

	if (!concerns(operations))
		return 0;
	d = claim_decision();
	if (!d)
		return -EACCES;
	begin_decision(d, operations, from, from_mnt);
	decide(d);
	if (to) {
		d->dentry = to;
		d->mnt = to_mnt;
		decide(d);
	}
	return answer_with(d, false);
}

static __always_inline int ask(__u64 operations, __u64 dentry, __u64 mnt)
{
	return ask_two(operations, dentry, mnt, 0, 0);
}

static __always_inline int ask_path(__u64 operations, __u64 path)
{
	return ask(operations, (__u64)FIELD(struct path, path, dentry),
		   (__u64)FIELD(struct path, path, mnt));
}

static __always_inline int ask_child(__u64 operations, __u64 dir, __u64 dentry)
{
	return ask(operations, dentry, (__u64)FIELD(struct path, dir, mnt));
}

/*
 * Until 6.5 what an overlay opens beneath carries the overlay's path: its inode is another one. Any
 * name of that inode will do, as its own file system has it.
 */
static __always_inline __u64 dentry_in(__u64 file, __u64 *mnt)
{
	__u64 dentry = file_dentry_of(file), alias;
	__u64 inode = (__u64)FIELD(struct file, file, f_inode);

	*mnt = file_mount_of(file);
	if ((__u64)FIELD(struct dentry, dentry, d_inode) == inode)
		return dentry;
	*mnt = 0;
	alias = (__u64)FIELD(struct inode, inode, i_dentry.first);
	return alias ? alias - bpf_core_field_offset(struct dentry, d_u.d_alias) : 0;
}

/*
 * Another user opened it: whoever has the descriptor now need not know what it is. Where a signal is
 * all that there is, it is used all the same: else it could be used.
 */
static __always_inline bool is_foreign(__u64 file)
{
	__u64 cred = (__u64)FIELD(struct file, file, f_cred);

	return mechanism != VG_MECHANISM_SIGNAL &&
	       FIELD(struct cred, cred, uid.val) !=
		       TASK(bpf_get_current_task_btf(), real_cred->uid.val);
}

static __always_inline int ask_descriptor(__u64 operations, __u64 file, bool received)
{
	__u64 mnt, dentry;
	struct decision *d;

	if (!concerns(operations))
		return 0;
	dentry = dentry_in(file, &mnt);
	if (!dentry)
		return 0;
	d = claim_decision();
	if (!d)
		return -EACCES;
	begin_decision(d, operations, dentry, mnt);
	d->no_kill = received || is_foreign(file);
	decide(d);
	return answer_with(d, false);
}

static __always_inline int ask_file(__u64 operations, __u64 file)
{
	return ask_descriptor(operations, file, false);
}

/* One call reads from one file and writes to another: by one version of the policy. Either may be 0. */
static __always_inline int ask_both(__u64 operations, __u64 file, __u64 to_operations, __u64 to)
{
	__u64 mnt, dentry;
	struct decision *d;

	if (!concerns((file ? operations : 0) | (to ? to_operations : 0)))
		return 0;
	d = claim_decision();
	if (!d)
		return -EACCES;
	begin_decision(d, operations, 0, 0);
	dentry = file ? dentry_in(file, &mnt) : 0;
	if (dentry) {
		d->dentry = dentry;
		d->mnt = mnt;
		decide(d);
	}
	dentry = to ? dentry_in(to, &mnt) : 0;
	if (dentry) {
		d->operations = to_operations;
		d->dentry = dentry;
		d->mnt = mnt;
		decide(d);
	}
	return answer_with(d, false);
}

/*
 * A name is removed. Where the object has others, and this one protected it, somebody has to look
 * whether another of them does.
 */
static __always_inline int ask_removal(__u64 operations, __u64 dentry, __u64 mnt)
{
	__u64 inode = (__u64)FIELD(struct dentry, dentry, d_inode);
	bool linked = inodes_protected && inode && FIELD(struct inode, inode, i_nlink) > 1;
	struct decision *d;
	bool named;
	int answer;

	if (linked ? is_agent() : !concerns(operations))
		return 0;
	d = claim_decision();
	if (!d)
		return -EACCES;
	begin_decision(d, operations, dentry, mnt);
	decide(d);
	named = linked && d->set_count;
	answer = answer_with(d, false);
	if (!answer && named)
		__sync_fetch_and_add(&names_to_check, 1);
	return answer;
}

/* The same, of a file whose name is removed: only where it has others. */
static __always_inline void forget_name(__u64 dentry)
{
	__u64 inode = (__u64)FIELD(struct dentry, dentry, d_inode);

	if (inode && FIELD(struct inode, inode, i_nlink) > 1)
		forget_unprotected();
}

enum { NAMING_LINK, NAMING_RENAME, NAMING_EXCHANGE };

/* What protects the object under one name protects its inode, which has another name too. */
static __always_inline int keep_protection(struct decision *d, __u64 named, __u64 inode)
{
	d->inode = inode;
	d->dentry = named;
	identify(d);
	return protect_by_sets(d);
}

/* Before it is known whether it goes through: an inode too many is protected, at worst. */
static __always_inline int keep_names(struct decision *d, __u64 from, __u64 to, int how)
{
	__u64 from_inode = (__u64)FIELD(struct dentry, from, d_inode);
	__u64 to_inode = (__u64)FIELD(struct dentry, to, d_inode);
	int kept;

	d->moves_out = how != NAMING_LINK;
	kept = keep_protection(d, from, from_inode);
	d->moves_out = 0;
	if (how == NAMING_EXCHANGE && FIELD(struct inode, to_inode, i_nlink) > 1)
		kept &= keep_protection(d, from, to_inode);
	if (how == NAMING_LINK || FIELD(struct inode, from_inode, i_nlink) > 1)
		kept &= keep_protection(d, to, from_inode);
	if (how == NAMING_EXCHANGE) {
		d->moves_out = 1;
		kept &= keep_protection(d, to, to_inode);
		d->moves_out = 0;
	}
	return kept;
}

/*
 * Rename and link, which give an object another name: asked whatever operations the rules are
 * about. The object keeps what protects it under its new name; what the new name is protected by
 * goes with the inode too, where it has others. The version that is being prepared has its say:
 * who looks for the files that it protects must not miss what is renamed meanwhile.
 */
static __always_inline int decide_naming(struct decision *d, int how)
{
	__u64 from = d->dentry, to = d->to;
	__u64 from_inode = (__u64)FIELD(struct dentry, from, d_inode);
	__u64 to_inode = (__u64)FIELD(struct dentry, to, d_inode);
	__u32 count, to_sets, first, next = next_version;
	int kept = 1;

	__sync_fetch_and_add(&names_changed, 1);
	decide(d);
	count = d->set_count;
	first = d->sets[0];
	if (how != NAMING_LINK && is_directory(from_inode))
		decide_move(d);
	d->dentry = to;
	d->to = from;
	decide(d);
	to_sets = d->set_count;
	/* Nothing is gained where all of its names are protected alike. */
	if (count == 1 && d->set_count == 1 && d->sets[0] == first && how != NAMING_EXCHANGE &&
	    FIELD(struct inode, from_inode, i_nlink) == 1)
		count = 0;
	else
		count |= d->set_count;
	if (how == NAMING_EXCHANGE && is_directory(to_inode))
		decide_move(d);
	if (d->rule == ~0u || !d->enforce) {
		/* What stood there goes, or what lies in a directory gets protected names. */
		if (to_sets && how != NAMING_LINK &&
		    (is_directory(from_inode) || is_directory(to_inode) ||
		     (to_inode && FIELD(struct inode, to_inode, i_nlink) > 1)))
			__sync_fetch_and_add(&names_to_check, 1);
		if (count)
			kept = keep_names(d, from, to, how);
		if (next) {
			d->walk.version = next;
			kept &= keep_names(d, from, to, how);
		}
	}
	d->dentry = from;
	d->to = to;
	return kept;
}

static __always_inline int ask_naming(__u64 operations, __u64 from, __u64 to, __u64 mnt, int how)
{
	struct decision *d;
	int kept;

	if (is_agent())
		return 0;
	d = claim_decision();
	if (!d)
		return -EACCES;
	begin_decision(d, operations, from, mnt);
	d->to = to;
	kept = decide_naming(d, how);
	return answer_with(d, !kept);
}

static __always_inline __u64 open_operations(__u64 file)
{
	__u64 operations = FIELD(struct file, file, f_flags) & FMODE_EXEC ? DO(EXEC) : DO(OPEN);

	if (FIELD(struct file, file, f_mode) & FMODE_CREATED)
		operations |= DO(CREATE);
	return operations;
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

/*
 * Somebody acts with credentials that are not the task's own: an overlay on its layers, by its
 * mounter's, or a file server; or a file system is being mounted, which makes directories for its
 * work. Those come by no path hook.
 */
static __always_inline bool acts_for_another(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 regs, call;

	if ((__u64)TASK(task, cred) != (__u64)TASK(task, real_cred))
		return true;
	regs = bpf_task_pt_regs(task);
	call = FIELD(struct pt_regs, regs, orig_ax);
	if (TASK(task, thread_info.status) & TS_COMPAT)
		return call == NR_MOUNT_COMPAT || call == NR_FSCONFIG;
	return call == NR_MOUNT || call == NR_FSCONFIG;
}

/*
 * inode_setattr: times, which no path hook is asked about; for who acts for another, all of them.
 */
static __always_inline __u64 attribute_operations(__u32 valid)
{
	__u64 operations = 0;

	if (valid & (ATTR_ATIME | ATTR_MTIME | ATTR_ATIME_SET | ATTR_MTIME_SET))
		operations |= DO(UTIMES);
	if (!acts_for_another())
		return operations;
	/* Writing sets times and takes set-id bits away, too: not what was asked for. */
	if (valid & ATTR_SIZE)
		operations = DO(TRUNCATE);
	else if (valid & ATTR_MODE)
		operations |= DO(CHMOD);
	if (valid & (ATTR_UID | ATTR_GID))
		operations |= DO(CHOWN);
	return operations;
}

/*
 * Every map of a file reads it, whatever its protection is now: /proc/PID/mem reads what PROT_NONE
 * hides, and a private one that can be written is read first.
 */
static __always_inline __u64 map_operations(__u64 protection, bool shared)
{
	__u64 operations = DO(OPEN) | DO(READ);

	if (protection & PROT_EXEC)
		operations |= DO(MMAP);
	if (shared && protection & PROT_WRITE)
		operations |= DO(MMAP) | DO(WRITE);
	return operations;
}

/* Of a hook that says no mount: by all names that the object has. */
static __always_inline int ask_dentry(__u64 operations, __u64 dentry)
{
	return ask(operations, dentry, 0);
}

#endif
