// SPDX-License-Identifier: Apache-2.0
// Through an overlay that the user mounts in namespaces of its own: its upper or lower layer is the
// protected directory.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "ways.h"

namespace {

void prepare_layers(Place& p) {
  for (const char* layer : {"-lower", "-work"}) {
    make_directory(p.dir + layer);
  }
}

int over(const std::string& options, const std::function<int()>& then) {
  return in_user_namespace([&] {
    if (mount("overlay", "/mnt", "overlay", 0, ("userxattr," + options).c_str()) != 0) {
      return errno;
    }
    return then();
  });
}

int on_upper(const Place& p, const std::string& upper, const std::function<int()>& then) {
  return over("lowerdir=" + p.dir + "-lower,upperdir=" + upper + ",workdir=" + p.dir + "-work",
              then);
}

Way on_directory(const char* name, std::function<int()> then) {
  return {.name = name,
          .tries = [then](const Place& p) { return on_upper(p, p.s, then); },
          .prepare = prepare_layers};
}

Way on_parent(const char* name, std::function<int()> then) {
  return {.name = name,
          .tries = [then](const Place& p) { return on_upper(p, p.dir, then); },
          .prepare = prepare_layers};
}

}  // namespace

std::vector<Way> overlay_ways() {
  return {
      on_directory("overlay over it: read", [] { return opens_and_reads(AT_FDCWD, "/mnt/b"); }),
      on_directory("overlay over it: write", [] { return opens("/mnt/b", O_RDWR); }),
      on_directory("overlay over it: link", [] { return of(link("/mnt/b", "/mnt/y")); }),
      on_directory("overlay over it: rename", [] { return of(rename("/mnt/b", "/mnt/y")); }),
      on_directory("overlay over it: unlink", [] { return of(unlink("/mnt/b")); }),
      on_directory("overlay over it: truncate", [] { return of(truncate("/mnt/b", 1)); }),
      on_directory("overlay over it: chmod", [] { return of(chmod("/mnt/b", 0640)); }),
      on_directory("overlay over it: utimes",
                   [] {
                     const timespec times[2] = {{1, 0}, {1, 0}};
                     return of(utimensat(AT_FDCWD, "/mnt/b", times, 0));
                   }),
      on_directory("overlay over it: setxattr",
                   [] { return of(setxattr("/mnt/b", "user.x", "1", 1, 0)); }),
      on_directory("overlay over it: create",
                   [] { return opens("/mnt/new", O_WRONLY | O_CREAT | O_EXCL); }),
      on_directory("overlay over it: mkdir", [] { return of(mkdir("/mnt/new", 0700)); }),
      on_directory("overlay over it: symlink", [] { return of(symlink("/", "/mnt/new")); }),
      on_directory("overlay over it: mknod",
                   [] { return of(mknod("/mnt/new", S_IFIFO | 0600, 0)); }),
      on_parent("overlay over its parent: read",
                [] { return opens_and_reads(AT_FDCWD, "/mnt/a"); }),
      on_parent("overlay over its parent: link", [] { return of(link("/mnt/a", "/mnt/y")); }),
      on_parent("overlay over its parent: rename out",
                [] { return of(rename("/mnt/a", "/mnt/y")); }),
      on_parent("overlay over its parent: rename out of its directory",
                [] { return of(rename("/mnt/s/b", "/mnt/y")); }),
      on_parent("overlay over its parent: replace by rename",
                [] { return of(rename("/mnt/x", "/mnt/a")); }),
      on_parent("overlay over its parent: rename of a directory above",
                [] { return of(rename("/mnt/above", "/mnt/elsewhere")); }),
      on_parent("overlay over its parent: unlink", [] { return of(unlink("/mnt/a")); }),
      {.name = "overlay with it below: read",
       .tries =
           [](const Place& p) {
             return over("lowerdir=" + p.s + ":" + p.dir + "-lower",
                         [] { return opens_and_reads(AT_FDCWD, "/mnt/b"); });
           },
       .prepare = prepare_layers},
  };
}
