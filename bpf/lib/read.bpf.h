/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading kernel memory. FIELD(type, address, member) is a plain load where the kernel lets an
 * address be cast to a type (bpf_rdonly_cast, 6.2), else a probe read; a bad address reads as zero in
 * both. Each object is compiled for one and for the other (VG_DIRECT_LOADS): programs that hold both
 * take most of their load time for the removal of what is dead in them.
 */
#ifndef VFSGUARD_READ_BPF_H
#define VFSGUARD_READ_BPF_H

#include "tables.bpf.h"

extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak;

#ifndef VG_DIRECT_LOADS
#define VG_DIRECT_LOADS 0
#endif

/*
 * TASK: a field of the current task (a typed pointer). Where casts exist it goes through one: the
 * verifier (since 6.2) looks up, for every load from a *trusted* pointer, whether the field is
 * trusted too, by a linear search of the kernel's type names, and a program with a hundred such
 * loads takes a tenth of a second to load.
 */
#if VG_DIRECT_LOADS
#define FIELD(type, address, member)                                                             \
	(((type *)bpf_rdonly_cast((void *)(address), bpf_core_type_id_kernel(type)))->member)
#define TASK(task, member) FIELD(struct task_struct, task, member)
#else
#define FIELD(type, address, member)                                                             \
	({                                                                                       \
		void *from_ = (void *)(address);                                                 \
		typeof(((type *)0)->member) value_ = 0;                                          \
		bpf_core_read(&value_, sizeof(value_), &((type *)from_)->member);                \
		value_;                                                                          \
	})
#define TASK(task, member) ((task)->member)
#endif

/*
 * Length without NUL from what the *_read_*_str helpers return, negative on a fault. An empty string counts its NUL in newer kernels
 * only (mm/maccess.c, strncpy_from_user_nofault); before, it returns 0.
 */
static __always_inline long text_length(long returned)
{
	return returned > 0 ? returned - 1 : returned;
}

static __always_inline __u64 mount_of(__u64 vfsmount)
{
	return vfsmount - bpf_core_field_offset(struct mount, mnt);
}

static __always_inline __u64 vfsmount_of(__u64 mount)
{
	return mount + bpf_core_field_offset(struct mount, mnt);
}

static __always_inline __u64 file_dentry_of(__u64 file)
{
	return (__u64)FIELD(struct file, file, f_path.dentry);
}

static __always_inline __u64 file_mount_of(__u64 file)
{
	return (__u64)FIELD(struct file, file, f_path.mnt);
}

/* A mount of the kernel's own (MNT_NS_INTERNAL is an error pointer): what an overlay opens beneath, pipes, memfds. */
static __always_inline bool is_internal(__u64 mnt)
{
	return (__u64)FIELD(struct mount, mount_of(mnt), mnt_ns) >= (__u64)-4095;
}

/* On such a mount, and with a directory above it: what an overlay opened for itself. */
static __always_inline bool is_beneath(__u64 dentry, __u64 mnt)
{
	return is_internal(mnt) && (__u64)FIELD(struct dentry, dentry, d_parent) != dentry;
}

/* Of a map's file: until 6.5 an overlay gives the one beneath the path that its user opened, since then it keeps that path beside it. */
static __always_inline void map_path(__u64 file, __u64 *dentry, __u64 *mnt)
{
	*dentry = file_dentry_of(file);
	*mnt = file_mount_of(file);
	if (!bpf_core_type_exists(struct backing_file) || !is_beneath(*dentry, *mnt))
		return;
	*dentry = (__u64)FIELD(struct backing_file, file, user_path.dentry);
	*mnt = (__u64)FIELD(struct backing_file, file, user_path.mnt);
}

static __always_inline bool is_directory(__u64 inode)
{
	return inode && (FIELD(struct inode, inode, i_mode) & S_IFMT) == S_IFDIR;
}

static __always_inline __u64 kernfs_parent(__u64 node)
{
	if (bpf_core_field_exists(struct kernfs_node___rcu_parent, __parent))
		return (__u64)FIELD(struct kernfs_node___rcu_parent, node, __parent);
	return (__u64)FIELD(struct kernfs_node___parent, node, parent);
}

/* The file behind a descriptor of the current task; 0 where there is none. */
static __always_inline __u64 file_of_fd(struct task_struct *task, __s64 fd)
{
	struct fdtable *fdt = TASK(task, files->fdt);
	__u64 file = 0;

	if (fd < 0 || fd >= fdt->max_fds)
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), (void *)((__u64)fdt->fd + (__u64)fd * sizeof(__u64)));
	return file;
}

#endif
