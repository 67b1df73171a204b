/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * All three moments from kprobes and kretprobes. The attach cookie (bpf/abi/control.h) says where.
 *
 *   __x64_sys_*, __ia32_*sys_*   entry: begin; return: complete. Every failure is seen, those before the path walk too
 *   vfs_open                     decide: the object of an open, O_PATH included; after permission checks
 *   security_*                   decide: the object of everything else, and of opens on file systems that open while they look up (9p,
 *                                FUSE, NFS) and never come by vfs_open
 *   io_openat2, io_renameat, ... an io_uring request, in whichever thread carries it out
 *
 * Of reads and writes the return is enough, of closes the entry; those by io_uring come from its tracepoints (bpf/tracepoint.bpf.c).
 */
#include "lib/access.bpf.h"
#include "lib/decide.bpf.h"
#include "lib/uring.bpf.h"

/* A frame of its own: the stacks of a chain of calls add up. */
static __noinline int begin_call(__u32 call, __u32 via, __u64 regs)
{
	return begin(call, via, regs);
}

SEC("kprobe.multi")
int BPF_KPROBE(call_enter, __u64 regs)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 cookie = bpf_get_attach_cookie(ctx);
	__u32 call = VG_COOKIE_CALL_OF(cookie), via = VG_COOKIE_VIA_OF(cookie), operation = operation_of(call);
	struct scratch *s;

	if (is_self(task))
		return 0;
	if (operation == VG_OP_FORK && TASK(task, thread_info.status) & TS_COMPAT)
		via = VG_VIA_COMPAT32; /* fork and vfork are one function for both */
	if (operation == VG_OP_CLOSE) {
		s = my_scratch();
		if (s && closes(task, s, call, regs, via))
			end_work(s);
		return 0;
	}
	begin_call(call, via, regs);
	if (operation == VG_OP_EXEC && follows(VG_OP_CLOSE)) {
		s = my_scratch();
		if (s && leaves(task, s))
			end_work(s);
	}
	return 0;
}

/* Returns of system calls and, by cookie, of io_openat2: one program, so that the verifier looks at `complete` once. */
SEC("kretprobe.multi")
int BPF_KRETPROBE(call_return, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 cookie = bpf_get_attach_cookie(ctx);
	__u32 call = VG_COOKIE_CALL_OF(cookie), operation = operation_of(call);
	struct scratch *s = my_scratch();
	struct pending *p;

	if (is_self(task) || !s)
		return 0;
	if (cookie != VG_COOKIE_REQUEST && is_access(operation)) {
		/* Nothing was kept at entry: the caller's registers still hold the arguments. */
		if (access_completed(task, s, call, VG_COOKIE_VIA_OF(cookie), (__u64)bpf_task_pt_regs(task), ret))
			tell_access(s);
		return 0;
	}
	p = bpf_task_storage_get(&pending_calls, task, 0, 0);
	if (!p || !p->call)
		return 0;
	if (cookie == VG_COOKIE_REQUEST && !request_ended(p, &ret))
		return 0;
	if (!p->decided && operation_of(p->call) == VG_OP_OPEN && ret >= 0 && !p->slot)
		p->file = file_of_fd(task, ret);
	complete_call(s, p, ret);
	return 0;
}

SEC("kprobe.multi")
int BPF_KPROBE(decide_kprobe, __u64 a, __u64 b, __u64 c, __u64 d)
{
	decide_where(bpf_get_attach_cookie(ctx), a, b, c, d);
	return 0;
}

SEC("kprobe.multi")
int BPF_KPROBE(request_enter, __u64 req)
{
	begin_uring(req);
	return 0;
}

