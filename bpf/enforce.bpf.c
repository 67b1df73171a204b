/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Enforcement by BPF LSM: what the policy forbids gets its errno from the hook that the kernel asks just before it acts. An object of its
 * own, beside the one that records: it stands whatever mechanism records, and whether anybody reads the events.
 *
 * The kernel never skips LSM programs for recursion (bpf_prog_check_recur), and asks these hooks for every way in: both ABIs, io_uring,
 * descriptors that were passed or kept.
 */
#include "lib/ioctl.bpf.h"
#include "lib/judge.bpf.h"
#include "lib/mounts.bpf.h"

const volatile __u32 attributes_come_second = 0; /* inode_setattr(idmap, dentry, attr), since 6.9 */

#define DO(operation) (1ull << VG_OP_##operation)

static __always_inline bool is_agent(void)
{
	return (__u32)TASK(bpf_get_current_task_btf(), tgid) == agent_tgid;
}

static __always_inline bool concerns(__u64 operations)
{
	return (operations & decided_operations) && !is_agent();
}

/* Ends a decision; the hook's answer, within the bounds that the verifier asks for. */
static __always_inline int answer_with(struct deed *d, bool refuse)
{
	int answer = conclude(d);

	if (!answer && refuse)
		answer = -EACCES;
	release_deed(d);
	barrier_var(answer);
	if (answer < -4095 || answer > 0)
		return -EACCES;
	return answer;
}

/* One object. */
static __always_inline int ask(__u64 operations, __u64 dentry, __u64 mnt)
{
	struct deed *d;

	if (!concerns(operations))
		return 0;
	d = claim_deed();
	if (!d)
		return -EACCES;
	begin_deed(d, operations, dentry, mnt);
	judge(d);
	return answer_with(d, false);
}

static __always_inline int ask_path(__u64 operations, __u64 path)
{
	return ask(operations, (__u64)FIELD(struct path, path, dentry), (__u64)FIELD(struct path, path, mnt));
}

static __always_inline int ask_child(__u64 operations, __u64 dir, __u64 dentry)
{
	return ask(operations, dentry, (__u64)FIELD(struct path, dir, mnt));
}

/*
 * Until 6.5 what an overlay opens beneath carries the overlay's path: its inode is another one. Any name of that inode will do, as its own file
 * system has it.
 */
static __always_inline int ask_file(__u64 operations, __u64 file)
{
	__u64 dentry = file_dentry_of(file), inode = (__u64)FIELD(struct file, file, f_inode), alias;

	if ((__u64)FIELD(struct dentry, dentry, d_inode) == inode)
		return ask(operations, dentry, file_mount_of(file));
	alias = (__u64)FIELD(struct inode, inode, i_dentry.first);
	return alias ? ask(operations, alias - bpf_core_field_offset(struct dentry, d_u.d_alias), 0) : 0;
}

/* Two objects, either of which the rules may be about. */
static __always_inline int ask_two(__u64 operations, __u64 from, __u64 from_mnt, __u64 to, __u64 to_mnt)
{
	struct deed *d;

	if (!concerns(operations))
		return 0;
	d = claim_deed();
	if (!d)
		return -EACCES;
	begin_deed(d, operations, from, from_mnt);
	judge(d);
	d->dentry = to;
	d->mnt = to_mnt;
	judge(d);
	return answer_with(d, false);
}

/* The object keeps what protects it under its new name. */
static __always_inline bool carry(const struct deed *d, __u64 dentry, __u32 set, __u32 to_set)
{
	const struct vg_tables *t = tables_for(d);
	__u64 inode = (__u64)FIELD(struct dentry, dentry, d_inode);
	const struct vg_range *range;

	if (!t || !set || set == to_set || !inode || is_directory(inode))
		return true;
	range = table_at(t, t->ranges_at + set * sizeof(*range), sizeof(*range));
	if (!range->count || mark(t, d->walk.version, inode, set))
		return true;
	COUNT(labels_full);
	return false;
}

/* A name goes: what was remembered about its object, or beneath it, may be about another soon. */
static __always_inline void forget_free(void)
{
	__sync_fetch_and_add(&generation, 1);
}

/* Rename and link, which give an object another name: asked whatever operations the rules are about. */
static __always_inline int ask_naming(__u64 operations, __u64 from, __u64 to, __u64 mnt, bool moves, bool exchanges)
{
	struct deed *d;
	__u32 from_set, to_set;
	bool refuse;

	if (is_agent())
		return 0;
	d = claim_deed();
	if (!d)
		return -EACCES;
	begin_deed(d, operations, from, mnt);
	judge(d);
	from_set = d->set;
	d->to = to;
	if (moves && is_directory((__u64)FIELD(struct dentry, from, d_inode)))
		judge_move(d);
	d->dentry = to;
	judge(d);
	to_set = d->set;
	d->to = from;
	if (exchanges && is_directory((__u64)FIELD(struct dentry, to, d_inode)))
		judge_move(d);
	d->dentry = from;
	/* Marked before it is known whether it goes through: a label too many protects too much for as long as the inode lives. */
	refuse = !(d->rule != ~0u && d->enforce) && (!carry(d, from, from_set, to_set) || (exchanges && !carry(d, to, to_set, from_set)));
	return answer_with(d, refuse);
}

SEC("lsm/file_open")
int BPF_PROG(enforce_file_open, __u64 file)
{
	__u64 operations = FIELD(struct file, file, f_flags) & FMODE_EXEC ? DO(EXEC) : DO(OPEN);

	if (is_agent())
		hook_canary++;
	if (FIELD(struct file, file, f_mode) & FMODE_CREATED)
		operations |= DO(CREATE);
	return ask_file(operations, file);
}

/* Every read and write: a descriptor may be older than the policy, or come from somebody who may have it. */
SEC("lsm/file_permission")
int BPF_PROG(enforce_file_permission, __u64 file, __u64 mask)
{
	__u64 operations = 0;

	if (mask & MAY_READ)
		operations |= DO(READ) | DO(OPEN);
	if (mask & (MAY_WRITE | MAY_APPEND))
		operations |= DO(WRITE) | DO(OPEN);
	return ask_file(operations, file);
}

/* A descriptor arrives in a message. */
SEC("lsm/file_receive")
int BPF_PROG(enforce_file_receive, __u64 file)
{
	return ask_file(DO(OPEN), file);
}

static __always_inline __u64 map_operations(__u64 protection, bool shared)
{
	__u64 operations = DO(OPEN);

	if (protection & PROT_READ)
		operations |= DO(READ);
	if (protection & PROT_EXEC)
		operations |= DO(MMAP);
	if (shared && protection & PROT_WRITE)
		operations |= DO(MMAP) | DO(WRITE);
	return operations;
}

SEC("lsm/mmap_file")
int BPF_PROG(enforce_mmap_file, __u64 file, __u64 requested, __u64 protection, __u64 flags)
{
	if (!file)
		return 0;
	return ask_file(map_operations(protection, flags & MAP_SHARED), file);
}

SEC("lsm/file_mprotect")
int BPF_PROG(enforce_file_mprotect, __u64 map, __u64 requested, __u64 protection)
{
	__u64 file = (__u64)FIELD(struct vm_area_struct, map, vm_file);

	if (!file)
		return 0;
	return ask_file(map_operations(protection, FIELD(struct vm_area_struct, map, vm_flags) & VM_MAYSHARE), file);
}

SEC("lsm/file_ioctl")
int BPF_PROG(enforce_file_ioctl, __u64 file, __u64 request)
{
	return is_followed_ioctl(request) ? ask_file(DO(IOCTL), file) : 0;
}

SEC("lsm/file_ioctl_compat")
int BPF_PROG(enforce_file_ioctl_compat, __u64 file, __u64 request)
{
	return is_followed_ioctl(request) ? ask_file(DO(IOCTL), file) : 0;
}

SEC("lsm/path_unlink")
int BPF_PROG(enforce_path_unlink, __u64 dir, __u64 dentry)
{
	__u64 inode = (__u64)FIELD(struct dentry, dentry, d_inode);

	if (inode && FIELD(struct inode, inode, i_nlink) > 1)
		forget_free();
	return ask_child(DO(UNLINK), dir, dentry);
}

SEC("lsm/path_rmdir")
int BPF_PROG(enforce_path_rmdir, __u64 dir, __u64 dentry)
{
	forget_free();
	return ask_child(DO(RMDIR), dir, dentry);
}

SEC("lsm/path_mkdir")
int BPF_PROG(enforce_path_mkdir, __u64 dir, __u64 dentry)
{
	return ask_child(DO(MKDIR), dir, dentry);
}

/* Of an open that creates, too. */
SEC("lsm/path_mknod")
int BPF_PROG(enforce_path_mknod, __u64 dir, __u64 dentry, __u64 mode)
{
	__u64 operations = DO(MKNOD);

	if ((mode & S_IFMT) == S_IFREG || !(mode & S_IFMT))
		operations = DO(CREATE);
	else if ((mode & S_IFMT) == S_IFSOCK)
		operations |= DO(BIND);
	return ask_child(operations, dir, dentry);
}

SEC("lsm/path_symlink")
int BPF_PROG(enforce_path_symlink, __u64 dir, __u64 dentry)
{
	return ask_child(DO(SYMLINK), dir, dentry);
}

SEC("lsm/path_link")
int BPF_PROG(enforce_path_link, __u64 old, __u64 dir, __u64 dentry)
{
	forget_free();
	return ask_naming(DO(LINK), old, dentry, (__u64)FIELD(struct path, dir, mnt), false, false);
}

SEC("lsm/path_rename")
int BPF_PROG(enforce_path_rename, __u64 old_dir, __u64 old, __u64 dir, __u64 dentry, __u64 flags)
{
	return ask_naming(DO(RENAME), old, dentry, (__u64)FIELD(struct path, dir, mnt), true, flags & RENAME_EXCHANGE);
}

SEC("lsm/path_truncate")
int BPF_PROG(enforce_path_truncate, __u64 path)
{
	return ask_path(DO(TRUNCATE), path);
}

SEC("lsm/file_truncate")
int BPF_PROG(enforce_file_truncate, __u64 file)
{
	return ask_file(DO(TRUNCATE), file);
}

SEC("lsm/path_chmod")
int BPF_PROG(enforce_path_chmod, __u64 path)
{
	return ask_path(DO(CHMOD), path);
}

SEC("lsm/path_chown")
int BPF_PROG(enforce_path_chown, __u64 path)
{
	return ask_path(DO(CHOWN), path);
}

static __always_inline int ask_dentry(__u64 operations, __u64 dentry)
{
	if (!concerns(operations))
		return 0;
	return ask(operations, dentry, some_mount(bpf_get_current_task_btf(), (__u64)FIELD(struct dentry, dentry, d_sb)));
}

SEC("lsm/inode_setattr")
int BPF_PROG(enforce_inode_setattr, __u64 first, __u64 second, __u64 third)
{
	__u64 dentry, attributes;
	__u32 valid;

	barrier_var(first); /* all loaded: a chosen offset into ctx is not allowed */
	barrier_var(second);
	barrier_var(third);
	dentry = attributes_come_second ? second : first;
	attributes = attributes_come_second ? third : second;
	valid = FIELD(struct iattr, attributes, ia_valid);
	if (!(valid & (ATTR_ATIME | ATTR_MTIME | ATTR_ATIME_SET | ATTR_MTIME_SET)))
		return 0;
	return ask_dentry(DO(UTIMES), dentry);
}

SEC("lsm/inode_setxattr")
int BPF_PROG(enforce_inode_setxattr, __u64 idmap, __u64 dentry)
{
	return ask_dentry(DO(SETXATTR), dentry);
}

SEC("lsm/inode_set_acl")
int BPF_PROG(enforce_inode_set_acl, __u64 idmap, __u64 dentry)
{
	return ask_dentry(DO(SETXATTR), dentry);
}

SEC("lsm/inode_removexattr")
int BPF_PROG(enforce_inode_removexattr, __u64 idmap, __u64 dentry)
{
	return ask_dentry(DO(REMOVEXATTR), dentry);
}

SEC("lsm/inode_remove_acl")
int BPF_PROG(enforce_inode_remove_acl, __u64 idmap, __u64 dentry)
{
	return ask_dentry(DO(REMOVEXATTR), dentry);
}

SEC("lsm/sb_mount")
int BPF_PROG(enforce_sb_mount, __u64 source, __u64 path)
{
	return ask_path(DO(MOUNT), path);
}

SEC("lsm/move_mount")
int BPF_PROG(enforce_move_mount, __u64 from, __u64 to)
{
	return ask_two(DO(MOUNT), (__u64)FIELD(struct path, from, dentry), (__u64)FIELD(struct path, from, mnt), (__u64)FIELD(struct path, to, dentry),
		       (__u64)FIELD(struct path, to, mnt));
}

SEC("lsm/sb_umount")
int BPF_PROG(enforce_sb_umount, __u64 mnt)
{
	return ask(DO(UMOUNT), (__u64)FIELD(struct vfsmount, mnt, mnt_root), mnt);
}

SEC("lsm/sb_pivotroot")
int BPF_PROG(enforce_sb_pivotroot, __u64 old, __u64 new)
{
	return ask_two(DO(PIVOT_ROOT), (__u64)FIELD(struct path, new, dentry), (__u64)FIELD(struct path, new, mnt), (__u64)FIELD(struct path, old, dentry),
		       (__u64)FIELD(struct path, old, mnt));
}

SEC("lsm/path_chroot")
int BPF_PROG(enforce_path_chroot, __u64 path)
{
	return ask_path(DO(CHROOT), path);
}

/* Run by the agent: its own pid as the kernel counts. */
SEC("syscall")
int who_enforces(void *ctx)
{
	agent_tgid = bpf_get_current_pid_tgid() >> 32;
	return 0;
}

/* Run by the agent: what is behind one of its descriptors (struct vg_look). */
SEC("syscall")
int look(struct vg_look *look)
{
	__u64 file = file_of_fd(bpf_get_current_task_btf(), look->fd), mnt, dentry;

	if (!file)
		return 1;
	mnt = file_mount_of(file);
	dentry = file_dentry_of(file);
	look->mnt = mnt;
	look->mnt_id = FIELD(struct mount, mount_of(mnt), mnt_id);
	read_label(&look->object, (__u64)FIELD(struct dentry, dentry, d_inode));
	return 0;
}

/* Run by the agent: marks an object that has several names, or that an older version of the policy marked. */
SEC("syscall")
int give_mark(struct vg_giving *giving)
{
	struct vg_label label = giving->object;

	return put_mark(&label, giving->version, giving->set) ? 0 : 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
