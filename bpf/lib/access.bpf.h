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

static __always_inline void count_access(struct vg_access *a, __u32 operation, __s64 result)
{
	a->last_ns = bpf_ktime_get_boot_ns();
	if (operation == VG_OP_MMAP)
		__sync_fetch_and_add(&a->maps, 1);
	else if (result < 0)
		__sync_fetch_and_add(operation == VG_OP_WRITE ? &a->failed_writes : &a->failed_reads, 1);
	else if (operation == VG_OP_WRITE) {
		__sync_fetch_and_add(&a->writes, 1);
		__sync_fetch_and_add(&a->bytes_written, result);
	} else {
		__sync_fetch_and_add(&a->reads, 1);
		__sync_fetch_and_add(&a->bytes_read, result);
	}
}

static __always_inline bool is_first(const struct vg_access *a, __u32 operation)
{
	if (operation == VG_OP_MMAP)
		return !a->maps;
	return operation == VG_OP_WRITE ? !(a->writes | a->failed_writes) : !(a->reads | a->failed_reads);
}

static __always_inline __u64 image_of(struct task_struct *task)
{
	return TASK(task, tgid) | (__u64)(__u32)TASK(task, self_exec_id) << 32;
}

static __always_inline struct uninteresting *slot_of(__u64 file, __u64 image)
{
	__u32 slot;

	/* The lower half as a number: to the verifier the whole can be a pointer, which must not be reckoned with. */
	asm volatile("%0 = %1" : "=w"(slot) : "w"((__u32)file));
	slot = ((slot ^ (__u32)image) * 0x9e3779b1u) >> (32 - UNINTERESTING_BITS);
	return bpf_map_lookup_elem(&uninteresting, &slot);
}

/* From the entry: what was read there is a number, what it was made of the verifier may know as a pointer. */
static __always_inline __u64 check_of(const volatile struct uninteresting *u, __u32 version)
{
	return ~(u->file ^ u->inode << 1 ^ u->image << 2 ^ (__u64)version << 32);
}

static __always_inline bool is_uninteresting(__u64 file, __u64 inode, __u64 image)
{
	const volatile struct uninteresting *u = slot_of(file, image);

	return u && u->file == file && u->inode == inode && u->image == image && u->check == check_of(u, policy_version);
}

static __always_inline void make_uninteresting(__u64 file, __u64 inode, __u64 image, __u32 version)
{
	volatile struct uninteresting *u = slot_of(file, image);

	if (!u)
		return;
	u->file = file;
	u->inode = inode;
	u->image = image;
	u->check = check_of(u, version);
}

/*
 * One completed read, write or map of an open file: counted where that is all there is to do, else (true) to be told.
 * This is what every read and write of the machine costs.
 */
static __always_inline bool access_counts(struct task_struct *task, struct vg_counters *c, __u64 file, __u32 operation, __s64 result)
{
	struct session_key key = {.file = file, .tgid = TASK(task, tgid)};
	__u64 inode = followed_inode(file);
	struct session *session;

	if (!inode)
		return false;
	if (enforcing && (result < 0 || killing)) {
		struct vg_refusal *refusal = my_refusal(task);

		if ((refusal && refusal->inode == inode) || worker_refusal(task, inode))
			return true;
	}
	if (refused_accesses)
		return false;
	if (is_uninteresting(file, inode, image_of(task))) {
		c->seen[operation]++;
		c->filtered[operation]++;
		return false;
	}
	session = every_access ? NULL : bpf_map_lookup_elem(&sessions, &key);
	if (session && session->inode == inode && !is_first(&session->access, operation)) {
		count_access(&session->access, operation, result);
		c->seen[operation]++;
		c->aggregated[operation]++;
		return false;
	}
	return true;
}

/*
 * After an access was told (s->finishing says what came of it): counts it in its session, which begins here where there is none yet. A frame
 * of its own: the stacks of a chain of calls add up.
 */
static __noinline void note_access(struct scratch *s, __u64 file, __u32 operation)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__s64 result = s->finishing.result;
	struct session_key key = {.file = file, .tgid = TASK(task, tgid)};
	__u64 inode = followed_inode(file);
	struct process_state *process;
	struct session *session;

	if (!inode)
		return;
	if (s->finishing.answer == COMPLETE_NOT_FOR_US)
		make_uninteresting(file, inode, image_of(task), s->walk.version);
	if (every_access || refused_accesses)
		return;
	session = bpf_map_lookup_elem(&sessions, &key);
	if (session && session->inode == inode) {
		count_access(&session->access, operation, result);
		return;
	}
	if (s->finishing.answer != COMPLETE_EMITTED)
		return;
	__builtin_memset(&s->session, 0, sizeof(s->session));
	s->session.inode = inode;
	s->session.match = s->finishing.match;
	s->session.version = s->walk.version;
	s->session.access.first_ns = bpf_ktime_get_boot_ns();
	count_access(&s->session.access, operation, result);
	process = process_of(task);
	if (!process || bpf_map_update_elem(&sessions, &key, &s->session, BPF_ANY)) {
		count_cause(VG_CAUSE_SESSIONS_FULL);
		return;
	}
	if (!session) /* else it replaced that of a file which had this address before */
		__sync_fetch_and_add(&process->sessions, 1);
}

/* The first read or write of a session, or one that the filters have not judged yet. A global function, so that it is verified once. */
__noinline int accessed(__u64 file, int operation)
{
	struct scratch *s = my_scratch(); /* not an argument: a map's value must be map memory for the verifier of 6.1 */

	if (!s || !file)
		return 0;
	clear_pending(&s->spare);
	s->spare.call = s->finishing.call;
	s->spare.via = s->finishing.via;
	s->spare.operation = operation;
	s->spare.have = s->finishing.have;
	s->spare.fd = operation == VG_OP_WRITE ? s->finishing.to_fd : s->finishing.from_fd;
	if (s->spare.fd >= 0)
		s->spare.have |= VG_HAVE_FD;
	s->spare.file = file;
	s->finishing.answer = complete(&s->spare, s->finishing.result);
	s->finishing.match = s->spare.at.match;
	note_access(s, file, operation);
	return 0;
}

/* A read, a write, or both (sendfile, splice) that is done. True: hand over. */
static __always_inline bool files_accessed(struct task_struct *task, struct scratch *s, __u32 call, __u32 via, __u64 from, __u64 to, __s64 result)
{
	struct vg_counters *c = my_counters();
	bool reads, writes;

	if (!c)
		return false;
	reads = from && access_counts(task, c, from, VG_OP_READ, result);
	writes = to && access_counts(task, c, to, VG_OP_WRITE, result);
	if (!reads && !writes)
		return false;
	s->finishing.what = FINISH_ACCESS;
	s->finishing.call = call;
	s->finishing.via = via;
	s->finishing.have = 0;
	s->finishing.from = reads ? from : 0;
	s->finishing.to = writes ? to : 0;
	s->finishing.from_fd = -1;
	s->finishing.to_fd = -1;
	s->finishing.result = result;
	return true;
}

/* At the call's exit, whose registers still hold the arguments. */
static __always_inline bool access_completed(struct task_struct *task, struct scratch *s, __u32 call, __u32 via, __u64 regs, __s64 result)
{
	const struct call_shape *shape = shape_of(call);
	int from = int_argument(regs, via, shape->fd), to = int_argument(regs, via, shape->fd2);

	if (!files_accessed(task, s, call, via, file_of_fd(task, from), file_of_fd(task, to), result))
		return false;
	s->finishing.from_fd = from;
	s->finishing.to_fd = to;
	return true;
}

/*
 * complete, and for maps what they mean to the session: the first one is an event, and each that is executable or shared and writable; the
 * others are counted.
 */
static __always_inline void complete_call(struct scratch *s, struct pending *p, __s64 result)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct vg_counters *c = my_counters();
	__u64 file = p->file;

	if (!follows_accesses() || operation_of(p->call) != VG_OP_MMAP || !(p->have & VG_HAVE_FD)) {
		complete(p, result);
		return;
	}
	if (c && result >= 0 && !is_telling_map(p) && !access_counts(task, c, file, VG_OP_MMAP, result)) {
		p->call = 0;
		return;
	}
	s->finishing.result = result;
	s->finishing.answer = complete(p, result);
	s->finishing.match = p->at.match;
	if (result >= 0)
		note_access(s, file, VG_OP_MMAP);
}

/* Tells the end of the session at *key, if there is one, and forgets it. */
__noinline int end_session(struct scratch *s, const struct session_key *key)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct process_state *process;
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
	s->spare.walk.version = session->version;
	s->spare.to.ptr = 1;
	s->spare.to.is_text = 1;
	s->spare.to.flags = VG_RAW_PRESENT;
	s->spare.to.len = sizeof(struct vg_access);
	__builtin_memcpy(s->spare.to.name.bytes, &session->access, sizeof(struct vg_access));
	bpf_map_delete_elem(&sessions, &at);
	process = bpf_task_storage_get(&processes, task->group_leader, 0, 0);
	if (process && process->sessions)
		__sync_fetch_and_add(&process->sessions, -1);
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

static long end_if_own(void *map, struct session_key *key, struct session *session, void *unused)
{
	struct scratch *s = my_scratch();

	if (!s)
		return 1;
	if (key->tgid != s->finishing.session.tgid)
		return 0;
	s->finishing.session.file = key->file;
	end_session(s, &s->finishing.session);
	return 0;
}

/* Ends all sessions of the current process: those of its descriptors and, where that was not all, those of io_uring's registered files. */
static __always_inline void end_all_sessions(struct scratch *s, struct task_struct *task)
{
	struct process_state *process = bpf_task_storage_get(&processes, task->group_leader, 0, 0);

	if (!process || !process->sessions)
		return;
	end_sessions(s, task, 0, ~0u);
	if (process->sessions)
		bpf_for_each_map_elem(&sessions, end_if_own, NULL, 0);
}

/* What `finish` has to do when the descriptor goes away, if anything. True: hand over. */
static __always_inline bool closes_descriptor(struct task_struct *task, struct scratch *s, __u32 fd)
{
	struct session_key key = {.tgid = TASK(task, tgid)};

	s->finishing.session.tgid = key.tgid;
	key.file = file_of_fd(task, fd);
	if (!key.file || !bpf_map_lookup_elem(&sessions, &key) || !last_descriptor(task, key.file, fd))
		return false;
	s->finishing.what = FINISH_SESSION;
	s->finishing.session.file = key.file;
	return true;
}

/* At the entry of a call that closes. */
static __always_inline bool closes(struct task_struct *task, struct scratch *s, __u32 call, __u64 regs, __u32 via)
{
	const struct call_shape *shape = shape_of(call);
	__u32 fd = int_argument(regs, via, shape->fd);

	if (call == VG_CALL_CLOSE_RANGE) {
		if (int_argument(regs, via, shape->flags) & CLOSE_RANGE_CLOEXEC)
			return false;
		s->finishing.session.tgid = TASK(task, tgid);
		s->finishing.what = FINISH_SESSIONS;
		s->finishing.first = fd;
		s->finishing.last = int_argument(regs, via, shape->fd2);
		return true;
	}
	if (shape->fd == 2 && fd == (__u32)int_argument(regs, via, 1))
		return false; /* dup2 onto itself */
	return closes_descriptor(task, s, fd);
}

/* exec ends all sessions of the process. True: hand over. */
static __always_inline bool leaves(struct task_struct *task, struct scratch *s)
{
	const struct process_state *process = bpf_task_storage_get(&processes, task->group_leader, 0, 0);

	if (!process || !process->sessions)
		return false;
	s->finishing.what = FINISH_ALL_SESSIONS;
	s->finishing.session.tgid = TASK(task, tgid);
	return true;
}

static __always_inline void end_work(struct scratch *s)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (s->finishing.what == FINISH_SESSION)
		end_session(s, &s->finishing.session);
	else if (s->finishing.what == FINISH_ALL_SESSIONS)
		end_all_sessions(s, task);
	else
		end_sessions(s, task, s->finishing.first, s->finishing.last);
}

static __always_inline void tell_access(struct scratch *s)
{
	if (s->finishing.from)
		accessed(s->finishing.from, VG_OP_READ);
	if (s->finishing.to)
		accessed(s->finishing.to, VG_OP_WRITE);
}

/* The end of a process, as an event. */
static __always_inline void tell_exit(struct scratch *s)
{
	clear_pending(&s->spare);
	s->spare.call = VG_CALL_EXIT;
	s->spare.have = VG_HAVE_ARGS | VG_NO_RESULT;
	s->spare.value = s->finishing.result >> 8 & 0xff;
	s->spare.value2 = s->finishing.result & 0x7f;
	complete(&s->spare, 0);
}

#endif
