// SPDX-License-Identifier: Apache-2.0
// Requests by descriptors from before, or on the user's own file with the object's descriptor in
// the argument.
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "ways.h"

namespace {

// Of fs/ext4/ext4.h and fs/xfs/libxfs/xfs_fs.h, which no package installs here.
struct Ext4MoveExtent {
  std::uint32_t reserved, donor_fd;
  std::uint64_t orig_start, donor_start, len, moved_len;
};
constexpr unsigned long kExt4SetVersion = _IOW('f', 4, long);
constexpr unsigned long kExt4MoveExtent = _IOWR('f', 15, Ext4MoveExtent);
constexpr unsigned long kExt4SwapBoot = _IO('f', 17);
constexpr unsigned long kSetVersion = _IOW('v', 2, long);

struct XfsTime {
  long seconds;
  std::int32_t nanoseconds;
};
struct XfsStat {
  std::uint64_t ino;
  std::uint16_t mode, nlink;
  std::uint32_t uid, gid, rdev;
  std::int32_t blksize;
  std::int64_t size;
  XfsTime atime, mtime, ctime;
  std::int64_t blocks;
  std::uint32_t xflags;
  std::int32_t extsize, extents;
  std::uint32_t gen;
  std::uint16_t projid_lo, forkoff, projid_hi, sick, checked;
  unsigned char pad[2];
  std::uint32_t cowextsize, dmevmask;
  std::uint16_t dmstate, aextents;
};
struct XfsSwapExtents {
  std::int64_t version, target, other, offset, length;
  char pad[16];
  XfsStat stat;
};
struct XfsExchangeRange {
  std::int32_t file1_fd;
  std::uint32_t pad;
  std::uint64_t file1_offset, file2_offset, length, flags;
};
struct XfsHandleRequest {
  std::uint32_t fd;
  const void* path;
  std::uint32_t oflags;
  void* ihandle;
  std::uint32_t ihandlen;
  void* ohandle;
  std::uint32_t* ohandlen;
};
struct XfsAttribute {
  std::uint32_t opcode;
  std::int32_t error;
  const void *name, *value;
  std::uint32_t length, flags;
};
struct XfsAttributes {
  XfsHandleRequest request;
  std::uint32_t count;
  XfsAttribute* ops;
};
constexpr unsigned long kXfsPathToHandle = _IOWR('X', 105, XfsHandleRequest);
constexpr unsigned long kXfsOpenByHandle = _IOWR('X', 107, XfsHandleRequest);
constexpr unsigned long kXfsSwapExtents = _IOWR('X', 109, XfsSwapExtents);
constexpr unsigned long kXfsAttributesByHandle = _IOW('X', 123, XfsAttributes);
constexpr unsigned long kXfsExchangeRange = _IOW('X', 129, XfsExchangeRange);
static_assert(sizeof(XfsStat) == 136 && sizeof(XfsSwapExtents) == 192);

// Blocks are moved and shared once they are on the disk.
void to_disk(Place& p) {
  must(fsync(p.old) == 0 && fsync(p.old_x) == 0 && fsync(p.old_b) == 0, "fsync");
}

int set_flags(const Place& p) {
  int flags = 0;
  if (ioctl(p.old, FS_IOC_GETFLAGS, &flags) != 0) {
    return errno;
  }
  flags |= FS_NODUMP_FL;
  return of(ioctl(p.old, FS_IOC_SETFLAGS, &flags));
}

int set_xflags(const Place& p) {
  fsxattr attributes{};
  if (ioctl(p.old, FS_IOC_FSGETXATTR, &attributes) != 0) {
    return errno;
  }
  attributes.fsx_xflags |= FS_XFLAG_NODUMP;
  return of(ioctl(p.old, FS_IOC_FSSETXATTR, &attributes));
}

int set_version(const Place& p, unsigned long request) {
  int version = 77;
  return of(ioctl(p.old, request, &version));
}

int move_extents(const Place& p) {
  Ext4MoveExtent move{};
  move.donor_fd = static_cast<std::uint32_t>(p.old);
  move.len = 1;
  return of(ioctl(p.old_x, kExt4MoveExtent, &move));
}

int clones(int to, int from) { return of(ioctl(to, FICLONE, from)); }

int clones_range(int to, int from) {
  file_clone_range range{};
  range.src_fd = from;
  return of(ioctl(to, FICLONERANGE, &range));
}

// Tells whether the two are alike, and has them share their blocks if so.
int deduplicates(int from, int to) {
  alignas(
      file_dedupe_range) char memory[sizeof(file_dedupe_range) + sizeof(file_dedupe_range_info)]{};
  auto* range = reinterpret_cast<file_dedupe_range*>(memory);
  range->src_length = 8;
  range->dest_count = 1;
  range->info[0].dest_fd = to;
  if (ioctl(from, FIDEDUPERANGE, range) != 0) {
    return errno;
  }
  return range->info[0].status < 0 ? -range->info[0].status : 0;
}

int swap_extents(const Place& p) {
  struct stat status{};
  XfsSwapExtents swap{};
  swap.target = p.old_x;
  swap.other = p.old;
  must(fstat(p.old_x, &status) == 0, "fstat");
  swap.length = status.st_size;
  swap.stat.ino = status.st_ino;
  swap.stat.mtime = {status.st_mtim.tv_sec, static_cast<std::int32_t>(status.st_mtim.tv_nsec)};
  swap.stat.ctime = {status.st_ctim.tv_sec, static_cast<std::int32_t>(status.st_ctim.tv_nsec)};
  return of(ioctl(p.old_x, kXfsSwapExtents, &swap));
}

int exchange_range(const Place& p) {
  XfsExchangeRange range{};
  range.file1_fd = p.old;
  range.flags = 1;  // XFS_EXCHANGE_RANGE_TO_EOF
  return of(ioctl(p.old_x, kXfsExchangeRange, &range));
}

int by_xfs_handle(const Place& p, bool attribute) {
  char handle[256];
  std::uint32_t size = sizeof handle;
  XfsHandleRequest request{};
  request.path = p.a.c_str();
  request.ohandle = handle;
  request.ohandlen = &size;
  if (ioctl(p.old_dir, kXfsPathToHandle, &request) != 0) {
    return errno;
  }
  request = {};
  request.ihandle = handle;
  request.ihandlen = size;
  request.oflags = O_RDONLY;
  if (!attribute) {
    const int fd = ioctl(p.old_dir, kXfsOpenByHandle, &request);
    return fd < 0 ? errno : reads(fd);
  }
  XfsAttribute set{};
  set.opcode = 2;  // ATTR_OP_SET
  set.name = "y";
  set.value = "1";
  set.length = 1;
  XfsAttributes all{request, 1, &set};
  return ioctl(p.old_dir, kXfsAttributesByHandle, &all) != 0 ? errno : -set.error;
}

// --- btrfs: dir/sub is a subvolume with a protected file.

void name_it(char (&to)[BTRFS_PATH_NAME_MAX + 1], const char* name) { strcpy(to, name); }

void prepare_subvolume(Place& p) {
  btrfs_ioctl_vol_args args{};
  name_it(args.name, "sub");
  if (ioctl(p.old_dir, BTRFS_IOC_SUBVOL_CREATE, &args) != 0) {
    return;
  }
  const std::string sub = p.dir + "/sub";
  must(chown(sub.c_str(), kUser, kUser) == 0 && chmod(sub.c_str(), 0777) == 0, sub);
  write_file(sub + "/f", 0666);
  p.fd = open(sub.c_str(), O_RDONLY | O_DIRECTORY);
}

int has_subvolume(const Place& p) { return p.fd < 0 ? ENOTTY : 0; }

int creates(int dir, bool second) {
  btrfs_ioctl_vol_args args{};
  btrfs_ioctl_vol_args_v2 args2{};
  name_it(args.name, "new");
  strcpy(args2.name, "new");
  return of(second ? ioctl(dir, BTRFS_IOC_SUBVOL_CREATE_V2, &args2)
                   : ioctl(dir, BTRFS_IOC_SUBVOL_CREATE, &args));
}

int snapshots(const Place& p, bool second) {
  if (has_subvolume(p) != 0) {
    return ENOTTY;
  }
  btrfs_ioctl_vol_args args{};
  btrfs_ioctl_vol_args_v2 args2{};
  args.fd = args2.fd = p.fd;
  name_it(args.name, "snapshot");
  strcpy(args2.name, "snapshot");
  const int code = of(second ? ioctl(p.old_dir, BTRFS_IOC_SNAP_CREATE_V2, &args2)
                             : ioctl(p.old_dir, BTRFS_IOC_SNAP_CREATE, &args));
  return code != 0 ? code : opens_and_reads(p.old_dir, "snapshot/f");
}

int destroys(const Place& p, bool second) {
  if (has_subvolume(p) != 0) {
    return ENOTTY;
  }
  btrfs_ioctl_vol_args args{};
  btrfs_ioctl_vol_args_v2 args2{};
  name_it(args.name, "sub");
  strcpy(args2.name, "sub");
  return of(second ? ioctl(p.old_dir, BTRFS_IOC_SNAP_DESTROY_V2, &args2)
                   : ioctl(p.old_dir, BTRFS_IOC_SNAP_DESTROY, &args));
}

}  // namespace

std::vector<Way> ioctl_ways() {
  const auto old = [](const Place& p) { return p.old; };
  const auto own = [](const Place& p) { return p.old_x; };
  const auto two = [](const char* name, int (*does)(int, int), auto first, auto second) -> Way {
    return {.name = name,
            .tries = [=](const Place& p) { return does(first(p), second(p)); },
            .prepare = to_disk};
  };
  return {
      {.name = "FS_IOC_SETFLAGS", .tries = set_flags},
      {.name = "FS_IOC_FSSETXATTR", .tries = set_xflags},
      {.name = "FS_IOC_SETVERSION",
       .tries = [](const Place& p) { return set_version(p, kSetVersion); }},
      {.name = "EXT4_IOC_SETVERSION",
       .tries = [](const Place& p) { return set_version(p, kExt4SetVersion); }},
      {.name = "EXT4_IOC_MOVE_EXT, on another file", .tries = move_extents, .prepare = to_disk},
      {.name = "EXT4_IOC_SWAP_BOOT",
       .tries = [](const Place& p) { return of(ioctl(p.old_b, kExt4SwapBoot)); },
       .capable = true,
       .prepare = to_disk},
      two("FICLONE of it, to another file", clones, own, old),
      two("FICLONE to it", clones, old, own),
      two("FICLONERANGE of it, to another file", clones_range, own, old),
      two("FICLONERANGE to it", clones_range, old, own),
      two("FIDEDUPERANGE of it", deduplicates, old, own),
      two("FIDEDUPERANGE of another file, with it", deduplicates, own, old),
      {.name = "XFS_IOC_SWAPEXT, on another file", .tries = swap_extents, .prepare = to_disk},
      {.name = "XFS_IOC_EXCHANGE_RANGE, on another file",
       .tries = exchange_range,
       .prepare = to_disk},
      {.name = "XFS_IOC_OPEN_BY_HANDLE",
       .tries = [](const Place& p) { return by_xfs_handle(p, false); },
       .capable = true},
      {.name = "XFS_IOC_ATTRMULTI_BY_HANDLE",
       .tries = [](const Place& p) { return by_xfs_handle(p, true); },
       .capable = true},
      {.name = "BTRFS_IOC_SUBVOL_CREATE in it",
       .tries = [](const Place& p) { return creates(p.old_s, false); }},
      {.name = "BTRFS_IOC_SUBVOL_CREATE_V2 in it",
       .tries = [](const Place& p) { return creates(p.old_s, true); }},
      {.name = "BTRFS_IOC_SNAP_CREATE",
       .tries = [](const Place& p) { return snapshots(p, false); },
       .prepare = prepare_subvolume},
      {.name = "BTRFS_IOC_SNAP_CREATE_V2",
       .tries = [](const Place& p) { return snapshots(p, true); },
       .prepare = prepare_subvolume},
      {.name = "BTRFS_IOC_SNAP_DESTROY",
       .tries = [](const Place& p) { return destroys(p, false); },
       .capable = true,
       .prepare = prepare_subvolume},
      {.name = "BTRFS_IOC_SNAP_DESTROY_V2",
       .tries = [](const Place& p) { return destroys(p, true); },
       .capable = true,
       .prepare = prepare_subvolume},
  };
}
