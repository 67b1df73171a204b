/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * begin and complete from tracepoints: raw sys_enter and sys_exit (one pair sees 64-bit, x32 and 32-bit calls alike; the per-call
 * syscall tracepoints never fire for 32-bit ones), io_uring_submit_req and io_uring_complete.
 *
 * With hook_id tracepoint the object is found at complete, behind the descriptor that was returned. With hook_id lsm the same
 * programs serve and bpf/lsm.bpf.c adds decide.
 *
 *   sys_enter                the name and arguments; before anything is resolved
 *   sys_exit                 the result; before a signal turns ERESTARTSYS into EINTR or a restart
 *   io_uring_submit_req      a request was accepted; its name is already the kernel's copy
 *   io_uring_complete        its result; not called for IOSQE_CQE_SKIP_SUCCESS
 *   io_uring_req_failed      a request was refused before it was submitted
 */
#include "lib/access.bpf.h"
#include "lib/uring.bpf.h"

/*
 * What several programs need at their end is done by one that they tail-call: the verifier then looks at `complete` once for all of
 * them, which is most of what a start costs. Raw tracepoints, because typed ones (tp_btf) of different tracepoints cannot share.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} finisher SEC(".maps");

/* Does what s->finishing says. Does not return. */
static __always_inline void hand_over(void *ctx)
{
	bpf_tail_call(ctx, &finisher, 0);
}

/* Does what s->finishing says. */
SEC("raw_tp")
int finish(void *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct process_state *process;
	struct scratch *s = my_scratch();
	struct pending *p;
	__u32 pid;
	__u64 key;

	if (!s)
		return 0;
	switch (s->finishing.what) {
	case FINISH_CALL:
		p = s->finishing.spare ? &s->spare : bpf_task_storage_get(&pending_calls, task, 0, 0);
		if (p)
			complete_call(s, p, s->finishing.result);
		break;
	case FINISH_ACCESS:
		tell_access(s);
		break;
	case FINISH_REQUEST:
		key = s->finishing.request;
		p = key ? bpf_map_lookup_elem(&pending_requests, &key) : &s->spare;
		if (!p)
			return 0;
		complete(p, s->finishing.result);
		if (key)
			bpf_map_delete_elem(&pending_requests, &key);
		break;
	case FINISH_SESSION:
	case FINISH_SESSIONS:
	case FINISH_ALL_SESSIONS:
		end_work(s);
		break;
	case FINISH_PROCESS:
		end_all_sessions(s, task);
		if (follows(VG_OP_EXIT))
			tell_exit(s);
		pid = s->finishing.session.tgid;
		process = bpf_task_storage_get(&processes, task->group_leader, 0, 0);
		if (process && process->described_epoch)
			send_exit(pid, s->finishing.start_ns);
		if (follow_children)
			bpf_map_delete_elem(&pids, &pid);
		break;
	}
	return 0;
}

/* Completes the request at `key` in pending_requests or, for 0, the one in s->spare. Does not return. */
static __always_inline void finish_request(void *ctx, struct scratch *s, __u64 key, __s32 result)
{
	s->finishing.what = FINISH_REQUEST;
	s->finishing.request = key;
	s->finishing.result = result;
	hand_over(ctx);
}

SEC("raw_tp/sys_enter")
int BPF_PROG(sys_enter, __u64 regs, __u64 nr)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 via = 0, call = call_of(task, nr, &via), operation = operation_of(call);
	struct scratch *s;

	if (!call || !follows(operation) || is_self(task))
		return 0;
	if (is_access(operation))
		return 0; /* nothing to know yet */
	if (operation == VG_OP_CLOSE) {
		s = my_scratch();
		if (s && closes(task, s, call, regs, via))
			hand_over(ctx);
		return 0;
	}
	begin(call, via, regs);
	if (operation == VG_OP_EXEC && follows(VG_OP_CLOSE)) {
		s = my_scratch();
		if (s && leaves(task, s))
			hand_over(ctx);
	}
	return 0;
}

SEC("raw_tp/sys_exit")
int BPF_PROG(sys_exit, __u64 regs, __u64 returned)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 via = 0, call = call_of(task, FIELD(struct pt_regs, regs, orig_ax), &via), operation = operation_of(call);
	long ret = returned;
	struct pending *p;
	struct scratch *s;

	if (!call || !follows(operation) || is_self(task))
		return 0;
	s = my_scratch();
	if (operation == VG_OP_CLOSE || !s)
		return 0;
	if (is_access(operation)) {
		if (refused_accesses && ret >= 0 && !killing)
			return 0;
		if (access_completed(task, s, call, via, regs, ret))
			hand_over(ctx);
		return 0;
	}
	s->finishing.spare = 0;
	p = bpf_task_storage_get(&pending_calls, task, 0, 0);
	if (p && !p->call)
		return 0; /* begin found that it does not concern us; or, as fork's child, we came here without a call */
	if (!p) {
		/* Attached while the call ran, or no storage: the registers still hold the arguments, save after an exec. */
		if (operation == VG_OP_FORK || !may_concern(call, via, regs))
			return 0;
		s->finishing.spare = 1;
		p = &s->spare;
		clear_pending(p);
		p->call = call;
		p->via = via;
		p->at.dirfd = AT_FDCWD;
		if (operation != VG_OP_EXEC || ret) {
			read_args(p, regs);
			if (!decode_args(p))
				return 0;
			if (p->have & VG_HAVE_FD)
				p->file = file_of_fd(task, p->fd);
		}
	}
	if (!p->decided) {
		if (operation_of(p->call) == VG_OP_OPEN)
			p->file = ret >= 0 ? file_of_fd(task, ret) : 0;
		else if (operation_of(p->call) == VG_OP_EXEC && ret == 0 && !p->script && TASK(task, mm))
			p->file = (__u64)TASK(task, mm->exe_file);
	}
	s->finishing.what = FINISH_CALL;
	s->finishing.result = ret;
	hand_over(ctx);
	return 0;
}

static __always_inline bool skips_success(__u64 req)
{
	return request_flags(req) & (1u << IOSQE_CQE_SKIP_SUCCESS_BIT);
}

/* A request that reads, writes, or both, as access_completed. */
static __always_inline bool request_accessed(struct task_struct *task, struct scratch *s, __u64 req, __u32 call, __s64 result)
{
	__u64 file = request_file(req, task), from = 0, to = 0;

	if (call == VG_CALL_SPLICE || call == VG_CALL_TEE) {
		to = file;
		if (!(FIELD(struct io_splice, req, flags) & SPLICE_F_FD_IN_FIXED))
			from = file_of_fd(task, FIELD(struct io_splice, req, splice_fd_in));
	} else if (operation_of(call) == VG_OP_WRITE) {
		to = file;
	} else {
		from = file;
	}
	return files_accessed(task, s, call, VG_VIA_IO_URING, from, to, result);
}

/* io_uring_submit_req, or io_uring_submit_sqe as it was called until 6.3. */
SEC("raw_tp")
int BPF_PROG(io_uring_submit, __u64 req)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 call = call_of_request(req);
	__u32 operation = operation_of(call);
	struct scratch *s;
	struct pending *p;
	bool skips;

	if (!call || is_self(task))
		return 0;
	s = my_scratch();
	if (!s)
		return 0;
	skips = skips_success(req);
	if (is_access(operation)) {
		/* Told when it is done; where nobody will say that: now, without a size. */
		if (skips && request_accessed(task, s, req, call, 0)) {
			s->finishing.have = VG_NO_RESULT;
			hand_over(ctx);
		}
		return 0;
	}
	if (operation == VG_OP_CLOSE) {
		if (!FIELD(struct io_close, req, file_slot) && closes_descriptor(task, s, FIELD(struct io_close, req, fd)))
			hand_over(ctx);
		return 0;
	}
	if (requests_probed)
		return 0;
	p = &s->spare;
	begin_request(p, req, call, task);
	/* Where no tracepoint will tell of its success, or there is no room to wait for it: say now what is known. */
	if (!skips) {
		if (!bpf_map_update_elem(&pending_requests, &req, p, BPF_ANY))
			return 0;
		count_cause(VG_CAUSE_URING_FULL);
	}
	p->have |= VG_NO_RESULT;
	finish_request(ctx, s, 0, 0);
	return 0;
}

SEC("raw_tp/io_uring_complete")
int io_uring_complete(__u64 *ctx)
{
	__u64 ring_ctx = ctx[0], req = ctx[1];
	struct task_struct *task = bpf_get_current_task_btf();
	struct scratch *s = my_scratch();
	struct pending *p;
	__s32 result;
	__u32 call;

	if (!s)
		return 0;
	/* An argument that the tracepoint does not have may not even be loaded. */
	if (complete_takes_cqe)
		result = FIELD(struct io_uring_cqe, ctx[2], res);
	else
		result = *(volatile __u64 *)&ctx[3];
	call = (follows_accesses() || (refused_accesses && (result < 0 || killing))) && req && !is_self(task) ? call_of_request(req) : 0;
	if (is_access(operation_of(call))) {
		if (result != -ECANCELED && !skips_success(req) && request_accessed(task, s, req, call, result))
			hand_over(ctx);
		return 0;
	}
	p = bpf_map_lookup_elem(&pending_requests, &req);
	if (!p)
		return 0;
	/* A request that a failed link cancelled was never carried out. */
	if (result == -ECANCELED) {
		bpf_map_delete_elem(&pending_requests, &req);
		return 0;
	}
	if (result >= 0 && operation_of(p->call) == VG_OP_OPEN)
		p->file = !p->slot ? file_of_fd(task, result) : fixed_file(ring_ctx, p->slot == ~0u ? (__u32)result : p->slot - 1);
	if (p->have & VG_HAVE_FD) /* given to the request after its submission, taken from it after this */
		p->file = (__u64)FIELD(struct io_kiocb, req, file);
	finish_request(ctx, s, req, result);
	return 0;
}

struct io_uring_sqe {
	__s32 fd;
	__u64 addr;
	__u32 len;
	__u32 open_flags;
	__u64 addr2;
} __attribute__((preserve_access_index));

SEC("raw_tp/io_uring_req_failed")
int BPF_PROG(io_uring_req_failed, __u64 sqe, __u64 req, __u64 error)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 call = call_of_request(req);
	struct scratch *s = my_scratch();
	struct pending *p;

	if (!s || !call || is_self(task))
		return 0;
	p = &s->spare;
	clear_pending(p);
	p->call = call;
	p->via = VG_VIA_IO_URING;
	p->have = VG_HAVE_ARGS | VG_HAVE_DIRFD;
	p->at.dirfd = FIELD(struct io_uring_sqe, sqe, fd);
	p->at.ptr = FIELD(struct io_uring_sqe, sqe, addr);
	p->flags = FIELD(struct io_uring_sqe, sqe, open_flags);
	switch (call) {
	case VG_CALL_OPENAT:
	case VG_CALL_MKDIRAT:
		p->mode = FIELD(struct io_uring_sqe, sqe, len);
		break;
	case VG_CALL_OPENAT2:
		decode_how(p, FIELD(struct io_uring_sqe, sqe, addr2));
		break;
	case VG_CALL_RENAMEAT2:
	case VG_CALL_LINKAT:
		p->to.dirfd = FIELD(struct io_uring_sqe, sqe, len);
		p->to.ptr = FIELD(struct io_uring_sqe, sqe, addr2);
		break;
	case VG_CALL_SYMLINKAT:
		p->to.ptr = p->at.ptr;
		p->to.is_text = 1;
		p->at.ptr = FIELD(struct io_uring_sqe, sqe, addr2);
		break;
	case VG_CALL_UNLINKAT:
		break;
	default: /* what is refused here has no more to tell than that */
		p->have = 0;
		p->at.ptr = 0;
	}
	finish_request(ctx, s, 0, (__s32)error);
	return 0;
}
