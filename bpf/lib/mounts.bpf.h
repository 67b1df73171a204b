/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* For hooks that are given an inode without the mount that it was reached by. */
#ifndef VFSGUARD_MOUNTS_BPF_H
#define VFSGUARD_MOUNTS_BPF_H

#include "read.bpf.h"

struct mount_search {
	__u64 link;
	__u64 head;
	__u64 ns;
	__u64 found;
};

static long mount_step(__u32 i, struct mount_search *m)
{
	__u64 mount;

	if (!m->link || m->link == m->head)
		return 1;
	mount = m->link - bpf_core_field_offset(struct mount, mnt_instance);
	if ((__u64)FIELD(struct mount, mount, mnt_ns) == m->ns) {
		m->found = vfsmount_of(mount);
		return 1;
	}
	m->link = (__u64)FIELD(struct list_head, m->link, next);
	return 0;
}

/* The first mount of a file system in the caller's namespace; 0: none, or a kernel without that list (since 6.17). */
static __always_inline __u64 some_mount(struct task_struct *task, __u64 sb)
{
	struct mount_search search = {};

	if (!bpf_core_field_exists(struct mount, mnt_instance))
		return 0;
	search.head = sb + bpf_core_field_offset(struct super_block, s_mounts);
	search.link = (__u64)FIELD(struct super_block, sb, s_mounts.next);
	search.ns = (__u64)TASK(task, nsproxy->mnt_ns);
	bpf_loop(256, mount_step, &search, 0);
	return search.found;
}

#endif
