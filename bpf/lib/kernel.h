/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kernel structures that vfsguard touches, with only the fields that it reads. CO-RE moves every access to where the running
 * kernel keeps the field, so this page is the whole of what we depend on. A field with several spellings over the kernels
 * (6.1 to 6.18) stands in a ___suffix variant beside it.
 */
#ifndef VFSGUARD_KERNEL_H
#define VFSGUARD_KERNEL_H

#define __VMLINUX_H__ /* for bpf_tracing.h: pt_regs has the kernel's own field names */

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct { __u32 val; } kuid_t;
typedef struct { __u32 val; } kgid_t;

struct qstr {
	__u32 hash;
	__u32 len;
	const unsigned char *name;
};

struct bpf_iter__task {
	struct task_struct *task;
};

struct bpf_map {
	__u32 id;
};

struct bpf_prog_aux {
	__u32 id;
};

struct bpf_prog {
	struct bpf_prog_aux *aux;
};

struct seqcount {
	unsigned int sequence;
};

struct hlist_bl_node {
	struct hlist_bl_node **pprev;
};

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct file_system_type {
	const char *name;
};

struct list_head {
	struct list_head *next;
};

struct vm_area_struct {
	unsigned long vm_end;
	unsigned long vm_flags;
	struct file *vm_file;
};

struct sock {
	__u16 sk_protocol;
};

struct socket {
	__s16 type;
	struct sock *sk;
};

struct super_block {
	__u32 s_dev;
	struct file_system_type *s_type;
	unsigned long s_magic;
	struct dentry *s_root;
};
struct super_block___list { /* until 6.16 */
	struct list_head s_mounts;
};
struct super_block___chain { /* since 6.17 */
	struct mount *s_mounts;
};

struct inode {
	__u16 i_mode;
	unsigned long i_ino;
	unsigned int i_nlink;
	__u32 i_generation;
	unsigned int i_flags;
	struct super_block *i_sb;
	struct hlist_head i_dentry;
	void *i_private;
};

struct dentry {
	unsigned int d_flags;
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
	union {
		struct hlist_node d_alias;
	} d_u;
};

struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
};

struct mnt_namespace;

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct mnt_namespace *mnt_ns;
	int mnt_id;
};
struct mount___list { /* until 6.16 */
	struct list_head mnt_instance;
};
struct mount___chain { /* since 6.17 */
	struct mount *mnt_next_for_sb;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct path f_path;
	struct inode *f_inode;
	unsigned int f_mode;
	unsigned int f_flags;
	struct cred *f_cred;
	void *private_data;
};

struct backing_file { /* since 6.5: what a file of an overlay is opened on */
	struct file file;
	struct path user_path;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct fs_struct {
	struct path root;
	struct path pwd;
};

struct cred {
	kuid_t uid;
	kgid_t gid;
	kuid_t euid;
	kgid_t egid;
};

struct ns_common {
	unsigned int inum;
};

struct mnt_namespace {
	struct ns_common ns;
};

struct pid_namespace {
	struct ns_common ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
};

struct mm_struct {
	struct file *exe_file;
	unsigned long arg_start;
	unsigned long arg_end;
};

struct thread_info {
	__u32 status;
};

struct signal_struct {
	struct { int counter; } live;
	int group_exit_code;
};

struct iattr {
	unsigned int ia_valid;
	kuid_t ia_uid;
};

struct kernfs_iattrs {
	kuid_t ia_uid;
};

struct kernfs_node {
	const char *name;
	struct kernfs_iattrs *iattr;
	__u64 id;
};
struct kernfs_node___parent { /* until 6.14 */
	struct kernfs_node *parent;
};
struct kernfs_node___rcu_parent { /* since 6.15 */
	struct kernfs_node *__parent;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct cred *cred;
	struct cred *real_cred;
	char comm[16];
	struct fs_struct *fs;
	struct files_struct *files;
	struct mm_struct *mm;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	struct css_set *cgroups;
	__u64 start_boottime;
	__u64 self_exec_id;
	kuid_t loginuid;
	unsigned int sessionid;
};

struct linux_binprm {
	struct file *file;
	const char *filename;
	const char *interp;
};

struct pt_regs {
	unsigned long bp;
	unsigned long bx;
	unsigned long r10;
	unsigned long r9;
	unsigned long r8;
	unsigned long ax;
	unsigned long cx;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long orig_ax;
	unsigned long ip;
	unsigned long sp;
};

struct filename {
	const char *name;
};

struct open_how {
	__u64 flags;
	__u64 mode;
	__u64 resolve;
};

struct io_open {
	struct file *file;
	int dfd;
	__u32 file_slot;
	struct filename *filename;
	struct open_how how;
};

struct io_rename {
	int old_dfd;
	int new_dfd;
	struct filename *oldpath;
	struct filename *newpath;
	int flags;
};

struct io_unlink {
	int dfd;
	int flags;
	struct filename *filename;
};

struct io_mkdir {
	int dfd;
	__u16 mode;
	struct filename *filename;
};

struct io_link { /* of symlinkat too: new_dfd, newpath, and the target in oldpath */
	int old_dfd;
	int new_dfd;
	struct filename *oldpath;
	struct filename *newpath;
	int flags;
};

struct io_connect {
	void *addr;
	int addr_len;
};

struct io_close {
	int fd;
	__u32 file_slot;
};

struct io_splice {
	struct file *file_out;
	int splice_fd_in;
	unsigned int flags;
};

struct io_ftrunc {
	__s64 len;
};

struct io_sync {
	__s64 len;
	__s64 off;
	int mode;
};

struct xattr_name {
	char name[1];
};
struct xattr_ctx {
	struct xattr_name *kname;
	unsigned int flags;
};
struct io_xattr {
	struct xattr_ctx ctx;
	struct filename *filename;
};

struct io_cqe {
	__s32 res;
	__s32 fd; /* until the result is there */
};

struct io_kiocb {
	struct io_ring_ctx *ctx;
	struct file *file;
	__u8 opcode;
	__u64 flags;
	struct io_cqe cqe;
};

struct io_uring_cqe {
	__s32 res;
};

#pragma clang attribute pop

/* Values that are not in BTF, with where the kernel's source has them. */
#define PF_IO_WORKER 0x10           /* include/linux/sched.h */
#define TS_COMPAT 0x0002            /* arch/x86/include/asm/thread_info.h */
#define NR_MOUNT 165                /* arch/x86/entry/syscalls/syscall_{64,32}.tbl */
#define NR_MOUNT_COMPAT 21
#define NR_FSCONFIG 431
#define X32_SYSCALL_BIT 0x40000000  /* arch/x86/include/uapi/asm/unistd.h */
#define AT_FDCWD -100
#define O_ACCMODE 00000003
#define O_WRONLY 00000001
#define O_CREAT 00000100
#define O_EXCL 00000200
#define O_TRUNC 00001000
#define O_LARGEFILE 00100000
#define AT_EMPTY_PATH 0x1000
#define AT_REMOVEDIR 0x200
#define SIGKILL 9
#define FMODE_CREATED (1u << 20)    /* include/linux/fs.h */
#define IOSQE_FIXED_FILE_BIT 0
#define IOSQE_CQE_SKIP_SUCCESS_BIT 6 /* io_uring/io_uring.h: request flags start with the sqe's */
#define CLOSE_RANGE_CLOEXEC 4
#define OVERLAYFS_SUPER_MAGIC 0x794c7630 /* include/uapi/linux/magic.h */
#define MSDOS_SUPER_MAGIC 0x4d44
#define EXFAT_SUPER_MAGIC 0x2011bab0
#define DCACHE_OP_COMPARE 0x2       /* include/linux/dcache.h, in d_flags */
#define S_CASEFOLD (1 << 15)        /* include/linux/fs.h, in i_flags */
#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFDIR 0040000
#define S_IFSOCK 0140000
#define MAY_WRITE 2                 /* include/linux/fs.h */
#define MAY_READ 4
#define MAY_APPEND 8
#define FMODE_EXEC 0x20             /* in f_flags: opened to be executed */
#define ATTR_MODE (1 << 0)
#define ATTR_UID (1 << 1)
#define ATTR_GID (1 << 2)
#define ATTR_SIZE (1 << 3)
#define ATTR_ATIME (1 << 4)
#define ATTR_MTIME (1 << 5)
#define ATTR_ATIME_SET (1 << 7)
#define ATTR_MTIME_SET (1 << 8)
#define MAP_SHARED 1
#define RENAME_EXCHANGE 2
#define S_IFIFO 0010000
#define PROT_READ 1
#define PROT_WRITE 2                /* include/uapi/asm-generic/mman-common.h */
#define PROT_EXEC 4
#define MAP_ANONYMOUS 0x20
#define VM_WRITE 0x2                /* include/linux/mm.h */
#define VM_EXEC 0x4
#define VM_MAYSHARE 0x80             /* stays where a descriptor that cannot write takes VM_SHARED away */
#define CLONE_THREAD 0x10000
#define AF_UNIX 1
#define ADDRESS_MAX 128             /* struct __kernel_sockaddr_storage */
#define SYS_BIND 2                  /* include/uapi/linux/net.h */
#define SYS_CONNECT 3
#define FS_IOC_SETFLAGS 0x40086602  /* include/uapi/linux/fs.h */
#define FS_IOC32_SETFLAGS 0x40046602
#define FS_IOC_FSSETXATTR 0x401c5820
#define FS_IOC_SETVERSION 0x40087602
#define FS_IOC_SETFSLABEL 0x41009432
#define FICLONE 0x40049409
#define FICLONERANGE 0x4020940d
#define FIDEDUPERANGE 0xc0189436
#define FIFREEZE 0xc0045877
#define FITHAW 0xc0045878
#define FITRIM 0xc0185879
#define FS_IOC_ENABLE_VERITY 0x40806685         /* include/uapi/linux/fsverity.h */
#define FS_IOC_SET_ENCRYPTION_POLICY 0x800c6613 /* include/uapi/linux/fscrypt.h */
#define TIOCSTI 0x5412                          /* include/uapi/asm-generic/ioctls.h */
#define PTRACE_TRACEME 0                        /* include/uapi/linux/ptrace.h */
#define PTRACE_POKETEXT 4
#define PTRACE_POKEDATA 5
#define PTRACE_POKEUSR 6
#define PTRACE_SETREGS 13
#define PTRACE_SETFPREGS 15
#define PTRACE_ATTACH 16
#define PTRACE_SETREGSET 0x4205
#define PTRACE_SEIZE 0x4206
#define SPLICE_F_FD_IN_FIXED (1u << 31)         /* include/uapi/linux/io_uring.h */
#define E2BIG 7
#define EPERM 1
#define EEXIST 17
#define EACCES 13
#define EAGAIN 11
#define ECANCELED 125

#endif
