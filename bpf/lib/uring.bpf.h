/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Opens through io_uring: what a request asks for, and its begin and complete where io_openat2 itself can be hooked. */
#ifndef VFSGUARD_URING_BPF_H
#define VFSGUARD_URING_BPF_H

#include "operation.bpf.h"

/* What an io_uring open asks for, from the request itself. */
static __always_inline void begin_request(struct pending *p, __u64 req)
{
	__u64 open = req;
	__u64 name;
	long n;

	clear_pending(p);
	p->request = req;
	p->call = FIELD(struct io_kiocb, req, opcode) == IORING_OP_OPENAT ? VG_CALL_OPENAT : VG_CALL_OPENAT2;
	p->via = VG_VIA_IO_URING;
	p->have = VG_HAVE_ARGS | VG_HAVE_DIRFD;
	p->at.dirfd = FIELD(struct io_open, open, dfd);
	p->flags = FIELD(struct io_open, open, how.flags);
	if (p->call == VG_CALL_OPENAT)
		p->flags &= ~(__u64)O_LARGEFILE; /* added by the kernel */
	p->mode = FIELD(struct io_open, open, how.mode);
	p->value = FIELD(struct io_open, open, how.resolve);
	p->slot = FIELD(struct io_open, open, file_slot);
	name = (__u64)FIELD(struct io_open, open, filename);
	name = (__u64)FIELD(struct filename, name, name);
	n = text_length(bpf_probe_read_kernel_str(p->at.name.bytes, VG_NAME_MAX, (void *)name));
	if (n >= 0) {
		p->at.len = n;
		p->at.flags = VG_RAW_PRESENT;
		if (n == VG_NAME_MAX - 1)
			p->at.flags |= VG_RAW_TRUNCATED;
	}
}

static __always_inline bool is_open_request(__u64 req)
{
	__u8 opcode = FIELD(struct io_kiocb, req, opcode);

	return opcode == IORING_OP_OPENAT || opcode == IORING_OP_OPENAT2;
}

/* On entry of io_openat2, in the thread that carries the request out (submitter, worker, SQPOLL). */
static __always_inline void begin_uring(__u64 req)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pending *p;

	if (is_self(task) || !(begin_mask & (1ull << VG_OP_OPEN)))
		return;
	p = bpf_task_storage_get(&pending_calls, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!p) {
		count_cause(VG_CAUSE_NO_STORAGE);
		return;
	}
	begin_request(p, req);
	take_directory(&p->at, task, p->at.name.bytes[0]);
}

/*
 * On its return: whether the attempt is over, and *result. EAGAIN means that a worker will try again. The result of the request is
 * not what the function returns, which only says whether there is one.
 */
static __always_inline bool request_ended(struct pending *p, long *result)
{
	if (p->via != VG_VIA_IO_URING)
		return false;
	if ((__s32)*result == -EAGAIN) {
		p->call = 0;
		return false;
	}
	*result = FIELD(struct io_kiocb, p->request, cqe.res);
	return true;
}

#endif
