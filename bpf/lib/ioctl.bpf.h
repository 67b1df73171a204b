/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Requests of ioctl(2) that change a file or its file system, or reach into another process's
 * terminal. By type and number, without the argument's size: 32-bit callers have another one.
 * include/uapi/linux/{fs,fsverity,fscrypt,falloc,btrfs,f2fs}.h, fs/ext4/ext4.h, fs/xfs/libxfs/xfs_fs.h.
 */
#ifndef VFSGUARD_IOCTL_BPF_H
#define VFSGUARD_IOCTL_BPF_H

#include "kernel.h"

#define IOCTL_ATTRIBUTES 1 /* of the file */
#define IOCTL_CONTENT 2    /* what it holds moves or changes, and no other hook is asked */
#define IOCTL_RENUMBERS 4  /* its inode gets another generation, which is half of its identity */
#define IOCTL_OTHERS 8     /* a descriptor in the argument is concerned too */
#define IOCTL_COPIES 16    /* a whole tree, by this descriptor or one in the argument */
#define IOCTL_REMOVES 32   /* a whole tree below the directory */
#define IOCTL_CREATES 128  /* a tree in the directory, under a name in the argument */
#define IOCTL_HANDLES 64   /* any object of the file system, by number */

#define REQUEST(type, number) ((type) << 8 | (number))

static __always_inline __u32 effects_of_ioctl(__u32 request)
{
	if (request == FITRIM) /* the number of XFS_IOC_FSSETDM_BY_HANDLE */
		return IOCTL_ATTRIBUTES;
	switch (request & 0xffff) {
	case REQUEST('f', 2):    /* FS_IOC_SETFLAGS */
	case REQUEST('X', 32):   /* FS_IOC_FSSETXATTR */
	case REQUEST('f', 133):  /* FS_IOC_ENABLE_VERITY */
	case REQUEST('f', 19):   /* FS_IOC_SET_ENCRYPTION_POLICY */
	case REQUEST(0x94, 26):  /* BTRFS_IOC_SUBVOL_SETFLAGS */
	case REQUEST(0x94, 37):  /* BTRFS_IOC_SET_RECEIVED_SUBVOL */
		return IOCTL_ATTRIBUTES;
	case REQUEST('v', 2):    /* FS_IOC_SETVERSION */
	case REQUEST('f', 4):    /* EXT4_IOC_SETVERSION */
		return IOCTL_ATTRIBUTES | IOCTL_RENUMBERS;
	case REQUEST('f', 17):   /* EXT4_IOC_SWAP_BOOT */
	case REQUEST('X', 40):   /* FS_IOC_RESVSP, UNRESVSP, their 64-bit forms, ZERO_RANGE */
	case REQUEST('X', 41):
	case REQUEST('X', 42):
	case REQUEST('X', 43):
	case REQUEST('X', 57):
	case REQUEST('X', 10):   /* XFS_IOC_ALLOCSP, FREESP, their 64-bit forms */
	case REQUEST('X', 11):
	case REQUEST('X', 36):
	case REQUEST('X', 37):
	case REQUEST(0x94, 64):  /* BTRFS_IOC_ENCODED_READ, ENCODED_WRITE */
		return IOCTL_CONTENT;
	case REQUEST('f', 15):   /* EXT4_IOC_MOVE_EXT */
	case REQUEST('X', 109):  /* XFS_IOC_SWAPEXT */
	case REQUEST('X', 129):  /* XFS_IOC_EXCHANGE_RANGE */
	case REQUEST('X', 131):  /* XFS_IOC_COMMIT_RANGE */
	case REQUEST(0x94, 9):   /* FICLONE */
	case REQUEST(0x94, 13):  /* FICLONERANGE */
	case REQUEST(0x94, 54):  /* FIDEDUPERANGE */
	case REQUEST(0xf5, 9):   /* F2FS_IOC_MOVE_RANGE */
		return IOCTL_CONTENT | IOCTL_OTHERS;
	case REQUEST(0x94, 1):   /* BTRFS_IOC_SNAP_CREATE */
	case REQUEST(0x94, 23):  /* BTRFS_IOC_SNAP_CREATE_V2 */
	case REQUEST(0x94, 38):  /* BTRFS_IOC_SEND */
		return IOCTL_COPIES | IOCTL_OTHERS;
	case REQUEST(0x94, 14):  /* BTRFS_IOC_SUBVOL_CREATE */
	case REQUEST(0x94, 24):  /* BTRFS_IOC_SUBVOL_CREATE_V2 */
		return IOCTL_CREATES;
	case REQUEST(0x94, 15):  /* BTRFS_IOC_SNAP_DESTROY */
	case REQUEST(0x94, 63):  /* BTRFS_IOC_SNAP_DESTROY_V2 */
		return IOCTL_REMOVES;
	case REQUEST('X', 121):  /* XFS_IOC_FSSETDM_BY_HANDLE */
	case REQUEST('X', 123):  /* XFS_IOC_ATTRMULTI_BY_HANDLE */
	case REQUEST(0x94, 17):  /* BTRFS_IOC_TREE_SEARCH, _V2 */
		return IOCTL_HANDLES;
	case REQUEST(0x94, 50):  /* FS_IOC_SETFSLABEL */
	case REQUEST('X', 119):  /* FIFREEZE */
	case REQUEST('X', 120):  /* FITHAW */
		return IOCTL_ATTRIBUTES;
	}
	return request == TIOCSTI ? IOCTL_ATTRIBUTES : 0;
}

static __always_inline bool is_followed_ioctl(__u32 request)
{
	return effects_of_ioctl(request);
}

#endif
