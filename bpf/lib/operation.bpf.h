/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The three moments of an operation, the same for every mechanism:
 *
 *   begin      what the caller asked: the name as given, dirfd, flags
 *   decide     the kernel's own object, where the mechanism has such a hook
 *   complete   the result: filter, count, and emit one event
 *
 * An attempt is counted once, in complete, or where access.bpf.h finds that there is nothing more to do than count: so that
 * seen = filtered + aggregated + emitted + lost holds per operation by construction.
 */
#ifndef VFSGUARD_OPERATION_BPF_H
#define VFSGUARD_OPERATION_BPF_H

#include "aggregate.bpf.h"
#include "lexical.bpf.h"
#include "special.bpf.h"

static __always_inline bool is_self(struct task_struct *task)
{
	if ((__u32)TASK(task, tgid) != self_tgid)
		return false;
	own_calls++;
	return true;
}

static __always_inline __u64 wide_arg(struct pending *p, __u32 position)
{
	return position ? arg(p, position) | arg(p, position + 1) << 32 : 0;
}

static __always_inline void decode_how(struct pending *p, __u64 from)
{
	struct open_how how = {};

	if (bpf_probe_read_user(&how, sizeof(how), (void *)from)) {
		p->have &= ~VG_HAVE_ARGS;
		return;
	}
	p->flags = how.flags;
	p->mode = how.mode;
	p->value = how.resolve;
}

/* Takes the arguments apart. Says whether the call is followed. */
static __always_inline bool decode_args(struct pending *p)
{
	const struct call_shape *shape = shape_of(p->call);

	p->have = VG_HAVE_ARGS;
	p->at.ptr = arg(p, shape->path);
	p->at.dirfd = AT_FDCWD;
	p->to.dirfd = AT_FDCWD;
	if (shape->dirfd) {
		p->at.dirfd = arg(p, shape->dirfd);
		p->have |= VG_HAVE_DIRFD;
	}
	if (shape->dirfd2)
		p->to.dirfd = arg(p, shape->dirfd2);
	p->to.ptr = arg(p, shape->path2);
	if (shape->text) {
		p->to.ptr = arg(p, shape->text);
		p->to.is_text = 1;
	}
	p->flags = shape->flags ? (__u32)arg(p, shape->flags) : 0;
	p->mode = arg(p, shape->mode);
	p->value = arg(p, shape->value);
	p->value2 = arg(p, shape->value2);
	if (shape->form == SHAPE_WIDE && p->via == VG_VIA_COMPAT32) {
		p->value = wide_arg(p, shape->value);
		p->value2 = shape->value2 ? wide_arg(p, shape->value2 + 1) : 0;
	} else if (shape->form == SHAPE_SHORT) {
		p->value = (__u32)(__s32)(__s16)p->value;
		p->value2 = (__u32)(__s32)(__s16)p->value2;
		p->mode = (__u32)(__s32)(__s16)p->mode;
	} else if (shape->form == SHAPE_FSTYPE) {
		bpf_probe_read_user_str(p->fs_type, sizeof(p->fs_type), (void *)p->args[2]);
	}
	if (p->call == VG_CALL_CREAT)
		p->flags = O_CREAT | O_WRONLY | O_TRUNC;
	else if (p->call == VG_CALL_OPENAT2)
		decode_how(p, p->args[2]);
	if (shape->fd) {
		p->fd = arg(p, shape->fd);
		p->have |= VG_HAVE_FD;
	} else if (p->call == VG_CALL_UTIMENSAT && !p->at.ptr) {
		p->fd = p->at.dirfd; /* futimens */
		p->have = (p->have | VG_HAVE_FD) & ~VG_HAVE_DIRFD;
	}
	return shape->form != SHAPE_SPECIAL || decode_special(p);
}

static __always_inline void clear_pending(struct pending *p)
{
	__builtin_memset(p, 0, offsetof(struct pending, args));
	__builtin_memset(&p->at, 0, offsetof(struct named, name));
	__builtin_memset(&p->to, 0, offsetof(struct named, name));
}

/* The directory that a name starts from. */
static __always_inline void take_directory(struct named *n, struct task_struct *task, char first)
{
	__u64 file;

	n->dirs_known = 1;
	if (first == '/') {
		n->dir_dentry = (__u64)TASK(task, fs->root.dentry);
		n->dir_mnt = (__u64)TASK(task, fs->root.mnt);
	} else if (n->dirfd == AT_FDCWD) {
		n->dir_dentry = (__u64)TASK(task, fs->pwd.dentry);
		n->dir_mnt = (__u64)TASK(task, fs->pwd.mnt);
	} else {
		file = file_of_fd(task, n->dirfd);
		if (!file) {
			n->flags |= VG_BASE_UNKNOWN;
			return;
		}
		n->dir_dentry = file_dentry_of(file);
		n->dir_mnt = file_mount_of(file);
	}
}

/* Names that fit go along from begin; a longer one, or one whose page was not there yet, is read at complete. */
static __always_inline void take_name(struct named *n, struct task_struct *task)
{
	long len;

	if (n->flags & VG_RAW_PRESENT || n->by_file)
		return; /* it is known already */
	len = text_length(bpf_probe_read_user_str(n->name.bytes, VG_NAME_MAX, (void *)n->ptr));
	if (len >= 0 && len < VG_NAME_MAX - 1) {
		n->len = len;
		n->flags = VG_RAW_PRESENT;
	}
	/* A descriptor can be closed and reused while the call runs: what it stood for is fixed here. */
	if (n->dirfd != AT_FDCWD && n->name.bytes[0] != '/')
		take_directory(n, task, 0);
}

/* What was refused to this thread and not told yet; NULL: nothing. */
static __always_inline struct vg_refusal *my_refusal(struct task_struct *task)
{
	struct vg_refusal *refusal;

	if (!enforcing)
		return NULL;
	refusal = bpf_task_storage_get(&refusals, task, 0, 0);
	return refusal && refusal->verdict ? refusal : NULL;
}

/* The same of a worker of io_uring, about this object. */
static __always_inline struct vg_refusal *worker_refusal(struct task_struct *task, __u64 inode)
{
	struct vg_worker_key key = {.inode = inode, .tgid = TASK(task, tgid)};
	struct vg_refusal *refusal;

	if (!enforcing || !inode)
		return NULL;
	refusal = bpf_map_lookup_elem(&worker_refusals, &key);
	return refusal && refusal->verdict ? refusal : NULL;
}

/* Another call: what was refused before is not its. */
static __always_inline void forget_refusal(struct task_struct *task)
{
	struct vg_refusal *refusal = my_refusal(task);

	if (refusal)
		refusal->verdict = VG_VERDICT_NONE;
}

static __always_inline int begin(__u32 call, __u32 via, __u64 regs)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pending *p;

	if (!may_concern(call, via, regs))
		return 0;
	forget_refusal(task);
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
	read_args(p, regs);
	if (!decode_args(p)) {
		p->call = 0;
		return 0;
	}
	if (p->at.ptr)
		take_name(&p->at, task);
	if (p->to.ptr)
		take_name(&p->to, task);
	if (p->have & VG_HAVE_FD)
		p->file = file_of_fd(task, p->fd);
	return 0;
}

static __always_inline __u32 layer_of(__u64 inode)
{
	__u64 upper = 0;

	bpf_probe_read_kernel(&upper, sizeof(upper), (void *)(inode + overlay_upper));
	return upper ? VG_LAYER_UPPER : VG_LAYER_LOWER;
}

/* A global function: the verifier looks at it once, not once for every way to get here. */
__noinline int take_object(struct pending *p)
{
	__u64 file, inode, sb, type, name;

	if (!p)
		return 0;
	file = p->file;
	inode = (__u64)FIELD(struct dentry, p->at.dentry, d_inode);
	p->fmode = file ? FIELD(struct file, file, f_mode) : 0;
	if (!inode)
		return 0;
	sb = (__u64)FIELD(struct inode, inode, i_sb);
	type = (__u64)FIELD(struct super_block, sb, s_type);
	name = (__u64)FIELD(struct file_system_type, type, name);
	p->at.ino = FIELD(struct inode, inode, i_ino);
	p->at.nlink = FIELD(struct inode, inode, i_nlink);
	p->at.imode = FIELD(struct inode, inode, i_mode);
	p->at.dev = FIELD(struct super_block, sb, s_dev);
	p->generation = FIELD(struct inode, inode, i_generation);
	if (p->at.mnt)
		p->mnt_id = FIELD(struct mount, mount_of(p->at.mnt), mnt_id);
	if (overlay_upper && FIELD(struct super_block, sb, s_magic) == OVERLAYFS_SUPER_MAGIC)
		p->layer = layer_of(inode);
	if (p->call != VG_CALL_MOUNT) /* that holds the type which was asked for */
		bpf_probe_read_kernel_str(p->fs_type, sizeof(p->fs_type), (void *)name);
	return 0;
}

static __always_inline bool asks_for_write(struct pending *p)
{
	__u32 operation = operation_of(p->call);

	if (operation == VG_OP_OPEN)
		return (p->flags & O_ACCMODE) != 0 || (p->flags & O_TRUNC);
	if (operation == VG_OP_MMAP)
		return p->mode & PROT_WRITE;
	return operation != VG_OP_EXEC && operation != VG_OP_CHROOT && p->operation != VG_OP_READ && operation < VG_OP_CONNECT;
}

/* Told of whatever its path, by the tables that it is matched by. */
static __always_inline bool is_told_anywhere(struct pending *p, __u32 version, __u32 operation)
{
	const struct vg_tables *t = match_operations ? tables_of(version) : NULL;

	if (!t || !(t->anywhere & (1ull << operation)))
		return false;
	return operation != VG_OP_OPEN || !(t->anywhere & VG_ANYWHERE_WRITES) || asks_for_write(p);
}

/* The same before its end, when an open may become a creation. */
static __always_inline bool may_be_told_anywhere(struct pending *p, __u32 version)
{
	__u32 operation = operation_of(p->call) & (VG_OP_SLOTS - 1);

	if (p->call == VG_CALL_UNLINKAT && p->flags & AT_REMOVEDIR)
		operation = VG_OP_RMDIR;
	return is_told_anywhere(p, version, operation) || (operation == VG_OP_OPEN && p->flags & O_CREAT && is_told_anywhere(p, version, VG_OP_CREATE));
}

__noinline int match_object(struct named *n, struct walk *w, struct component *work)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const struct vg_tables *t;

	if (!n || !w || !work)
		return 0;
	if (!filter_path)
		return 1;
	t = tables_of(w->version);
	if (!t)
		return 0;
	walk_begin(w, task, n->dentry, n->mnt);
	w->state = t->path_start;
	return dfa_accept(t, walk_match(w, work));
}

/* What stands at the second path: replaced, exchanged, or cloned from. */
static __always_inline void take_target(struct named *to)
{
	__u64 inode = (__u64)FIELD(struct dentry, to->dentry, d_inode), sb;

	if (!inode)
		return;
	sb = (__u64)FIELD(struct inode, inode, i_sb);
	to->ino = FIELD(struct inode, inode, i_ino);
	to->dev = FIELD(struct super_block, sb, s_dev);
}

static __always_inline void store_path(struct pending *p, struct named *n, struct stored_path *out, struct task_struct *task)
{
	walk_begin(&p->walk, task, n->dentry, n->mnt);
	out->len = walk_store(&p->walk, &out->path);
	out->flags = p->walk.flags | deleted_flag(n->dentry);
	out->root_at = p->walk.root_at;
}

/*
 * decide, for mechanisms with a hook at the object. The first object of a call is the one that the caller named: what follows is the
 * kernel's own (overlayfs opening the real file, exec opening the interpreter). Runs in LSM context too: nothing per-CPU here.
 */
__noinline int decide(struct pending *p)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct stored_paths *store;

	if (!p)
		return 0;
	p->decided = 1;
	p->walk.version = policy_version;
	take_object(p);
	/* An exec is filtered by what the process becomes, which complete sees; the rest by who asks, here already to save the walk. */
	if (operation_of(p->call) != VG_OP_EXEC && !subject_passes(task, &p->walk, &p->work))
		return 0;
	p->at.match = match_object(&p->at, &p->walk, &p->work);
	if (p->to.dentry)
		p->to.match = match_object(&p->to, &p->walk, &p->work);
	if (!p->at.match && !p->to.match && !may_be_told_anywhere(p, p->walk.version))
		return 0;
	store = bpf_task_storage_get(&decided_paths, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!store) {
		count_cause(VG_CAUSE_NO_STORAGE);
		return 0;
	}
	store_path(p, &p->at, &store->at, task);
	store->to.len = 0;
	if (p->to.dentry) {
		store_path(p, &p->to, &store->to, task);
		take_target(&p->to);
	}
	p->stored = 1;
	return 0;
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

/* Reads the caller's name into `out` and settles which of the two readings (begin, now) stands. Returns its length. */
__noinline int settle_name(struct named *n, struct name_buffer *out, int replaced)
{
	__u32 len = 0;
	long got;

	if (!n || !out)
		return 0;
	if ((!n->ptr && !(n->flags & VG_RAW_PRESENT)) || n->by_file)
		return 0;
	if (n->flags & VG_RAW_PRESENT) {
		len = n->len;
		if (len < VG_NAME_MAX)
			__builtin_memcpy(out->bytes, n->name.bytes, VG_NAME_MAX);
		return len;
	}
	/* After a successful exec the caller's memory is gone: sched_process_exec took the name, if anybody could. */
	got = replaced ? -1 : text_length(bpf_probe_read_user_str(out->bytes, VG_PATH_MAX, (void *)n->ptr));
	if (got < 0) {
		n->flags |= VG_RAW_FAULT;
		count_cause(VG_CAUSE_NAME_FAULT);
		return 0;
	}
	n->flags |= VG_RAW_PRESENT;
	len = got;
	if (len >= VG_PATH_MAX - 1)
		n->flags |= VG_RAW_TRUNCATED;
	return len;
}

struct comparison {
	const struct named *n;
	const struct component *work;
	__u32 differs;
};

static long compare_byte(__u32 i, struct comparison *c)
{
	if (i >= VG_NAME_MAX)
		return 1;
	c->differs = c->n->name.bytes[i] != c->work->bytes[i];
	return c->differs;
}

/* Reads the name again (into `work`) and says whether it is another than at begin. */
__noinline int name_changed(struct named *n, struct component *work, __u32 len)
{
	struct comparison c = {};
	long got;

	/* Only what was taken at begin can be compared. */
	if (!n || !work || !n->ptr || !n->len || n->len != len)
		return false;
	got = text_length(bpf_probe_read_user_str(work->bytes, VG_NAME_MAX, (void *)n->ptr));
	if (got < 0)
		return false;
	n->changed_len = got;
	if (got != len)
		return true;
	c.n = n;
	c.work = work;
	bpf_loop(len, compare_byte, &c, 0);
	return c.differs;
}

static __always_inline __u32 match_name(struct scratch *s, struct named *n, struct name_buffer *name, __u32 len)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const struct vg_tables *t = tables_of(s->walk.version);

	if (!t || !len || !n->dir_dentry)
		return 0;
	walk_begin(&s->walk, task, n->dir_dentry, n->dir_mnt);
	s->walk.state = t->path_start;
	if (!lexical_feed(&s->walk, name, len))
		return 0;
	return dfa_accept(t, walk_match(&s->walk, &s->work));
}

/* For a name whose object is not known: settles it in `name`, and matches it as text. Returns its length. */
__noinline int match_given(struct scratch *s, struct named *n, struct name_buffer *name, int replaced)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 len;

	if (!s || !n || !name)
		return 0;
	len = settle_name(n, name, replaced);
	if (!n->dirs_known && len)
		take_directory(n, task, name->bytes[0]);
	n->match = filter_path ? match_name(s, n, name, len) : 1;
	if (!replaced && name_changed(n, &s->work2, len)) {
		/* Either reading may be what the kernel saw: the event goes out when one of them is asked for. */
		n->flags |= VG_RAW_CHANGED;
		if (!n->match) {
			__builtin_memcpy(name->bytes, s->work2.bytes, VG_NAME_MAX);
			len = n->changed_len;
			n->match = match_name(s, n, name, len);
		}
	}
	return len;
}

/*
 * The walk of one path to s->data + off: that stored at decide, that of the object, or that of the directory which the name starts
 * from. Returns its length.
 */
__noinline int emit_path(struct scratch *s, struct named *n, struct stored_path *stored, __u32 off)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 dentry, mnt;
	__u32 len;

	if (!s || !n || off > 3 * VG_PATH_MAX)
		return 0;
	if (stored) {
		len = stored->len;
		if (len > VG_PATH_MAX || bpf_probe_read_kernel(s->data + off, len, stored->path.bytes))
			return 0;
		n->flags |= stored->flags | VG_PATH_OBJECT;
		s->walk.root_at = stored->root_at;
		return len;
	}
	if (n->dentry) {
		dentry = n->dentry;
		mnt = n->mnt;
		n->flags |= VG_PATH_OBJECT;
	} else if (n->dir_dentry && !(n->flags & VG_BASE_UNKNOWN)) {
		dentry = n->dir_dentry;
		mnt = n->dir_mnt;
	} else {
		return 0;
	}
	walk_begin(&s->walk, task, dentry, mnt);
	len = walk_store(&s->walk, (struct path_buffer *)(s->data + off));
	n->flags |= s->walk.flags | deleted_flag(dentry);
	return len;
}

/* Appends a name. Returns the new end, or -1. */
static __always_inline int emit_name(struct scratch *s, const struct name_buffer *name, __u32 len, __u32 off)
{
	barrier_var(off); /* in one register each, so that the verifier sees the bounds */
	barrier_var(len);
	if (off > 4 * VG_PATH_MAX || len > VG_PATH_MAX)
		return -1;
	if (len)
		bpf_probe_read_kernel(s->data + off, len, name->bytes);
	return off + len;
}

/* Which ring an event goes by. */
static __always_inline __u32 lane_of(const struct scratch *s, __s64 retval)
{
	return retval == -EACCES || retval == -EPERM || s->event.verdict ? VG_LANE_PRIORITY : VG_LANE_BULK;
}

/*
 * Puts the event together at s->event and s->data and sends it. Its process is described already. Returns 0 when it is in the ring. A global
 * function: inlined, the verifier looked at it once for every way through `complete`, which doubled what a start costs. `lengths` is that of
 * the name and, in its upper half, that of the second name.
 */
__noinline int emit(struct scratch *s, struct pending *p, __s64 retval, __u64 lengths)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 raw_len = lengths, raw2_len = lengths >> 32, off, len;
	struct vg_counters *c = my_counters();
	struct stored_paths *stored = NULL;
	struct vg_event *e;

	if (!s || !p || !c)
		return -1;
	e = &s->event;
	e->head.kind = VG_RECORD_EVENT;
	e->head.version = VG_ABI_VERSION;
	e->head.cpu = bpf_get_smp_processor_id();
	e->time_ns = bpf_ktime_get_boot_ns();
	e->retval = retval;
	e->flags = p->flags;
	e->value = p->value;
	e->value2 = p->value2;
	e->mode = p->mode;
	e->dirfd = p->at.dirfd;
	e->dirfd2 = p->to.dirfd;
	e->fd = p->fd;
	e->operation = p->operation;
	e->call = p->call;
	e->via = p->via;
	e->hook = hook_id;
	e->match = p->at.match;
	e->match2 = p->to.match;
	e->policy_version = p->walk.version;
	e->imode = p->at.imode;
	e->ino = p->at.ino;
	e->dev = p->at.dev;
	e->nlink = p->at.nlink;
	e->fmode = p->fmode;
	e->generation = p->generation;
	e->mnt_id = p->mnt_id;
	e->layer = p->layer;
	e->dst_ino = p->to.ino;
	e->dst_dev = p->to.dev;
	__builtin_memcpy(e->fs_type, p->fs_type, sizeof(e->fs_type));
	fill_subject(e, task);
	e->cgroup_id = bpf_get_current_cgroup_id();

	/* Strings, in the order of vg_event's lengths. */
	if (p->stored)
		stored = bpf_task_storage_get(&decided_paths, task, 0, 0);
	off = emit_path(s, &p->at, stored ? &stored->at : NULL, 0);
	if (off > VG_PATH_MAX)
		return -1;
	/* These change what is inside the caller's root. */
	if (p->operation == VG_OP_CHROOT || p->operation == VG_OP_PIVOT_ROOT)
		p->at.flags &= ~VG_PATH_OUTSIDE;
	e->path_len = off;
	e->root_at = s->walk.root_at;
	off = emit_name(s, &s->name, raw_len, off);
	e->raw_len = raw_len;
	if (off > 2 * VG_PATH_MAX)
		return -1;
	walk_begin(&s->walk, task, (__u64)TASK(task, fs->pwd.dentry), (__u64)TASK(task, fs->pwd.mnt));
	len = walk_store(&s->walk, (struct path_buffer *)(s->data + off));
	e->cwd_len = len;
	e->path_flags = p->at.flags | p->have;
	if (e->cause == VG_UNKNOWN_AMBIGUOUS_NAME)
		e->path_flags |= VG_PATH_AMBIGUOUS;
	if (s->walk.flags & VG_PATH_TRUNCATED)
		e->path_flags |= VG_CWD_TRUNCATED;
	if (deleted_flag((__u64)TASK(task, fs->pwd.dentry)))
		e->path_flags |= VG_CWD_DELETED;
	off += len;
	e->path2_len = 0;
	e->raw2_len = 0;
	if (p->to.ptr) {
		if (off > 3 * VG_PATH_MAX)
			return -1;
		len = p->to.is_text ? 0 : emit_path(s, &p->to, stored && stored->to.len ? &stored->to : NULL, off);
		if (len > VG_PATH_MAX)
			return -1;
		e->path2_len = len;
		off = emit_name(s, &s->name2, raw2_len, off + len);
		e->raw2_len = raw2_len;
	}
	e->path2_flags = p->to.flags;
	e->fs_len = 0;
	if (e->mnt_ns != agent_mnt_ns && p->at.dentry && off <= 4 * VG_PATH_MAX) {
		walk_begin(&s->walk, task, p->at.dentry, 0); /* no mount: the walk ends at the file system's own root */
		len = walk_store(&s->walk, (struct path_buffer *)(s->data + off));
		e->fs_len = len;
		off += len;
	}

	e->lane = lane_of(s, retval);
	if (off > VG_DATA_MAX)
		return -1;
	e->head.size = sizeof(struct vg_event) + off;
	if (e->lane == VG_LANE_PRIORITY) {
		e->seq = c->seq[VG_LANE_PRIORITY];
		if (!send(e, sizeof(struct vg_event) + off, VG_LANE_PRIORITY)) {
			c->seq[VG_LANE_PRIORITY]++;
			return 0;
		}
		e->lane = VG_LANE_BULK; /* full: perhaps there is room here */
	}
	e->seq = c->seq[VG_LANE_BULK]++;
	return send(e, sizeof(struct vg_event) + off, VG_LANE_BULK);
}

/* What it was in the end; the call alone does not tell. */
static __always_inline __u32 final_operation(struct pending *p, __s64 retval)
{
	__u32 operation = operation_of(p->call);

	if (p->operation) /* settled by the caller */
		return p->operation;

	if (operation == VG_OP_OPEN) {
		if (retval >= 0 && p->fmode & FMODE_CREATED)
			return VG_OP_CREATE;
		if (p->flags & O_TRUNC && !(operation_mask & (1ull << VG_OP_OPEN)))
			return VG_OP_TRUNCATE;
	}
	if (p->call == VG_CALL_UNLINKAT && p->flags & AT_REMOVEDIR)
		return VG_OP_RMDIR;
	return operation;
}

/*
 * For mechanisms without a decide: the objects, or the names where there are none, and what they match. Into s->raw_len and s->raw2_len go the
 * lengths of the names that were settled on the way.
 */
static __always_inline void identify(struct scratch *s, struct pending *p, bool replaced)
{
	if (!p->file && p->at.flags & VG_RAW_PRESENT && !p->at.len && p->flags & AT_EMPTY_PATH && p->operation > VG_OP_CREATE) {
		/* An empty name: done to what the directory's descriptor stands for. */
		p->at.dentry = p->at.dir_dentry;
		p->at.mnt = p->at.dir_mnt;
	}
	if (p->file && !p->at.dentry) {
		p->at.dentry = file_dentry_of(p->file);
		p->at.mnt = file_mount_of(p->file);
	}
	if (p->at.dentry) {
		if (!p->passed)
			p->at.match = match_object(&p->at, &s->walk, &s->work);
		if (p->at.match || may_be_told_anywhere(p, s->walk.version))
			take_object(p);
	} else {
		s->raw_len = match_given(s, &p->at, &s->name, replaced);
		s->settled = 1;
	}
	if (p->to.by_file) {
		p->to.match = match_object(&p->to, &s->walk, &s->work);
		take_target(&p->to);
	} else if (p->to.ptr && !p->to.is_text) {
		s->raw2_len = match_given(s, &p->to, &s->name2, false);
	}
}

/* Was it enforcement that refused this? Then its event says so, and no filter holds it back. */
static __always_inline bool take_refusal(struct scratch *s, struct pending *p, struct task_struct *task, __s64 retval)
{
	struct vg_refusal *refusal;

	if (!killing && retval >= 0)
		return false; /* what is refused fails */
	refusal = my_refusal(task);
	if (!refusal && p->via == VG_VIA_IO_URING && p->file)
		refusal = worker_refusal(task, (__u64)FIELD(struct file, p->file, f_inode));
	/* Who is killed lives to the end of the call, whatever that comes to; by fanotify without an answer (ERESTARTSYS). */
	if (refusal && refusal->mechanism == VG_MECHANISM_FANOTIFY && refusal->verdict == VG_VERDICT_KILL && retval < 0)
		retval = -(__s64)refusal->code;
	if (!refusal || (refusal->mechanism != VG_MECHANISM_SIGNAL && retval != -(__s64)refusal->code))
		return false;
	s->event.verdict = refusal->verdict;
	s->event.mechanism = refusal->mechanism;
	s->event.rule = refusal->rule;
	s->event.rule_version = refusal->version;
	s->event.cause = refusal->cause;
	s->event.matched_by = refusal->matched_by;
	refusal->verdict = VG_VERDICT_NONE;
	return true;
}

/*
 * complete. p->file is the open file, since decide or, where the mechanism learns it only now (tracepoint; O_PATH under LSM), since just
 * now; 0 where there is none. Tracepoint and kprobe context only. Clears the pending call.
 *
 * Returns what became of it: COMPLETE_*.
 */
enum { COMPLETE_EMITTED, COMPLETE_FILTERED, COMPLETE_NOT_FOR_US };
__noinline int complete(struct pending *p, __s64 retval)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct vg_counters *c = my_counters();
	struct scratch *s = my_scratch();
	__u32 operation = 0, epoch;
	bool replaced, failed, refused, anywhere;
	__u64 lengths;
	int answer = COMPLETE_FILTERED;

	if (!c || !s || !p)
		return 0;
	/* A descriptor that stands for something else by now: only the mechanisms with a decide know what the call was done to. */
	if (p->have & VG_HAVE_FD && p->via != VG_VIA_IO_URING && !p->decided && p->file != file_of_fd(task, p->fd))
		p->file = 0;
	if (p->file && !p->decided)
		p->fmode = FIELD(struct file, p->file, f_mode);
	operation = final_operation(p, retval) & (VG_OP_SLOTS - 1);
	barrier_var(operation);
	p->operation = operation;
	replaced = operation == VG_OP_EXEC && retval == 0;
	failed = retval < 0 && !(p->have & VG_NO_RESULT);
	c->seen[operation]++;
	s->event.verdict = VG_VERDICT_NONE;
	s->event.mechanism = VG_MECHANISM_NONE;
	s->event.rule = 0;
	s->event.cause = 0;
	s->event.matched_by = 0;
	s->event.rule_version = 0;
	refused = take_refusal(s, p, task, retval);
	if (!p->decided && !p->passed)
		p->walk.version = policy_version;
	s->walk.version = p->walk.version;
	if (!p->passed && !refused) {
		if (!(operation_mask & (1ull << operation)) || (only_failed && !failed) || (only_write && !asks_for_write(p)))
			goto filtered;
		/* A process can change its user and its name, and then be asked for. */
		if (!filter_uid && !filter_comm)
			answer = COMPLETE_NOT_FOR_US;
		if (!subject_passes(task, &s->walk, &s->work))
			goto filtered;
		answer = COMPLETE_NOT_FOR_US;
	}

	s->raw_len = 0;
	s->raw2_len = 0;
	s->settled = 0;
	if (!p->decided)
		identify(s, p, replaced);
	anywhere = is_told_anywhere(p, s->walk.version, operation);
	if (!p->at.match && !p->to.match && !refused && !anywhere)
		goto filtered;
	/* By another policy than when it was matched: user space matches it again. */
	if (match_operations && !p->passed && !refused && !anywhere && p->walk.version == policy_version) {
		const struct vg_tables *t = tables_of(p->walk.version);

		answer = COMPLETE_FILTERED;
		if (!t || !((set_operations(t, p->at.match) | set_operations(t, p->to.match)) & (1ull << operation)))
			goto filtered;
	}
	if (!s->settled)
		s->raw_len = settle_name(&p->at, &s->name, replaced);
	if (p->to.ptr && (p->to.is_text || p->decided))
		s->raw2_len = settle_name(&p->to, &s->name2, false);
	if (p->decided && !failed && !p->at.imode && p->at.dentry && FIELD(struct dentry, p->at.dentry, d_parent) == (void *)p->at.parent)
		take_object(p); /* what mkdir, mknod, symlink made */
	if (p->layer == VG_LAYER_LOWER && !failed)
		p->layer = layer_of((__u64)FIELD(struct dentry, p->at.dentry, d_inode)); /* copied up meanwhile? */
	s->event.aggregate = 0;
	epoch = aggregate_epoch;
	lengths = s->raw_len | (__u64)s->raw2_len << 32;
	if (is_aggregated(operation) && !refused) {
		if (counted_alike(s, p, retval, lengths, epoch)) {
			c->aggregated[operation]++;
			p->call = 0;
			return COMPLETE_EMITTED;
		}
		s->event.aggregate = s->aggregate.id;
	}
	ensure_described(bpf_get_current_cgroup_id(), lane_of(s, retval));
	if (emit(s, p, retval, lengths)) {
		c->lost[operation]++;
		c->cause[VG_CAUSE_RING_FULL]++;
	} else {
		c->emitted[operation]++;
		if (is_aggregated(operation) && !refused)
			begin_counting(s, epoch);
	}
	p->call = 0;
	return COMPLETE_EMITTED;
filtered:
	c->filtered[operation]++;
	p->call = 0;
	return answer;
}

#endif
