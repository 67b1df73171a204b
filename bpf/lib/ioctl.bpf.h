/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef VFSGUARD_IOCTL_BPF_H
#define VFSGUARD_IOCTL_BPF_H

#include "kernel.h"

/* Requests that change a file or its file system, or reach into another process's terminal; include/uapi/linux/fs.h and others. */
static __always_inline bool is_followed_ioctl(__u32 request)
{
	switch (request) {
	case FS_IOC_SETFLAGS:
	case FS_IOC32_SETFLAGS:
	case FS_IOC_FSSETXATTR:
	case FS_IOC_SETVERSION:
	case FS_IOC_SETFSLABEL:
	case FS_IOC_ENABLE_VERITY:
	case FS_IOC_SET_ENCRYPTION_POLICY:
	case FS_IOC_RESVSP64:
	case FS_IOC_UNRESVSP64:
	case FS_IOC_ZERO_RANGE:
	case FICLONE:
	case FICLONERANGE:
	case FIDEDUPERANGE:
	case FIFREEZE:
	case FITHAW:
	case FITRIM:
	case TIOCSTI:
		return true;
	}
	return false;
}

#endif
