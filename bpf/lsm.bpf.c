/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * decide from BPF LSM; begin and complete come from bpf/tracepoint.bpf.c, those of io_uring from fentry and fexit here.
 *
 *   lsm/file_open   every open that reaches an object with read or write access, exec's included; after the kernel's own permission
 *                   checks and the modules before us in lsm=. O_PATH opens never come here: their object is found at complete
 *   io_openat2      fentry/fexit: the request, in whichever thread carries it out
 */
#include "lib/uring.bpf.h"

SEC("lsm/file_open")
int BPF_PROG(decide_lsm, struct file *file)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pending *p;

	if (is_self(task)) {
		lsm_canary++;
		return 0;
	}
	p = bpf_task_storage_get(&pending_calls, task, 0, 0);
	if (p && p->call)
		decide_file(p, (__u64)file, (__u64)file->f_path.dentry, (__u64)file->f_path.mnt);
	return 0;
}

SEC("fentry/io_openat2")
int BPF_PROG(request_fentry, struct io_kiocb *req)
{
	begin_uring((__u64)req);
	return 0;
}

SEC("fexit/io_openat2")
int BPF_PROG(request_fexit, struct io_kiocb *req, unsigned int issue_flags, int ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pending *p = bpf_task_storage_get(&pending_calls, task, 0, 0);
	long result = ret;

	if (!p || !p->call || !request_ended(p, &result))
		return 0;
	if (!p->decided && result >= 0 && !p->slot)
		p->file = file_of_fd(task, result); /* O_PATH */
	complete(p, result);
	return 0;
}
