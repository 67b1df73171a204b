/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The mounts of a file system. The kernel keeps them in a list of the super block, under
 * mount_lock; it is read here without that lock, so a reader must ask whether it came to the end.
 */
#ifndef VFSGUARD_MOUNTS_BPF_H
#define VFSGUARD_MOUNTS_BPF_H

#include "read.bpf.h"

#define MOUNTS_MAX 65536 /* of one file system, in all namespaces: more are not looked at */

static __always_inline __u64 namespace_of(__u64 mnt)
{
	return (__u64)FIELD(struct mount, mount_of(mnt), mnt_ns);
}

static __always_inline __u64 caller_namespace(void)
{
	return (__u64)TASK(bpf_get_current_task_btf(), nsproxy->mnt_ns);
}

/* Where a walk along that list is. In map memory or on the stack; plain numbers only. */
struct mount_cursor {
	__u64 next; /* until 6.16: its list_head, since 6.17: struct mount */
	__u64 head;
};

static __always_inline void first_mount(struct mount_cursor *c, __u64 sb)
{
	if (bpf_core_field_exists(struct mount___chain, mnt_next_for_sb)) {
		c->head = 0;
		c->next = (__u64)FIELD(struct super_block___chain, sb, s_mounts);
		return;
	}
	c->head = sb + bpf_core_field_offset(struct super_block___list, s_mounts);
	c->next = (__u64)FIELD(struct list_head, c->head, next);
}

/* The list's end was reached: nothing was missed. A removed entry leads nowhere, which reads as 0. */
static __always_inline bool is_last_mount(const struct mount_cursor *c)
{
	return c->next == c->head;
}

/* The struct vfsmount that the cursor is at; moves on. 0: there is no more, or none can be read. */
static __always_inline __u64 next_mount(struct mount_cursor *c)
{
	__u64 mount;

	if (c->next == c->head || !c->next)
		return 0;
	if (bpf_core_field_exists(struct mount___chain, mnt_next_for_sb)) {
		mount = c->next;
		c->next = (__u64)FIELD(struct mount___chain, mount, mnt_next_for_sb);
	} else {
		mount = c->next - bpf_core_field_offset(struct mount___list, mnt_instance);
		c->next = (__u64)FIELD(struct list_head, c->next, next);
	}
	return vfsmount_of(mount);
}

struct mount_search {
	struct mount_cursor at;
	__u64 ns;
	__u64 found;
};

static long mount_step(__u32 i, struct mount_search *m)
{
	__u64 mnt = next_mount(&m->at);

	if (!mnt)
		return 1;
	if (namespace_of(mnt) != m->ns)
		return 0;
	m->found = mnt;
	return 1;
}

/* The first mount of a file system in the caller's namespace; 0: none. */
static __always_inline __u64 some_mount(struct task_struct *task, __u64 sb)
{
	struct mount_search search = {};

	first_mount(&search.at, sb);
	search.ns = (__u64)TASK(task, nsproxy->mnt_ns);
	bpf_loop(256, mount_step, &search, 0);
	return search.found;
}

#endif
