/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The life of processes, for every mechanism.
 *
 *   sched_process_exec   the new image is in place, its arguments untouched: described at once
 *   sched_process_fork   --follow: the child of a watched process is watched
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
	describe_process(state, bpf_get_current_cgroup_id());
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	__u32 from = parent->tgid, to = child->tgid;
	__u8 followed = 2;

	if (from != to && bpf_map_lookup_elem(&pids, &from))
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
	if (follow_children)
		bpf_map_delete_elem(&pids, &tgid);
	state = bpf_task_storage_get(&processes, leader, 0, 0);
	if (!state)
		return 0;
	s = my_scratch();
	if (s && leaves(current, s, state, true)) {
		s->finishing.start_ns = start_ns;
		hand_over(ctx);
		return 0;
	}
	if (state->described_epoch)
		send_exit(tgid, start_ns);
	return 0;
}

/* Run once by the agent through BPF_PROG_TEST_RUN: its own pid as the kernel counts, whatever pid namespace it lives in. */
SEC("syscall")
int who_am_i(void *ctx)
{
	self_tgid = bpf_get_current_pid_tgid() >> 32;
	return 0;
}
