/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The automaton's steps; src/policy/automaton.h holds the same in user space, and a property test holds the two together. */
#ifndef VFSGUARD_MATCH_BPF_H
#define VFSGUARD_MATCH_BPF_H

#include "maps.bpf.h"

static __always_inline struct vg_dfa_head *automaton(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&dfa_head, &zero);
}

static __always_inline __u32 dfa_step(const struct vg_dfa_head *head, __u32 state, __u8 byte)
{
	struct vg_dfa_state *s = bpf_map_lookup_elem(&dfa_states, &state);
	struct vg_dfa_edge *e;
	__u32 index;

	if (!s)
		return 0;
	index = s->base + head->class_of[byte];
	e = bpf_map_lookup_elem(&dfa_edges, &index);
	if (e && e->check == state)
		return e->next;
	return s->fallback;
}

static __always_inline __u32 dfa_flags(__u32 state)
{
	struct vg_dfa_state *s = bpf_map_lookup_elem(&dfa_states, &state);
	return s ? s->flags : VG_STATE_DEAD;
}

static __always_inline __u32 dfa_accept(__u32 state)
{
	struct vg_dfa_state *s = bpf_map_lookup_elem(&dfa_states, &state);
	return s ? s->accept : 0;
}

/* Feed a component of `len` bytes from its end. */
struct feed {
	const struct vg_dfa_head *head;
	const struct component *from;
	__u32 len;
	__u32 state;
};

static long feed_byte(__u32 i, struct feed *f)
{
	__u32 at = f->len - 1 - i;

	if (at >= VG_NAME_MAX)
		return 1;
	f->state = dfa_step(f->head, f->state, f->from->bytes[at]);
	return 0;
}

static __always_inline __u32 dfa_feed(const struct vg_dfa_head *head, __u32 state, const struct component *from, __u32 len)
{
	struct feed f = {.head = head, .from = from, .len = len, .state = state};

	bpf_loop(len, feed_byte, &f, 0);
	return f.state;
}

#endif
