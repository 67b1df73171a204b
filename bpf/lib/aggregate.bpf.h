/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Counting what is alike: one event for everything that one process image does to one object by one call with one result. The first is sent
 * at once and names the entry that counts it (vg_event.aggregate); user space keeps it back until it has read the count.
 *
 * There are two tables. User space turns aggregate_epoch, waits until no program can still use the old one, reads it and empties it: nothing
 * is counted twice or not at all.
 */
#ifndef VFSGUARD_AGGREGATE_BPF_H
#define VFSGUARD_AGGREGATE_BPF_H

#include "subject.bpf.h"

struct hashing {
	const struct name_buffer *name;
	__u64 value;
	__u32 len;
};

static long hash_word(__u32 i, struct hashing *h)
{
	__u32 at = i * 8;
	__u64 word;

	if (at >= VG_PATH_MAX - 8)
		return 1;
	bpf_probe_read_kernel(&word, sizeof(word), h->name->bytes + at);
	if (h->len - at < 8)
		word &= (1ull << (h->len - at) * 8) - 1;
	h->value = (h->value ^ word) * 0x9e3779b97f4a7c15ull;
	h->value ^= h->value >> 29;
	return 0;
}

__noinline __u64 hash_name(const struct name_buffer *name, __u32 len, __u64 seed)
{
	struct hashing h = {.name = name, .value = seed, .len = len};

	if (!name || !len)
		return seed;
	bpf_loop((len + 7) / 8, hash_word, &h, 0);
	return h.value;
}

/* Calls whose every event says something of its own. */
static __always_inline bool is_aggregated(__u32 operation)
{
	return aggregate && operation != VG_OP_CLOSE && operation != VG_OP_EXEC && operation != VG_OP_FORK && operation != VG_OP_EXIT;
}

/*
 * True: it was counted in an entry that is there. Else s->aggregate is an entry to be made, once the event is sent. A frame of its own: the
 * stacks of a chain of calls add up. `lengths` is that of the name and, in its upper half, that of the second name.
 */
static __noinline bool counted_alike(struct scratch *s, struct pending *p, __s64 retval, __u64 lengths, __u32 epoch)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct vg_aggregate_key *key = &s->aggregate_key;
	__u32 raw_len = lengths, raw2_len = lengths >> 32;
	struct vg_counters *c = my_counters();
	struct vg_aggregate *entry;

	if (!c)
		return false;
	key->start_ns = TASK(task, group_leader->start_boottime);
	key->pid = TASK(task, tgid);
	key->exec_id = TASK(task, self_exec_id);
	key->call = p->call;
	key->operation = p->operation;
	key->error = retval < 0 ? (__s32)retval : 0;
	key->dev = p->at.dev;
	key->object = p->at.imode ? p->at.ino : hash_name(&s->name, raw_len, p->at.dir_dentry);
	key->second = raw2_len ? hash_name(&s->name2, raw2_len, p->to.dir_dentry) : p->to.dentry;
	if (epoch & 1)
		entry = bpf_map_lookup_elem(&aggregates_odd, key);
	else
		entry = bpf_map_lookup_elem(&aggregates_even, key);
	if (!entry) {
		s->aggregate.id = (c->aggregates++ << 16 | bpf_get_smp_processor_id() << 1 | (epoch & 1)) + (1ull << 56);
		s->aggregate.count = 1;
		s->aggregate.last_ns = bpf_ktime_get_boot_ns();
		return false;
	}
	__sync_fetch_and_add(&entry->count, 1);
	entry->last_ns = bpf_ktime_get_boot_ns();
	return true;
}

/* After the first was sent. Where there is no room, or another CPU was first, it stands for itself. */
static __always_inline void begin_counting(struct scratch *s, __u32 epoch)
{
	long failed;

	if (epoch & 1)
		failed = bpf_map_update_elem(&aggregates_odd, &s->aggregate_key, &s->aggregate, BPF_NOEXIST);
	else
		failed = bpf_map_update_elem(&aggregates_even, &s->aggregate_key, &s->aggregate, BPF_NOEXIST);
	if (failed == -E2BIG) {
		count_cause(VG_CAUSE_AGGREGATES_FULL);
		aggregates_full = 1;
	}
}

#endif
