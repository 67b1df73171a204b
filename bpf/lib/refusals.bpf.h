/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Written by the programs that enforce (rules.bpf.h), read by those that write events: one pair of maps, which both objects are given. */
#ifndef VFSGUARD_REFUSALS_BPF_H
#define VFSGUARD_REFUSALS_BPF_H

#include "kernel.h"
#include "../abi/events.h"

/* What was last refused to a thread. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct vg_refusal);
} refusals SEC(".maps");

/* The same of io_uring's workers, whose requests are completed by another thread. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct vg_worker_key);
	__type(value, struct vg_refusal);
} worker_refusals SEC(".maps");

#endif
