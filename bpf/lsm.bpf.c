/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * decide from BPF LSM; begin and complete come from bpf/tracepoint.bpf.c, those of io_uring requests from the probes of bpf/kprobe.bpf.c on the
 * functions behind the opcodes (the thread that carries a request out is the one that the hooks see).
 *
 *   lsm/file_open   every open that reaches an object with read or write access, exec's included; after the kernel's own permission
 *                   checks and the modules before us in lsm=. O_PATH opens never come here: their object is found at complete
 *   lsm/path_*, ... the other operations; loaded only where they are asked for
 */
#include "lib/decide.bpf.h"

SEC("lsm/file_open")
int BPF_PROG(decide_file_open, __u64 file)
{
	if (is_self(bpf_get_current_task_btf())) {
		lsm_canary++;
		return 0;
	}
	decide_where(VG_AT_FILE_OPEN, file, 0, 0, 0);
	return 0;
}

SEC("lsm/mmap_file")
int BPF_PROG(decide_mmap_file, __u64 file)
{
	decide_where(VG_AT_MMAP_FILE, file, 0, 0, 0);
	return 0;
}

SEC("lsm/file_mprotect")
int BPF_PROG(decide_file_mprotect, __u64 map)
{
	decide_where(VG_AT_FILE_MPROTECT, map, 0, 0, 0);
	return 0;
}

SEC("lsm/file_ioctl")
int BPF_PROG(decide_file_ioctl, __u64 file)
{
	decide_where(VG_AT_FILE_IOCTL, file, 0, 0, 0);
	return 0;
}

SEC("lsm/file_ioctl_compat")
int BPF_PROG(decide_file_ioctl_compat, __u64 file)
{
	decide_where(VG_AT_FILE_IOCTL, file, 0, 0, 0);
	return 0;
}

SEC("lsm/path_unlink")
int BPF_PROG(decide_path_unlink, __u64 dir, __u64 dentry)
{
	decide_where(VG_AT_PATH_UNLINK, dir, dentry, 0, 0);
	return 0;
}

SEC("lsm/path_rmdir")
int BPF_PROG(decide_path_rmdir, __u64 dir, __u64 dentry)
{
	decide_where(VG_AT_PATH_RMDIR, dir, dentry, 0, 0);
	return 0;
}

SEC("lsm/path_mkdir")
int BPF_PROG(decide_path_mkdir, __u64 dir, __u64 dentry)
{
	decide_where(VG_AT_PATH_MKDIR, dir, dentry, 0, 0);
	return 0;
}

SEC("lsm/path_mknod")
int BPF_PROG(decide_path_mknod, __u64 dir, __u64 dentry)
{
	decide_where(VG_AT_PATH_MKNOD, dir, dentry, 0, 0);
	return 0;
}

SEC("lsm/path_symlink")
int BPF_PROG(decide_path_symlink, __u64 dir, __u64 dentry)
{
	decide_where(VG_AT_PATH_SYMLINK, dir, dentry, 0, 0);
	return 0;
}

SEC("lsm/path_link")
int BPF_PROG(decide_path_link, __u64 old, __u64 dir, __u64 dentry)
{
	decide_where(VG_AT_PATH_LINK, old, dir, dentry, 0);
	return 0;
}

SEC("lsm/path_rename")
int BPF_PROG(decide_path_rename, __u64 old_dir, __u64 old, __u64 dir, __u64 dentry)
{
	decide_where(VG_AT_PATH_RENAME, old_dir, old, dir, dentry);
	return 0;
}

SEC("lsm/path_truncate")
int BPF_PROG(decide_path_truncate, __u64 path)
{
	decide_where(VG_AT_PATH_TRUNCATE, path, 0, 0, 0);
	return 0;
}

SEC("lsm/file_truncate")
int BPF_PROG(decide_file_truncate, __u64 file)
{
	decide_where(VG_AT_FILE_TRUNCATE, file, 0, 0, 0);
	return 0;
}

SEC("lsm/path_chmod")
int BPF_PROG(decide_path_chmod, __u64 path)
{
	decide_where(VG_AT_PATH_CHMOD, path, 0, 0, 0);
	return 0;
}

SEC("lsm/path_chown")
int BPF_PROG(decide_path_chown, __u64 path)
{
	decide_where(VG_AT_PATH_CHOWN, path, 0, 0, 0);
	return 0;
}

SEC("lsm/inode_setxattr")
int BPF_PROG(decide_inode_setxattr, __u64 idmap, __u64 dentry)
{
	decide_where(VG_AT_INODE_SETXATTR, idmap, dentry, 0, 0);
	return 0;
}

SEC("lsm/inode_removexattr")
int BPF_PROG(decide_inode_removexattr, __u64 idmap, __u64 dentry)
{
	decide_where(VG_AT_INODE_REMOVEXATTR, idmap, dentry, 0, 0);
	return 0;
}

SEC("lsm/inode_set_acl")
int BPF_PROG(decide_inode_set_acl, __u64 idmap, __u64 dentry)
{
	decide_where(VG_AT_INODE_SETXATTR, idmap, dentry, 0, 0);
	return 0;
}

SEC("lsm/inode_remove_acl")
int BPF_PROG(decide_inode_remove_acl, __u64 idmap, __u64 dentry)
{
	decide_where(VG_AT_INODE_REMOVEXATTR, idmap, dentry, 0, 0);
	return 0;
}

SEC("lsm/sb_mount")
int BPF_PROG(decide_sb_mount, __u64 source, __u64 path)
{
	decide_where(VG_AT_SB_MOUNT, source, path, 0, 0);
	return 0;
}

SEC("lsm/sb_umount")
int BPF_PROG(decide_sb_umount, __u64 mnt)
{
	decide_where(VG_AT_SB_UMOUNT, mnt, 0, 0, 0);
	return 0;
}

SEC("lsm/sb_pivotroot")
int BPF_PROG(decide_sb_pivotroot, __u64 old, __u64 new)
{
	decide_where(VG_AT_SB_PIVOTROOT, old, new, 0, 0);
	return 0;
}

SEC("lsm/move_mount")
int BPF_PROG(decide_move_mount, __u64 from, __u64 to)
{
	decide_where(VG_AT_MOVE_MOUNT, from, to, 0, 0);
	return 0;
}

SEC("lsm/path_chroot")
int BPF_PROG(decide_path_chroot, __u64 path)
{
	decide_where(VG_AT_PATH_CHROOT, path, 0, 0, 0);
	return 0;
}

SEC("lsm/inode_setattr")
int BPF_PROG(decide_inode_setattr, __u64 first, __u64 second)
{
	barrier_var(first); /* both loaded: a chosen offset into ctx is not allowed */
	barrier_var(second);
	decide_where(VG_AT_INODE_SETATTR, 0, setattr_takes_idmap ? second : first, 0, 0);
	return 0;
}
