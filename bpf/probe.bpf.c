/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Trials for `vfsguard doctor`: each program is the smallest that shows whether its mechanism really works here. All of them act on
 * the trying process alone (or on a child that it made for the purpose) and only count or change what it does to its own canary.
 *
 *   lsm/file_open                     counts; refuses the canary process's opens when told to
 *   kprobe, kretprobe vfs_open        counts
 *   fentry vfs_open                   counts
 *   tp_btf sys_enter                  counts; sends a signal to the canary process when told to
 *   tracepoint sys_enter_openat       counts
 *   kprobe on the system call openat  replaces its return value for the canary process (bpf_override_return)
 */
#include "lib/kernel.h"

/* The process that the trial is about, by the kernel's own count; 0: nobody. */
__u32 canary = 0;
__u32 deny = 0;
__u32 signal = 0;
__u32 hits = 0;
__u32 self = 0;

static __always_inline int is_canary(void)
{
	return canary && (__u32)(bpf_get_current_pid_tgid() >> 32) == canary;
}

static __always_inline int hit(void)
{
	if (!is_canary())
		return 0;
	__sync_fetch_and_add(&hits, 1);
	return 1;
}

SEC("lsm/file_open")
int BPF_PROG(try_lsm, struct file *file)
{
	return hit() && deny ? -13 : 0;
}

SEC("kprobe/vfs_open")
int try_kprobe(void *ctx)
{
	hit();
	return 0;
}

SEC("kretprobe/vfs_open")
int try_kretprobe(void *ctx)
{
	hit();
	return 0;
}

SEC("fentry/vfs_open")
int BPF_PROG(try_fentry)
{
	hit();
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(try_tp_btf)
{
	if (hit() && signal)
		bpf_send_signal(signal);
	return 0;
}

SEC("raw_tp/sys_exit")
int try_raw_tp(void *ctx)
{
	hit();
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_openat")
int try_tracepoint(void *ctx)
{
	hit();
	return 0;
}

SEC("kprobe/__x64_sys_openat")
int try_override(struct pt_regs *ctx)
{
	if (hit())
		bpf_override_return(ctx, -13);
	return 0;
}

struct bpf_iter__task;

SEC("iter/task")
int try_iter(void *ctx)
{
	__sync_fetch_and_add(&hits, 1);
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} storage SEC(".maps");

static long loop_once(__u32 i, void *ctx)
{
	return 0;
}

SEC("raw_tp/sys_enter")
int try_helpers(void *ctx)
{
	__u64 *value, now;

	if (!is_canary())
		return 0;
	value = bpf_task_storage_get(&storage, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	now = bpf_ktime_get_boot_ns();
	if (!value || !now || bpf_loop(2, loop_once, NULL, 0) != 2)
		return 0;
	if (!bpf_ringbuf_output(&ring, &now, sizeof(now), 0))
		hit();
	return 0;
}

SEC("syscall")
int who_am_i(void *ctx)
{
	self = bpf_get_current_pid_tgid() >> 32;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
