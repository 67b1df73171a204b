/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What every object of ours has that looks at paths: the tables that decide, and the memory of a walk. */
#ifndef VFSGUARD_TABLES_BPF_H
#define VFSGUARD_TABLES_BPF_H

#include "kernel.h"
#include "../abi/control.h"
#include "../abi/events.h"

/* Knobs: constant once loaded. */
const volatile __u32 table_mask = 4095;  /* the size of `tables`, a power of two, less one */

/* Memory that functions hand to each other; as types of their own, because the verifier takes a size from the type. */
struct component {
	char bytes[VG_NAME_MAX];
} __attribute__((aligned(8)));

struct name_buffer {
	char bytes[VG_PATH_MAX];
};

struct path_buffer {
	char bytes[VG_PATH_MAX + 2 * VG_NAME_MAX];
};

/*
 * Where a walk up to the root stands (lib/walk.bpf.h). Always in map memory: what the verifier reads back from there is a plain
 * number whatever was stored, so a loop over it converges at once.
 */
struct walk {
	__u64 dentry;
	__u64 mnt;
	__u64 root_dentry;
	__u64 root_mnt;
	__u32 off;    /* store: bytes; match: components fed */
	__u32 state;
	__u32 flags;  /* VG_PATH_* */
	__u32 skip;   /* components to pass over: ".." that the name began with */
	__u32 rooted; /* the caller's root was met, */
	__u32 root_at; /* when so much was stored */
	__u32 done;
	__u32 version; /* of the policy, whose tables decide; stays from walk to walk */
	__u32 ended;   /* walk_inside: the directory end_ino was met */
	__u32 pad;
	__u64 end_ino;
	__u64 top;     /* the last dentry that was read: where it ended, if nothing is mounted there */
};

/*
 * struct vg_tables and what follows it, of two versions of the policy: while one decides, the other can be filled. Their size is set before
 * loading. What was begun by one version goes on by it; user space waits for the programs that run before it fills the same place again.
 */
volatile __u32 policy_version = VG_FIRST_VERSION;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, 4096);
} tables SEC(".maps");

#endif
