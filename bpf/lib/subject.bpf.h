/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who does it: the filters on the subject, and the description of a process image that its events refer to.
 *
 * A process is described (executable, command line, cgroup) once per image, in its own context, just before its first event: so a
 * process that lives for a millisecond is known, and one that gives no event costs nothing. exec describes at once, while the
 * arguments are what the kernel was given.
 */
#ifndef VFSGUARD_SUBJECT_BPF_H
#define VFSGUARD_SUBJECT_BPF_H

#include "store.bpf.h"

static __always_inline int send(void *record, __u32 size, __u32 lane)
{
	__u64 flags = BPF_RB_NO_WAKEUP;
	void *nothing;
	long failed;

	/*
	 * One wake-up when the reader begins to sleep, not one a record: the reader drains on a timer while there is work. It is
	 * woken early when the ring is half full.
	 */
	if (reader_waits) {
		reader_waits = 0;
		flags = BPF_RB_FORCE_WAKEUP;
	}
	if (lane == VG_LANE_PRIORITY)
		failed = bpf_ringbuf_output(&priority_ring, record, size, flags);
	else
		failed = bpf_ringbuf_output(&ring, record, size, flags);
	/* The reader may have begun to sleep between the look above and the record's being there: it would not know of it. */
	if (flags == BPF_RB_NO_WAKEUP && reader_waits) {
		nothing = bpf_ringbuf_reserve(&ring, sizeof(struct vg_record), 0);
		if (nothing) {
			reader_waits = 0;
			bpf_ringbuf_discard(nothing, BPF_RB_FORCE_WAKEUP);
		}
	}
	return failed;
}

static __always_inline struct process_state *process_of(struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	struct process_state *state;

	state = bpf_task_storage_get(&processes, leader, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!state) {
		count_cause(VG_CAUSE_NO_STORAGE);
		return NULL;
	}
	if (state->exec_id != TASK(task, self_exec_id)) {
		state->exec_id = TASK(task, self_exec_id);
		state->described_epoch = 0;
		state->exe_match = 0;
	}
	return state;
}

static __always_inline bool exe_passes(struct task_struct *task, struct walk *w, struct component *work)
{
	struct process_state *state = process_of(task);
	const struct vg_tables *t = tables_of(w->version);
	__u64 file;
	__u32 end;

	if (state && state->exe_match)
		return state->exe_match == 2;
	file = (__u64)TASK(task, mm->exe_file);
	if (!t || !file)
		return false;
	walk_begin(w, task, file_dentry_of(file), file_mount_of(file));
	w->state = t->exe_start;
	end = dfa_accept(t, walk_match(w, work));
	if (state)
		state->exe_match = end ? 2 : 1;
	return end != 0;
}

/* True where the subject's filters let the operation through. Constant knobs: what is not asked for is not in the program. */
static __always_inline bool subject_passes(struct task_struct *task, struct walk *w, struct component *work)
{
	if (filter_pid) {
		__u32 tgid = TASK(task, tgid);
		if (!bpf_map_lookup_elem(&pids, &tgid))
			return false;
	}
	if (filter_uid) {
		__u32 uid = TASK(task, cred->uid.val);
		if (!bpf_map_lookup_elem(&uids, &uid))
			return false;
	}
	if (filter_comm) {
		struct comm_key key = {};
		bpf_get_current_comm(key.comm, sizeof(key.comm));
		if (!bpf_map_lookup_elem(&comms, &key))
			return false;
	}
	if (filter_exe && !exe_passes(task, w, work))
		return false;
	return true;
}

struct chain_walk {
	struct process_state *state; /* its cursor is a group leader */
};

static long chain_step(__u32 i, struct chain_walk *w)
{
	__u64 parent = (__u64)FIELD(struct task_struct, w->state->cursor, real_parent), leader;
	struct vg_ancestor *a;

	if (!parent || i >= VG_ANCESTORS_MAX)
		return 1;
	leader = (__u64)FIELD(struct task_struct, parent, group_leader);
	a = &w->state->chain[i];
	a->pid = FIELD(struct task_struct, leader, tgid);
	if (!a->pid)
		return 1; /* the kernel itself */
	a->start_ns = FIELD(struct task_struct, leader, start_boottime);
	a->exec_id = FIELD(struct task_struct, leader, self_exec_id);
	w->state->ancestors = i + 1;
	w->state->cursor = leader;
	return 0;
}

/* For processes that are older than the agent: their parents as they are now. */
__noinline int find_ancestors(struct process_state *state)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct chain_walk w = {.state = state};

	if (!state)
		return 0;
	state->cursor = (__u64)TASK(task, group_leader);
	state->ancestors = 0;
	state->chain_known = 1;
	bpf_loop(VG_ANCESTORS_MAX, chain_step, &w, 0);
	return 0;
}

struct cgroup_walk {
	struct walk *w; /* dentry: the node */
	char *out;
};

static long cgroup_step(__u32 i, struct cgroup_walk *w)
{
	__u64 parent, name;
	__u32 off = w->w->off;
	long n;

	parent = kernfs_parent(w->w->dentry);
	if (!parent || off > VG_PATH_MAX - VG_NAME_MAX)
		return 1;
	name = (__u64)FIELD(struct kernfs_node, w->w->dentry, name);
	n = bpf_probe_read_kernel_str(w->out + off, VG_NAME_MAX, (void *)name);
	if (n <= 0)
		return 1;
	w->w->off = off + n;
	w->w->dentry = parent;
	return 0;
}

/* The control group's walk to s->data + off; its length. */
static __noinline __u32 store_cgroup(struct process_scratch *s, __u32 off)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct cgroup_walk cgroups = {.w = &s->walk};

	if (off > 2 * VG_PATH_MAX)
		return 0;
	s->walk.off = 0;
	s->walk.dentry = (__u64)FIELD(struct cgroup, TASK(task, cgroups->dfl_cgrp), kn);
	cgroups.out = s->data + off;
	bpf_loop(64, cgroup_step, &cgroups, 0);
	return s->walk.off;
}

/*
 * Sends struct vg_process for the current task. Tracepoint or kprobe context only (per-CPU scratch). The command line is what
 * lies in the process's own memory now: at exec that is what the caller passed.
 */
__noinline int describe_process(struct process_state *state, __u64 cgroup_id, __u32 lane)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 zero = 0;
	struct process_scratch *s = bpf_map_lookup_elem(&process_scratches, &zero);
	__u64 file, start, end;
	__u32 off = 0, len, n;

	if (!s)
		return 0;
	__builtin_memset(&s->process, 0, sizeof(s->process));
	s->process.head.kind = VG_RECORD_PROCESS;
	s->process.head.version = VG_ABI_VERSION;
	s->process.head.cpu = bpf_get_smp_processor_id();
	s->process.start_ns = TASK(task, group_leader->start_boottime);
	s->process.exec_id = TASK(task, self_exec_id);
	s->process.cgroup_id = cgroup_id;
	s->process.pid = TASK(task, tgid);

	file = TASK(task, mm) ? (__u64)TASK(task, mm->exe_file) : 0;
	if (file) {
		__u64 inode = (__u64)FIELD(struct file, file, f_inode);
		__u64 dentry = file_dentry_of(file);

		walk_begin(&s->walk, task, dentry, file_mount_of(file));
		off = walk_store(&s->walk, &s->path);
		s->process.exe_flags = s->walk.flags | VG_PATH_OBJECT | deleted_flag(dentry);
		s->process.exe_ino = FIELD(struct inode, inode, i_ino);
		inode = (__u64)FIELD(struct inode, inode, i_sb);
		s->process.exe_dev = FIELD(struct super_block, inode, s_dev);
	}
	s->process.exe_len = off;

	if (TASK(task, mm)) {
		start = TASK(task, mm->arg_start);
		end = TASK(task, mm->arg_end);
		len = end > start ? (end - start > VG_PATH_MAX ? VG_PATH_MAX : end - start) : 0;
		if (end > start && end - start > VG_PATH_MAX)
			s->process.exe_flags |= VG_CMDLINE_TRUNCATED;
		if (off > VG_PATH_MAX)
			return 0;
		if (len && len <= VG_PATH_MAX) {
			if (bpf_probe_read_user(s->data + off, len, (void *)start)) {
				s->process.exe_flags |= VG_CMDLINE_FAULT;
			} else {
				s->process.cmdline_len = len;
				off += len;
			}
		}
	}

	len = store_cgroup(s, off);
	if (len > VG_PATH_MAX)
		return 0;
	s->process.cgroup_len = len;
	off += len;

	/* Task storage is refused while a task that was preempted holds its lock on this CPU. Then the parents are as they are now. */
	if (!state) {
		state = &s->unstored;
		state->chain_known = 0;
	}
	if (!state->chain_known)
		find_ancestors(state);
	n = state->ancestors;
	if (n > VG_ANCESTORS_MAX)
		n = VG_ANCESTORS_MAX;
	barrier_var(off); /* in one register, so that the verifier sees the bound */
	if (off > 3 * VG_PATH_MAX)
		return 0;
	if (!bpf_probe_read_kernel(s->data + off, sizeof(state->chain), state->chain)) {
		s->process.ancestors = n;
		off += n * sizeof(struct vg_ancestor);
	}
	if (off > sizeof(s->data))
		return 0;
	s->process.head.size = sizeof(struct vg_process) + off;
	/* Before an event of the other lane too: the lanes are not read in step. */
	if (lane == VG_LANE_PRIORITY)
		send(&s->process, sizeof(struct vg_process) + off, VG_LANE_PRIORITY);
	if (send(&s->process, sizeof(struct vg_process) + off, VG_LANE_BULK)) {
		count_cause(VG_CAUSE_CONTEXT_LOST);
		return 0;
	}
	state->described_epoch = describe_epoch;
	state->cgroup_id = cgroup_id;
	return 0;
}

/* The process is gone: user space may forget it. */
static __always_inline void send_exit(__u32 pid, __u64 start_ns)
{
	struct vg_exit record = {.pid = pid, .start_ns = start_ns};

	record.head.size = sizeof(record);
	record.head.cpu = bpf_get_smp_processor_id();
	record.head.kind = VG_RECORD_EXIT;
	record.head.version = VG_ABI_VERSION;
	if (send(&record, sizeof(record), VG_LANE_BULK))
		count_cause(VG_CAUSE_CONTEXT_LOST);
}

/* Describes the current process where that was not done for this image. A global function, so that it is verified once. */
__noinline int ensure_described(__u64 cgroup_id, __u32 lane)
{
	struct process_state *state = process_of(bpf_get_current_task_btf());

	if (!state || state->described_epoch != describe_epoch || state->cgroup_id != cgroup_id)
		describe_process(state, cgroup_id, lane);
	return 0;
}

#endif
