/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The automaton's steps; src/policy/automaton.h holds the same in user space, and a property test holds the two together. */
#ifndef VFSGUARD_MATCH_BPF_H
#define VFSGUARD_MATCH_BPF_H

#include "tables.bpf.h"

/* All tables of a version; NULL never in fact. */
static __always_inline const struct vg_tables *tables_of(__u32 version)
{
	__u32 place = version & 1;
	return bpf_map_lookup_elem(&tables, &place);
}

/* `size` bytes (a power of two, at most 16) at an offset which the mask keeps inside, for the verifier and against a broken table. */
static __always_inline const void *table_at(const struct vg_tables *t, __u32 offset, __u32 size)
{
	offset &= table_mask & ~(size - 1);
	barrier_var(offset);
	return (const char *)t + offset;
}

static __always_inline const struct vg_dfa_state *dfa_state(const struct vg_tables *t, __u32 state)
{
	return table_at(t, t->states_at + state * sizeof(struct vg_dfa_state), sizeof(struct vg_dfa_state));
}

static __always_inline __u32 dfa_step(const struct vg_tables *t, __u32 state, __u8 byte)
{
	const struct vg_dfa_state *s = dfa_state(t, state);
	__u32 index = s->base + t->class_of[byte];
	const struct vg_dfa_edge *e = table_at(t, t->edges_at + index * sizeof(struct vg_dfa_edge), sizeof(struct vg_dfa_edge));

	return e->check == state ? e->next : s->fallback;
}

static __always_inline __u32 dfa_flags(const struct vg_tables *t, __u32 state)
{
	return dfa_state(t, state)->flags;
}

static __always_inline __u32 dfa_accept(const struct vg_tables *t, __u32 state)
{
	return dfa_state(t, state)->accept;
}

/* The operations that somebody asks for of what lies in this match set. */
static __always_inline __u64 set_operations(const struct vg_tables *t, __u32 set)
{
	return *(const __u64 *)table_at(t, t->sets_at + set * sizeof(__u64), sizeof(__u64));
}

/* Feed a component of `len` bytes from its end. */
struct feed {
	const struct vg_tables *tables;
	const struct component *from;
	__u32 len;
	__u32 state;
};

#define FEED_AT_ONCE 4

static long feed_bytes(__u32 i, struct feed *f)
{
	__u32 state = f->state;

	for (__u32 k = 1; k <= FEED_AT_ONCE; k++) {
		__u32 at = f->len - i * FEED_AT_ONCE - k;

		if (at >= VG_NAME_MAX)
			break; /* before the first */
		state = dfa_step(f->tables, state, f->from->bytes[at]);
	}
	f->state = state;
	return 0;
}

static __always_inline __u32 dfa_feed(const struct vg_tables *t, __u32 state, const struct component *from, __u32 len)
{
	struct feed f = {.tables = t, .from = from, .len = len, .state = state};

	bpf_loop((len + FEED_AT_ONCE - 1) / FEED_AT_ONCE, feed_bytes, &f, 0);
	return f.state;
}

#endif
