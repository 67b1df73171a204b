/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The walk that keeps the components, for events. */
#ifndef VFSGUARD_STORE_BPF_H
#define VFSGUARD_STORE_BPF_H

#include "maps.bpf.h"
#include "walk.bpf.h"

struct storing {
	struct walk *w;
	struct path_buffer *out;
};

static long walk_store_step(__u32 i, struct storing *store)
{
	struct walk *w = store->w;
	__u64 name = 0;
	__u32 len = 0, off;
	int step = walk_up(w, &name, &len);

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
	off = w->off;
	if (len >= VG_NAME_MAX)
		len = VG_NAME_MAX - 1;
	if (off + len + 1 > VG_PATH_MAX) {
		w->flags |= VG_PATH_TRUNCATED;
		w->done = 1;
		return 1;
	}
	if (off > VG_PATH_MAX || bpf_probe_read_kernel(store->out->bytes + off, len, (void *)name))
		return 1;
	off += len;
	if (off > VG_PATH_MAX)
		return 1;
	store->out->bytes[off] = 0;
	w->off = off + 1;
	return 0;
}

/* Stores the components at out; returns their length, and what is known about the path in w->flags. */
__noinline __u32 walk_store(struct walk *w, struct path_buffer *out)
{
	struct storing store;
	__u32 len;

	if (!w || !out)
		return 0;
	store.w = w;
	store.out = out;
	bpf_loop(WALK_STEPS, walk_store_step, &store, 0);
	if (!w->done)
		w->flags |= VG_PATH_TRUNCATED;
	if (w->flags & VG_PATH_TRUNCATED)
		count_cause(VG_CAUSE_PATH_TRUNCATED);
	else if (!w->rooted && !(w->flags & (VG_PATH_ANONYMOUS | VG_PATH_DISCONNECTED)))
		w->flags |= VG_PATH_OUTSIDE;
	len = w->off;
	return len > VG_PATH_MAX ? VG_PATH_MAX : len;
}

#endif
