/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The host's view of an object: by which mounts of the agent's mount namespace its file system is
 * seen. Found in the kernel's own list, so that a mount counts from the moment that it is there.
 */
#ifndef VFSGUARD_HOST_MOUNTS_BPF_H
#define VFSGUARD_HOST_MOUNTS_BPF_H

#include "decision.bpf.h"

/* The kernel's own mounts have an error pointer for a namespace, those that are detached none. */
static __always_inline bool is_host_namespace(__u64 ns)
{
	return ns && ns < (__u64)-4095 && FIELD(struct mnt_namespace, ns, ns.inum) == our_mnt_ns;
}

static __always_inline bool is_ours(__u64 mnt)
{
	return is_host_namespace(namespace_of(mnt));
}

/* All mounts of a file system. Where the list changes under way some may be missed: then that is said. */
static __always_inline void each_mount(struct decision *d, __u64 sb,
				       long (*step)(__u32, struct decision **))
{
	first_mount(&d->mounts, sb);
	bpf_loop(MOUNTS_MAX, step, &d, 0);
	if (!is_last_mount(&d->mounts))
		d->unknown = VG_UNKNOWN_MOUNTS;
}

static __always_inline struct host_view *view_slot(__u64 sb)
{
	__u32 slot = (sb * 0x9e3779b97f4a7c15ull) >> (64 - HOST_VIEW_BITS);

	return bpf_map_lookup_elem(&host_views, &slot);
}

static __always_inline __u64 view_check(const struct host_view *v)
{
	__u64 mix = v->sb * 0x9e3779b97f4a7c15ull ^ v->only;

	mix = mix * 0xff51afd7ed558ccdull ^ ((__u64)v->epoch.renames << 32 | v->epoch.mounts);
	return mix * 0xc4ceb9fe1a85ec53ull ^ ((__u64)v->epoch.generation << 32 | v->kind);
}

static long view_step(__u32 i, struct decision **of)
{
	struct decision *d = *of;
	const struct vg_tables *t = tables_for(d);
	__u64 mnt = next_mount(&d->mounts), root;

	if (!mnt || !t)
		return 1;
	if (!is_ours(mnt))
		return 0;
	if (d->view.kind == HOST_NONE)
		d->view.kind = HOST_IRRELEVANT;
	root = (__u64)FIELD(struct vfsmount, mnt, mnt_root);
	/* The mount point is above a protected path, or it is one itself. */
	if (!match_from(d, t->above_start, root, mnt) && d->walk.done && d->walk.off &&
	    !match_from(d, t->path_start, root, mnt) && d->walk.done)
		return 0;
	d->view.only = mnt;
	if (d->view.kind == HOST_ONE) {
		d->view.kind = HOST_SEVERAL;
		return 1;
	}
	d->view.kind = HOST_ONE;
	return 0;
}

/* Finds d->view, of the file system that d->view.sb is. */
__noinline int find_view(struct decision *d)
{
	struct host_view *known;
	struct epoch e;
	bool steady;

	if (!d)
		return 0;
	steady = take_epoch(&e, d->walk.version);
	known = view_slot(d->view.sb);
	if (steady && known && known->sb == d->view.sb && is_same_epoch(&known->epoch, &e)) {
		__builtin_memcpy(&d->view, known, sizeof(d->view));
		if (d->view.check == view_check(&d->view) && known->sb == d->view.sb)
			return 0;
	}
	d->view.kind = HOST_NONE;
	d->view.only = 0;
	first_mount(&d->mounts, d->view.sb);
	bpf_loop(MOUNTS_MAX, view_step, &d, 0);
	if (d->view.kind == HOST_SEVERAL)
		d->view.only = 0;
	else if (!is_last_mount(&d->mounts))
		d->view.kind = HOST_SEVERAL; /* it changed under way: nothing is left out */
	if (!steady || !known || !is_epoch_now(&e, d->walk.version))
		return 0;
	d->view.epoch = e;
	d->view.check = view_check(&d->view);
	known->check = 0;
	__builtin_memcpy(known, &d->view, sizeof(d->view));
	return 0;
}

struct host_search {
	struct decision *d;
	__u64 root;
	__u64 found;
};

static long host_mount_step(__u32 i, struct host_search *s)
{
	__u64 mnt = next_mount(&s->d->mounts);

	if (!mnt)
		return 1;
	if (!is_ours(mnt))
		return 0;
	if (!s->found)
		s->found = mnt;
	if ((__u64)FIELD(struct vfsmount, mnt, mnt_root) != s->root)
		return 0;
	s->found = mnt;
	return 1;
}

/* A mount by which the agent's namespace shows the file system, all of it if there is one; 0: none. */
static __always_inline __u64 host_mount_of(struct decision *d, __u64 dentry)
{
	__u64 sb = (__u64)FIELD(struct dentry, dentry, d_sb);
	struct host_search s = {.d = d};

	s.root = (__u64)FIELD(struct super_block, sb, s_root);
	first_mount(&d->mounts, sb);
	bpf_loop(MOUNTS_MAX, host_mount_step, &s, 0);
	return s.found;
}

#endif
