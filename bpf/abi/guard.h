/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The contract between bpf/self_protect.bpf.c and src/guard. */
#ifndef VFSGUARD_ABI_GUARD_H
#define VFSGUARD_ABI_GUARD_H

#include "events.h"

#define VG_FORBID_AGENT 1 /* nobody gets hold of the agent */
#define VG_FORBID_ALL 2   /* nobody gets hold of anybody */

#define VG_EXEMPT_MAX 64

/* An executable by its file, as struct vg_event.dev (the kernel's encoding) and inode number. */
struct vg_exempt_exe {
	vg_u64 ino;
	vg_u32 dev;
	vg_u32 pad;
};

/* What was refused. */
struct vg_held_off {
	vg_u64 start_ns; /* when who asked was started, as struct vg_process has it */
	vg_u32 pid;      /* who asked: in the first pid namespace */
	vg_u32 uid;
	vg_u32 target_pid;
	vg_u32 mode; /* PTRACE_MODE_* (include/linux/ptrace.h); 0: the target asked to be traced by it (PTRACE_TRACEME) */
	char comm[16];
	char target_comm[16];
};

/* What of ours has an id in the kernel: keys of the map `guarded`. */
#define VG_GUARDED_MAP 1
#define VG_GUARDED_PROGRAM 2
#define VG_GUARDED_LINK 3
#define VG_GUARDED_KEY(kind, id) ((vg_u64)(kind) << 32 | (id))
#define VG_GUARDED_MAX 8192

#define VG_FMODE_WRITE 2 /* FMODE_WRITE of include/linux/fs.h */

/* Somebody else got a descriptor of it. */
struct vg_bpf_access {
	vg_u64 start_ns; /* as in struct vg_held_off */
	vg_u64 key;      /* VG_GUARDED_KEY */
	vg_u32 pid;
	vg_u32 uid;
	vg_u32 fmode; /* of a map: bit 0 may read, VG_FMODE_WRITE */
	vg_u32 pad;
	char comm[16];
};

#endif
