/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Calls whose arguments say only on a closer look whether they are followed, and what they are done to: maps of files, chosen requests of
 * ioctl and ptrace, addresses of sockets, targets of signals.
 */
#ifndef VFSGUARD_SPECIAL_BPF_H
#define VFSGUARD_SPECIAL_BPF_H

#include "calls.bpf.h"
#include "ioctl.bpf.h"
#include "read.bpf.h"

/* Whether calls of this operation are followed at all; kprobes are attached to no others. */
static __always_inline bool follows(__u32 operation)
{
	return begin_mask & (1ull << operation);
}

/* An operation of which many calls are one session (lib/access.bpf.h). */
static __always_inline bool is_access(__u32 operation)
{
	return operation == VG_OP_READ || operation == VG_OP_WRITE;
}

/* Reads and writes are followed, so maps through a descriptor count in its session (lib/access.bpf.h). */
static __always_inline bool follows_accesses(void)
{
	if (refused_accesses)
		return false;
	return follows(VG_OP_READ) || follows(VG_OP_WRITE);
}

/* The arguments, from the registers of a system call. */
static __always_inline void read_args(struct pending *p, __u64 regs)
{
	if (p->via == VG_VIA_COMPAT32) {
		p->args[0] = (__u32)FIELD(struct pt_regs, regs, bx);
		p->args[1] = (__u32)FIELD(struct pt_regs, regs, cx);
		p->args[2] = (__u32)FIELD(struct pt_regs, regs, dx);
		p->args[3] = (__u32)FIELD(struct pt_regs, regs, si);
		p->args[4] = (__u32)FIELD(struct pt_regs, regs, di);
		p->args[5] = (__u32)FIELD(struct pt_regs, regs, bp);
	} else {
		p->args[0] = FIELD(struct pt_regs, regs, di);
		p->args[1] = FIELD(struct pt_regs, regs, si);
		p->args[2] = FIELD(struct pt_regs, regs, dx);
		p->args[3] = FIELD(struct pt_regs, regs, r10);
		p->args[4] = FIELD(struct pt_regs, regs, r8);
		p->args[5] = FIELD(struct pt_regs, regs, r9);
	}
}

/* One of the first three arguments as an int, counted from 1, from the registers; -1 where the call has none. */
static __always_inline int int_argument(__u64 regs, __u32 via, __u32 position)
{
	bool compat = via == VG_VIA_COMPAT32;

	switch (position) {
	case 1:
		return compat ? FIELD(struct pt_regs, regs, bx) : FIELD(struct pt_regs, regs, di);
	case 2:
		return compat ? FIELD(struct pt_regs, regs, cx) : FIELD(struct pt_regs, regs, si);
	case 3:
		return FIELD(struct pt_regs, regs, dx);
	}
	return -1;
}

/* The argument at `position`, counted from 1; 0 where the call has none. */
static __always_inline __u64 arg(struct pending *p, __u32 position)
{
	__u32 index = (position - 1) & (ARGS_MAX - 1);

	return position ? p->args[index] : 0;
}

/* ioctl is called so often for other things that it is looked at before anything is kept. */
static __always_inline bool may_concern(__u32 call, __u32 via, __u64 regs)
{
	if (call != VG_CALL_IOCTL)
		return true;
	return is_followed_ioctl(int_argument(regs, via, 2));
}

/* A map that lets code run or others see what is written; MAP_SHARED_VALIDATE has the bit of MAP_SHARED too. */
static __always_inline bool is_telling_map(const struct pending *p)
{
	return p->mode & PROT_EXEC || (p->flags & MAP_SHARED && p->mode & PROT_WRITE);
}

/* The inode of an open file whose reads, writes and maps are followed: neither pipe nor socket nor an anonymous one. 0: not ours. */
static __always_inline __u64 followed_inode(__u64 file)
{
	__u64 inode = file ? (__u64)FIELD(struct file, file, f_inode) : 0;
	__u32 type = inode ? FIELD(struct inode, inode, i_mode) & S_IFMT : 0;

	return !type || type == S_IFSOCK || type == S_IFIFO ? 0 : inode;
}

static __always_inline bool is_followed_map(const struct pending *p, struct task_struct *task)
{
	if (p->flags & MAP_ANONYMOUS || !(follows_accesses() || refused_accesses || is_telling_map(p)))
		return false;
	return followed_inode(file_of_fd(task, p->fd));
}

/*
 * mprotect: the first map of a file in the range that it would make writable for others to see, or executable. The search stands in the
 * pending call, not on the stack: map memory reads back as plain numbers, so that the verifier's states converge.
 */
#define UPGRADE_NEXT 6 /* of args: what a system call has no use for */
#define UPGRADE_FILE 7

struct upgrade {
	struct pending *p;
};

static long check_upgrade(struct task_struct *task, struct vm_area_struct *vma, struct upgrade *u)
{
	struct pending *p = u->p;
	__u64 flags = vma->vm_flags;

	p->args[UPGRADE_NEXT] = vma->vm_end;
	if ((p->mode & PROT_EXEC && !(flags & VM_EXEC)) || (p->mode & PROT_WRITE && flags & VM_MAYSHARE && !(flags & VM_WRITE)))
		p->args[UPGRADE_FILE] = (__u64)vma->vm_file;
	return 0;
}

#define MAPS_MAX 16 /* looked at in one call; docs/limitations.md */

static __always_inline bool is_followed_protect(struct pending *p, struct task_struct *task)
{
	struct upgrade u = {.p = p};
	int i;

	if (!(p->mode & (PROT_WRITE | PROT_EXEC)))
		return false;
	p->args[UPGRADE_NEXT] = p->args[0];
	p->args[UPGRADE_FILE] = 0;
	for (i = 0; i < MAPS_MAX; i++) {
		__u64 at = p->args[UPGRADE_NEXT];

		if (at - p->args[0] >= p->value2 || bpf_find_vma(task, at, check_upgrade, &u, 0))
			break;
		if (p->args[UPGRADE_FILE])
			break;
	}
	p->file = p->args[UPGRADE_FILE];
	if (p->file)
		map_path(p->file, &p->at.dentry, &p->at.mnt);
	return p->file;
}

/* A socket's address as the second text, as bytes; the name of a Unix socket in the file system as what the call is done to. */
static __always_inline void take_address(struct pending *p, __u64 from, __u32 len)
{
	long n;

	p->to.ptr = 1;
	p->to.is_text = 1;
	if (len > ADDRESS_MAX)
		len = ADDRESS_MAX;
	len &= VG_NAME_MAX - 1; /* for the verifier */
	barrier_var(len);
	if (len < 2 || bpf_probe_read_user(p->to.name.bytes, len, (void *)from)) {
		p->to.flags |= VG_RAW_FAULT;
		p->to.ptr = 0;
		return;
	}
	p->to.len = len;
	p->to.flags |= VG_RAW_PRESENT;
	if (*(__u16 *)p->to.name.bytes != AF_UNIX || len < 3 || !p->to.name.bytes[2])
		return;
	n = text_length(bpf_probe_read_user_str(p->at.name.bytes, (len - 1) & (VG_NAME_MAX - 1), (void *)(from + 2)));
	if (n < 0)
		return;
	p->at.len = n;
	p->at.flags |= VG_RAW_PRESENT;
}

static __always_inline void take_socket(struct pending *p, __u64 file)
{
	__u64 socket = file ? (__u64)FIELD(struct file, file, private_data) : 0;
	__u64 sk = socket ? (__u64)FIELD(struct socket, socket, sk) : 0;

	p->mode = socket ? (__u16)FIELD(struct socket, socket, type) : 0;
	p->value2 = sk ? FIELD(struct sock, sk, sk_protocol) : 0;
}

static __always_inline __u32 pid_of_pidfd(struct task_struct *task, __s64 fd)
{
	__u64 file = file_of_fd(task, fd), inode, pid;

	if (!file)
		return 0;
	pid = (__u64)FIELD(struct file, file, private_data);
	if (!pid) { /* since 6.9 (fs/pidfs.c) */
		inode = (__u64)FIELD(struct file, file, f_inode);
		pid = (__u64)FIELD(struct inode, inode, i_private);
	}
	return pid ? FIELD(struct pid, pid, numbers[0].nr) : 0;
}

/*
 * The rest of decode_args for calls of SHAPE_SPECIAL. Says whether the call is followed. A global function, so that it is verified once.
 */
__noinline int decode_special(struct pending *p)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 words[6] = {};
	__u64 value = 0, file;

	if (!p)
		return 0;
	switch (p->call) {
	case VG_CALL_OLD_MMAP: /* struct mmap_arg_struct32 in arch/x86/kernel/sys_ia32.c */
		if (bpf_probe_read_user(words, sizeof(words), (void *)p->args[0]))
			return 0;
		p->value2 = words[1];
		p->mode = words[2];
		p->flags = words[3];
		p->fd = words[4];
		p->value = words[5];
		p->have |= VG_HAVE_FD;
		return is_followed_map(p, task);
	case VG_CALL_MMAP2:
		p->value <<= 12; /* in pages */
		return is_followed_map(p, task);
	case VG_CALL_MMAP:
		return is_followed_map(p, task);
	case VG_CALL_MPROTECT:
	case VG_CALL_PKEY_MPROTECT:
		return is_followed_protect(p, task);
	case VG_CALL_IOCTL:
		p->flags = (__u32)p->flags;
		if (p->flags == FS_IOC_SETFLAGS || p->flags == FS_IOC32_SETFLAGS || p->flags == FS_IOC_FSSETXATTR) {
			bpf_probe_read_user(words, sizeof(words[0]), (void *)p->args[2]);
			p->value = words[0];
		} else if (p->flags == FICLONE || p->flags == FICLONERANGE) {
			value = p->args[2];
			if (p->flags == FICLONERANGE) /* struct file_clone_range begins with the descriptor */
				bpf_probe_read_user(&value, sizeof(value), (void *)p->args[2]);
			file = file_of_fd(task, (__s32)value);
			if (file) {
				p->to.ptr = 1;
				p->to.by_file = 1;
				p->to.dentry = file_dentry_of(file);
				p->to.mnt = file_mount_of(file);
			}
		}
		return is_followed_ioctl(p->flags);
	case VG_CALL_SOCKETCALL: /* net/socket.c */
		if (p->args[0] != SYS_BIND && p->args[0] != SYS_CONNECT)
			return 0;
		if (bpf_probe_read_user(words, 3 * sizeof(words[0]), (void *)p->args[1]))
			return 0;
		p->call = p->args[0] == SYS_BIND ? VG_CALL_BIND : VG_CALL_CONNECT;
		p->fd = words[0];
		take_socket(p, file_of_fd(task, p->fd));
		take_address(p, words[1], words[2]);
		return follows(operation_of(p->call));
	case VG_CALL_CONNECT:
	case VG_CALL_BIND:
		p->fd = p->args[0];
		take_socket(p, file_of_fd(task, p->fd));
		take_address(p, p->args[1], p->args[2]);
		return 1;
	case VG_CALL_PTRACE:
		switch (p->value) {
		case PTRACE_TRACEME:
		case PTRACE_POKETEXT:
		case PTRACE_POKEDATA:
		case PTRACE_POKEUSR:
		case PTRACE_SETREGS:
		case PTRACE_SETFPREGS:
		case PTRACE_ATTACH:
		case PTRACE_SETREGSET:
		case PTRACE_SEIZE:
			return 1;
		}
		return 0;
	case VG_CALL_BPF:
		return !((1ull << BPF_MAP_LOOKUP_ELEM | 1ull << BPF_MAP_UPDATE_ELEM | 1ull << BPF_MAP_DELETE_ELEM | 1ull << BPF_MAP_GET_NEXT_KEY |
			  1ull << BPF_OBJ_GET_INFO_BY_FD | 1ull << BPF_MAP_LOOKUP_AND_DELETE_ELEM | 1ull << BPF_MAP_LOOKUP_BATCH |
			  1ull << BPF_MAP_LOOKUP_AND_DELETE_BATCH | 1ull << BPF_MAP_UPDATE_BATCH | 1ull << BPF_MAP_DELETE_BATCH |
			  1ull << BPF_PROG_GET_NEXT_ID | 1ull << BPF_MAP_GET_NEXT_ID | 1ull << BPF_BTF_GET_NEXT_ID | 1ull << BPF_LINK_GET_NEXT_ID) >>
				 (p->value & 63) & 1);
	case VG_CALL_PIDFD_GETFD:
		p->value2 = pid_of_pidfd(task, (__s32)p->args[0]);
		return 1;
	case VG_CALL_PIDFD_SEND_SIGNAL:
		p->value2 = pid_of_pidfd(task, (__s32)p->args[0]);
		return p->value != 0;
	case VG_CALL_KILL:
	case VG_CALL_TKILL:
	case VG_CALL_TGKILL:
	case VG_CALL_RT_SIGQUEUEINFO:
	case VG_CALL_RT_TGSIGQUEUEINFO:
		return p->value != 0; /* 0 only asks whether the process is there */
	case VG_CALL_CLONE3:
		if (bpf_probe_read_user(&value, sizeof(value), (void *)p->args[0]))
			return 1;
		p->flags = value;
		return !(value & CLONE_THREAD);
	case VG_CALL_CLONE:
		return !(p->flags & CLONE_THREAD);
	}
	return 1;
}

#endif
