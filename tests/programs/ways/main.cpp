// SPDX-License-Identifier: Apache-2.0
// The ways to a protected object, each tried by a process of its own that has no right to it:
//
//   ways [--levels N] DIR [WAY...]  prepares a directory for each (or for all), DIR/001, DIR/002,
//   ..., and a
//                                   neighbour DIR/001n, ... that is alike, prints "prepared", waits
//                                   for a line on standard input, tries them, and prints for each
//                                   "WAY: RESULT"
//   ways --list                     their names, a line each
//   ways --policy MECHANISM DIR...  the policy that is to be in force, for all the directories
//
// RESULT:
//
//   ERRNO       refused, and nothing was changed
//   killed      and nothing was changed
//   killed-late it is killed, and has changed something
//   done        it got what it wanted
//   changed     refused, and something was changed all the same
//   no          this file system, or kernel, has no such thing: the neighbour is refused too
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "ways.h"

int levels = 3000;

[[noreturn]] void die(const std::string& what) {
  fprintf(stderr, "ways: %s: %s\n", what.c_str(), strerror(errno));
  exit(70);
}

void must(bool ok, const std::string& what) {
  if (!ok) {
    die(what);
  }
}

int of(long result) { return result < 0 ? errno : 0; }

int opens(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags, 0600);
  const int code = of(fd);
  close(fd);
  return code;
}

int reads(int fd) {
  char byte = 0;
  return of(pread(fd, &byte, 1, 0));
}

int opens_and_reads(int dir, const std::string& name) {
  const int fd = openat(dir, name.c_str(), O_RDONLY);
  const int code = fd < 0 ? errno : reads(fd);
  close(fd);
  return code;
}

void write_file(const std::string& path, mode_t mode, const std::string& content) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, mode);
  must(fd >= 0 && write(fd, content.c_str(), content.size() + 1) > 0, path);
  // Some file systems have no owners.
  must((fchown(fd, kUser, kUser) == 0 && fchmod(fd, mode) == 0) || errno == EPERM, path);
  close(fd);
}

void make_directory(const std::string& path) {
  must(mkdir(path.c_str(), 0777) == 0, path);
  (void)!chmod(path.c_str(), 0777);
  (void)!chown(path.c_str(), kUser, kUser);
}

void copy_file(const std::string& from, const std::string& to) {
  const int in = open(from.c_str(), O_RDONLY);
  const int out = open(to.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0755);
  struct stat status{};
  must(in >= 0 && out >= 0 && fstat(in, &status) == 0, to);
  must(sendfile(out, in, nullptr, static_cast<std::size_t>(status.st_size)) == status.st_size, to);
  close(in);
  close(out);
}

void become_nobody(bool capable) {
  must(!capable || prctl(PR_SET_KEEPCAPS, 1) == 0, "keepcaps");
  must(setgroups(0, nullptr) == 0 && setresgid(kUser, kUser, kUser) == 0, "setresgid");
  must(setresuid(kUser, kUser, kUser) == 0, "setresuid");
  if (capable) {
    __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct caps[2];
    must(syscall(SYS_capget, &head, caps) == 0, "capget");
    for (auto& cap : caps) {
      cap.effective = cap.permitted;
    }
    must(syscall(SYS_capset, &head, caps) == 0, "capset");
  }
  prctl(PR_SET_DUMPABLE, 1);
}

int in_namespaces(int flags, const std::function<int()>& then) {
  if (unshare(flags) != 0 || mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return errno == 0 ? EPERM : ENOSYS;
  }
  return then();
}

int in_user_namespace(const std::function<int()>& then) {
  return in_namespaces(CLONE_NEWUSER | CLONE_NEWNS, [&] {
    const auto say = [](const char* file, const std::string& text) {
      const int fd = open(file, O_WRONLY);
      const bool ok = write(fd, text.c_str(), text.size()) == static_cast<ssize_t>(text.size());
      close(fd);
      return ok;
    };
    const std::string same = std::to_string(kUser) + " " + std::to_string(kUser) + " 1";
    if (!say("/proc/self/setgroups", "deny") || !say("/proc/self/uid_map", same) ||
        !say("/proc/self/gid_map", same)) {
      return ENOSYS;
    }
    return then();
  });
}

int result_of(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) {
    raise(WTERMSIG(status));
  }
  return WEXITSTATUS(status);
}

void by_user(const std::function<int()>& does) {
  const pid_t pid = fork();
  if (pid == 0) {
    become_nobody(false);
    _exit(does());
  }
  int status = 0;
  waitpid(pid, &status, 0);
}

namespace {

// One byte of data with room for a descriptor.
struct Message {
  char byte = 'x';
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr head{};

  Message() {
    head.msg_iov = &data;
    head.msg_iovlen = 1;
    head.msg_control = control;
    head.msg_controllen = sizeof control;
  }
};

}  // namespace

int send_descriptor(int socket, int fd) {
  Message message;
  cmsghdr* head = CMSG_FIRSTHDR(&message.head);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
  return of(sendmsg(socket, &message.head, 0));
}

int receive_descriptor(int socket) {
  Message message;
  must(recvmsg(socket, &message.head, 0) == 1, "recvmsg");
  const cmsghdr* head = CMSG_FIRSTHDR(&message.head);
  int fd = -1;
  if (head != nullptr && head->cmsg_len == CMSG_LEN(sizeof fd)) {
    std::memcpy(&fd, CMSG_DATA(head), sizeof fd);
  }
  return fd;
}

void drop_dentries() {
  const int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
  (void)!write(fd, "2", 1);
  close(fd);
}

std::string own_program() {
  char path[4096];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof path);
  must(size > 0, "/proc/self/exe");
  return {path, static_cast<std::size_t>(size)};
}

namespace {

const std::vector<Way>& ways() {
  static const std::vector<Way> all = [] {
    std::vector<Way> out;
    for (auto* of_kind : {basic_ways, overlay_ways, mount_ways, identity_ways, name_ways,
                          ioctl_ways, innocent_ways}) {
      std::vector<Way> some = of_kind();
      std::move(some.begin(), some.end(), std::back_inserter(out));
    }
    return out;
  }();
  return all;
}

Place prepare(const std::string& dir) {
  Place p;
  p.dir = dir;
  p.a = dir + "/a";
  p.x = dir + "/x";
  p.s = dir + "/s";
  p.b = p.s + "/b";
  p.prog = dir + "/prog";
  p.alias = dir + "/alias";
  p.link = dir + "/link";
  p.dirlink = dir + "/dirlink";
  p.above = dir + "/above";
  p.deep = p.above + "/below/deep";
  p.free = dir + "/free";
  for (const std::string& path : {p.dir, p.s, p.free, p.above, p.above + "/below"}) {
    make_directory(path);
  }
  for (const std::string& path : {p.a, p.b, p.deep}) {
    write_file(path, 0666);
  }
  write_file(p.x, 0666, "another");
  (void)setxattr(p.a.c_str(), "user.before", "1", 1, 0);  // not everywhere
  write_file(p.dir + "/name", 0644, p.a);
  copy_file("/bin/true", p.prog);
  // Not everywhere either.
  (void)!link(p.a.c_str(), p.alias.c_str());
  (void)!symlink(p.a.c_str(), p.link.c_str());
  (void)!symlink(p.s.c_str(), p.dirlink.c_str());
  p.old = open(p.a.c_str(), O_RDWR);
  p.old_b = open(p.b.c_str(), O_RDWR);
  p.old_x = open(p.x.c_str(), O_RDWR);
  p.old_dir = open(dir.c_str(), O_RDONLY | O_DIRECTORY);
  p.old_s = open(p.s.c_str(), O_RDONLY | O_DIRECTORY);
  must(p.old >= 0 && p.old_b >= 0 && p.old_x >= 0 && p.old_dir >= 0 && p.old_s >= 0, "open");
  return p;
}

bool numbered = true;

// All that there is in a directory, but for when it was read.
void look(const std::string& path, std::string& out, int depth = 0) {
  struct stat status{};
  if (lstat(path.c_str(), &status) != 0) {
    return;
  }
  // vfat has no inode numbers: they are made up whenever a file is looked up anew.
  const unsigned long inode = numbered ? status.st_ino : 0;
  char line[256];
  snprintf(line, sizeof line, " %lu %o %u:%u %ld %ld;", inode, status.st_mode, status.st_uid,
           status.st_gid, S_ISDIR(status.st_mode) ? 0L : status.st_size,
           S_ISDIR(status.st_mode) ? 0L : status.st_mtim.tv_sec);
  out += path + line;
  char attributes[512];
  const ssize_t n =
      S_ISREG(status.st_mode) ? llistxattr(path.c_str(), attributes, sizeof attributes) : 0;
  out.append(attributes, n > 0 ? static_cast<std::size_t>(n) : 0);
  if (S_ISREG(status.st_mode)) {
    char content[16];
    const int fd = open(path.c_str(), O_RDONLY);
    const ssize_t got = fd < 0 ? 0 : read(fd, content, sizeof content);
    int flags = 0;
    (void)ioctl(fd, FS_IOC_GETFLAGS, &flags);
    out.append(content, got > 0 ? static_cast<std::size_t>(got) : 0);
    out += std::to_string(flags & FS_NODUMP_FL);
    close(fd);
  } else if (S_ISDIR(status.st_mode) && depth < 8) {
    std::vector<std::string> names;
    DIR* dir = opendir(path.c_str());
    while (const dirent* entry = dir == nullptr ? nullptr : readdir(dir)) {
      if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
        names.emplace_back(entry->d_name);
      }
    }
    closedir(dir);
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) {
      look(path + "/" + name, out, depth + 1);
    }
  }
}

std::string errno_name(int code) {
  const char* name = strerrorname_np(code);
  return name == nullptr ? std::to_string(code) : name;
}

std::string try_one(const Way& way, Place p) {
  if (way.first) {
    way.first(p);
  }
  std::string before;
  look(p.dir, before);
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(60);
    // In a mount namespace of its own, so that a mount goes when it does.
    must(!way.capable || (unshare(CLONE_NEWNS) == 0 &&
                          mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0),
         "unshare");
    if (way.enter) {
      way.enter();
    }
    become_nobody(way.capable);
    p.low = static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0));
    _exit(way.tries(p));
  }
  int status = 0;
  waitpid(pid, &status, 0);
  std::string after;
  look(p.dir, after);
  const bool changed = before != after;
  if (WIFSIGNALED(status)) {
    return WTERMSIG(status) != SIGKILL ? strsignal(WTERMSIG(status))
           : changed                   ? "killed-late"
                                       : "killed";
  }
  return WEXITSTATUS(status) == 0 ? "done" : changed ? "changed" : errno_name(WEXITSTATUS(status));
}

struct Rule {
  const char* name;
  std::vector<const char*> paths;  // in each numbered directory
  std::string operations;
  std::string who;
  const char* action = "deny";
};

void print_policy(const std::string& mechanism, const std::vector<std::string>& roots) {
  const std::string all =
      "open, create, exec, rename, unlink, rmdir, mkdir, mknod, link, symlink, truncate, chmod, "
      "chown, utimes, setxattr, removexattr, read, write, mmap, ioctl, mount, umount";
  const std::string others = "unless: { uid: 0 }";
  const auto each = [&](const std::vector<const char*>& names) {
    std::string out;
    for (const std::string& root : roots) {
      for (const char* name : names) {
        out += (out.empty() ? "\"" : ", \"") + root + "/[0-9][0-9][0-9]/" + name + "\"";
      }
    }
    return out;
  };
  const std::vector<Rule> rules = {
      {"no",
       {"a", "prog", "s/**", "above/below/deep", "mnt/**", "sub/**", "fold/Secret",
        "long-secret.txt"},
       all,
       others},
      {"reads", {"reads"}, "read", others},
      {"opens", {"opens/**"}, "open", others},
      {"weak", {"weak"}, "truncate", others},
      {"strong", {"strong/**"}, all, others},
      {"kills", {"kills"}, all, others, "kill"},
      {"untrusted",
       {"exe"},
       "open",
       "only: { uid: 1234 }\n    unless: { exe: [" + each({"trusted"}) + "] }"},
      {"program", {"only-exe"}, "open", "only: { uid: 1234, exe: \"" + own_program() + "\" }"},
      {"children", {"inherited"}, "open", "only: { ancestor: [" + each({"parent"}) + "] }"},
      {"group", {"jailed"}, "open", "only: { cgroup: \"/vfsguard-ways/**\" }"},
      {"outside",
       {"boxed"},
       "open",
       "only: { uid: 1234 }\n    unless: { container: \"0123456789ab\" }"},
  };
  printf("version: 1\nrules:\n");
  for (const Rule& rule : rules) {
    if (mechanism == "fanotify" && rule.operations == "truncate") {
      continue;  // there would be nothing that it can stop
    }
    printf(
        "  - name: %s\n    paths: [%s]\n    operations: [%s]\n    %s\n    action: %s\n    "
        "degraded: accept\n",
        rule.name, each(rule.paths).c_str(), rule.operations.c_str(), rule.who.c_str(),
        rule.action);
  }
}

int run(const std::string& root, const std::vector<std::string>& chosen) {
  std::map<std::string, Place> places;
  std::map<std::string, Place> neighbours;
  std::map<std::string, std::string> free;
  struct statfs system{};
  must(statfs(root.c_str(), &system) == 0, root);
  numbered = system.f_type != MSDOS_SUPER_MAGIC;
  umask(0);
  must(chmod(root.c_str(), 0777) == 0 || errno == EPERM, root);
  std::vector<const Way*> selected;
  int number = 0;
  for (const Way& way : ways()) {
    ++number;
    if (!chosen.empty() && std::find(chosen.begin(), chosen.end(), way.name) == chosen.end()) {
      continue;
    }
    selected.push_back(&way);
    char dir[16];
    snprintf(dir, sizeof dir, "/%03d", number);
    places[way.name] = prepare(root + dir);
    neighbours[way.name] = prepare(root + dir + "n");
    if (way.prepare) {
      way.prepare(places[way.name]);
      way.prepare(neighbours[way.name]);
    }
    if (way.fails_closed) {
      free[way.name] = try_one(way, neighbours[way.name]);
    }
  }
  if (!chosen.empty() && selected.size() != chosen.size()) {
    fprintf(stderr, "ways: no such way\n");
    return 64;
  }
  printf("prepared\n");
  if (getchar() == EOF) {
    return 70;
  }
  for (const Way* way : selected) {
    timespec begin{}, end{};
    clock_gettime(CLOCK_MONOTONIC, &begin);
    const std::string result = try_one(*way, places[way->name]);
    // The same on what nobody protects: it must go through, or there is no such thing here.
    if (!way->fails_closed) {
      free[way->name] = try_one(*way, neighbours[way->name]);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (getenv("WAYS_VERBOSE") != nullptr) {
      fprintf(stderr, "%s: %s, neighbour: %s, %.3f s\n", way->name, result.c_str(),
              free[way->name].c_str(),
              static_cast<double>(end.tv_sec - begin.tv_sec) +
                  static_cast<double>(end.tv_nsec - begin.tv_nsec) / 1e9);
    }
    printf("%s: %s\n", way->name, free[way->name] == "done" ? result.c_str() : "no");
  }
  for (const Way* way : selected) {
    if (way->clean) {
      way->clean(places[way->name]);
      way->clean(neighbours[way->name]);
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  setvbuf(stdout, nullptr, _IOLBF, 0);
  if (words.size() > 1 && words[0] == "--helper") {
    return helper({words.begin() + 1, words.end()});
  }
  if (words.size() == 1 && words[0] == "--list") {
    for (const Way& way : ways()) {
      printf("%s\n", way.name);
    }
    return 0;
  }
  if (words.size() > 2 && words[0] == "--policy") {
    print_policy(words[1], {words.begin() + 2, words.end()});
    return 0;
  }
  if (words.size() > 2 && words[0] == "--levels") {
    levels = atoi(words[1].c_str());
    words.erase(words.begin(), words.begin() + 2);
  }
  if (words.empty() || words[0][0] != '/' || levels <= 0) {
    fprintf(stderr, "usage: ways [--levels N] DIR [WAY...] | --list | --policy MECHANISM DIR...\n");
    return 64;
  }
  return run(words[0], {words.begin() + 1, words.end()});
}
