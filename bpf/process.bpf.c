/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The life of processes, for every mechanism.
 *
 *   sched_process_exec   the new image is in place, its arguments untouched: described at once
 *   sched_process_fork   the child's line of ancestors; --follow: the child of a watched process is watched
 *   sched_process_exit   the last thread is gone: user space may forget the process
 */
#include "lib/access.bpf.h"

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct task_struct *current = bpf_get_current_task_btf();
	struct process_state *state;
	struct pending *p;

	if (is_self(current))
		return 0;
	p = bpf_task_storage_get(&pending_calls, current, 0, 0);
	if (p && p->call) {
		if (old_pid != TASK(current, pid))
			p->have |= VG_EXEC_BY_THREAD;
		/* The name's page may not have been there at begin; here is the kernel's copy. */
		if (!(p->at.flags & VG_RAW_PRESENT)) {
			long n = text_length(bpf_probe_read_kernel_str(p->at.name.bytes, VG_NAME_MAX, bprm->filename));

			if (n >= 0) {
				p->at.len = n;
				p->at.flags |= VG_RAW_PRESENT;
				if (n == VG_NAME_MAX - 1)
					p->at.flags |= VG_RAW_TRUNCATED;
			}
		}
		/* A script: what is loaded now is its interpreter, the object of the call was another file. */
		p->script = bprm->interp != bprm->filename;
	}
	if (filter_pid) {
		__u32 tgid = TASK(current, tgid);
		if (!bpf_map_lookup_elem(&pids, &tgid))
			return 0;
	}
	state = process_of(current);
	describe_process(state, bpf_get_current_cgroup_id(), VG_LANE_BULK);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	__u32 from = parent->tgid, to = child->tgid;
	struct process_state *state, *above;
	__u8 followed = 2;
	struct pending *p;

	if (from == to)
		return 0;
	/* A child may end before its parent's call returns, its memory gone: then its description is its parent's. */
	if (follows(VG_OP_EXIT) && !is_self(parent))
		ensure_described(bpf_get_current_cgroup_id(), VG_LANE_BULK);
	/* Who forked it stays on record, whoever it is given to when its parent ends. */
	above = process_of(parent);
	state = bpf_task_storage_get(&processes, child, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (state && above) {
		if (!above->chain_known)
			find_ancestors(above);
		state->chain_known = 1;
		state->ancestors = above->ancestors < VG_ANCESTORS_MAX ? above->ancestors + 1 : VG_ANCESTORS_MAX;
		state->chain[0].pid = from;
		state->chain[0].start_ns = parent->group_leader->start_boottime;
		state->chain[0].exec_id = parent->self_exec_id;
		__builtin_memcpy(&state->chain[1], &above->chain[0], (VG_ANCESTORS_MAX - 1) * sizeof(struct vg_ancestor));
	}
	p = bpf_task_storage_get(&pending_calls, parent, 0, 0);
	if (p && operation_of(p->call) == VG_OP_FORK) {
		p->value = to;
		p->value2 = child->start_boottime;
	}
	if (follow_children && bpf_map_lookup_elem(&pids, &from))
		bpf_map_update_elem(&pids, &to, &followed, BPF_NOEXIST);
	return 0;
}

SEC("raw_tp/sched_process_exit")
int process_exit(void *ctx)
{
	struct task_struct *current = bpf_get_current_task_btf();
	struct task_struct *leader = current->group_leader;
	__u32 tgid = TASK(current, tgid);
	__u64 start_ns = leader->start_boottime;
	struct process_state *state;
	struct scratch *s;

	if (TASK(current, signal->live.counter))
		return 0;
	state = bpf_task_storage_get(&processes, leader, 0, 0);
	s = my_scratch();
	if (!s || (!state && !follows(VG_OP_EXIT)))
		return 0;
	/* The sessions first, then the end itself, then the word that user space may forget the process. */
	s->finishing.what = FINISH_PROCESS;
	s->finishing.session.tgid = tgid;
	s->finishing.start_ns = start_ns;
	s->finishing.result = TASK(current, signal->group_exit_code);
	hand_over(ctx);
	return 0;
}

/* Run once by the agent through BPF_PROG_TEST_RUN: its own pid as the kernel counts, whatever pid namespace it lives in. */
SEC("syscall")
int who_am_i(void *ctx)
{
	self_tgid = bpf_get_current_pid_tgid() >> 32;
	return 0;
}
