/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The names of an object, and whether all of them are known. It is protected by every name that
 * leads to it:
 *
 *   - its path by the mount that the caller came by or, where the hook does not say which, by every
 *     mount of the caller's namespace,
 *   - its path by every mount of the agent's namespace, or by the mount point that its file system
 *     had there before it was detached,
 *   - its inode, where it was given another name or was moved (protected_inodes).
 *
 * A walk that does not reach a root, a dentry that hangs from nothing and a name that a file system
 * does not tell apart leave names unknown: d->unknown says why, and that is never "no match".
 * A file system on which no protected path can lie is known for that.
 */
#ifndef VFSGUARD_IDENTITY_BPF_H
#define VFSGUARD_IDENTITY_BPF_H

#include "host_mounts.bpf.h"
#include "lexical.bpf.h"

static __always_inline struct unprotected *unprotected_slot(__u64 dentry, __u64 mnt)
{
	__u32 slot = ((dentry ^ mnt << 1) * 0x9e3779b97f4a7c15ull) >> (64 - UNPROTECTED_BITS);

	return bpf_map_lookup_elem(&unprotected_cache, &slot);
}

static __always_inline __u64 unprotected_check(const struct unprotected *f)
{
	__u64 mix = f->dentry * 0x9e3779b97f4a7c15ull ^ f->mnt;

	mix = mix * 0xff51afd7ed558ccdull ^ f->parent;
	mix = mix * 0xc4ceb9fe1a85ec53ull ^ f->name;
	mix = mix * 0x9e3779b97f4a7c15ull ^ f->ino;
	mix = mix * 0xff51afd7ed558ccdull ^ ((__u64)f->inode_generation << 32 | f->epoch.generation);
	return mix * 0xc4ceb9fe1a85ec53ull ^ ((__u64)f->epoch.renames << 32 | f->epoch.mounts) ^
	       mix >> 29;
}

/* What would be remembered of it now. False: nothing, names are changing at this moment. */
static __always_inline bool describe_object(struct unprotected *f, __u64 dentry, __u64 mnt,
					    __u32 version)
{
	__u64 inode = (__u64)FIELD(struct dentry, dentry, d_inode);

	if (!inode || !take_epoch(&f->epoch, version))
		return false;
	f->dentry = dentry;
	f->mnt = mnt;
	f->parent = (__u64)FIELD(struct dentry, dentry, d_parent);
	f->name = FIELD(struct dentry, dentry, d_name.hash) |
		  (__u64)FIELD(struct dentry, dentry, d_name.len) << 32;
	f->ino = FIELD(struct inode, inode, i_ino);
	f->inode_generation = FIELD(struct inode, inode, i_generation);
	f->check = 0;
	return true;
}

static __always_inline bool is_known_unprotected(const struct unprotected *now)
{
	const struct unprotected *f = unprotected_slot(now->dentry, now->mnt);

	return f && f->dentry == now->dentry && f->mnt == now->mnt && f->parent == now->parent &&
	       f->name == now->name && f->ino == now->ino &&
	       f->inode_generation == now->inode_generation &&
	       is_same_epoch(&f->epoch, &now->epoch) &&
	       f->check == unprotected_check(now);
}

/* Where nothing was renamed, linked, removed or mounted since it was described. */
static __always_inline void remember_unprotected(struct decision *d)
{
	struct unprotected *f = unprotected_slot(d->now.dentry, d->now.mnt);

	if (!f || !is_epoch_now(&d->now.epoch, d->walk.version))
		return;
	f->check = 0;
	__builtin_memcpy(f, &d->now, offsetof(struct unprotected, check));
	f->check = unprotected_check(&d->now);
}

/* One more match set that the object lies in. */
__noinline int add_set(struct decision *d, __u32 set)
{
	__u32 n;

	if (!d || !set)
		return 0;
	n = d->set_count;
	for (__u32 i = 0; i < SETS_MAX; i++) {
		if (i >= n)
			break;
		if (d->sets[i] == set)
			return 0;
	}
	if (n >= SETS_MAX) {
		d->unknown = VG_UNKNOWN_MANY_NAMES;
		return 0;
	}
	d->sets[n & (SETS_MAX - 1)] = set;
	d->sources[n & (SETS_MAX - 1)] = d->source;
	d->set_count = n + 1;
	return 0;
}

/* How far a path is known. */
enum {
	PATH_KNOWN,
	PATH_NOT_BELOW,  /* of the mount: it does not lie there */
	PATH_DETACHED,   /* the mount is nowhere */
	PATH_UNKNOWN,    /* d->unknown says why */
};

/* Of an end that is no mount's root. */
static __always_inline int end_of_walk(struct decision *d)
{
	__u64 sb, top = d->walk.top;

	if (!d->walk.done) {
		d->unknown = VG_UNKNOWN_LONG_PATH;
		return PATH_UNKNOWN;
	}
	if (d->walk.flags & VG_PATH_DETACHED)
		return PATH_DETACHED;
	if (!(d->walk.flags & VG_PATH_DISCONNECTED))
		return PATH_KNOWN;
	sb = (__u64)FIELD(struct dentry, top, d_sb);
	if (top == (__u64)FIELD(struct super_block, sb, s_root))
		return PATH_NOT_BELOW;
	d->unknown = VG_UNKNOWN_DISCONNECTED;
	return PATH_UNKNOWN;
}

/*
 * The file system of this dentry tells names apart otherwise than by their bytes. Those that have
 * directories with case folding compare names themselves (DCACHE_OP_COMPARE).
 */
static __always_inline bool may_fold(__u64 dentry)
{
	return FIELD(struct dentry, dentry, d_flags) & DCACHE_OP_COMPARE;
}

/* The path by one mount. What it matches is added where the path is known. */
__noinline int add_path(struct decision *d, __u64 mnt)
{
	const struct vg_tables *t = tables_for(d);
	bool folds;
	int path;

	if (!t)
		return PATH_UNKNOWN;
	walk_begin(&d->walk, bpf_get_current_task_btf(), d->dentry, mnt);
	d->walk.state = t->path_start;
	folds = may_fold(d->dentry);
	if (folds)
		walk_match_folding(&d->walk, &d->work, &d->folding);
	else
		walk_match(&d->walk, &d->work);
	path = end_of_walk(d);
	if (path != PATH_KNOWN)
		return path;
	if (!folds) {
		add_set(d, dfa_accept(t, d->walk.state));
		return path;
	}
	for (__u32 i = 0; i < FOLD_STATES; i++)
		if (i < d->folding.count)
			add_set(d, dfa_accept(t, d->folding.state[i]));
	if (!d->folding.ambiguous)
		return path;
	d->unknown = VG_UNKNOWN_AMBIGUOUS_NAME;
	return PATH_UNKNOWN;
}

static long host_path_step(__u32 i, struct decision **of)
{
	struct decision *d = *of;
	__u64 mnt = next_mount(&d->mounts);

	if (!mnt)
		return 1;
	if (mnt != d->mnt && is_ours(mnt) && add_path(d, mnt) == PATH_KNOWN)
		d->path_known = 1;
	return 0;
}

static long caller_path_step(__u32 i, struct decision **of)
{
	struct decision *d = *of;
	__u64 mnt = next_mount(&d->mounts);

	if (!mnt)
		return 1;
	if (namespace_of(mnt) == d->cursor && add_path(d, mnt) == PATH_KNOWN)
		d->path_known = 1;
	return 0;
}

/* One component up inside a file system, as far as the directory that was mounted. */
static long inside_step(__u32 i, struct matching *m)
{
	struct walk *w = m->w;
	__u64 inode = (__u64)FIELD(struct dentry, w->dentry, d_inode), parent, name;
	__u32 len;

	w->done = 1;
	if (inode && FIELD(struct inode, inode, i_ino) == w->end_ino) {
		w->ended = 1;
		return 1;
	}
	parent = (__u64)FIELD(struct dentry, w->dentry, d_parent);
	if (parent == w->dentry)
		return 1;
	w->done = 0;
	name = (__u64)FIELD(struct dentry, w->dentry, d_name.name);
	len = FIELD(struct dentry, w->dentry, d_name.len);
	w->dentry = parent;
	if (!read_component(m->work, name, &len))
		return 1;
	w->state = dfa_step(m->tables, dfa_feed(m->tables, w->state, m->work, len), '/');
	w->off++;
	return 0;
}

__noinline int walk_inside(struct walk *w, struct component *work)
{
	struct matching m;

	if (!w || !work)
		return 0;
	m.w = w;
	m.tables = tables_of(w->version);
	m.work = work;
	if (!m.tables)
		return 0;
	w->ended = 0;
	bpf_loop(WALK_STEPS, inside_step, &m, 0);
	return 0;
}

/*
 * By a mount point that the directory d->root has in the agent's namespace, or had: the walk inside
 * the file system, then that path. 0: there are no more of them.
 */
__noinline int add_former_path(struct decision *d, __u32 index)
{
	const struct vg_tables *t = tables_for(d);
	struct vg_mount_point_key key = {};
	struct vg_mount_point *at;
	__u64 inode, sb;

	if (!d || !t)
		return 0;
	inode = (__u64)FIELD(struct dentry, d->root, d_inode);
	sb = (__u64)FIELD(struct dentry, d->root, d_sb);
	key.root_ino = FIELD(struct inode, inode, i_ino);
	key.dev = FIELD(struct super_block, sb, s_dev);
	key.generation = FIELD(struct inode, inode, i_generation);
	key.index = index;
	at = bpf_map_lookup_elem(&mount_points, &key);
	if (!at || at->len > VG_PATH_MAX)
		return 0;
	walk_begin(&d->walk, bpf_get_current_task_btf(), d->dentry, 0);
	d->walk.state = t->path_start;
	d->walk.end_ino = key.root_ino;
	walk_inside(&d->walk, &d->work);
	if (!d->walk.done) {
		d->unknown = VG_UNKNOWN_LONG_PATH;
		return 0;
	}
	if (!d->walk.ended)
		return 0; /* it does not lie there */
	d->path_known = 1;
	if (at->len)
		lexical_feed(&d->walk, (const struct name_buffer *)at->path, at->len);
	add_set(d, dfa_accept(t, d->walk.state));
	if (may_fold(d->dentry))
		d->unknown = VG_UNKNOWN_AMBIGUOUS_NAME;
	return 1;
}

static __always_inline void add_former_paths(struct decision *d)
{
	for (__u32 i = 0; i < VG_MOUNT_POINTS; i++)
		if (!add_former_path(d, i))
			break;
}

static __always_inline void read_key(struct vg_inode_key *key, __u64 inode)
{
	__u64 sb = (__u64)FIELD(struct inode, inode, i_sb);

	key->ino = FIELD(struct inode, inode, i_ino);
	key->dev = FIELD(struct super_block, sb, s_dev);
	key->generation = FIELD(struct inode, inode, i_generation);
}

/* What one slot of a protected inode stands for in this version; 0: nothing. */
static __always_inline __u32 slot_set(const struct vg_tables *t, __u32 version, __u64 slot)
{
	__u32 set = slot;

	if (slot >> 32 == version)
		return set;
	if (slot >> 32 != version - 1 || set >= t->translated)
		return 0;
	return *(const __u32 *)table_at(t, t->translate_at + set * sizeof(__u32), sizeof(__u32));
}

/* By its inode. */
__noinline int add_inode(struct decision *d)
{
	const struct vg_tables *t = tables_for(d);
	volatile struct vg_protection *protection;
	struct vg_inode_key key = {};
	__u64 inode;

	if (!d || !t)
		return 0;
	inode = (__u64)FIELD(struct dentry, d->dentry, d_inode);
	if (!inode)
		return 0;
	read_key(&key, inode);
	protection = bpf_map_lookup_elem(&protected_inodes, &key);
	if (!protection)
		return 0;
	d->source = VG_MATCHED_INODE;
	for (__u32 i = 0; i < VG_PROTECTION_SETS; i++) {
		add_set(d, slot_set(t, d->walk.version, protection->by[0][i]));
		add_set(d, slot_set(t, d->walk.version, protection->by[1][i]));
	}
	return 0;
}

/*
 * All names of d->dentry, as match sets in d->sets; d->unknown: some are not known. False: it is
 * remembered that no rule is about it.
 */
__noinline int identify(struct decision *d)
{
	bool steady, detached = false, unreached = false;
	__u64 root;

	if (!d)
		return 0;
	d->set_count = 0;
	d->unknown = 0;
	d->path_known = 0;
	/* Without a mount it has the names that the caller's namespace gives it. */
	d->cursor = d->mnt ? d->mnt : caller_namespace();
	barrier(); /* read back from the map it is a number, for the verifier */
	steady = describe_object(&d->now, d->dentry, d->cursor, d->walk.version);
	if (steady && is_known_unprotected(&d->now)) {
		COUNT(known);
		return 0;
	}
	COUNT(asked);
	d->source = VG_MATCHED_PATH;
	if (d->mnt && !is_internal(d->mnt)) {
		int path = add_path(d, d->mnt);

		d->path_known = path == PATH_KNOWN;
		unreached = path == PATH_NOT_BELOW;
		detached = path == PATH_DETACHED;
	}
	d->source = VG_MATCHED_HOST_PATH;
	d->view.sb = (__u64)FIELD(struct dentry, d->dentry, d_sb);
	find_view(d);
	if (d->view.kind == HOST_IRRELEVANT) {
		d->path_known = 1;
		/* It has no protected name there, whatever its names are. */
		if (d->unknown == VG_UNKNOWN_DISCONNECTED ||
		    d->unknown == VG_UNKNOWN_AMBIGUOUS_NAME)
			d->unknown = 0;
	} else if (d->view.kind == HOST_ONE) {
		if (d->view.only != d->mnt && add_path(d, d->view.only) == PATH_KNOWN)
			d->path_known = 1;
	} else if (d->view.kind == HOST_SEVERAL) {
		each_mount(d, d->view.sb, host_path_step);
	}
	if (detached || d->view.kind == HOST_NONE) {
		root = (__u64)FIELD(struct super_block, d->view.sb, s_root);
		d->root = root;
		add_former_paths(d);
		if (d->mnt && !is_internal(d->mnt)) {
			d->root = (__u64)FIELD(struct vfsmount, d->mnt, mnt_root);
			if (d->root != root)
				add_former_paths(d);
		}
	}
	/* Where the hook names no mount, or not the one that shows it. */
	if (unreached || !d->mnt) {
		steady = steady && !unreached;
		d->source = VG_MATCHED_PATH;
		d->cursor = caller_namespace();
		if (d->cursor && !is_host_namespace(d->cursor))
			each_mount(d, d->view.sb, caller_path_step);
		if (unreached && !d->path_known &&
		    d->view.kind != HOST_ONE && d->view.kind != HOST_SEVERAL)
			d->unknown = VG_UNKNOWN_DISCONNECTED;
	}
	if (inodes_protected && !d->by_name_only)
		add_inode(d);
	if (!d->set_count && !d->unknown && steady)
		remember_unprotected(d);
	return 1;
}

#endif
