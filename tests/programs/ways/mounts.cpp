// SPDX-License-Identifier: Apache-2.0
// Mounts that are taken away, hidden, unattached or deeper than a walk goes.
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "ways.h"

namespace {

// A tmpfs at mnt, with a protected file on it.
void mount_there(Place& p) {
  const std::string point = p.dir + "/mnt";
  make_directory(point);
  must(mount("tmpfs", point.c_str(), "tmpfs", 0, "mode=777") == 0, point);
  write_file(point + "/f", 0666);
  p.fd = open(point.c_str(), O_RDONLY | O_DIRECTORY);
}

// A process of the user's in a mount namespace that is older than the mount: it takes the mount
// point away when it is asked to.
void mount_behind(Place& p) {
  int ask[2];
  int answer[2];
  must(pipe2(ask, O_CLOEXEC) == 0 && pipe2(answer, O_CLOEXEC) == 0, "pipe");
  if (fork() == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    become_nobody(false);
    int code = in_namespaces(CLONE_NEWUSER | CLONE_NEWNS, [] { return 0; });
    char how = 0;
    if (write(answer[1], &code, sizeof code) > 0 && read(ask[0], &how, 1) == 1) {
      const std::string point = p.dir + "/mnt";
      const std::string empty = p.dir + "/empty";
      code = how == 'd' ? of(rmdir(point.c_str())) : of(rename(empty.c_str(), point.c_str()));
      (void)!write(answer[1], &code, sizeof code);
    }
    _exit(0);
  }
  p.ask = ask[1];
  p.answer = answer[0];
  int code = 0;
  must(read(p.answer, &code, sizeof code) == sizeof code, "helper");
  make_directory(p.dir + "/empty");
  mount_there(p);
}

void unmount_there(const Place& p) { umount2((p.dir + "/mnt").c_str(), MNT_DETACH); }

int takes_away(const Place& p, char how, bool by_cwd) {
  if (by_cwd && fchdir(p.fd) != 0) {
    return errno;
  }
  int code = 0;
  if (write(p.ask, &how, 1) != 1 || read(p.answer, &code, sizeof code) != sizeof code) {
    return EIO;
  }
  // Whoever is refused this has the mount in its way still.
  return code != 0 ? code : opens_and_reads(by_cwd ? AT_FDCWD : p.fd, "f");
}

// Everything below s/deep is one directory in another, and f in the last.
void dig(Place& p) {
  const int back = open(".", O_PATH | O_DIRECTORY);
  must(chdir(p.s.c_str()) == 0, p.s);
  for (int i = 0; i < levels; ++i) {
    must(mkdir("d", 0777) == 0 && chdir("d") == 0, "mkdir");
  }
  write_file("f", 0666);
  must(fchdir(back) == 0, "fchdir");
  close(back);
}

int go_down(const Place& p) {
  std::string some;
  for (int i = 0; i < 1000; ++i) {
    some += "d/";
  }
  if (chdir(p.s.c_str()) != 0) {
    return errno;
  }
  int left = levels;
  for (; left >= 1000; left -= 1000) {
    if (chdir(some.c_str()) != 0) {
      return errno;
    }
  }
  return left == 0 ? 0 : of(chdir(some.substr(0, static_cast<std::size_t>(left) * 2).c_str()));
}

void fill_in(const Place& p) {
  const int back = open(".", O_PATH | O_DIRECTORY);
  if (go_down(p) == 0) {
    unlink("f");
    for (int i = 0; i < levels; ++i) {
      if (chdir("..") != 0 || rmdir("d") != 0) {
        break;
      }
    }
  }
  (void)!fchdir(back);
  close(back);
}

}  // namespace

std::vector<Way> mount_ways() {
  return {
      {.name = "mount point removed, then by a descriptor",
       .tries = [](const Place& p) { return takes_away(p, 'd', false); },
       .prepare = mount_behind,
       .clean = unmount_there,
       .fails_closed = true},
      {.name = "mount point removed, then by the working directory",
       .tries = [](const Place& p) { return takes_away(p, 'd', true); },
       .prepare = mount_behind,
       .clean = unmount_there,
       .fails_closed = true},
      {.name = "mount point renamed over, then by a descriptor",
       .tries = [](const Place& p) { return takes_away(p, 'r', false); },
       .prepare = mount_behind,
       .clean = unmount_there,
       .fails_closed = true},
      {.name = "mount unmounted lazily by root, then by a descriptor",
       .tries = [](const Place& p) { return opens_and_reads(p.fd, "f"); },
       .first = unmount_there,
       .prepare = mount_there,
       .fails_closed = true},
      {.name = "bind mount unmounted lazily, then by the working directory",
       .tries =
           [](const Place& p) {
             return in_user_namespace([&] {
               if (mount(p.s.c_str(), "/mnt", nullptr, MS_BIND | MS_REC, nullptr) != 0 ||
                   chdir("/mnt") != 0 || umount2("/mnt", MNT_DETACH) != 0) {
                 return errno;
               }
               return opens_and_reads(AT_FDCWD, "b");
             });
           },
       .fails_closed = true},
      {.name = "unattached clone of the mount",
       .tries =
           [](const Place& p) {
             return in_user_namespace([&] {
               const int tree = static_cast<int>(
                   syscall(SYS_open_tree, AT_FDCWD, p.s.c_str(), OPEN_TREE_CLONE | AT_RECURSIVE));
               return tree < 0 ? errno : opens_and_reads(tree, "b");
             });
           },
       .fails_closed = true},
      {.name = "bind mount of its deep directory",
       .tries =
           [](const Place& p) {
             if (const int code = go_down(p); code != 0) {
               return code;
             }
             return in_user_namespace([] {
               if (mount(".", "/mnt", nullptr, MS_BIND | MS_REC, nullptr) != 0) {
                 return errno;
               }
               return opens_and_reads(AT_FDCWD, "/mnt/f");
             });
           },
       .prepare = dig,
       .clean = fill_in,
       .fails_closed = true},
      {.name = "in its deep directory",
       .tries =
           [](const Place& p) {
             const int code = go_down(p);
             return code != 0 ? code : opens_and_reads(AT_FDCWD, "f");
           },
       .prepare = dig,
       .clean = fill_in,
       .fails_closed = true},
  };
}
