/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The three moments of an operation, the same for every mechanism:
 *
 *   begin      what the caller asked: the name as given, dirfd, flags
 *   decide     the kernel's own object, where the mechanism has such a hook
 *   complete   the result: filter, count, and emit one event
 *
 * Accounting is done in complete alone, so that seen = filtered + emitted + lost holds per operation by construction.
 */
#ifndef VFSGUARD_OPERATION_BPF_H
#define VFSGUARD_OPERATION_BPF_H

#include "lexical.bpf.h"
#include "subject.bpf.h"

static __always_inline __u32 operation_of(__u32 call)
{
	return call >= VG_CALL_EXECVE ? VG_OP_EXEC : VG_OP_OPEN;
}

static __always_inline bool is_self(struct task_struct *task)
{
	return (__u32)TASK(task, tgid) == self_tgid;
}

/* What the caller asked, from the registers of a system call. */
struct call_args {
	__u64 a[5];
};

static __always_inline void read_args(struct call_args *args, __u64 regs, __u32 via)
{
	if (via == VG_VIA_COMPAT32) {
		args->a[0] = (__u32)FIELD(struct pt_regs, regs, bx);
		args->a[1] = (__u32)FIELD(struct pt_regs, regs, cx);
		args->a[2] = (__u32)FIELD(struct pt_regs, regs, dx);
		args->a[3] = (__u32)FIELD(struct pt_regs, regs, si);
		args->a[4] = (__u32)FIELD(struct pt_regs, regs, di);
	} else {
		args->a[0] = FIELD(struct pt_regs, regs, di);
		args->a[1] = FIELD(struct pt_regs, regs, si);
		args->a[2] = FIELD(struct pt_regs, regs, dx);
		args->a[3] = FIELD(struct pt_regs, regs, r10);
		args->a[4] = FIELD(struct pt_regs, regs, r8);
	}
}

static __always_inline void decode_args(struct pending *p, const struct call_args *args)
{
	struct open_how how = {};

	p->dirfd = AT_FDCWD;
	p->path_flags = VG_HAVE_ARGS;
	switch (p->call) {
	case VG_CALL_OPEN:
		p->args_ptr = args->a[0];
		p->flags = (__u32)args->a[1];
		p->mode = args->a[2];
		break;
	case VG_CALL_CREAT:
		p->args_ptr = args->a[0];
		p->flags = O_CREAT | O_WRONLY | O_TRUNC;
		p->mode = args->a[1];
		break;
	case VG_CALL_OPENAT:
		p->dirfd = args->a[0];
		p->path_flags |= VG_HAVE_DIRFD;
		p->args_ptr = args->a[1];
		p->flags = (__u32)args->a[2];
		p->mode = args->a[3];
		break;
	case VG_CALL_OPENAT2:
		p->dirfd = args->a[0];
		p->path_flags |= VG_HAVE_DIRFD;
		p->args_ptr = args->a[1];
		if (bpf_probe_read_user(&how, sizeof(how), (void *)args->a[2])) {
			p->path_flags &= ~VG_HAVE_ARGS;
		} else {
			p->flags = how.flags;
			p->mode = how.mode;
			p->resolve = how.resolve;
		}
		break;
	case VG_CALL_OPEN_BY_HANDLE_AT:
		p->dirfd = args->a[0];
		p->path_flags |= VG_HAVE_DIRFD;
		p->flags = (__u32)args->a[2];
		break;
	case VG_CALL_EXECVE:
		p->args_ptr = args->a[0];
		break;
	case VG_CALL_EXECVEAT:
		p->dirfd = args->a[0];
		p->path_flags |= VG_HAVE_DIRFD;
		p->args_ptr = args->a[1];
		p->flags = (__u32)args->a[4];
		break;
	}
}

static __always_inline void clear_pending(struct pending *p)
{
	p->args_ptr = 0;
	p->request = 0;
	p->slot = 0;
	p->flags = 0;
	p->resolve = 0;
	p->dir_dentry = 0;
	p->dir_mnt = 0;
	p->file = 0;
	p->dentry = 0;
	p->mnt = 0;
	p->mode = 0;
	p->match = 0;
	p->imode = 0;
	p->path_flags = 0;
	p->name_flags = 0;
	p->name_len = 0;
	p->decided = 0;
	p->stored = 0;
	p->dirs_known = 0;
	p->script = 0;
	p->changed_len = 0;
}

/* The directory that a name starts from. */
static __always_inline void take_directory(struct pending *p, struct task_struct *task, char first)
{
	__u64 file;

	p->dirs_known = 1;
	if (first == '/') {
		p->dir_dentry = (__u64)TASK(task, fs->root.dentry);
		p->dir_mnt = (__u64)TASK(task, fs->root.mnt);
	} else if (p->dirfd == AT_FDCWD) {
		p->dir_dentry = (__u64)TASK(task, fs->pwd.dentry);
		p->dir_mnt = (__u64)TASK(task, fs->pwd.mnt);
	} else {
		file = file_of_fd(task, p->dirfd);
		if (!file) {
			p->path_flags |= VG_BASE_UNKNOWN;
			return;
		}
		p->dir_dentry = file_dentry_of(file);
		p->dir_mnt = file_mount_of(file);
	}
}

/* Names that fit go along from begin; a longer one, or one whose page was not there yet, is read at complete. */
static __always_inline void take_name(struct pending *p, struct task_struct *task)
{
	long n = text_length(bpf_probe_read_user_str(p->name.bytes, VG_NAME_MAX, (void *)p->args_ptr));

	if (n >= 0 && n < VG_NAME_MAX - 1) {
		p->name_len = n;
		p->name_flags = VG_RAW_PRESENT;
	}
	/* A descriptor can be closed and reused while the call runs: what it stood for is fixed here. */
	if (p->path_flags & VG_HAVE_DIRFD && p->dirfd != AT_FDCWD && p->args_ptr && p->name.bytes[0] != '/')
		take_directory(p, task, 0);
}

static __always_inline int begin(__u32 call, __u32 via, __u64 regs)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct call_args args;
	struct pending *p;

	if (!(operation_mask & (1u << operation_of(call))))
		return 0;
	p = bpf_task_storage_get(&pending_calls, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!p) {
		count_cause(VG_CAUSE_NO_STORAGE);
		return 0;
	}
	if (p->call)
		count_cause(VG_CAUSE_NO_COMPLETE);
	clear_pending(p);
	p->call = call;
	p->via = via;
	read_args(&args, regs, via);
	decode_args(p, &args);
	if (call != VG_CALL_OPEN_BY_HANDLE_AT)
		take_name(p, task);
	return 0;
}

static __always_inline void take_object(struct pending *p)
{
	__u64 file = p->file, dentry = p->dentry;
	__u64 inode = (__u64)FIELD(struct dentry, dentry, d_inode);
	__u64 sb = (__u64)FIELD(struct inode, inode, i_sb);
	__u64 type = (__u64)FIELD(struct super_block, sb, s_type);
	__u64 name = (__u64)FIELD(struct file_system_type, type, name);

	p->ino = FIELD(struct inode, inode, i_ino);
	p->nlink = FIELD(struct inode, inode, i_nlink);
	p->imode = FIELD(struct inode, inode, i_mode);
	p->dev = FIELD(struct super_block, sb, s_dev);
	p->fmode = file ? FIELD(struct file, file, f_mode) : 0;
	bpf_probe_read_kernel_str(p->fs_type, sizeof(p->fs_type), (void *)name);
}

__noinline int match_object(struct pending *p, struct walk *w, struct component *work)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct vg_dfa_head *head = automaton();

	if (!p || !w || !work)
		return 0;
	if (!filter_path)
		return 1;
	if (!head)
		return 0;
	walk_begin(w, task, p->dentry, p->mnt);
	w->state = head->path_start;
	return dfa_accept(walk_match(w, work));
}

/*
 * decide, for mechanisms with a hook at the object. The first object of a call is the one that the caller named: what follows is the
 * kernel's own (overlayfs opening the real file, exec opening the interpreter). Runs in LSM context too: nothing per-CPU here.
 */
__noinline int decide(struct pending *p)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct stored_path *store;

	if (!p)
		return 0;
	p->decided = 1;
	take_object(p);
	/* An exec is filtered by what the process becomes, which complete sees; the rest by who asks, here already to save the walk. */
	if (operation_of(p->call) != VG_OP_EXEC && !subject_passes(task, &p->walk, &p->work))
		return 0;
	p->match = match_object(p, &p->walk, &p->work);
	if (!p->match)
		return 0;
	store = bpf_task_storage_get(&decided_paths, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!store) {
		count_cause(VG_CAUSE_NO_STORAGE);
		return 0;
	}
	walk_begin(&p->walk, task, p->dentry, p->mnt);
	store->len = walk_store(&p->walk, &store->path);
	store->flags = p->walk.flags | deleted_flag(p->dentry);
	p->stored = 1;
	return 0;
}

/* The first object of a call is the one that the caller named; what follows is the kernel's own. */
static __always_inline void decide_file(struct pending *p, __u64 file, __u64 dentry, __u64 mnt)
{
	if (p->decided)
		return;
	p->file = file;
	p->dentry = dentry;
	p->mnt = mnt;
	decide(p);
}

static __always_inline void fill_subject(struct vg_event *e, struct task_struct *task)
{
	struct task_struct *parent = TASK(task, real_parent);
	struct pid *pid = TASK(task, thread_pid);
	__u64 ns = 0;

	e->pid = TASK(task, tgid);
	e->tid = TASK(task, pid);
	e->ppid = parent->tgid;
	e->uid = TASK(task, cred->uid.val);
	e->gid = TASK(task, cred->gid.val);
	e->euid = TASK(task, cred->euid.val);
	e->egid = TASK(task, cred->egid.val);
	if (bpf_core_field_exists(struct task_struct, loginuid)) {
		e->loginuid = TASK(task, loginuid.val);
		e->session = TASK(task, sessionid);
	} else {
		e->loginuid = ~0u;
		e->session = ~0u;
	}
	e->start_ns = TASK(task, group_leader->start_boottime);
	e->exec_id = TASK(task, self_exec_id);
	e->mnt_ns = TASK(task, nsproxy->mnt_ns->ns.inum);
	bpf_probe_read_kernel(&ns, sizeof(ns), &pid->numbers[pid->level].ns);
	e->pid_ns = FIELD(struct pid_namespace, ns, ns.inum);
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	bpf_probe_read_kernel(e->parent_comm, sizeof(e->parent_comm), &parent->group_leader->comm);
}

/* Reads the caller's name into s->name and settles which of the two readings (begin, now) stands. */
__noinline int settle_name(struct scratch *s, struct pending *p, int replaced)
{
	__u32 len = 0;
	long n;

	if (!s || !p)
		return 0;
	if (!p->args_ptr && !(p->name_flags & VG_RAW_PRESENT))
		return 0;
	if (p->name_flags & VG_RAW_PRESENT) {
		len = p->name_len;
		if (len < VG_NAME_MAX)
			__builtin_memcpy(s->name.bytes, p->name.bytes, VG_NAME_MAX);
		return len;
	}
	/* After a successful exec the caller's memory is gone: sched_process_exec took the name, if anybody could. */
	n = replaced ? -1 : text_length(bpf_probe_read_user_str(s->name.bytes, VG_PATH_MAX, (void *)p->args_ptr));
	if (n < 0) {
		p->name_flags |= VG_RAW_FAULT;
		count_cause(VG_CAUSE_NAME_FAULT);
		return 0;
	}
	p->name_flags |= VG_RAW_PRESENT;
	len = n;
	if (len >= VG_PATH_MAX - 1)
		p->name_flags |= VG_RAW_TRUNCATED;
	return len;
}

struct comparison {
	struct pending *p;
	__u32 differs;
};

static long compare_byte(__u32 i, struct comparison *c)
{
	if (i >= VG_NAME_MAX)
		return 1;
	c->differs = c->p->name.bytes[i] != c->p->work.bytes[i];
	return c->differs;
}

/* Reads the name again (into p->work) and says whether it is another than at begin. */
__noinline int name_changed(struct pending *p, __u32 len)
{
	struct comparison c = {};
	long n;

	/* Only what was taken at begin can be compared. */
	if (!p || !p->name_len || p->name_len != len)
		return false;
	n = text_length(bpf_probe_read_user_str(p->work.bytes, VG_NAME_MAX, (void *)p->args_ptr));
	if (n < 0)
		return false;
	p->changed_len = n;
	if (n != len)
		return true;
	c.p = p;
	bpf_loop(len, compare_byte, &c, 0);
	return c.differs;
}

__noinline int match_name(struct scratch *s, struct pending *p, __u32 len)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct vg_dfa_head *head = automaton();

	if (!s || !p || !head || !len || !p->dir_dentry)
		return 0;
	walk_begin(&s->walk, task, p->dir_dentry, p->dir_mnt);
	s->walk.state = head->path_start;
	return dfa_accept(lexical_match(&s->walk, &s->name, len, &s->work));
}

static __always_inline bool asks_for_write(struct pending *p)
{
	return (p->flags & O_ACCMODE) != 0 || (p->flags & O_TRUNC);
}

/* Puts the event together at s->event and s->data and sends it. Returns 0 when it is in the ring. */
static __always_inline int emit(struct task_struct *task, struct scratch *s, struct pending *p, struct vg_counters *c, __s64 retval,
				__u32 raw_len)
{
	struct vg_event *e = &s->event;
	struct stored_path *store;
	__u32 off = 0, len = 0, flags = p->path_flags | p->name_flags;

	e->head.kind = VG_RECORD_EVENT;
	e->head.version = VG_ABI_VERSION;
	e->head.cpu = bpf_get_smp_processor_id();
	e->time_ns = bpf_ktime_get_boot_ns();
	e->retval = retval;
	e->flags = p->flags;
	e->resolve = p->resolve;
	e->mode = p->mode;
	e->dirfd = p->dirfd;
	e->operation = operation_of(p->call);
	e->call = p->call;
	e->via = p->via;
	e->hook = hook_id;
	e->match = p->match;
	e->imode = 0;
	e->ino = 0;
	e->dev = 0;
	e->fmode = 0;
	e->nlink = 0;
	if (p->imode) {
		e->ino = p->ino;
		e->dev = p->dev;
		e->imode = p->imode;
		e->fmode = p->fmode;
		e->nlink = p->nlink;
		__builtin_memcpy(e->fs_type, p->fs_type, sizeof(e->fs_type));
		flags |= VG_PATH_OBJECT;
	}
	fill_subject(e, task);
	e->cgroup_id = bpf_get_current_cgroup_id();

	/* Strings: the path (of the object, or of the directory that the name starts from), the name as given, the working directory. */
	if (p->stored) {
		store = bpf_task_storage_get(&decided_paths, task, 0, 0);
		if (store) {
			len = store->len;
			if (len <= VG_PATH_MAX && !bpf_probe_read_kernel(s->data, len, store->path.bytes))
				off = len;
			flags |= store->flags;
		}
	} else if (p->dentry) {
		walk_begin(&s->walk, task, p->dentry, p->mnt);
		off = walk_store(&s->walk, &s->path);
		flags |= s->walk.flags | deleted_flag(p->dentry);
	} else if (!p->imode && p->dir_dentry && !(flags & VG_BASE_UNKNOWN)) {
		walk_begin(&s->walk, task, p->dir_dentry, p->dir_mnt);
		off = walk_store(&s->walk, &s->path);
		flags |= s->walk.flags | deleted_flag(p->dir_dentry);
	}
	if (off > VG_PATH_MAX)
		return -1;
	e->path_len = off;

	if (raw_len) {
		if (raw_len > VG_PATH_MAX)
			return -1;
		barrier_var(raw_len);
		if (raw_len <= VG_PATH_MAX)
			bpf_probe_read_kernel(s->data + off, raw_len, s->name.bytes);
		off += raw_len;
	}
	e->raw_len = raw_len;

	if (off > 2 * VG_PATH_MAX)
		return -1;
	walk_begin(&s->walk, task, (__u64)TASK(task, fs->pwd.dentry), (__u64)TASK(task, fs->pwd.mnt));
	len = walk_store(&s->walk, (struct path_buffer *)(s->data + off));
	e->cwd_len = len;
	if (s->walk.flags & VG_PATH_TRUNCATED)
		flags |= VG_CWD_TRUNCATED;
	if (deleted_flag((__u64)TASK(task, fs->pwd.dentry)))
		flags |= VG_CWD_DELETED;
	off += len;
	e->path_flags = flags;

	ensure_described(e->cgroup_id);

	if (off > VG_DATA_MAX)
		return -1;
	e->head.size = sizeof(struct vg_event) + off;
	e->seq = c->seq++;
	return send(e, sizeof(struct vg_event) + off);
}

/*
 * complete. p->file is the object, since decide or, where the mechanism learns it only now (tracepoint; O_PATH under LSM), since just
 * now; 0 where there is none. Tracepoint and kprobe context only. Clears the pending call.
 */
__noinline int complete(struct pending *p, __s64 retval)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct vg_counters *c = my_counters();
	struct scratch *s = my_scratch();
	__u32 operation = 0, raw_len = 0, *wanted, match;
	bool replaced, failed;

	if (!c || !s || !p)
		return 0;
	operation = operation_of(p->call);
	replaced = operation == VG_OP_EXEC && retval == 0;
	failed = retval < 0 && !(p->path_flags & VG_NO_RESULT);
	c->seen[operation]++;
	if (!(operation_mask & (1u << operation)) || (only_failed && !failed) || (only_write && !asks_for_write(p)))
		goto filtered;
	if (!subject_passes(task, &s->walk, &s->work))
		goto filtered;

	if (p->decided) {
		match = p->match;
	} else if (p->file) {
		p->dentry = file_dentry_of(p->file);
		p->mnt = file_mount_of(p->file);
		match = match_object(p, &s->walk, &s->work);
		if (!match)
			goto filtered;
		take_object(p);
	} else {
		raw_len = settle_name(s, p, replaced);
		if (!p->dirs_known && raw_len)
			take_directory(p, task, s->name.bytes[0]);
		match = filter_path ? match_name(s, p, raw_len) : 1;
		if (failed && name_changed(p, raw_len)) {
			/* Either reading may be what the kernel saw: the event goes out when one of them is asked for. */
			p->name_flags |= VG_RAW_CHANGED;
			if (!match) {
				__builtin_memcpy(s->name.bytes, p->work.bytes, VG_NAME_MAX);
				raw_len = p->changed_len;
				match = match_name(s, p, raw_len);
			}
		}
	}
	if (!match)
		goto filtered;
	if (match_operations) {
		wanted = bpf_map_lookup_elem(&match_sets, &match);
		if (!wanted || !(*wanted & (1u << operation)))
			goto filtered;
	}
	p->match = match;
	if (p->decided || p->file)
		raw_len = settle_name(s, p, replaced);
	if (emit(task, s, p, c, retval, raw_len)) {
		c->lost[operation]++;
		c->cause[VG_CAUSE_RING_FULL]++;
	} else {
		c->emitted[operation]++;
	}
	p->call = 0;
	return 0;
filtered:
	c->filtered[operation]++;
	p->call = 0;
	return 0;
}

#endif
