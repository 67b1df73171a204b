/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Knobs and maps. Only src/sensor (and, later, the policy compiler) writes any of them. */
#ifndef VFSGUARD_MAPS_BPF_H
#define VFSGUARD_MAPS_BPF_H

#include "refusals.bpf.h"
#include "tables.bpf.h"

/* Knobs: constant once loaded, so the verifier removes what a filter does not need. */
const volatile __u32 abi_version = VG_ABI_VERSION;
const volatile __u32 hook_id = VG_HOOK_TRACEPOINT;
const volatile __u64 operation_mask = ~0ull;
const volatile __u64 begin_mask = ~0ull;  /* operations whose calls are followed: an open may turn out a create */
const volatile __u32 only_failed = 0;
const volatile __u32 only_write = 0;
const volatile __u32 every_access = 0;   /* an event for each read and write, no sessions */
const volatile __u32 filter_path = 0;
const volatile __u32 filter_exe = 0;
const volatile __u32 filter_comm = 0;
const volatile __u32 filter_uid = 0;
const volatile __u32 filter_pid = 0;
const volatile __u32 follow_children = 0;
const volatile __u32 setattr_takes_idmap = 0; /* lsm/inode_setattr(idmap, dentry, attr), since 6.9 */
const volatile __u32 complete_takes_cqe = 0; /* io_uring_complete(ctx, req, cqe), since 6.16 */
const volatile __u32 requests_probed = 0; /* io_uring requests are followed by kprobes; their tracepoints tell of reads and writes only */
const volatile __u32 agent_mnt_ns = 0;   /* whose view of the mounts vg_event.path is to be told in */
const volatile __s32 overlay_upper = 0;  /* from an overlay's struct inode to the pointer to its upper dentry; 0: not known */
const volatile __u32 aggregate = 0;      /* count what is alike */
const volatile __u32 refused_accesses = 0; /* reads and writes are followed for no more than those that were refused */
const volatile __u32 enforcing = 0; /* somebody fills `refusals` */
const volatile __u32 killing = 0;   /* of calls that go on, too: who is not allowed is killed */
const volatile __u32 match_operations = 0; /* each match set names its own operations */

/* Read and written by both sides. */
__u32 self_tgid = 0;       /* the agent: its own work is no event */
__u32 reader_waits = 0;    /* the reader sleeps in epoll: the next record wakes it */
__u64 own_calls = 0;       /* the agent's, as seen and passed over: is anything called at all? */
__u32 lsm_canary = 0;      /* the agent's own opens as seen by the LSM hook: is it called at all? */
__u32 aggregate_epoch = 0; /* its lowest bit: the table that is filled */
__u32 aggregates_full = 0; /* one of them is: set by the kernel side */
__u32 describe_epoch = 1;  /* raised by user space to have every process described again */

#define ARGS_MAX 8 /* a power of two; system calls have six */

/* A name as the caller gave it, and the object that it led to. An operation has one or two of them. */
struct named {
	__u64 ptr;          /* user address of the name; 0: none */
	__u64 dir_dentry;   /* the directory that a relative name starts from, as of begin */
	__u64 dir_mnt;
	__u64 dentry;       /* the object: as of decide, or found at complete */
	__u64 mnt;
	__u64 parent;       /* of dentry, at decide */
	__u64 ino;
	__u32 dev;
	__u32 imode;
	__u32 nlink;
	__s32 dirfd;
	__u32 match;
	__u32 flags;        /* VG_PATH_*, VG_RAW_*, VG_BASE_UNKNOWN */
	__u16 len;          /* of `name` */
	__u16 changed_len;  /* of a second, different reading */
	__u8 dirs_known;
	__u8 is_text;       /* no path: a link's target, an attribute's name */
	__u8 by_file;       /* no name was given but a descriptor; dentry and mnt are known from begin */
	__u8 pad;
	struct component name;
};

/* What is being called by this thread, from begin to complete. */
struct pending {
	__u64 request;      /* io_uring: address of the request */
	__u64 flags;
	__u64 value;
	__u64 value2;
	__u64 file;         /* the open file: as of decide, or found at complete */
	__u32 fmode;
	__u32 generation;
	__u32 mnt_id;
	__u32 layer;
	__u32 mode;
	__u32 have;         /* VG_HAVE_*, VG_NO_RESULT */
	__s32 fd;
	__u32 slot;         /* io_uring: fixed-file slot + 1, ~0 for any; 0: an ordinary descriptor */
	__u8 call;          /* 0: nothing pending */
	__u8 via;
	__u8 operation;
	__u8 decided;       /* the object was seen */
	__u8 stored;        /* its path lies in decided_paths */
	__u8 script;
	__u8 passed;        /* what passes the filters already: the end of a session */
	__u8 pad;
	char fs_type[VG_FSTYPE_LEN];
	__u64 args[ARGS_MAX];
	struct walk walk;
	struct named at;    /* what it is done to */
	struct named to;    /* the second name: rename's and link's new one; or a text */
	struct component work; /* one component at a time */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct pending);
} pending_calls SEC(".maps");

/* The paths at decide, for the mechanisms that have that moment. LSM programs can be preempted, so per-CPU memory will not do. */
struct stored_path {
	__u32 len;
	__u32 flags;
	__u32 root_at;
	__u32 pad;
	struct path_buffer path;
};

struct stored_paths {
	struct stored_path at;
	struct stored_path to;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct stored_paths);
} decided_paths SEC(".maps");

/* io_uring requests between submission and completion, by request address (tracepoint mechanism). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct pending);
} pending_requests SEC(".maps");

/* Per process (lives on the thread group leader): has it been described, and does its executable pass the filter. */
struct process_state {
	__u64 exec_id;
	__u64 cgroup_id;
	__u32 described_epoch;
	__u32 exe_match; /* 0: not known yet, 1: no, 2: yes */
	__u32 sessions;  /* that have not ended */
	__u32 ancestors;
	__u32 chain_known;
	__u32 pad;
	__u64 cursor;   /* of the walk that fills it; here, not on the stack, as for every walk (struct walk) */
	struct vg_ancestor chain[VG_ANCESTORS_MAX]; /* parent first */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct process_state);
} processes SEC(".maps");

/* Reads and writes of one process through one open file (lib/access.bpf.h). */
struct session_key {
	__u64 file;
	__u32 tgid;
	__u32 pad;
};

struct session {
	__u64 inode; /* another one: the address was used again */
	__u32 match;
	__u32 version; /* of the policy that it was matched by */
	struct vg_access access;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct session_key);
	__type(value, struct session);
} sessions SEC(".maps");

/*
 * Open files that the filters rule out for a process, so that its next read costs one look-up; each has one slot, and who comes later takes
 * it: forgetting one costs a walk. An array is looked up inline, and this is what every read and write of the machine goes through.
 */
struct uninteresting {
	__u64 file;
	__u64 inode;
	__u64 image; /* process and exec_id: another program is judged anew */
	__u64 check; /* of the three and the policy's version: an entry is written without a lock */
};
#define UNINTERESTING_BITS 13

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << UNINTERESTING_BITS);
	__type(key, __u32);
	__type(value, struct uninteresting);
} uninteresting SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 * 1024 * 1024);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} priority_ring SEC(".maps");

/* What is counted instead of told (lib/aggregate.bpf.h): one table is filled while the other is read. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct vg_aggregate_key);
	__type(value, struct vg_aggregate);
} aggregates_even SEC(".maps"), aggregates_odd SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vg_counters);
} counters SEC(".maps");

/* Where records are put together. Used only where preemption is off (tracepoints, kprobes). */
#define VG_DATA_MAX (5 * VG_PATH_MAX) /* a per-CPU value is at most 32 KiB */
/* What a program hands over to `finish` (tracepoint.bpf.c). */
struct finishing {
	__u32 what;      /* FINISH_* */
	__u32 first;     /* FINISH_SESSIONS: descriptors */
	__u32 last;
	__u32 spare;     /* FINISH_CALL: it lies in scratch.spare, not in task storage */
	__u32 call;      /* FINISH_ACCESS */
	__u32 via;
	__u32 have;
	__u32 match;     /* what was told last: its match, and what complete answered */
	__s32 answer;
	__s32 from_fd;   /* -1: not by a descriptor */
	__s32 to_fd;
	__u64 from;      /* the open file that was read; 0: none */
	__u64 to;        /* the open file that was written; 0: none */
	__u64 request;   /* address in pending_requests; 0: spare */
	__s64 result;
	__u64 start_ns;
	struct session_key session;
};
enum { FINISH_CALL, FINISH_REQUEST, FINISH_ACCESS, FINISH_SESSION, FINISH_SESSIONS, FINISH_ALL_SESSIONS, FINISH_PROCESS };

struct scratch {
	struct vg_event event; /* its strings follow it: the two are sent as one */
	union {
		struct path_buffer path; /* the path comes first */
		char data[VG_DATA_MAX];
	};
	struct walk walk;
	struct component work;
	struct component work2; /* a second, different reading of a name */
	struct name_buffer name;
	struct name_buffer name2;
	__u32 raw_len;  /* of these */
	__u32 raw2_len;
	__u32 settled;  /* the first one is done with */
	__u32 pad;
	struct pending spare; /* when task storage cannot be had */
	struct finishing finishing;
	struct session session; /* a new one */
	struct vg_aggregate_key aggregate_key;
	struct vg_aggregate aggregate;
};
_Static_assert(offsetof(struct scratch, data) == sizeof(struct vg_event), "a record is sent in one piece");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

struct process_scratch {
	struct walk walk;
	struct process_state unstored; /* of a process whose storage cannot be had now */
	struct vg_process process;     /* what follows it is sent with it */
	union {
		struct path_buffer path; /* the executable comes first */
		char data[4 * VG_PATH_MAX];
	};
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct process_scratch);
} process_scratches SEC(".maps");

struct comm_key {
	char comm[VG_COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct comm_key);
	__type(value, __u8);
} comms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u8);
} uids SEC(".maps");

/* Value 1: asked for, 2: a descendant that came in by --follow. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u8);
} pids SEC(".maps");

static __always_inline struct vg_counters *my_counters(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&counters, &zero);
}

static __always_inline void count_cause(__u32 cause)
{
	struct vg_counters *c = my_counters();
	if (c && cause < VG_CAUSE_COUNT)
		__sync_fetch_and_add(&c->cause[cause], 1); /* LSM programs can be preempted */
}

static __always_inline struct scratch *my_scratch(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&scratches, &zero);
}

#endif
