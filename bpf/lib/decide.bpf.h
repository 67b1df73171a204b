/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The moment at the object, from the functions that the kernel calls just before it acts: security_* for kprobes, the LSM hooks behind
 * them for LSM programs. Both have the same arguments, so one function takes them all; `where` (VG_AT_*) says which it is.
 */
#ifndef VFSGUARD_DECIDE_BPF_H
#define VFSGUARD_DECIDE_BPF_H

#include "mounts.bpf.h"
#include "operation.bpf.h"

#define IS(operation) (1ull << VG_OP_##operation)

/*
 * Some hooks are given an inode without the mount that it was reached by. It is that of the directory or descriptor which the call
 * named when both lie on one file system, else the first mount of that file system in the caller's namespace.
 */
static __always_inline __u64 mount_for(struct pending *p, struct task_struct *task, __u64 dentry)
{
	__u64 sb = (__u64)FIELD(struct dentry, dentry, d_sb), mnt;

	if (p->file)
		mnt = file_mount_of(p->file);
	else if (p->at.dirs_known)
		mnt = p->at.dir_mnt;
	else if (p->at.name.bytes[0] == '/')
		mnt = (__u64)TASK(task, fs->root.mnt);
	else
		mnt = (__u64)TASK(task, fs->pwd.mnt);
	if (mnt && (__u64)FIELD(struct vfsmount, mnt, mnt_sb) == sb)
		return mnt;
	return some_mount(task, sb);
}

static __always_inline bool is_one_of(const struct pending *p, __u64 operations)
{
	return operations & (1ull << operation_of(p->call));
}

static __always_inline void decide_at(struct pending *p, __u64 operations, __u64 dentry, __u64 mnt)
{
	if (!is_one_of(p, operations))
		return;
	p->at.dentry = dentry;
	p->at.mnt = mnt;
	p->at.parent = (__u64)FIELD(struct dentry, dentry, d_parent);
	decide(p);
}

static __always_inline void decide_path(struct pending *p, __u64 operations, __u64 path)
{
	decide_at(p, operations, (__u64)FIELD(struct path, path, dentry), (__u64)FIELD(struct path, path, mnt));
}

static __always_inline void decide_child(struct pending *p, __u64 operations, __u64 dir, __u64 dentry)
{
	decide_at(p, operations, dentry, (__u64)FIELD(struct path, dir, mnt));
}

static __always_inline void decide_two(struct pending *p, __u64 operations, __u64 dentry, __u64 mnt, __u64 dentry2, __u64 mnt2)
{
	if (!is_one_of(p, operations))
		return;
	p->to.dentry = dentry2;
	p->to.mnt = mnt2;
	decide_at(p, operations, dentry, mnt);
}

static __always_inline void decide_open(struct pending *p, __u64 file, __u64 dentry, __u64 mnt)
{
	if (!is_one_of(p, IS(OPEN) | IS(EXEC)) || is_beneath(dentry, mnt))
		return;
	p->file = file;
	decide_at(p, IS(OPEN) | IS(EXEC), dentry, mnt);
}

static __always_inline void decide_where(__u32 where, __u64 a, __u64 b, __u64 c, __u64 d)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pending *p = bpf_task_storage_get(&pending_calls, task, 0, 0);

	if (!p || !p->call || p->decided)
		return;
	switch (where) {
	case VG_AT_VFS_OPEN: /* path, file */
		decide_open(p, b, (__u64)FIELD(struct path, a, dentry), (__u64)FIELD(struct path, a, mnt));
		break;
	case VG_AT_FILE_OPEN: /* file */
		decide_open(p, a, file_dentry_of(a), file_mount_of(a));
		break;
	case VG_AT_PATH_UNLINK: /* dir, dentry */
		decide_child(p, IS(UNLINK), a, b);
		break;
	case VG_AT_PATH_RMDIR: /* dir, dentry */
		decide_child(p, IS(UNLINK) | IS(RMDIR), a, b);
		break;
	case VG_AT_PATH_MKDIR: /* dir, dentry, mode */
		decide_child(p, IS(MKDIR), a, b);
		break;
	case VG_AT_PATH_MKNOD: /* dir, dentry, mode, dev */
		decide_child(p, IS(MKNOD) | IS(BIND), a, b);
		break;
	case VG_AT_PATH_SYMLINK: /* dir, dentry, target */
		decide_child(p, IS(SYMLINK), a, b);
		break;
	case VG_AT_PATH_LINK: /* old dentry, new dir, new dentry */
		decide_two(p, IS(LINK), a, (__u64)FIELD(struct path, b, mnt), c, (__u64)FIELD(struct path, b, mnt));
		break;
	case VG_AT_PATH_RENAME: /* old dir, old dentry, new dir, new dentry */
		decide_two(p, IS(RENAME), b, (__u64)FIELD(struct path, a, mnt), d, (__u64)FIELD(struct path, c, mnt));
		break;
	case VG_AT_PATH_TRUNCATE: /* path */
		decide_path(p, IS(TRUNCATE), a);
		break;
	case VG_AT_FILE_TRUNCATE: /* file */
		decide_at(p, IS(TRUNCATE), file_dentry_of(a), file_mount_of(a));
		break;
	case VG_AT_PATH_CHMOD: /* path, mode */
		decide_path(p, IS(CHMOD), a);
		break;
	case VG_AT_PATH_CHOWN: /* path, uid, gid */
		decide_path(p, IS(CHOWN), a);
		break;
	case VG_AT_INODE_SETATTR: /* idmap, dentry, attributes */
		decide_at(p, IS(UTIMES), b, mount_for(p, task, b));
		break;
	case VG_AT_INODE_SETXATTR: /* idmap, dentry, name, ... */
		decide_at(p, IS(SETXATTR), b, mount_for(p, task, b));
		break;
	case VG_AT_INODE_REMOVEXATTR: /* idmap, dentry, name */
		decide_at(p, IS(REMOVEXATTR), b, mount_for(p, task, b));
		break;
	case VG_AT_SB_MOUNT: /* source, path, type, flags, data */
		decide_path(p, IS(MOUNT), b);
		break;
	case VG_AT_SB_UMOUNT: /* vfsmount, flags */
		decide_at(p, IS(UMOUNT), (__u64)FIELD(struct vfsmount, a, mnt_root), a);
		break;
	case VG_AT_SB_PIVOTROOT: /* where the old root goes, new root */
		decide_two(p, IS(PIVOT_ROOT), (__u64)FIELD(struct path, b, dentry), (__u64)FIELD(struct path, b, mnt),
			   (__u64)FIELD(struct path, a, dentry), (__u64)FIELD(struct path, a, mnt));
		break;
	case VG_AT_MOVE_MOUNT: /* from, to */
		decide_two(p, IS(MOUNT), (__u64)FIELD(struct path, a, dentry), (__u64)FIELD(struct path, a, mnt),
			   (__u64)FIELD(struct path, b, dentry), (__u64)FIELD(struct path, b, mnt));
		break;
	case VG_AT_MMAP_FILE: /* file, ... */
		if (a) /* else it is no map of a file */
			decide_at(p, IS(MMAP), file_dentry_of(a), file_mount_of(a));
		break;
	case VG_AT_FILE_MPROTECT: /* map, ... */
		a = (__u64)FIELD(struct vm_area_struct, a, vm_file);
		if (a && a == p->file)
			decide_at(p, IS(MMAP), p->at.dentry, p->at.mnt); /* since begin */
		break;
	case VG_AT_FILE_IOCTL: /* file, request, argument */
		decide_at(p, IS(IOCTL), file_dentry_of(a), file_mount_of(a));
		break;
	case VG_AT_PATH_CHROOT: /* path */
		decide_path(p, IS(CHROOT), a);
		break;
	}
}

#endif
