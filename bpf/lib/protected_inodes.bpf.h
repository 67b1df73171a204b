/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Inodes that are protected whatever their path says: they have several names, or were moved. Each
 * keeps the match sets of up to VG_PROTECTION_SETS of its names, so that a weaker rule never hides
 * a stronger one. Changed in place, slot by slot: nothing that another program notes is lost.
 */
#ifndef VFSGUARD_PROTECTED_INODES_BPF_H
#define VFSGUARD_PROTECTED_INODES_BPF_H

#include "identity.bpf.h"

/* Something remembered about objects may be wrong from now on. */
static __always_inline void forget_unprotected(void)
{
	__sync_fetch_and_add(&generation, 1);
}

static __always_inline bool put_slot(volatile struct vg_protection *protection, __u32 version,
				     __u32 set)
{
	__u64 fresh = VG_VERSIONED_SET(version, set), old;

	for (__u32 i = 0; i < VG_PROTECTION_SETS; i++) {
		old = protection->by[version & 1][i];
		if (old == fresh)
			return true;
		if (old >> 32 == version && (__u32)old)
			continue;
		if (__sync_val_compare_and_swap(&protection->by[version & 1][i], old, fresh) == old)
			return true;
	}
	return false;
}

/* False: there is no room, for another inode or for another set of this one. */
__noinline int protect_inode(const struct vg_inode_key *key, __u32 version, __u32 set, __u32 flags)
{
	volatile struct vg_protection *protection;
	struct vg_protection fresh = {};
	struct vg_inode_key at;

	if (!key)
		return 0;
	at = *key; /* on the stack: before 6.2 a key must be */
	fresh.by[version & 1][0] = VG_VERSIONED_SET(version, set);
	fresh.flags = flags;
	forget_unprotected();
	inodes_protected = 1;
	if (!bpf_map_update_elem(&protected_inodes, &at, &fresh, BPF_NOEXIST))
		return 1;
	protection = bpf_map_lookup_elem(&protected_inodes, &at);
	if (!protection)
		return 0;
	if (flags)
		protection->flags = flags;
	return put_slot(protection, version, set);
}

/*
 * The sets in d->sets protect the inode d->inode from now on, of those that stand for clauses. By d:
 * the verifier does not take a kernel address for a number, unless it was read from a map.
 */
__noinline int protect_by_sets(struct decision *d)
{
	const struct vg_tables *t = tables_for(d);
	struct vg_inode_key key = {};
	const struct vg_range *range;
	__u64 inode;

	if (!d || !t)
		return 1;
	inode = d->inode;
	if (!inode || is_directory(inode))
		return 1;
	read_key(&key, inode);
	for (__u32 i = 0; i < SETS_MAX; i++) {
		if (i >= d->set_count)
			break;
		range = table_at(t, t->ranges_at + d->sets[i] * sizeof(*range), sizeof(*range));
		if (range->count && !protect_inode(&key, d->walk.version, d->sets[i],
						    d->moves_out ? VG_PROTECTION_MOVED : 0)) {
			COUNT(protected_inodes_full);
			return 0;
		}
	}
	return 1;
}

#endif
