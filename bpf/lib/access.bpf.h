/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reads and writes. Not an event a call: what one process does through one open file is a session. Its first read and its first write are
 * events at once; what follows is counted (`aggregated`), and the end of the session is a `close` event with all of it. A session ends with
 * the process's last descriptor of the file, at exec, and at exit. It belongs to who uses the descriptor, however it came by it.
 *
 * What the filters rule out is remembered too, so that its next read or write costs one look-up. Whether a session passes is settled at its
 * first access: a file that is renamed while it is open stays what it was.
 *
 * Regular files, directories and devices; pipes and sockets are no files of a file system.
 */
#ifndef VFSGUARD_ACCESS_BPF_H
#define VFSGUARD_ACCESS_BPF_H

#include "operation.bpf.h"

#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define S_IFIFO 0010000

static __always_inline void count_access(struct vg_access *a, bool writes, __s64 result)
{
	a->last_ns = bpf_ktime_get_boot_ns();
	if (result < 0)
		__sync_fetch_and_add(writes ? &a->failed_writes : &a->failed_reads, 1);
	else if (writes) {
		__sync_fetch_and_add(&a->writes, 1);
		__sync_fetch_and_add(&a->bytes_written, result);
	} else {
		__sync_fetch_and_add(&a->reads, 1);
		__sync_fetch_and_add(&a->bytes_read, result);
	}
}

static __always_inline bool is_first(const struct vg_access *a, bool writes)
{
	return writes ? !(a->writes | a->failed_writes) : !(a->reads | a->failed_reads);
}

/* The open file behind a descriptor, where its reads and writes are followed: neither pipe nor socket. 0: not ours. */
static __always_inline __u64 followed_file(struct task_struct *task, __s64 fd, __u64 *inode)
{
	__u64 file = file_of_fd(task, fd);
	__u32 type;

	if (!file)
		return 0;
	*inode = (__u64)FIELD(struct file, file, f_inode);
	type = FIELD(struct inode, *inode, i_mode) & S_IFMT;
	return type == S_IFSOCK || type == S_IFIFO ? 0 : file;
}

/*
 * One completed read or write of the descriptor `fd`: counted where that is all there is to do, else (true) to be told by `accessed`.
 * This is what every read and write of the machine costs.
 */
static __always_inline bool access_counts(struct task_struct *task, struct vg_counters *c, __s64 fd, bool writes, __s64 result)
{
	__u64 inode = 0, file = followed_file(task, fd, &inode), *no;
	struct session_key key = {.file = file, .tgid = TASK(task, tgid)};
	__u32 operation = writes ? VG_OP_WRITE : VG_OP_READ;
	struct session *session;

	if (!file)
		return false;
	no = bpf_map_lookup_elem(&uninteresting, &key);
	if (no && *no == inode) {
		c->seen[operation]++;
		c->filtered[operation]++;
		return false;
	}
	session = every_access ? NULL : bpf_map_lookup_elem(&sessions, &key);
	if (session && session->inode == inode && !is_first(&session->access, writes)) {
		count_access(&session->access, writes, result);
		c->seen[operation]++;
		c->aggregated[operation]++;
		return false;
	}
	return true;
}

/* The first read or write of a session, or one that the filters have not judged yet. A global function, so that it is verified once. */
__noinline int accessed(int fd, int writes)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 inode = 0, file = followed_file(task, fd, &inode);
	struct session_key key = {.file = file, .tgid = TASK(task, tgid)};
	struct scratch *s = my_scratch(); /* not an argument: a map's value must be map memory for the verifier of 6.1 */
	struct process_state *process;
	struct session *session;
	__s64 result;
	int answer;

	if (!s || !file)
		return 0;
	result = s->finishing.result;
	clear_pending(&s->spare);
	s->spare.call = s->finishing.call;
	s->spare.via = s->finishing.via;
	s->spare.operation = writes ? VG_OP_WRITE : VG_OP_READ;
	s->spare.have = VG_HAVE_FD;
	s->spare.fd = fd;
	s->spare.file = file;
	answer = complete(&s->spare, result);
	if (answer == COMPLETE_NOT_FOR_US)
		bpf_map_update_elem(&uninteresting, &key, &inode, BPF_ANY);
	if (every_access)
		return 0;
	session = bpf_map_lookup_elem(&sessions, &key);
	if (session && session->inode == inode) {
		count_access(&session->access, writes, result);
		return 0;
	}
	if (answer != COMPLETE_EMITTED)
		return 0;
	__builtin_memset(&s->session, 0, sizeof(s->session));
	s->session.inode = inode;
	s->session.match = s->spare.at.match;
	s->session.access.first_ns = bpf_ktime_get_boot_ns();
	count_access(&s->session.access, writes, result);
	if (bpf_map_update_elem(&sessions, &key, &s->session, BPF_ANY)) {
		count_cause(VG_CAUSE_SESSIONS_FULL);
		return 0;
	}
	process = process_of(task);
	if (process)
		__sync_fetch_and_add(&process->sessions, 1);
	return 0;
}

/* A read, a write, or both (sendfile, splice): at the call's exit, whose registers still hold the arguments. True: hand over. */
static __always_inline bool access_completed(struct task_struct *task, struct scratch *s, __u32 call, __u32 via, __u64 regs, __s64 result)
{
	const struct call_shape *shape = shape_of(call);
	struct vg_counters *c = my_counters();
	struct pending *p = &s->spare;
	int from, to;

	if (!c)
		return false;
	p->via = via;
	read_args(p, regs);
	from = shape->fd ? arg(p, shape->fd) : -1;
	to = shape->fd2 ? arg(p, shape->fd2) : -1;
	if (from >= 0 && !access_counts(task, c, from, false, result))
		from = -1;
	if (to >= 0 && !access_counts(task, c, to, true, result))
		to = -1;
	if (from < 0 && to < 0)
		return false;
	s->finishing.what = FINISH_ACCESS;
	s->finishing.call = call;
	s->finishing.via = via;
	s->finishing.from = from;
	s->finishing.to = to;
	s->finishing.result = result;
	return true;
}

/* Tells the end of the session at *key, if there is one, and forgets it. */
__noinline int end_session(struct scratch *s, const struct session_key *key)
{
	struct session_key at;
	struct session *session;

	if (!s || !key)
		return 0;
	at = *key;
	session = bpf_map_lookup_elem(&sessions, &at);
	if (!session)
		return 0;
	clear_pending(&s->spare);
	s->spare.call = VG_CALL_CLOSE;
	s->spare.operation = VG_OP_CLOSE;
	s->spare.passed = 1;
	s->spare.file = at.file;
	s->spare.at.match = session->match;
	s->spare.to.ptr = 1;
	s->spare.to.is_text = 1;
	s->spare.to.flags = VG_RAW_PRESENT;
	s->spare.to.len = sizeof(struct vg_access);
	__builtin_memcpy(s->spare.to.name.bytes, &session->access, sizeof(struct vg_access));
	bpf_map_delete_elem(&sessions, &at);
	complete(&s->spare, 0);
	return 0;
}

struct descriptors {
	__u64 table;   /* struct fdtable.fd */
	__u64 wanted;
	__u32 first;
	__u32 count;
	__u32 skip;    /* a descriptor that does not count */
};

static __always_inline __u64 descriptor_at(const struct descriptors *d, __u32 i)
{
	__u64 file = 0;

	bpf_probe_read_kernel(&file, sizeof(file), (void *)(d->table + (__u64)(d->first + i) * sizeof(__u64)));
	return file;
}

static long find_descriptor(__u32 i, struct descriptors *d)
{
	if (i == d->skip || descriptor_at(d, i) != d->wanted)
		return 0;
	d->count++;
	return 1;
}

#define DESCRIPTORS_MAX (1 << 20)

/* Whether `fd` is the process's last descriptor of `file`. */
static __always_inline bool last_descriptor(struct task_struct *task, __u64 file, __u32 fd)
{
	struct fdtable *fdt = TASK(task, files->fdt);
	struct descriptors d = {.table = (__u64)FIELD(struct fdtable, fdt, fd), .wanted = file, .skip = fd};
	__u32 n = FIELD(struct fdtable, fdt, max_fds);

	bpf_loop(n > DESCRIPTORS_MAX ? DESCRIPTORS_MAX : n, find_descriptor, &d, 0);
	return !d.count;
}

static long end_descriptor(__u32 i, struct descriptors *d)
{
	struct scratch *s = my_scratch();
	__u64 file = descriptor_at(d, i);

	if (!s)
		return 1;
	if (file) {
		s->finishing.session.file = file;
		end_session(s, &s->finishing.session);
	}
	return 0;
}

/* Ends the sessions of the descriptors first..last of the current process. */
static __always_inline void end_sessions(struct scratch *s, struct task_struct *task, __u32 first, __u32 last)
{
	struct fdtable *fdt = TASK(task, files->fdt);
	struct descriptors d = {.first = first};
	__u32 n;

	if (!fdt)
		return;
	d.table = (__u64)FIELD(struct fdtable, fdt, fd);
	n = FIELD(struct fdtable, fdt, max_fds);
	if (last < n)
		n = last + 1;
	if (first >= n)
		return;
	n -= first;
	bpf_loop(n > DESCRIPTORS_MAX ? DESCRIPTORS_MAX : n, end_descriptor, &d, 0);
}

/* At the entry of a call that closes: what `finish` has to do, if anything. True: hand over. */
static __always_inline bool closes(struct task_struct *task, struct scratch *s, __u32 call, __u64 regs, __u32 via)
{
	const struct call_shape *shape = shape_of(call);
	struct session_key key = {.tgid = TASK(task, tgid)};
	struct pending *p = &s->spare;
	__u32 fd;

	p->via = via;
	read_args(p, regs);
	fd = arg(p, shape->fd);
	s->finishing.session.tgid = key.tgid;
	if (call == VG_CALL_CLOSE_RANGE) {
		if (p->args[2] & CLOSE_RANGE_CLOEXEC)
			return false;
		s->finishing.what = FINISH_SESSIONS;
		s->finishing.first = fd;
		s->finishing.last = arg(p, shape->fd2);
		s->finishing.exits = 0;
		return true;
	}
	if (shape->fd == 2 && fd == (__u32)p->args[0])
		return false; /* dup2 onto itself */
	key.file = file_of_fd(task, fd);
	if (!key.file || !bpf_map_lookup_elem(&sessions, &key) || !last_descriptor(task, key.file, fd))
		return false;
	s->finishing.what = FINISH_SESSION;
	s->finishing.session.file = key.file;
	return true;
}

/* All sessions of the process end, by exec or exit. True: hand over. */
static __always_inline bool leaves(struct task_struct *task, struct scratch *s, const struct process_state *process, bool exits)
{
	if (!process || !process->sessions)
		return false;
	s->finishing.what = FINISH_SESSIONS;
	s->finishing.first = 0;
	s->finishing.last = ~0u;
	s->finishing.exits = exits;
	s->finishing.session.tgid = TASK(task, tgid);
	return true;
}

#endif
