/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From a dentry and its mount up to the root of the mount tree: once to feed the automaton (stopping as soon as the answer is
 * known), once to store the components (store.bpf.h). The root is the mount tree's own, not the caller's: a chroot does not shorten a path, it
 * sets VG_PATH_OUTSIDE where the caller could not have named the object.
 *
 * The walk runs under RCU (every program here is non-sleepable) and takes no lock, as d_path's fast path does not; a rename that
 * runs at the same moment can show the name before or after it.
 */
#ifndef VFSGUARD_WALK_BPF_H
#define VFSGUARD_WALK_BPF_H

#include "match.bpf.h"
#include "read.bpf.h"

#define WALK_STEPS 16384 /* components and mounts; a path of 4096 bytes has at most 2048 components */

struct matching {
	struct walk *w;
	const struct vg_tables *tables;
	struct component *work;
};

enum { WALK_COMPONENT, WALK_CROSSED, WALK_END };

/* One step up. On WALK_COMPONENT, *name and *len are the component that was left. */
static __always_inline int walk_up(struct walk *w, __u64 *name, __u32 *len)
{
	__u64 dentry = w->dentry, mnt = w->mnt, parent, mount, above;

	if (!dentry)
		return WALK_END;
	if (dentry == w->root_dentry && mnt == w->root_mnt && !w->rooted) {
		w->rooted = 1;
		w->root_at = w->off;
	}
	if (dentry == (__u64)FIELD(struct vfsmount, mnt, mnt_root)) {
		mount = mount_of(mnt);
		above = (__u64)FIELD(struct mount, mount, mnt_parent);
		if (above && above != mount) {
			w->dentry = (__u64)FIELD(struct mount, mount, mnt_mountpoint);
			w->mnt = vfsmount_of(above);
			return WALK_CROSSED;
		}
		/* NULL: unmounted lazily; an error pointer: a mount internal to the kernel. */
		if ((__u64)FIELD(struct mount, mount, mnt_ns) - 1 >= (__u64)-4096)
			w->flags |= VG_PATH_DETACHED;
		return WALK_END;
	}
	w->top = dentry;
	parent = (__u64)FIELD(struct dentry, dentry, d_parent);
	*name = (__u64)FIELD(struct dentry, dentry, d_name.name);
	*len = FIELD(struct dentry, dentry, d_name.len);
	w->dentry = parent;
	if (parent == dentry) {
		/* A root of its own that is nobody's mount: a pseudo file (memfd, pipe), or a dentry made for a file handle. */
		char first = 0;

		w->dentry = 0;
		bpf_probe_read_kernel(&first, 1, (void *)*name);
		if (first == '/')
			w->flags |= VG_PATH_DISCONNECTED;
		else
			w->flags |= VG_PATH_ANONYMOUS;
	}
	return WALK_COMPONENT;
}

/* The bytes of a name that walk_up gave; *len is what there was room for. */
static __always_inline bool read_component(struct component *work, __u64 name, __u32 *len)
{
	if (*len >= VG_NAME_MAX)
		*len = VG_NAME_MAX - 1;
	return !bpf_probe_read_kernel(work->bytes, *len, (void *)name);
}

static long walk_match_step(__u32 i, struct matching *m)
{
	struct walk *w = m->w;
	__u64 name = 0;
	__u32 len = 0;
	int step = walk_up(w, &name, &len);
	__u32 flags;

	if (step == WALK_CROSSED)
		return 0;
	if (step == WALK_END || (w->flags & VG_PATH_DISCONNECTED)) {
		w->done = 1;
		return 1;
	}
	if (w->skip) {
		w->skip--;
		return 0;
	}
	if (!read_component(m->work, name, &len))
		return 1;
	w->state = dfa_feed(m->tables, w->state, m->work, len);
	if (!(w->flags & VG_PATH_ANONYMOUS))
		w->state = dfa_step(m->tables, w->state, '/');
	w->off++;
	flags = dfa_flags(m->tables, w->state);
	if (flags) {
		w->done = 1;
		return 1;
	}
	return 0;
}

static __always_inline void walk_begin(struct walk *w, struct task_struct *task, __u64 dentry, __u64 mnt)
{
	w->dentry = dentry;
	w->mnt = mnt;
	w->root_dentry = (__u64)TASK(task, fs->root.dentry);
	w->root_mnt = (__u64)TASK(task, fs->root.mnt);
	w->off = 0;
	w->state = 0;
	w->flags = 0;
	w->skip = 0;
	w->rooted = 0;
	w->root_at = 0;
	w->done = 0;
}

/*
 * Feeds the automaton from w->state on, leaf first, and returns where it ends; w->off says how many components it has seen before.
 * Global functions, so that the verifier looks at them once and not once for every way to get here.
 */
__noinline __u32 walk_match(struct walk *w, struct component *work)
{
	struct matching m;

	if (!w || !work)
		return 0;
	m.w = w;
	m.tables = tables_of(w->version);
	m.work = work;
	if (!m.tables)
		return 0;
	bpf_loop(WALK_STEPS, walk_match_step, &m, 0);
	/* The root directory itself has no component: its path is the one slash. */
	if (w->done && !w->off && !(w->flags & (VG_PATH_DISCONNECTED | VG_PATH_ANONYMOUS)) && !dfa_flags(m.tables, w->state))
		w->state = dfa_step(m.tables, w->state, '/');
	return w->state;
}

/* d_unlinked(): unhashed, and not a root. Roots of pseudo file systems are never hashed. */
static __always_inline __u32 deleted_flag(__u64 dentry)
{
	__u64 parent = (__u64)FIELD(struct dentry, dentry, d_parent);

	if (parent != dentry && !FIELD(struct dentry, dentry, d_hash.pprev))
		return VG_PATH_DELETED;
	return 0;
}

#endif
