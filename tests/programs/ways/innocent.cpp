// SPDX-License-Identifier: Apache-2.0
// What looks like a way around, and is about objects that no rule is about: it is to go through.
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "ways.h"

namespace {

void prepare_free(Place& p) {
  make_directory(p.free + "/sub");
  make_directory(p.dir + "/free2");
  write_file(p.free + "/sub/f", 0666);
  write_file(p.dir + "/free2/f", 0666);
}

// The directory is below no mount of the namespace's any more.
int moved_out(const Place& p, int flags) {
  return in_user_namespace([&] {
    if (mount(p.free.c_str(), "/mnt", nullptr, MS_BIND | MS_REC, nullptr) != 0) {
      return errno;
    }
    const int fd = open("/mnt/sub", flags | O_DIRECTORY);
    if (fd < 0 || rename((p.free + "/sub").c_str(), (p.dir + "/moved").c_str()) != 0) {
      return errno;
    }
    const int code = opens_and_reads(fd, "f");
    return code != 0 ? code : of(fchmodat(fd, "f", 0640, 0));
  });
}

void remember_handle(Place& p) {
  prepare_free(p);
  alignas(file_handle) char memory[sizeof(file_handle) + MAX_HANDLE_SZ]{};
  auto* handle = reinterpret_cast<file_handle*>(memory);
  handle->handle_bytes = MAX_HANDLE_SZ;
  int id = 0;
  if (name_to_handle_at(AT_FDCWD, (p.free + "/sub/f").c_str(), handle, &id, 0) == 0) {
    p.handle.assign(memory, sizeof memory);
  }
}

int by_handle(const Place& p) {
  if (p.handle.empty()) {
    return EOPNOTSUPP;
  }
  alignas(file_handle) char memory[sizeof(file_handle) + MAX_HANDLE_SZ];
  std::memcpy(memory, p.handle.data(), sizeof memory);
  const int fd = open_by_handle_at(p.old_dir, reinterpret_cast<file_handle*>(memory), O_RDWR);
  return fd < 0 ? errno : reads(fd);
}

// Two parts of one file system and nothing else of it: a hook that knows no mount looks at the
// first.
int in_second(const std::function<int()>& then) {
  return in_user_namespace([&] {
    if (mount("tmpfs", "/mnt", "tmpfs", 0, nullptr) != 0 || mkdir("/mnt/1", 0777) != 0 ||
        mkdir("/mnt/2", 0777) != 0 || mount("/mnt/1", "/srv", nullptr, MS_BIND, nullptr) != 0 ||
        mount("/mnt/2", "/media", nullptr, MS_BIND, nullptr) != 0 ||
        umount2("/mnt", MNT_DETACH) != 0) {
      return errno;
    }
    const int code = opens("/media/f", O_WRONLY | O_CREAT | O_EXCL);
    return code != 0 ? code : then();
  });
}

int uses_memfd(const Place&) {
  const int fd = memfd_create("x", 0);
  if (fd < 0 || write(fd, "content", 8) != 8 || fchmod(fd, 0640) != 0) {
    return errno;
  }
  const void* memory = mmap(nullptr, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return memory == MAP_FAILED ? errno : opens("/proc/self/fd/" + std::to_string(fd), O_RDWR);
}

int uses_unlinked(const Place& p) {
  if (reads(p.old_x) != 0 || pwrite(p.old_x, "Y", 1, 0) != 1 || ftruncate(p.old_x, 4) != 0 ||
      fchmod(p.old_x, 0640) != 0) {
    return errno;
  }
  return opens("/proc/self/fd/" + std::to_string(p.old_x), O_RDWR);
}

int links(const Place& p) {
  const std::string other = p.free + "/x";
  if (link(p.x.c_str(), other.c_str()) != 0) {
    return errno;
  }
  int code = opens_and_reads(AT_FDCWD, other);
  code = code != 0 ? code : opens(p.x, O_RDWR);
  return code != 0 ? code : of(unlink(other.c_str()));
}

int in_unmounted(const Place&) {
  return in_user_namespace([] {
    if (mount("tmpfs", "/mnt", "tmpfs", 0, nullptr) != 0 || chdir("/mnt") != 0 ||
        umount2("/mnt", MNT_DETACH) != 0) {
      return errno;
    }
    const int fd = open("f", O_RDWR | O_CREAT, 0600);
    if (fd < 0 || write(fd, "content", 8) != 8) {
      return errno;
    }
    const int code = opens_and_reads(AT_FDCWD, "f");
    return code != 0 ? code : of(unlink("f"));
  });
}

}  // namespace

std::vector<Way> innocent_ways() {
  return {
      {.name = "allowed: O_PATH of a directory that left its bind mount",
       .tries = [](const Place& p) { return moved_out(p, O_PATH); },
       .prepare = prepare_free,
       .fails_closed = true},
      {.name = "allowed: descriptor of a directory that left its bind mount",
       .tries = [](const Place& p) { return moved_out(p, O_RDONLY); },
       .prepare = prepare_free,
       .fails_closed = true},
      {.name = "allowed: by a file handle, with no name in memory",
       .tries = by_handle,
       .capable = true,
       .prepare = remember_handle,
       .enter = drop_dentries,
       .fails_closed = true},
      {.name = "allowed: utimes in the second of two bind mounts",
       .tries =
           [](const Place&) {
             return in_second([] { return of(utimensat(AT_FDCWD, "/media/f", nullptr, 0)); });
           },
       .fails_closed = true},
      {.name = "allowed: setxattr in the second of two bind mounts",
       .tries =
           [](const Place&) {
             return in_second([] {
               const int code = of(setxattr("/media/f", "user.x", "1", 1, 0));
               return code == EOPNOTSUPP ? 0 : code;
             });
           },
       .fails_closed = true},
      {.name = "allowed: changes in the second of two bind mounts",
       .tries =
           [](const Place&) {
             return in_second([] {
               const int code = of(chmod("/media/f", 0640));
               return code != 0                             ? code
                      : truncate("/media/f", 1) != 0        ? errno
                      : rename("/media/f", "/media/g") != 0 ? errno
                      : mkdir("/media/d", 0700) != 0        ? errno
                                                            : of(unlink("/media/g"));
             });
           },
       .fails_closed = true},
      {.name = "allowed: a file that was removed while it is open",
       .tries = uses_unlinked,
       .first = [](const Place& p) { (void)!unlink(p.x.c_str()); },
       .fails_closed = true},
      {.name = "allowed: memfd", .tries = uses_memfd, .fails_closed = true},
      {.name = "allowed: link beside a protected file", .tries = links, .fails_closed = true},
      {.name = "allowed: in an unmounted file system of its own",
       .tries = in_unmounted,
       .fails_closed = true},
  };
}
