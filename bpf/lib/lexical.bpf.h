/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Matching a name as the caller gave it, for attempts that never reached an object. One pass from the end: "." and empty components
 * drop out, ".." passes over the next one, and what is left over of ".." goes on into the walk of the directory that the name
 * starts from. Symbolic links on the way are not followed (nobody did): events say so by the absence of the object's identity.
 */
#ifndef VFSGUARD_LEXICAL_BPF_H
#define VFSGUARD_LEXICAL_BPF_H

#include "walk.bpf.h"

struct lexical {
	const struct vg_tables *tables;
	const struct name_buffer *name;
	__u32 len;
	__u32 end;
	__u32 skip;
	__u32 state;
	__u32 fed;
	__u32 feed_end;
};

static long lexical_feed_byte(__u32 i, struct lexical *l)
{
	__u32 at = l->feed_end - 1 - i;

	if (at >= VG_PATH_MAX)
		return 1;
	l->state = dfa_step(l->tables, l->state, l->name->bytes[at]);
	return 0;
}

static long lexical_step(__u32 i, struct lexical *l)
{
	__u32 at = l->len - i, n, before = at - 1, here = at;

	if (at) {
		if (before >= VG_PATH_MAX || l->name->bytes[before] != '/') {
			return 0;
		}
	}
	n = l->end - at;
	l->feed_end = l->end;
	l->end = before;
	if (n == 0 || here >= VG_PATH_MAX - 2)
		return 0;
	if (n == 1 && l->name->bytes[here] == '.')
		return 0;
	if (n == 2 && l->name->bytes[here] == '.' && l->name->bytes[here + 1] == '.') {
		l->skip++;
		return 0;
	}
	if (l->skip) {
		l->skip--;
		return 0;
	}
	bpf_loop(n, lexical_feed_byte, l, 0);
	l->state = dfa_step(l->tables, l->state, '/');
	l->fed++;
	return 0;
}

/*
 * Feeds `name` (len bytes, without NUL) from dir->state on; `dir`, the directory that the name starts from, is then ready for
 * walk_match, which gives the answer for the whole absolute path. Not called from here: a program may not go deeper than 8 calls.
 */
__noinline int lexical_feed(struct walk *dir, const struct name_buffer *name, __u32 len)
{
	struct lexical l = {};

	if (!dir || !name)
		return 0;
	l.tables = tables_of(dir->version);
	if (!l.tables || !len || len > VG_PATH_MAX)
		return 0;
	l.name = name;
	l.len = len;
	l.end = len;
	l.state = dir->state;
	bpf_loop(len + 1, lexical_step, &l, 0);
	dir->skip = name->bytes[0] == '/' ? 0 : l.skip;
	dir->state = l.state;
	dir->off = l.fed;
	return 1;
}

#endif
