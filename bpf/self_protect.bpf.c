/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Keeps debuggers off the agent, or off everybody, by BPF LSM, and records who gets a descriptor of the agent's maps, programs and links. An
 * object of its own: it stands whatever records and whatever is enforced.
 *
 * One hook answers for every way to another process's memory, registers or descriptors: __ptrace_may_access (kernel/ptrace.c) asks
 * ptrace_access_check for PTRACE_ATTACH and SEIZE, process_vm_readv and writev, opening /proc/PID/mem, and pidfd_getfd, all with
 * PTRACE_MODE_ATTACH. Those that only look (/proc/PID/maps, environ, fd, kcmp: PTRACE_MODE_READ) are let through. The kernel does not ask
 * about threads of the caller's own process.
 *
 * lsm/bpf_map and lsm/bpf_prog are asked whenever a descriptor is made, by id (BPF_MAP_GET_FD_BY_ID) or by a pin (BPF_OBJ_GET); links have no
 * such hook, lsm/bpf names theirs by its command. What is done with the descriptor later (an update, a map into memory) asks nobody: user
 * space compares the maps with what they should hold. Nothing is refused here, or no other agent could take over and no tool look.
 */
#include "lib/kernel.h"
#include "abi/guard.h"

#define PTRACE_MODE_ATTACH 0x02 /* include/linux/ptrace.h */
#define EPERM 1

__u32 forbids = 0; /* VG_FORBID_*; 0: nothing */
__u32 agent_tgid = 0;
__u64 agent_start = 0;
__u32 exempt_uids[VG_EXEMPT_MAX] = {};
__u32 exempt_uid_count = 0;
struct vg_exempt_exe exempt_exes[VG_EXEMPT_MAX] = {};
__u32 exempt_exe_count = 0;
__u64 untold = 0; /* refused, without room in the ring to say so */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16384);
} held_off SEC(".maps");

__u64 unseen_accesses = 0; /* of our maps, without room in the ring to say so */
__u64 woken_ns = 0;

/* Ids of what is ours (VG_GUARDED_KEY). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	__uint(max_entries, VG_GUARDED_MAX);
	__type(key, __u64);
	__type(value, __u32);
} guarded SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16384);
} accesses SEC(".maps");

static __always_inline bool is_agent(struct task_struct *task)
{
	return (__u32)task->tgid == agent_tgid && task->group_leader->start_boottime == agent_start;
}

static bool is_exempt(struct task_struct *task)
{
	__u32 uid = task->real_cred->uid.val, dev, i;
	struct inode *inode;
	struct mm_struct *mm;
	struct file *file;
	__u64 ino;

	for (i = 0; i < VG_EXEMPT_MAX && i < exempt_uid_count; i++)
		if (exempt_uids[i] == uid)
			return true;
	if (!exempt_exe_count)
		return false;
	mm = task->mm;
	if (!mm)
		return false;
	file = mm->exe_file;
	if (!file)
		return false;
	inode = file->f_inode;
	ino = inode->i_ino;
	dev = inode->i_sb->s_dev;
	for (i = 0; i < VG_EXEMPT_MAX && i < exempt_exe_count; i++)
		if (exempt_exes[i].ino == ino && exempt_exes[i].dev == dev)
			return true;
	return false;
}

static int refuse(struct task_struct *tracer, struct task_struct *target, __u32 mode)
{
	struct vg_held_off *record;

	if (!forbids)
		return 0;
	if (forbids == VG_FORBID_AGENT && !is_agent(target))
		return 0;
	/* The agent looks at others as it must; from the agent itself nobody is exempt. */
	if (is_agent(tracer) || (!is_agent(target) && is_exempt(tracer)))
		return 0;
	record = bpf_ringbuf_reserve(&held_off, sizeof(*record), 0);
	if (!record) {
		__sync_fetch_and_add(&untold, 1);
		return -EPERM;
	}
	record->start_ns = tracer->group_leader->start_boottime;
	record->pid = tracer->tgid;
	record->uid = tracer->real_cred->uid.val;
	record->target_pid = target->tgid;
	record->mode = mode;
	bpf_probe_read_kernel(record->comm, sizeof(record->comm), tracer->comm);
	bpf_probe_read_kernel(record->target_comm, sizeof(record->target_comm), target->comm);
	bpf_ringbuf_submit(record, 0);
	return -EPERM;
}

SEC("lsm/ptrace_access_check")
int BPF_PROG(guard_access, struct task_struct *child, unsigned int mode)
{
	return mode & PTRACE_MODE_ATTACH ? refuse(bpf_get_current_task_btf(), child, mode) : 0;
}

SEC("lsm/ptrace_traceme")
int BPF_PROG(guard_traceme, struct task_struct *parent)
{
	return refuse(parent, bpf_get_current_task_btf(), 0);
}

#define WAKE_EVERY_NS 20000000 /* who opens maps in a loop does not wake the agent for each */

static void note_access(__u32 kind, __u32 id, __u32 fmode)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 key = VG_GUARDED_KEY(kind, id), now;
	struct vg_bpf_access *record;
	bool wake;

	if (is_agent(task) || !bpf_map_lookup_elem(&guarded, &key))
		return;
	record = bpf_ringbuf_reserve(&accesses, sizeof(*record), 0);
	if (!record) {
		__sync_fetch_and_add(&unseen_accesses, 1);
		return;
	}
	record->start_ns = task->group_leader->start_boottime;
	record->key = key;
	record->pid = task->tgid;
	record->uid = task->real_cred->uid.val;
	record->fmode = fmode;
	record->pad = 0;
	bpf_probe_read_kernel(record->comm, sizeof(record->comm), task->comm);
	now = bpf_ktime_get_ns();
	wake = now - woken_ns > WAKE_EVERY_NS;
	if (wake)
		woken_ns = now;
	bpf_ringbuf_submit(record, wake ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

SEC("lsm/bpf_map")
int BPF_PROG(guard_map, struct bpf_map *map, __u32 fmode)
{
	note_access(VG_GUARDED_MAP, map->id, fmode & 3);
	return 0;
}

SEC("lsm/bpf_prog")
int BPF_PROG(guard_program, struct bpf_prog *prog)
{
	note_access(VG_GUARDED_PROGRAM, prog->aux->id, 0);
	return 0;
}

SEC("lsm/bpf")
int BPF_PROG(guard_command, int command, union bpf_attr *attr)
{
	__u32 id = 0;

	/* The id comes first in what is asked. */
	if (command == BPF_LINK_GET_FD_BY_ID && !bpf_probe_read_kernel(&id, sizeof(id), attr))
		note_access(VG_GUARDED_LINK, id, 0);
	return 0;
}

/* Learns who the agent is, by the kernel's own count: run by it. */
SEC("syscall")
int who_is_guarded(void *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();

	agent_tgid = task->tgid;
	agent_start = task->group_leader->start_boottime;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
