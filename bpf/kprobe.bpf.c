/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * All three moments from kprobes and kretprobes. The attach cookie (bpf/abi/control.h) says where.
 *
 *   __x64_sys_*, __ia32_*sys_*   entry: begin; return: complete. Every failure is seen, those before the path walk too
 *   vfs_open                     decide: the object of an open, O_PATH included; after permission checks
 *   security_*                   decide: the object of everything else, and of opens on file systems that open while they look up (9p,
 *                                FUSE, NFS) and never come by vfs_open
 *   io_openat2, io_renameat, ... an io_uring request, in whichever thread carries it out
 */
#include "lib/decide.bpf.h"
#include "lib/uring.bpf.h"

SEC("kprobe.multi")
int BPF_KPROBE(call_enter, __u64 regs)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 cookie = bpf_get_attach_cookie(ctx);

	if (!is_self(task))
		begin(VG_COOKIE_CALL_OF(cookie), VG_COOKIE_VIA_OF(cookie), regs);
	return 0;
}

/* Returns of system calls and, by cookie, of io_openat2: one program, so that the verifier looks at `complete` once. */
SEC("kretprobe.multi")
int BPF_KRETPROBE(call_return, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pending *p = bpf_task_storage_get(&pending_calls, task, 0, 0);

	if (!p || !p->call || is_self(task))
		return 0;
	if (bpf_get_attach_cookie(ctx) == VG_COOKIE_REQUEST && !request_ended(p, &ret))
		return 0;
	if (!p->decided && operation_of(p->call) == VG_OP_OPEN && ret >= 0 && !p->slot)
		p->file = file_of_fd(task, ret);
	complete(p, ret);
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

