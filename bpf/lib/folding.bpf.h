/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Names in directories that do not tell upper from lower case: ext4 and f2fs directories with the
 * casefold flag, vfat, exfat. A dentry keeps the name that was looked up, which need not be the one
 * that the directory holds. Every letter is therefore fed in both cases: the automaton is in a small
 * set of states instead of one.
 *
 * Where even that cannot tell (a short name of vfat, a letter that folds to something else than its
 * other case, too many states) the name is ambiguous.
 */
#ifndef VFSGUARD_FOLDING_BPF_H
#define VFSGUARD_FOLDING_BPF_H

#include "walk.bpf.h"

#define FOLD_STATES 4 /* a power of two */

/* In map memory. */
struct folding {
	__u32 count;
	__u32 state[FOLD_STATES];
	__u32 next_count;
	__u32 next[FOLD_STATES];
	__u32 short_names; /* the file system is vfat or exfat */
	__u32 len;
	__u32 ambiguous;
};

static __always_inline bool has_short_names(__u64 sb)
{
	__u64 magic = FIELD(struct super_block, sb, s_magic);

	return magic == MSDOS_SUPER_MAGIC || magic == EXFAT_SUPER_MAGIC;
}

/* Names in this directory. */
static __always_inline bool folds_names(__u64 directory)
{
	__u64 inode = (__u64)FIELD(struct dentry, directory, d_inode);

	if (inode && FIELD(struct inode, inode, i_flags) & S_CASEFOLD)
		return true;
	return has_short_names((__u64)FIELD(struct dentry, directory, d_sb));
}

static __always_inline __u8 other_case(__u8 byte)
{
	__u8 letter = byte | 0x20;

	return letter >= 'a' && letter <= 'z' ? byte ^ 0x20 : byte;
}

struct fold_step {
	struct folding *f;
	const struct vg_tables *tables;
	const struct component *from;
	__u32 both; /* cases */
};

static __always_inline void add_state(struct folding *f, __u32 state)
{
	__u32 n = f->next_count;

	for (__u32 i = 0; i < FOLD_STATES; i++)
		if (i < n && f->next[i] == state)
			return;
	if (n >= FOLD_STATES) {
		f->ambiguous = 1;
		return;
	}
	f->next[n & (FOLD_STATES - 1)] = state;
	f->next_count = n + 1;
}

static __always_inline void fold_byte(struct fold_step *s, __u8 byte)
{
	struct folding *f = s->f;
	__u32 state;
	__u8 other = s->both ? other_case(byte) : byte;

	f->next_count = 0;
	for (__u32 i = 0; i < FOLD_STATES; i++) {
		if (i >= f->count)
			break;
		state = dfa_step(s->tables, f->state[i], byte);
		if (!(dfa_flags(s->tables, state) & VG_STATE_DEAD))
			add_state(f, state);
		if (other == byte)
			continue;
		state = dfa_step(s->tables, f->state[i], other);
		if (!(dfa_flags(s->tables, state) & VG_STATE_DEAD))
			add_state(f, state);
	}
	f->count = f->next_count;
	for (__u32 i = 0; i < FOLD_STATES; i++)
		f->state[i] = f->next[i];
}

static long fold_name_step(__u32 i, struct fold_step *s)
{
	__u32 at = s->f->len - 1 - i;

	if (at >= VG_NAME_MAX)
		return 1;
	fold_byte(s, s->from->bytes[at & (VG_NAME_MAX - 1)]);
	return 0;
}

/*
 * Characters that fold to ASCII letters other than by their case, or to nothing at all, as the
 * kernel's casefold (fs/unicode, full case folding, ignorable code points dropped) has them.
 */
static long odd_byte_step(__u32 i, struct fold_step *s)
{
	__u8 a, b, c;

	if (i + 2 >= VG_NAME_MAX || i >= s->f->len)
		return 1;
	a = s->from->bytes[i & (VG_NAME_MAX - 1)];
	if (s->f->short_names) {
		if (a == '~')
			s->f->ambiguous = 1;
		if (a < 0x80)
			return 0;
	}
	if (a < 0x80)
		return 0;
	if (s->tables->globs & VG_GLOBS_NOT_ASCII) {
		s->f->ambiguous = 1;
		return 1;
	}
	b = s->from->bytes[(i + 1) & (VG_NAME_MAX - 1)];
	c = s->from->bytes[(i + 2) & (VG_NAME_MAX - 1)];
	if ((a == 0xc2 && b == 0xad) || (a == 0xc3 && b == 0x9f) || (a == 0xc5 && b == 0xbf) ||
	    (a == 0xcd && b == 0x8f) || (a == 0xd8 && b == 0x9c) || a == 0xe1 ||
	    (a == 0xe2 && ((b == 0x80 && c >= 0x8b && c <= 0xae) || b == 0x81 || b == 0x84)) ||
	    (a == 0xe3 && b == 0x85) || a == 0xef || (a == 0xf0 && (b == 0x9b || b == 0x9d)) ||
	    a == 0xf3)
		s->f->ambiguous = 1;
	return 0;
}

static long dots_step(__u32 i, struct fold_step *s)
{
	__u32 last = s->f->len - 1;

	if (!last || s->from->bytes[last & (VG_NAME_MAX - 1)] != '.')
		return 1;
	s->f->len = last;
	return 0;
}

struct fold_walk {
	struct walk *w;
	struct folding *f;
	const struct vg_tables *tables;
	struct component *work;
};

static long fold_walk_step(__u32 i, struct fold_walk *m)
{
	struct walk *w = m->w;
	__u64 name = 0;
	__u32 len = 0;
	int step = walk_up(w, &name, &len);
	struct fold_step s;

	if (step == WALK_CROSSED)
		return 0;
	if (step == WALK_END || (w->flags & (VG_PATH_DISCONNECTED | VG_PATH_ANONYMOUS))) {
		w->done = 1;
		return 1;
	}
	if (!read_component(m->work, name, &len))
		return 1;
	s.f = m->f;
	s.tables = m->tables;
	s.from = m->work;
	s.both = folds_names(w->dentry);
	m->f->len = len;
	if (s.both) {
		m->f->short_names = has_short_names((__u64)FIELD(struct dentry, w->dentry, d_sb));
		bpf_loop(len, odd_byte_step, &s, 0);
		/* vfat does not see dots at the end. */
		if (m->f->short_names)
			bpf_loop(len, dots_step, &s, 0);
	}
	bpf_loop(m->f->len, fold_name_step, &s, 0);
	s.both = 0;
	fold_byte(&s, '/');
	w->off++;
	if (!m->f->count) {
		w->done = 1;
		return 1;
	}
	return 0;
}

/* As walk_match, with the states that it ends in left in `f`. */
__noinline int walk_match_folding(struct walk *w, struct component *work, struct folding *f)
{
	struct fold_walk m;

	if (!w || !work || !f)
		return 0;
	m.w = w;
	m.f = f;
	m.tables = tables_of(w->version);
	m.work = work;
	if (!m.tables)
		return 0;
	f->count = 1;
	f->state[0] = w->state;
	f->ambiguous = 0;
	bpf_loop(WALK_STEPS, fold_walk_step, &m, 0);
	return 0;
}

#endif
