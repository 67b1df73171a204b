/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* io_uring: what a request asks for, and its begin and end where the functions behind the opcodes can be probed. */
#ifndef VFSGUARD_URING_BPF_H
#define VFSGUARD_URING_BPF_H

#include "operation.bpf.h"

/* Opcode -> VG_CALL_*; include/uapi/linux/io_uring.h */
static const __u8 request_calls[64] = {
	[17] = VG_CALL_FALLOCATE, [18] = VG_CALL_OPENAT,   [28] = VG_CALL_OPENAT2,   [35] = VG_CALL_RENAMEAT2, [36] = VG_CALL_UNLINKAT,
	[37] = VG_CALL_MKDIRAT,   [38] = VG_CALL_SYMLINKAT, [39] = VG_CALL_LINKAT,   [41] = VG_CALL_FSETXATTR, [42] = VG_CALL_SETXATTR,
	[55] = VG_CALL_FTRUNCATE, [16] = VG_CALL_CONNECT,
	[1] = VG_CALL_READV,      [2] = VG_CALL_WRITEV,    [4] = VG_CALL_READ,       [5] = VG_CALL_WRITE, /* READ_FIXED, WRITE_FIXED */
	[22] = VG_CALL_READ,      [23] = VG_CALL_WRITE,    [30] = VG_CALL_SPLICE,    [33] = VG_CALL_TEE,
	[60] = VG_CALL_READV,     [61] = VG_CALL_WRITEV,   [19] = VG_CALL_CLOSE,
};

/* The call that a request stands for, 0 where it is not ours. */
static __always_inline __u32 call_of_request(__u64 req)
{
	__u32 opcode = FIELD(struct io_kiocb, req, opcode), call;

	if (opcode >= sizeof(request_calls))
		return 0;
	opcode &= sizeof(request_calls) - 1;
	barrier_var(opcode);
	call = request_calls[opcode];
	return follows(operation_of(call)) ? call : 0;
}

/* A name of which the kernel has its own copy. */
static __always_inline void take_kernel_name(struct named *n, __u64 text)
{
	long len = text_length(bpf_probe_read_kernel_str(n->name.bytes, VG_NAME_MAX, (void *)text));

	if (!text || len < 0)
		return;
	n->len = len;
	n->flags = VG_RAW_PRESENT;
	if (len == VG_NAME_MAX - 1)
		n->flags |= VG_RAW_TRUNCATED;
}

static __always_inline void take_filename(struct named *n, __u64 filename)
{
	take_kernel_name(n, filename ? (__u64)FIELD(struct filename, filename, name) : 0);
}

/* A second name is there; its address in user space is not known any more. */
static __always_inline void take_second(struct named *n, bool is_text)
{
	n->ptr = 1;
	n->is_text = is_text;
}

struct io_fixed_file {
	unsigned long file_ptr;
} __attribute__((preserve_access_index));
struct io_rsrc_node {
	unsigned long file_ptr;
} __attribute__((preserve_access_index));
struct io_rsrc_data {
	struct io_rsrc_node **nodes;
} __attribute__((preserve_access_index));
struct io_file_table___files { /* until 6.12 */
	struct io_fixed_file *files;
} __attribute__((preserve_access_index));
struct io_file_table___nodes { /* since 6.13 */
	struct io_rsrc_data data;
} __attribute__((preserve_access_index));
struct io_file_table {
	unsigned int alloc_hint;
} __attribute__((preserve_access_index));
struct io_ring_ctx {
	struct io_file_table file_table;
} __attribute__((preserve_access_index));

/* The file in a slot of the ring's own table (registered files). */
static __always_inline __u64 fixed_file(__u64 ctx, __u32 slot)
{
	__u64 table = ctx + bpf_core_field_offset(struct io_ring_ctx, file_table), entry = 0, file = 0;

	if (bpf_core_field_exists(struct io_file_table___files, files)) {
		entry = (__u64)FIELD(struct io_file_table___files, table, files) + slot * bpf_core_type_size(struct io_fixed_file);
		file = FIELD(struct io_fixed_file, entry, file_ptr);
	} else {
		__u64 nodes = (__u64)FIELD(struct io_file_table___nodes, table, data.nodes);
		bpf_probe_read_kernel(&entry, sizeof(entry), (void *)(nodes + slot * sizeof(__u64)));
		file = entry ? FIELD(struct io_rsrc_node, entry, file_ptr) : 0;
	}
	return file & ~7ull; /* low bits are flags */
}

static __always_inline __u32 request_flags(__u64 req)
{
	__u32 flags = 0;

	bpf_core_read(&flags, sizeof(flags), &((struct io_kiocb *)req)->flags); /* 32 bits wide until 6.9 */
	return flags;
}

/* The file that a request is done on: its own once it runs, before that what its descriptor stands for. */
static __always_inline __u64 request_file(__u64 req, struct task_struct *task)
{
	__u64 file = (__u64)FIELD(struct io_kiocb, req, file);

	if (file)
		return file;
	if (request_flags(req) & (1u << IOSQE_FIXED_FILE_BIT))
		return fixed_file((__u64)FIELD(struct io_kiocb, req, ctx), FIELD(struct io_kiocb, req, cqe.fd));
	return file_of_fd(task, FIELD(struct io_kiocb, req, cqe.fd));
}

/* What a request asks for, from the request itself, and the directories that its names start from. */
static __always_inline void begin_request(struct pending *p, __u64 req, __u32 call, struct task_struct *task)
{
	clear_pending(p);
	p->request = req;
	p->call = call;
	p->via = VG_VIA_IO_URING;
	p->have = VG_HAVE_ARGS | VG_HAVE_DIRFD;
	p->at.dirfd = AT_FDCWD;
	p->to.dirfd = AT_FDCWD;
	switch (call) {
	case VG_CALL_OPENAT:
	case VG_CALL_OPENAT2:
		p->at.dirfd = FIELD(struct io_open, req, dfd);
		p->flags = FIELD(struct io_open, req, how.flags);
		if (call == VG_CALL_OPENAT)
			p->flags &= ~(__u64)O_LARGEFILE; /* added by the kernel */
		p->mode = FIELD(struct io_open, req, how.mode);
		p->value = FIELD(struct io_open, req, how.resolve);
		p->slot = FIELD(struct io_open, req, file_slot);
		take_filename(&p->at, (__u64)FIELD(struct io_open, req, filename));
		break;
	case VG_CALL_RENAMEAT2:
		p->at.dirfd = FIELD(struct io_rename, req, old_dfd);
		p->to.dirfd = FIELD(struct io_rename, req, new_dfd);
		p->flags = (__u32)FIELD(struct io_rename, req, flags);
		take_filename(&p->at, (__u64)FIELD(struct io_rename, req, oldpath));
		take_filename(&p->to, (__u64)FIELD(struct io_rename, req, newpath));
		take_second(&p->to, false);
		break;
	case VG_CALL_UNLINKAT:
		p->at.dirfd = FIELD(struct io_unlink, req, dfd);
		p->flags = (__u32)FIELD(struct io_unlink, req, flags);
		take_filename(&p->at, (__u64)FIELD(struct io_unlink, req, filename));
		break;
	case VG_CALL_MKDIRAT:
		p->at.dirfd = FIELD(struct io_mkdir, req, dfd);
		p->mode = FIELD(struct io_mkdir, req, mode);
		take_filename(&p->at, (__u64)FIELD(struct io_mkdir, req, filename));
		break;
	case VG_CALL_SYMLINKAT:
		p->at.dirfd = FIELD(struct io_link, req, new_dfd);
		take_filename(&p->at, (__u64)FIELD(struct io_link, req, newpath));
		take_filename(&p->to, (__u64)FIELD(struct io_link, req, oldpath));
		take_second(&p->to, true);
		break;
	case VG_CALL_LINKAT:
		p->at.dirfd = FIELD(struct io_link, req, old_dfd);
		p->to.dirfd = FIELD(struct io_link, req, new_dfd);
		p->flags = (__u32)FIELD(struct io_link, req, flags);
		take_filename(&p->at, (__u64)FIELD(struct io_link, req, oldpath));
		take_filename(&p->to, (__u64)FIELD(struct io_link, req, newpath));
		take_second(&p->to, false);
		break;
	case VG_CALL_CONNECT:
		p->have = VG_HAVE_ARGS;
		p->fd = FIELD(struct io_kiocb, req, cqe.fd);
		take_socket(p, request_file(req, task));
		take_address(p, (__u64)FIELD(struct io_connect, req, addr), FIELD(struct io_connect, req, addr_len));
		break;
	case VG_CALL_SETXATTR:
		p->have = VG_HAVE_ARGS;
		take_filename(&p->at, (__u64)FIELD(struct io_xattr, req, filename));
		break;
	default: /* on an open file */
		p->have = VG_HAVE_ARGS | VG_HAVE_FD;
		p->file = (__u64)FIELD(struct io_kiocb, req, file);
		p->fd = FIELD(struct io_kiocb, req, cqe.fd);
	}
	if (call == VG_CALL_FTRUNCATE && bpf_core_type_exists(struct io_ftrunc)) {
		p->value = FIELD(struct io_ftrunc, req, len);
	} else if (call == VG_CALL_FALLOCATE) {
		p->flags = (__u32)FIELD(struct io_sync, req, mode);
		p->value = FIELD(struct io_sync, req, off);
		p->value2 = FIELD(struct io_sync, req, len);
	} else if (call == VG_CALL_SETXATTR || call == VG_CALL_FSETXATTR) {
		p->flags = FIELD(struct io_xattr, req, ctx.flags);
		take_kernel_name(&p->to, (__u64)FIELD(struct io_xattr, req, ctx.kname));
		take_second(&p->to, true);
	}
	if (!p->file)
		take_directory(&p->at, task, p->at.name.bytes[0]);
	if (p->to.ptr && !p->to.is_text)
		take_directory(&p->to, task, p->to.name.bytes[0]);
}

/* On entry of an opcode's function, in the thread that carries the request out (submitter, worker, SQPOLL). */
static __always_inline void begin_uring(__u64 req)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 call = call_of_request(req);
	struct pending *p;

	if (!call || is_self(task))
		return;
	p = bpf_task_storage_get(&pending_calls, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!p) {
		count_cause(VG_CAUSE_NO_STORAGE);
		return;
	}
	begin_request(p, req, call, task);
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
