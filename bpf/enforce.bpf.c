/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Enforcement. An object of its own, beside the one that records: it stands whatever mechanism records, and whether anybody reads the events.
 * One decision (lib/decision.bpf.h), carried out by what the kernel has:
 *
 *   lsm/NAME         BPF LSM: what the policy forbids gets its errno from the hook that the kernel asks just before it acts. The kernel never skips
 *                    LSM programs for recursion (bpf_prog_check_recur), and asks for every way in: both ABIs, io_uring, descriptors that were
 *                    passed or kept
 *   enforce_call     override: on the entry of each system call, which is answered instead of carried out (bpf_override_return). By the object
 *                    where the call is made on a descriptor, else by the name that the caller gives, which leads elsewhere through a link, or
 *                    when it is changed under way; so enforce_at stands behind it
 *   enforce_at       signal: at the object, on security_NAME, by kprobe. Nothing can be refused there: who may not is killed, and does not
 *                    live to use what it got; what it changed is changed
 *   enforce_return   signal without kprobes: at the return, for what a call gets: opens, executions, reads, writes and maps of descriptors
 */
#include "lib/ask_ioctl.bpf.h"
#include "lib/calls.bpf.h"
#include "lib/lexical.bpf.h"

const volatile __u32 attributes_come_second = 0; /* inode_setattr(idmap, dentry, attr), since 6.9 */

SEC("lsm/file_open")
int BPF_PROG(enforce_file_open, __u64 file)
{
	if (is_agent())
		hook_canary++;
	return ask_file(open_operations(file), file);
}

/* Every read and write: a descriptor may be older than the policy, or come from somebody who may have it. */
SEC("lsm/file_permission")
int BPF_PROG(enforce_file_permission, __u64 file, __u64 mask)
{
	return ask_file(access_operations(mask), file);
}

/* A descriptor arrives in a message: who gets it did not ask for it. */
SEC("lsm/file_receive")
int BPF_PROG(enforce_file_receive, __u64 file)
{
	return ask_descriptor(DO(OPEN), file, true);
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
	return ask_ioctl(file, request);
}

SEC("lsm/file_ioctl_compat")
int BPF_PROG(enforce_file_ioctl_compat, __u64 file, __u64 request)
{
	return ask_ioctl(file, request);
}

SEC("lsm/path_unlink")
int BPF_PROG(enforce_path_unlink, __u64 dir, __u64 dentry)
{
	forget_name(dentry);
	return ask_removal(DO(UNLINK), dentry, (__u64)FIELD(struct path, dir, mnt));
}

SEC("lsm/path_rmdir")
int BPF_PROG(enforce_path_rmdir, __u64 dir, __u64 dentry)
{
	forget_unprotected();
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
	return ask_child(node_operations(mode), dir, dentry);
}

SEC("lsm/path_symlink")
int BPF_PROG(enforce_path_symlink, __u64 dir, __u64 dentry)
{
	return ask_child(DO(SYMLINK), dir, dentry);
}

SEC("lsm/path_link")
int BPF_PROG(enforce_path_link, __u64 old, __u64 dir, __u64 dentry)
{
	forget_unprotected();
	return ask_naming(DO(LINK), old, dentry, (__u64)FIELD(struct path, dir, mnt), NAMING_LINK);
}

SEC("lsm/path_rename")
int BPF_PROG(enforce_path_rename, __u64 old_dir, __u64 old, __u64 dir, __u64 dentry, __u64 flags)
{
	return ask_naming(DO(RENAME), old, dentry, (__u64)FIELD(struct path, dir, mnt),
			  flags & RENAME_EXCHANGE ? NAMING_EXCHANGE : NAMING_RENAME);
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

SEC("lsm/inode_setattr")
int BPF_PROG(enforce_inode_setattr, __u64 first, __u64 second, __u64 third)
{
	__u64 dentry, attributes, operations;

	barrier_var(first); /* all loaded: a chosen offset into ctx is not allowed */
	barrier_var(second);
	barrier_var(third);
	dentry = attributes_come_second ? second : first;
	attributes = attributes_come_second ? third : second;
	operations = attribute_operations(FIELD(struct iattr, attributes, ia_valid));
	return operations ? ask_dentry(operations, dentry) : 0;
}

/*
 * What an overlay does to its layers, and a file server to what it serves, comes by no path: the
 * object is the one below, and it is asked about with the credentials of who mounted it.
 */
SEC("lsm/inode_create")
int BPF_PROG(enforce_inode_create, __u64 dir, __u64 dentry)
{
	return acts_for_another() ? ask_dentry(DO(CREATE), dentry) : 0;
}

SEC("lsm/inode_mknod")
int BPF_PROG(enforce_inode_mknod, __u64 dir, __u64 dentry, __u64 mode)
{
	return acts_for_another() ? ask_dentry(node_operations(mode), dentry) : 0;
}

SEC("lsm/inode_mkdir")
int BPF_PROG(enforce_inode_mkdir, __u64 dir, __u64 dentry)
{
	return acts_for_another() ? ask_dentry(DO(MKDIR), dentry) : 0;
}

SEC("lsm/inode_symlink")
int BPF_PROG(enforce_inode_symlink, __u64 dir, __u64 dentry)
{
	return acts_for_another() ? ask_dentry(DO(SYMLINK), dentry) : 0;
}

SEC("lsm/inode_unlink")
int BPF_PROG(enforce_inode_unlink, __u64 dir, __u64 dentry)
{
	if (!acts_for_another())
		return 0;
	forget_name(dentry);
	return ask_removal(DO(UNLINK), dentry, 0);
}

SEC("lsm/inode_rmdir")
int BPF_PROG(enforce_inode_rmdir, __u64 dir, __u64 dentry)
{
	if (!acts_for_another())
		return 0;
	forget_unprotected();
	return ask_dentry(DO(RMDIR), dentry);
}

SEC("lsm/inode_link")
int BPF_PROG(enforce_inode_link, __u64 old, __u64 dir, __u64 dentry)
{
	if (!acts_for_another())
		return 0;
	forget_unprotected();
	return ask_naming(DO(LINK), old, dentry, 0, NAMING_LINK);
}

/* Of an exchange it is called for each of the two. */
SEC("lsm/inode_rename")
int BPF_PROG(enforce_inode_rename, __u64 old_dir, __u64 old, __u64 dir, __u64 dentry)
{
	return acts_for_another() ? ask_naming(DO(RENAME), old, dentry, 0, NAMING_RENAME) : 0;
}

/* Its number may be another file's now. */
SEC("lsm/inode_free_security")
int BPF_PROG(enforce_inode_free_security, __u64 inode)
{
	struct vg_inode_key key = {};

	if (!inodes_protected || FIELD(struct inode, inode, i_nlink))
		return 0;
	read_key(&key, inode);
	if (!bpf_map_delete_elem(&protected_inodes, &key))
		__sync_fetch_and_add(&inodes_freed, 1);
	return 0;
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

static __always_inline __u64 operations_at(__u32 where, __u64 mode)
{
	switch (where) {
	case VG_AT_INODE_CREATE:
		return DO(CREATE);
	case VG_AT_INODE_MKDIR:
		return DO(MKDIR);
	case VG_AT_INODE_SYMLINK:
		return DO(SYMLINK);
	case VG_AT_INODE_MKNOD:
		return node_operations(mode);
	case VG_AT_INODE_RMDIR:
		return DO(RMDIR);
	}
	return 0;
}

/* The functions' arguments: include/linux/security.h. What is asked is what the hooks above ask. */
SEC("kprobe.multi")
int BPF_KPROBE(enforce_at, __u64 a, __u64 b, __u64 c, __u64 d, __u64 e)
{
	__u64 operations = 0, dentry = 0, mnt = 0, file = 0, path = 0;

	switch ((__u32)bpf_get_attach_cookie(ctx)) {
	case VG_AT_FILE_OPEN: /* file */
		if (is_agent())
			hook_canary++;
		file = a;
		operations = open_operations(a);
		break;
	case VG_AT_FILE_PERMISSION: /* file, mask */
		file = a;
		operations = access_operations(b);
		break;
	case VG_AT_MMAP_FILE: /* file, protection, flags */
		file = a;
		operations = map_operations(b, c & MAP_SHARED);
		break;
	case VG_AT_FILE_MPROTECT: /* map, as requested, protection */
		file = (__u64)FIELD(struct vm_area_struct, a, vm_file);
		operations = map_operations(c, FIELD(struct vm_area_struct, a, vm_flags) & VM_MAYSHARE);
		break;
	case VG_AT_FILE_IOCTL: /* file, request */
		ask_ioctl(a, b);
		return 0;
	case VG_AT_FILE_TRUNCATE: /* file */
		file = a;
		operations = DO(TRUNCATE);
		break;
	case VG_AT_PATH_UNLINK: /* dir, dentry */
		forget_name(b);
		ask_removal(DO(UNLINK), b, (__u64)FIELD(struct path, a, mnt));
		return 0;
	case VG_AT_PATH_RMDIR: /* dir, dentry */
		forget_unprotected();
		operations = DO(RMDIR);
		dentry = b;
		mnt = (__u64)FIELD(struct path, a, mnt);
		break;
	case VG_AT_PATH_MKDIR: /* dir, dentry */
		operations = DO(MKDIR);
		dentry = b;
		mnt = (__u64)FIELD(struct path, a, mnt);
		break;
	case VG_AT_PATH_MKNOD: /* dir, dentry, mode */
		operations = node_operations(c);
		dentry = b;
		mnt = (__u64)FIELD(struct path, a, mnt);
		break;
	case VG_AT_PATH_SYMLINK: /* dir, dentry */
		operations = DO(SYMLINK);
		dentry = b;
		mnt = (__u64)FIELD(struct path, a, mnt);
		break;
	case VG_AT_PATH_LINK: /* old, dir, dentry */
		forget_unprotected();
		ask_naming(DO(LINK), a, c, (__u64)FIELD(struct path, b, mnt), NAMING_LINK);
		return 0;
	case VG_AT_PATH_RENAME: /* old dir, old, dir, dentry, flags */
		ask_naming(DO(RENAME), b, d, (__u64)FIELD(struct path, c, mnt),
			   e & RENAME_EXCHANGE ? NAMING_EXCHANGE : NAMING_RENAME);
		return 0;
	case VG_AT_PATH_TRUNCATE: /* path */
		operations = DO(TRUNCATE);
		path = a;
		break;
	case VG_AT_PATH_CHMOD: /* path */
		operations = DO(CHMOD);
		path = a;
		break;
	case VG_AT_PATH_CHOWN: /* path */
		operations = DO(CHOWN);
		path = a;
		break;
	case VG_AT_INODE_SETATTR: /* idmap, dentry, attributes */
		dentry = b;
		operations = attribute_operations(FIELD(struct iattr, c, ia_valid));
		break;
	case VG_AT_INODE_CREATE: /* dir, dentry */
	case VG_AT_INODE_MKDIR:
	case VG_AT_INODE_SYMLINK:
	case VG_AT_INODE_MKNOD: /* dir, dentry, mode */
	case VG_AT_INODE_RMDIR:
		if (!acts_for_another())
			return 0;
		dentry = b;
		operations = operations_at(bpf_get_attach_cookie(ctx), c);
		if (operations & DO(RMDIR))
			forget_unprotected();
		break;
	case VG_AT_INODE_UNLINK: /* dir, dentry */
		if (!acts_for_another())
			return 0;
		forget_name(b);
		ask_removal(DO(UNLINK), b, 0);
		return 0;
	case VG_AT_INODE_LINK: /* old, dir, dentry */
		if (!acts_for_another())
			return 0;
		forget_unprotected();
		ask_naming(DO(LINK), a, c, 0, NAMING_LINK);
		return 0;
	case VG_AT_INODE_RENAME: /* old dir, old, dir, dentry */
		if (acts_for_another())
			ask_naming(DO(RENAME), b, d, 0, NAMING_RENAME);
		return 0;
	case VG_AT_INODE_SETXATTR: /* idmap, dentry */
		operations = DO(SETXATTR);
		dentry = b;
		break;
	case VG_AT_INODE_REMOVEXATTR: /* idmap, dentry */
		operations = DO(REMOVEXATTR);
		dentry = b;
		break;
	case VG_AT_SB_MOUNT: /* source, path */
		operations = DO(MOUNT);
		path = b;
		break;
	case VG_AT_MOVE_MOUNT: /* from, to */
	case VG_AT_SB_PIVOTROOT: /* old root, new root */
		operations = (__u32)bpf_get_attach_cookie(ctx) == VG_AT_MOVE_MOUNT ? DO(MOUNT) : DO(PIVOT_ROOT);
		ask_two(operations, (__u64)FIELD(struct path, a, dentry), (__u64)FIELD(struct path, a, mnt), (__u64)FIELD(struct path, b, dentry),
			(__u64)FIELD(struct path, b, mnt));
		return 0;
	case VG_AT_SB_UMOUNT: /* vfsmount */
		operations = DO(UMOUNT);
		dentry = (__u64)FIELD(struct vfsmount, a, mnt_root);
		mnt = a;
		break;
	case VG_AT_PATH_CHROOT: /* path */
		operations = DO(CHROOT);
		path = a;
		break;
	}
	if (path) {
		dentry = (__u64)FIELD(struct path, path, dentry);
		mnt = (__u64)FIELD(struct path, path, mnt);
	}
	if (file)
		ask_file(operations, file);
	else if (dentry && operations)
		ask(operations, dentry, mnt);
	return 0;
}

/* One name at a time: kprobes are not preempted. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct name_buffer);
} names SEC(".maps");

/* An argument of a system call, counted from 1. Global functions from here on: the verifier looks at each once, not once for every call. */
__noinline __u64 call_argument(__u64 regs, int compat, __u32 position)
{
	switch (position) {
	case 1:
		return compat ? (__u32)FIELD(struct pt_regs, regs, bx) : FIELD(struct pt_regs, regs, di);
	case 2:
		return compat ? (__u32)FIELD(struct pt_regs, regs, cx) : FIELD(struct pt_regs, regs, si);
	case 3:
		return FIELD(struct pt_regs, regs, dx) & (compat ? ~0u : ~0ull);
	case 4:
		return compat ? (__u32)FIELD(struct pt_regs, regs, si) : FIELD(struct pt_regs, regs, r10);
	case 5:
		return compat ? (__u32)FIELD(struct pt_regs, regs, di) : FIELD(struct pt_regs, regs, r8);
	}
	return 0;
}

/* What the descriptor stands for is what is asked about. False: nothing. No deeper calls: eight of them are all there may be. */
__noinline int take_descriptor(struct decision *d, __u64 operations, int fd)
{
	__u64 file = file_of_fd(bpf_get_current_task_btf(), fd);

	if (!d || !file)
		return 0;
	d->operations = operations;
	d->dentry = file_dentry_of(file);
	d->mnt = file_mount_of(file);
	return 1;
}

/*
 * The match set of a name as the caller gives it: no link is followed, and what cannot be read now is left to what stands at the object.
 * AN_OBJECT: an empty name, which stands for the directory's descriptor.
 */
#define AN_OBJECT 0x7fffffff
__noinline int match_call(struct decision *d, __u64 name, int dirfd, int above)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const struct vg_tables *t = tables_for(d);
	struct name_buffer *text;
	__u64 dir, mnt, file;
	__u32 zero = 0, len;

	text = bpf_map_lookup_elem(&names, &zero);
	if (!d || !t || !text)
		return 0;
	len = text_length(bpf_probe_read_user_str(text->bytes, VG_PATH_MAX, (void *)name));
	if ((int)len < 0 || len >= VG_PATH_MAX)
		return 0;
	if (len && text->bytes[0] == '/') {
		dir = (__u64)TASK(task, fs->root.dentry);
		mnt = (__u64)TASK(task, fs->root.mnt);
	} else if (dirfd == AT_FDCWD) {
		dir = (__u64)TASK(task, fs->pwd.dentry);
		mnt = (__u64)TASK(task, fs->pwd.mnt);
	} else {
		file = file_of_fd(task, dirfd);
		if (!file)
			return 0;
		dir = file_dentry_of(file);
		mnt = file_mount_of(file);
	}
	d->dentry = dir;
	d->mnt = mnt;
	if (!len)
		return AN_OBJECT;
	walk_begin(&d->walk, task, dir, mnt);
	d->walk.state = above ? t->above_start : t->path_start;
	d->dentry = 0;
	return lexical_feed(&d->walk, text, len) ? dfa_accept(t, walk_match(&d->walk, &d->work)) : 0;
}

__noinline __u64 operations_of_call(__u64 regs, int compat, __u32 call)
{
	const struct call_shape *shape = shape_of(call);
	__u64 operations = 1ull << (shape->operation & 63), flags;

	if (shape->operation == VG_OP_READ || shape->operation == VG_OP_WRITE)
		return operations | DO(OPEN);
	if (call == VG_CALL_UNLINKAT && call_argument(regs, compat, 3) & AT_REMOVEDIR)
		return DO(RMDIR);
	if (shape->operation != VG_OP_OPEN)
		return operations;
	flags = call_argument(regs, compat, shape->flags);
	if (call == VG_CALL_OPENAT2)
		bpf_probe_read_user(&flags, sizeof(flags), (void *)call_argument(regs, compat, 3));
	/* What only the file's being there or not would tell is left to what stands at the object. */
	if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		operations |= DO(CREATE);
	if ((flags & (O_CREAT | O_TRUNC)) == O_TRUNC)
		operations |= DO(TRUNCATE);
	return operations;
}

/* By the positions of its arguments; a call that takes a name may be given a descriptor alone (utimensat). */
static __always_inline void decide_name(struct decision *d, __u64 regs, int compat, __u32 path, __u32 dirfd, bool moves)
{
	int fd = dirfd ? (int)call_argument(regs, compat, dirfd) : AT_FDCWD, set;
	__u64 name = path ? call_argument(regs, compat, path) : 0, operations = d->operations;

	if (!path)
		return;
	set = name ? match_call(d, name, fd, 0) : AN_OBJECT;
	if (set == AN_OBJECT) {
		if (take_descriptor(d, operations, fd))
			decide(d);
		return;
	}
	d->source = VG_MATCHED_PATH;
	consider(d, set);
	if (set || !moves)
		return;
	/* A directory that protected paths lead through: what lies in it would have other names. */
	d->operations = ~0ull;
	consider(d, match_call(d, name, fd, 1));
	d->operations = operations;
}

SEC("kprobe.multi")
int BPF_KPROBE(enforce_call, __u64 regs)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), operations;
	__u32 call = VG_COOKIE_CALL_OF(cookie);
	bool compat = VG_COOKIE_VIA_OF(cookie) == VG_VIA_COMPAT32;
	const struct call_shape *shape = shape_of(call);
	struct decision *d;
	int answer;

	operations = operations_of_call(regs, compat, call);
	if (!concerns(operations))
		return 0;
	d = claim_decision();
	if (!d) {
		bpf_override_return(ctx, -EACCES);
		return 0;
	}
	begin_decision(d, operations, 0, 0);
	d->by = VG_MECHANISM_OVERRIDE;
	if (shape->fd && take_descriptor(d, operations, call_argument(regs, compat, shape->fd)))
		decide(d);
	if (shape->fd2 && take_descriptor(d, DO(WRITE) | DO(OPEN), call_argument(regs, compat, shape->fd2)))
		decide(d);
	d->operations = operations;
	decide_name(d, regs, compat, shape->path, shape->dirfd, shape->operation == VG_OP_RENAME);
	decide_name(d, regs, compat, shape->path2, shape->dirfd2, call == VG_CALL_RENAMEAT2 && call_argument(regs, compat, 5) & RENAME_EXCHANGE);
	answer = answer_with(d, false);
	if (answer)
		bpf_override_return(ctx, answer);
	return 0;
}

/* A raw tracepoint: its arguments are numbers, which global functions take. */
SEC("raw_tp/sys_exit")
int enforce_return(__u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 regs = ctx[0];
	long ret = ctx[1];
	__u32 via = 0, call = call_of(task, FIELD(struct pt_regs, regs, orig_ax), &via);
	const struct call_shape *shape = shape_of(call);
	bool compat = via == VG_VIA_COMPAT32;
	__u64 operations = 0, file = 0, other = 0;

	if (!call || ret < 0)
		return 0;
	switch (shape->operation) {
	case VG_OP_OPEN:
		if (is_agent())
			hook_canary++;
		file = file_of_fd(task, ret);
		operations = DO(OPEN);
		if (file && FIELD(struct file, file, f_mode) & FMODE_CREATED)
			operations |= DO(CREATE);
		break;
	case VG_OP_EXEC:
		file = TASK(task, mm) ? (__u64)TASK(task, mm->exe_file) : 0;
		operations = DO(EXEC);
		break;
	case VG_OP_READ:
	case VG_OP_WRITE:
		operations = 1ull << (shape->operation & 63) | DO(OPEN);
		if (shape->fd)
			file = file_of_fd(task, call_argument(regs, compat, shape->fd));
		if (shape->fd2)
			other = file_of_fd(task, call_argument(regs, compat, shape->fd2));
		break;
	case VG_OP_MMAP:
		if (!shape->fd || call_argument(regs, compat, 4) & MAP_ANONYMOUS)
			return 0;
		file = file_of_fd(task, call_argument(regs, compat, shape->fd));
		operations = map_operations(call_argument(regs, compat, 3), call_argument(regs, compat, 4) & MAP_SHARED);
		break;
	}
	ask_both(operations, file, DO(WRITE) | DO(OPEN), other);
	return 0;
}

/* A parent that lives, as what forked. */
static long parent_step(__u32 i, struct ancestry_reading *l)
{
	__u32 version = l->d->walk.version;

	if (i >= VG_ANCESTORS_MAX - 1 || i >= l->d->above)
		return 1;
	l->ancestry->above[i + 1].own.by[version & 1] = VG_VERSIONED_SET(version, l->d->ancestors[0][i]);
	l->ancestry->above[i + 1].ours.by[version & 1] = VG_VERSIONED_SET(version, l->d->ancestors[1][i]);
	return 0;
}

static __always_inline bool is_same_ancestor(const struct vg_ancestor_exe *a,
					     const struct vg_ancestor_exe *b)
{
	return a->own.by[0] == b->own.by[0] && a->own.by[1] == b->own.by[1] &&
	       a->ours.by[0] == b->ours.by[0] && a->ours.by[1] == b->ours.by[1];
}

/* The child's line: who forks it, and those that forked that one. As of now: what is executed later, or who it is given to, changes nothing. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(note_fork, struct task_struct *parent, struct task_struct *child)
{
	struct task_struct *leader = parent->group_leader;
	struct vg_ancestry *from, *to;
	struct vg_ancestor_exe fresh = {};
	__u32 version, count = 1;
	struct ancestry_reading l = {};
	struct decision *d;

	if (!leader)
		return 0;
	from = bpf_task_storage_get(&ancestries, leader, 0, 0);
	/* A thread has its process's: it may become the leader by an exec. */
	if (parent->tgid == child->tgid) {
		if (!from || !from->count)
			return 0;
		to = bpf_task_storage_get(&ancestries, child, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (to)
			__builtin_memcpy(to, from, sizeof(*to));
		else
			COUNT(no_ancestors);
		return 0;
	}
	to = bpf_task_storage_get(&ancestries, child, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	d = to ? claim_decision() : NULL;
	if (!d) {
		COUNT(no_ancestors);
		return 0;
	}
	begin_decision(d, 0, 0, 0);
	version = d->walk.version;
	learn_executable(d);
	fresh.own.by[version & 1] = VG_VERSIONED_SET(version, d->exe[0]);
	fresh.ours.by[version & 1] = VG_VERSIONED_SET(version, d->exe[1]);
	/* Another version's program may have been here before: then only its sets are missing. */
	if (to->count) {
		to->above[0].own.by[version & 1] = fresh.own.by[version & 1];
		to->above[0].ours.by[version & 1] = fresh.ours.by[version & 1];
		release_decision(d);
		return 0;
	}
	if (from && from->count) {
		to->cut = from->cut;
		if (is_same_ancestor(&fresh, &from->above[0])) {
			/* Conditions cannot tell the two apart. */
			__builtin_memcpy(to, from, sizeof(*to));
			release_decision(d);
			return 0;
		}
		__builtin_memcpy(&to->above[1], &from->above[0],
				 sizeof(to->above[0]) * (VG_ANCESTORS_MAX - 1));
		count = from->count + 1;
	} else {
		learn_parents(d);
		to->cut = d->above_cut || leader->start_boottime > forks_noted_since;
		l.d = d;
		l.ancestry = to;
		bpf_loop(VG_ANCESTORS_MAX - 1, parent_step, &l, 0);
		count = d->above + 1;
	}
	if (count > VG_ANCESTORS_MAX) {
		count = VG_ANCESTORS_MAX;
		to->cut = 1;
	}
	__builtin_memcpy(&to->above[0], &fresh, sizeof(fresh));
	to->count = count;
	release_decision(d);
	return 0;
}

__u32 carried_to = 0; /* the version that `carry_ancestries` is for: about to be in force */

struct carrying {
	struct vg_ancestry *ancestry;
	const struct vg_tables *last;
	const struct vg_tables *next;
};

static __always_inline void carry_set(const struct vg_tables *last, const struct vg_tables *next, __u32 version, struct vg_versioned_set *mark)
{
	/* Of the version before the one in force: forked by a program that was running when that came. */
	if (mark->by[~version & 1] >> 32 != version - 1)
		mark->by[~version & 1] = VG_VERSIONED_SET(version - 1, exe_set_of(last, version - 1, mark));
	mark->by[version & 1] = VG_VERSIONED_SET(version, exe_set_of(next, version, mark));
}

static long carry_step(__u32 i, struct carrying *c)
{
	if (i >= VG_ANCESTORS_MAX || i >= c->ancestry->count)
		return 1;
	carry_set(c->last, c->next, carried_to, &c->ancestry->above[i].own);
	carry_set(c->last, c->next, carried_to, &c->ancestry->above[i].ours);
	return 0;
}

/* Read by the agent before a version is in force: what executables were to the last one, they are to this one. */
SEC("iter/task")
int carry_ancestries(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	const struct vg_tables *last = tables_of(carried_to - 1), *next = tables_of(carried_to);
	struct vg_ancestry *ancestry;
	struct carrying c;

	if (!task || !last || !next || !task->tgid)
		return 0;
	ancestry = bpf_task_storage_get(&ancestries, task, 0, 0);
	if (!ancestry)
		return 0;
	c.ancestry = ancestry;
	c.last = last;
	c.next = next;
	bpf_loop(VG_ANCESTORS_MAX, carry_step, &c, 0);
	return 0;
}

/* Run by the agent: which process it is, as the kernel counts. */
SEC("syscall")
int who_enforces(void *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();

	agent_start = TASK(task, group_leader->start_boottime);
	agent_tgid = bpf_get_current_pid_tgid() >> 32;
	return 0;
}

/* Run by the agent: what is behind one of its descriptors (struct vg_look). */
SEC("syscall")
int look(struct vg_look *look)
{
	__u64 file = file_of_fd(bpf_get_current_task_btf(), look->fd), mnt, dentry, inode, root;

	if (!file)
		return 1;
	mnt = file_mount_of(file);
	dentry = file_dentry_of(file);
	look->mnt_id = FIELD(struct mount, mount_of(mnt), mnt_id);
	inode = (__u64)FIELD(struct dentry, dentry, d_inode);
	look->inode = inode;
	read_key(&look->object, inode);
	root = (__u64)FIELD(struct vfsmount, mnt, mnt_root);
	inode = (__u64)FIELD(struct dentry, root, d_inode);
	look->mount.root_ino = FIELD(struct inode, inode, i_ino);
	look->mount.dev = look->object.dev;
	look->mount.generation = FIELD(struct inode, inode, i_generation);
	return 0;
}

/* Run by the agent: protects an inode that has several names, or that an older version protected. */
SEC("syscall")
int protect(struct vg_protect *request)
{
	struct vg_inode_key key = request->object;

	return protect_inode(&key, request->version, request->set, 0) ? 0 : 1;
}

/* Run by the agent: what protects a file by this name protects its inode. */
SEC("syscall")
int protect_named(struct vg_protect_named *request)
{
	__u64 file = file_of_fd(bpf_get_current_task_btf(), request->fd);
	struct vg_inode_key key = {};
	struct decision *d;

	if (!file)
		return 1;
	d = claim_decision();
	if (!d)
		return 1;
	begin_decision(d, 0, file_dentry_of(file), file_mount_of(file));
	d->by_name_only = 1;
	d->inode = (__u64)FIELD(struct dentry, d->dentry, d_inode);
	read_key(&key, d->inode);
	request->object = key;
	identify(d);
	request->sets = d->set_count;
	if (!protect_by_sets(d))
		request->sets = ~0u;
	release_decision(d);
	return 0;
}

/* Run by the agent: whether the tables say what the rules do. Its own text, as somebody else; nothing is carried out. */
SEC("syscall")
int try_rule(struct vg_try *trial)
{
	const struct vg_tables *t = tables_of(trial->version);
	struct name_buffer *text;
	struct decision *d = claim_decision();
	__u32 zero = 0, len;

	if (!d)
		return 1;
	text = bpf_map_lookup_elem(&names, &zero);
	if (!text || !t) {
		release_decision(d);
		return 1;
	}
	begin_decision(d, trial->operations, 0, 0);
	d->walk.version = trial->version;
	d->known = ~0u;
	d->uid[0] = d->uid[1] = trial->uid;
	d->gid[0] = d->gid[1] = trial->gid;
	d->exe[0] = d->exe[1] = trial->exe;
	d->comm = trial->comm;
	d->cgroup = d->trusted_cgroup = trial->cgroup;
	d->above_cut = 0;
	d->above = 1;
	d->ancestors[0][0] = d->ancestors[1][0] = trial->ancestor;
	len = text_length(bpf_probe_read_user_str(text->bytes, VG_PATH_MAX, (void *)trial->path));
	if ((int)len < 0 || len >= VG_PATH_MAX) {
		release_decision(d);
		return 1;
	}
	d->walk.state = t->path_start;
	d->walk.skip = 0;
	if (lexical_feed(&d->walk, text, len))
		consider_known(d, dfa_accept(t, d->walk.state));
	trial->rule = d->rule;
	trial->verdict = d->verdict;
	trial->code = d->code;
	trial->enforce = d->enforce;
	release_decision(d);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
