/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * All three moments from kprobes and kretprobes. The attach cookie says which call: VG_CALL_* | VG_VIA_* << 8.
 *
 *   __x64_sys_*, __ia32_*sys_*   entry: begin; return: complete. Every failure is seen, those before the path walk too
 *   vfs_open                     decide: the object, O_PATH opens included; after permission checks
 *   security_file_open           decide, for file systems that open while they look up (9p, FUSE, NFS) and never come by vfs_open
 *   io_openat2                   an io_uring open, in whichever thread carries it out
 */
#include "lib/uring.bpf.h"

SEC("kprobe")
int BPF_KPROBE(call_enter, __u64 regs)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 cookie = bpf_get_attach_cookie(ctx);

	if (!is_self(task))
		begin(cookie & 0xff, (cookie >> 8) & 0xff, regs);
	return 0;
}

static __always_inline int finish(struct task_struct *task, struct pending *p, __s64 ret)
{
	if (!p->decided && operation_of(p->call) == VG_OP_OPEN && ret >= 0 && !p->slot)
		p->file = file_of_fd(task, ret);
	complete(p, ret);
	return 0;
}

SEC("kretprobe")
int BPF_KRETPROBE(call_return, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pending *p;

	if (is_self(task))
		return 0;
	p = bpf_task_storage_get(&pending_calls, task, 0, 0);
	if (p && p->call)
		finish(task, p, ret);
	return 0;
}

SEC("kprobe")
int BPF_KPROBE(decide_vfs_open, __u64 path, __u64 file)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pending *p = bpf_task_storage_get(&pending_calls, task, 0, 0);

	if (p && p->call)
		decide_file(p, file, (__u64)FIELD(struct path, path, dentry), (__u64)FIELD(struct path, path, mnt));
	return 0;
}

SEC("kprobe")
int BPF_KPROBE(decide_file_open, __u64 file)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pending *p = bpf_task_storage_get(&pending_calls, task, 0, 0);

	if (p && p->call)
		decide_file(p, file, file_dentry_of(file), file_mount_of(file));
	return 0;
}

SEC("kprobe")
int BPF_KPROBE(request_enter, __u64 req)
{
	begin_uring(req);
	return 0;
}

SEC("kretprobe")
int BPF_KRETPROBE(request_return, int ret)
{
	complete_uring(ret);
	return 0;
}
