// SPDX-License-Identifier: Apache-2.0
// Random operations against a model of what is protected.
//
//   model DIR --prepare                            makes the tree that the policy is about
//   model DIR --seed N --seconds S [--steps K]     episodes of K random steps until S seconds are over
//   model DIR --replay SEED [--steps K]            one episode again, shortened for as long as it still fails
//   --keep-going                                   after a failure, goes on and counts failures by kind
//   --moves-in all|files|single                    root moves in what has other names elsewhere: files and directories with such
//                                                  files (all), files only, or neither (single)
//   --no-policy                                    checks only that ordinary rules refuse nothing with EACCES
//
// A policy has to deny every file operation on DIR/secret/** to everybody but user 0. Two processes of user 1234, who
// owns the whole tree, take random steps, in namespaces of their own once they have made some. A third actor, root,
// moves, links, creates and removes protected files. Checked after each step:
//
//   - user 1234 did not get the content of a protected file (it begins with SECRET, that of all others with PLAIN), and
//     did not change a protected object (content, size, mode, owner, links, times, attributes, names in a directory)
//   - no step that concerns unprotected objects only is refused with EACCES: user 1234 has the right to everything
//   - no process is killed
//
// Protected is what lay below DIR/secret at the start of an episode, and what root has created there or moved there
// since; it stays protected wherever root links or moves it. Where the documented rules leave the answer open (an
// overlay whose layers root has changed, a directory that has something protected in it) EACCES is accepted.
// Steps are made of random numbers before an episode begins and make sense in any state, so any of them can be left out.
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <compare>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr unsigned kUser = 1234;
constexpr int kSlots = 4;
constexpr unsigned kUsers = 2;
constexpr unsigned kRoot = kUsers;

[[noreturn]] void die(const std::string& what) {
  fprintf(stderr, "model: %s: %s\n", what.c_str(), strerror(errno));
  exit(70);
}

// --- steps -------------------------------------------------------------------------------------

enum class Op : std::uint8_t {
  kOpenRead,
  kOpenWrite,
  kOpenPath,
  kOpenTruncate,
  kReopen,
  kRead,
  kWrite,
  kMap,
  kCopy,
  kTruncate,
  kTruncateOpen,
  kChmod,
  kChmodOpen,
  kUtimes,
  kSetxattr,
  kCreate,
  kMkdir,
  kRmdir,
  kUnlink,
  kSymlink,
  kLink,
  kLinkOpen,
  kRename,
  kExchange,
  kTemporary,
  kChdir,
  kUnshare,
  kBind,
  kTmpfs,
  kOverlay,
  kOpenTree,
  kMoveMount,
  kRemount,
  kUmount,
  kCount
};
constexpr std::array kOpNames = {"open read",
                                 "open write",
                                 "open O_PATH",
                                 "open truncate",
                                 "reopen",
                                 "read",
                                 "write",
                                 "mmap",
                                 "copy",
                                 "truncate",
                                 "ftruncate",
                                 "chmod",
                                 "fchmod",
                                 "utimes",
                                 "setxattr",
                                 "create",
                                 "mkdir",
                                 "rmdir",
                                 "unlink",
                                 "symlink",
                                 "link",
                                 "link of a descriptor",
                                 "rename",
                                 "exchange",
                                 "temporary file",
                                 "chdir",
                                 "unshare",
                                 "bind mount",
                                 "tmpfs",
                                 "overlay",
                                 "open_tree",
                                 "move_mount",
                                 "remount read-only",
                                 "umount"};
static_assert(kOpNames.size() == static_cast<std::size_t>(Op::kCount));
constexpr std::array<unsigned, kOpNames.size()> kOpWeights = {8, 6, 7, 3, 8, 5, 5, 4, 2, 3, 2, 3, 2, 3, 2, 6, 4,
                                                              3, 5, 2, 5, 3, 9, 4, 2, 4, 2, 5, 1, 3, 2, 1, 1, 3};

enum class RootOp : std::uint8_t { kLinkOut, kMoveOut, kMoveIn, kCreateIn, kUnlink, kRename, kRepair, kBind, kUmount, kDropCaches, kCount };
constexpr std::array kRootOpNames = {"link out", "move out", "move in",    "create protected", "unlink protected",
                                     "rename",   "repair",   "bind mount", "umount",           "drop caches"};
static_assert(kRootOpNames.size() == static_cast<std::size_t>(RootOp::kCount));
constexpr std::array<unsigned, kRootOpNames.size()> kRootWeights = {5, 4, 5, 5, 4, 3, 6, 2, 2, 1};

constexpr std::array kDirs = {"open", "open/d0", "open/d1", "open/d0/d1", "secret", "secret/sub", "m0",
                              "m1",   "m0/d0",   "m0/sub",  "m1/d0",      "b0",     "b1",         "secret/d0"};
constexpr std::array kLeaves = {"a", "b", "c", "d0", "d1", "sub"};

struct Step {
  std::uint8_t actor;
  std::uint8_t op;
  std::uint32_t a, b, c;
};

template <std::size_t N>
std::uint8_t weighted(std::mt19937_64& random, const std::array<unsigned, N>& weights) {
  unsigned total = 0;
  for (const unsigned w : weights) {
    total += w;
  }
  unsigned at = static_cast<unsigned>(random() % total);
  std::uint8_t i = 0;
  while (at >= weights[i]) {
    at -= weights[i++];
  }
  return i;
}

std::vector<Step> make_steps(std::uint64_t seed, unsigned count) {
  std::mt19937_64 random(seed);
  std::vector<Step> steps(count);
  for (Step& s : steps) {
    s.actor = random() % 5 == 0 ? kRoot : static_cast<std::uint8_t>(random() % kUsers);
    s.op = s.actor == kRoot ? weighted(random, kRootWeights) : weighted(random, kOpWeights);
    s.a = static_cast<std::uint32_t>(random());
    s.b = static_cast<std::uint32_t>(random());
    s.c = static_cast<std::uint32_t>(random());
  }
  if (!steps.empty() && random() % 2 == 0) {
    steps[0].actor = 1;
    steps[0].op = static_cast<std::uint8_t>(Op::kUnshare);
  }
  return steps;
}

// A name as a step gives it: a directory (AT_FDCWD, or a slot) and a path.
struct Name {
  int slot = -1;
  std::string path;
};

std::string top;  // DIR

Name name_of(std::uint32_t word) {
  const unsigned kind = word % 16;
  const std::string directory = kDirs[(word >> 4) % kDirs.size()];
  const std::string leaf = kLeaves[(word >> 12) % kLeaves.size()];
  const int slot = static_cast<int>((word >> 20) % kSlots);
  switch (kind) {
    case 0:
    case 1: return {-1, leaf};
    case 2: return {-1, "../" + leaf};
    case 3:
    case 4: return {slot, leaf};
    case 5:
    case 6: return {-1, top + "/" + directory};
    case 7: return {-1, top + "/open/" + leaf};
    default: return {-1, top + "/" + directory + "/" + leaf};
  }
}

std::string directory_of(std::uint32_t word) { return top + "/" + kDirs[word % kDirs.size()]; }

std::string mount_point(std::uint32_t word) { return word % 8 < 6 ? top + (word % 2 == 0 ? "/m0" : "/m1") : directory_of(word >> 3); }

std::string text(const Name& n) {
  std::string path = n.path.starts_with(top + "/") ? n.path.substr(top.size() + 1) : "./" + n.path;
  return n.slot < 0 ? path : "[" + std::to_string(n.slot) + "]" + path.substr(1);
}

bool has_second_name(Op op) { return op == Op::kRename || op == Op::kExchange || op == Op::kLink; }

bool is_about_slot(Op op) {
  return op == Op::kReopen || op == Op::kRead || op == Op::kWrite || op == Op::kMap || op == Op::kTruncateOpen || op == Op::kChmodOpen || op == Op::kLinkOpen ||
         op == Op::kMoveMount || op == Op::kCopy;
}

std::string describe(const Step& s) {
  if (s.actor == kRoot) {
    return std::string("root   ") + kRootOpNames[s.op];
  }
  const auto op = static_cast<Op>(s.op);
  std::string line = "user " + std::to_string(s.actor) + " " + kOpNames[s.op];
  if (op == Op::kUnshare) {
    return line;
  }
  if (is_about_slot(op)) {
    line += " [" + std::to_string(s.b % kSlots) + "]";
    if (op == Op::kLinkOpen || op == Op::kCopy) {
      line += " to " + text(name_of(s.a));
    } else if (op == Op::kMoveMount) {
      line += " to " + mount_point(s.c).substr(top.size() + 1);
    } else if (op == Op::kReopen) {
      line += s.c % 2 == 0 ? " for reading" : " for writing";
    }
    return line;
  }
  if (op == Op::kTmpfs || op == Op::kRemount || op == Op::kUmount) {
    return line + " " + mount_point(s.c).substr(top.size() + 1);
  }
  if (op == Op::kOverlay) {
    return line + " lower=" + directory_of(s.a).substr(top.size() + 1) + " upper=" + directory_of(s.b).substr(top.size() + 1) + " on " +
           mount_point(s.c).substr(top.size() + 1);
  }
  line += " " + text(name_of(s.a));
  if (has_second_name(op) || op == Op::kSymlink) {
    line += op == Op::kSymlink ? " naming " : " to ";
    line += text(name_of(s.b));
  } else if (op == Op::kBind) {
    line += " on " + mount_point(s.c).substr(top.size() + 1);
  } else if (op == Op::kOpenRead || op == Op::kOpenWrite || op == Op::kOpenPath || op == Op::kOpenTree || op == Op::kOpenTruncate) {
    line += " as [" + std::to_string(s.b % kSlots) + "]";
  }
  return line;
}

// --- what is between the driver and a user -----------------------------------------------------

struct Id {
  std::uint64_t dev = 0, ino = 0;
  auto operator<=>(const Id&) const = default;
};

// What a step is about, as the user's process sees it just before.
struct Object {
  Id id;
  std::uint8_t exists = 0;
  std::uint8_t on_overlay = 0;
  std::uint8_t is_directory = 0;
  std::uint8_t has_no_name = 0;  // removed, or never had one: the rules that concern it are those of its last directory
  std::int32_t fd = -1;          // in the user's process, until its next step
};

constexpr int kObjects = 40;

struct Reply {
  std::int32_t code = 0;
  std::uint8_t got_secret = 0;
  std::uint8_t got_kind = 0;
  std::int32_t objects = 0;
  std::array<Object, kObjects> object{};
};

// --- a user ------------------------------------------------------------------------------------

class User {
 public:
  explicit User(int channel) : channel_(channel) {}

  [[noreturn]] void serve() {
    if (setgroups(0, nullptr) != 0 || setresgid(kUser, kUser, kUser) != 0 || setresuid(kUser, kUser, kUser) != 0) {
      _exit(70);
    }
    prctl(PR_SET_DUMPABLE, 1);  // or its own /proc files belong to root
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    umask(0);
    if (chdir((top + "/open").c_str()) != 0) {
      _exit(70);
    }
    slots_ = {open("d0", O_PATH | O_CLOEXEC), open("a", O_RDWR | O_CLOEXEC), open("d0/d1", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
              open("d0/d1/b", O_RDONLY | O_CLOEXEC)};
    Step step{};
    while (recv(channel_, &step, sizeof step, 0) == static_cast<ssize_t>(sizeof step)) {
      reply_ = {};
      close_looked_at();
      look(step);
      if (const auto op = static_cast<Op>(step.op); op != Op::kRename && op != Op::kExchange && op != Op::kRmdir && op != Op::kUnlink) {
        close_looked_at();  // they would keep a mount busy
      }
      const int code = act(step);
      reply_.code = code;
      if (send(channel_, &reply_, sizeof reply_, MSG_NOSIGNAL) < 0) {
        break;
      }
    }
    _exit(0);
  }

 private:
  static int of(long result) { return result < 0 ? errno : 0; }

  int at(const Name& n) const { return n.slot < 0 ? AT_FDCWD : slots_[static_cast<std::size_t>(n.slot)]; }

  int& slot(const Step& s) { return slots_[s.b % kSlots]; }

  int keep(const Step& s, int fd) {
    if (fd < 0) {
      return errno;
    }
    if (int& kept = slot(s); kept >= 0) {
      close(kept);
      kept = fd;
    } else {
      kept = fd;
    }
    return 0;
  }

  void close_looked_at() {
    for (const int fd : looked_at_) {
      close(fd);
    }
    looked_at_.clear();
  }

  // The object behind a descriptor, and for a directory the way up from it. Takes the descriptor.
  void see(int fd) {
    for (int depth = 0; fd >= 0 && reply_.objects < kObjects; ++depth) {
      struct stat st{};
      struct statfs fs{};
      if (fstat(fd, &st) != 0) {
        close(fd);
        return;
      }
      Object& o = reply_.object[static_cast<std::size_t>(reply_.objects++)];
      o.id = {st.st_dev, st.st_ino};
      o.exists = 1;
      o.is_directory = S_ISDIR(st.st_mode);
      o.has_no_name = st.st_nlink == 0;
      o.on_overlay = fstatfs(fd, &fs) == 0 && fs.f_type == OVERLAYFS_SUPER_MAGIC;
      o.fd = fd;
      looked_at_.push_back(fd);
      const int up = o.is_directory != 0 && depth < 7 ? openat(fd, "..", O_PATH | O_CLOEXEC) : -1;
      struct stat above{};
      if (up >= 0 && fstat(up, &above) == 0 && above.st_dev == st.st_dev && above.st_ino == st.st_ino) {
        close(up);
        return;
      }
      fd = up;
    }
    if (fd >= 0) {
      close(fd);
    }
  }

  void see(const Name& n) {
    const int directory = at(n);
    const auto slash = n.path.rfind('/');
    const std::string parent = slash == std::string::npos ? "." : n.path.substr(0, slash);
    see(openat(directory, parent.c_str(), O_PATH | O_CLOEXEC));
    see(openat(directory, n.path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    see(openat(directory, n.path.c_str(), O_PATH | O_CLOEXEC));
  }

  void look(const Step& s) {
    const auto op = static_cast<Op>(s.op);
    if (is_about_slot(op)) {
      if (slot(s) >= 0) {
        see(fcntl(slot(s), F_DUPFD_CLOEXEC, 0));
      }
      if (op == Op::kLinkOpen || op == Op::kCopy) {
        see(name_of(s.a));
      } else if (op == Op::kMoveMount) {
        see({-1, mount_point(s.c)});
      }
      return;
    }
    if (op == Op::kUnshare) {
      return;
    }
    if (op == Op::kOverlay) {
      see({-1, directory_of(s.a)});
      see({-1, directory_of(s.b)});
      see({-1, work_of(s)});
    }
    if (op == Op::kOverlay || op == Op::kTmpfs || op == Op::kRemount || op == Op::kUmount || op == Op::kBind) {
      see({-1, mount_point(s.c)});
    }
    if (op != Op::kTmpfs && op != Op::kRemount && op != Op::kUmount && op != Op::kOverlay) {
      see(name_of(s.a));
    }
    if (has_second_name(op)) {
      see(name_of(s.b));
    }
  }

  static std::string work_of(const Step& s) { return top + ((s.a >> 8) % 8 == 0 ? "/secret/sub" : "/open/w"); }

  void look_for_secret(const char* bytes, ssize_t size) {
    if (size > 0 && std::string_view(bytes, static_cast<std::size_t>(size)).find("SECRET") != std::string_view::npos) {
      reply_.got_secret = 1;
    }
  }

  int read_from(int fd) {
    char bytes[256];
    const ssize_t size = pread(fd, bytes, sizeof bytes, 0);
    const int code = of(size);
    look_for_secret(bytes, size);
    return code;
  }

  int open_read(const Step& s, int directory, const char* path) {
    const int fd = openat(directory, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
      return errno;
    }
    const int code = read_from(fd);
    keep(s, fd);
    return code == EISDIR ? 0 : code;
  }

  int open_write(const Step& s, int directory, const char* path, int flags) {
    const int fd = openat(directory, path, O_RDWR | O_NONBLOCK | O_CLOEXEC | flags, 0666);
    if (fd < 0) {
      return errno;
    }
    keep(s, fd);
    return of(pwrite(fd, "PLAIN", 5, 0));
  }

  // Through a mapping that lasts for this step: what was mapped before is not stopped.
  int map(int fd) {
    struct stat st{};
    const int mode = fcntl(fd, F_GETFL);
    if (mode < 0 || fstat(fd, &st) != 0 || st.st_size < 5 || (mode & O_ACCMODE) == O_WRONLY || (mode & O_PATH) != 0) {
      return EBADF;
    }
    const bool writable = (mode & O_ACCMODE) == O_RDWR;
    void* memory = mmap(nullptr, 4096, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
      return errno;
    }
    look_for_secret(static_cast<char*>(memory), std::min<ssize_t>(st.st_size, 4096));
    if (writable) {
      memcpy(memory, "PLAIN", 5);
    }
    munmap(memory, 4096);
    return 0;
  }

  int copy(const Step& s, int from) {
    const Name n = name_of(s.a);
    const int to = openat(at(n), n.path.c_str(), O_WRONLY | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0666);
    if (to < 0) {
      return errno;
    }
    off_t begin = 0;
    const int code = of(copy_file_range(from, &begin, to, nullptr, 256, 0));
    close(to);
    return code;
  }

  int unshare_all() {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
      return errno;
    }
    const auto put = [](const char* file, const std::string& what) {
      const int fd = open(file, O_WRONLY | O_CLOEXEC);
      const int code = fd < 0 ? errno : of(write(fd, what.data(), what.size()));
      close(fd);
      return code;
    };
    const std::string map = "0 " + std::to_string(mapped_) + " 1";
    mapped_ = 0;
    int code = put("/proc/self/uid_map", map);
    code = code != 0 ? code : put("/proc/self/setgroups", "deny");
    code = code != 0 ? code : put("/proc/self/gid_map", map);
    return code != 0 ? code : of(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  }

  int act(const Step& s) {
    const auto op = static_cast<Op>(s.op);
    const Name n = name_of(s.a);
    const char* path = n.path.c_str();
    const int directory = at(n);
    const Name second = name_of(s.b);
    const std::string point = mount_point(s.c);
    const timespec times[2] = {{1000, 0}, {1000 + s.c % 1000, 0}};
    switch (op) {
      case Op::kOpenRead: return open_read(s, directory, path);
      case Op::kOpenWrite: return open_write(s, directory, path, s.c % 4 == 0 ? O_CREAT : 0);
      case Op::kOpenTruncate: return open_write(s, directory, path, O_TRUNC);
      case Op::kOpenPath: return keep(s, openat(directory, path, O_PATH | O_CLOEXEC | (s.c % 2 == 0 ? O_NOFOLLOW : 0)));
      case Op::kReopen: {
        if (slot(s) < 0) {
          return EBADF;
        }
        const std::string again = "/proc/self/fd/" + std::to_string(slot(s));
        return s.c % 2 == 0 ? open_read(s, AT_FDCWD, again.c_str()) : open_write(s, AT_FDCWD, again.c_str(), 0);
      }
      case Op::kRead: return read_from(slot(s));
      case Op::kWrite: return of(pwrite(slot(s), "PLAIN", 5, 0));
      case Op::kMap: return map(slot(s));
      case Op::kCopy: return copy(s, slot(s));
      case Op::kTruncate: return of(truncate_at(directory, path, s.c % 16));
      case Op::kTruncateOpen: return of(ftruncate(slot(s), s.c % 16));
      case Op::kChmod: return of(fchmodat(directory, path, mode_of(s, directory, path), 0));
      case Op::kChmodOpen: return of(fchmod(slot(s), mode_of(s, slot(s), "")));
      case Op::kUtimes: return of(utimensat(directory, path, times, 0));
      case Op::kSetxattr: {
        const std::string real = n.slot < 0 ? n.path : "/proc/self/fd/" + std::to_string(directory) + "/" + n.path;
        return of(setxattr(real.c_str(), "user.model", &s.c, sizeof s.c, 0));
      }
      case Op::kCreate: {
        const int fd = openat(directory, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        const int code = fd < 0 ? errno : of(write(fd, "PLAIN", 5));
        close(fd);
        return code;
      }
      case Op::kMkdir: return of(mkdirat(directory, path, 0777));
      case Op::kRmdir: return of(unlinkat(directory, path, AT_REMOVEDIR));
      case Op::kUnlink: return of(unlinkat(directory, path, 0));
      case Op::kSymlink: return of(symlinkat(second.path.c_str(), directory, path));
      case Op::kLink: return of(linkat(directory, path, at(second), second.path.c_str(), 0));
      case Op::kLinkOpen: {
        const std::string from = "/proc/self/fd/" + std::to_string(slot(s));
        return of(linkat(AT_FDCWD, from.c_str(), directory, path, AT_SYMLINK_FOLLOW));
      }
      case Op::kRename: return of(renameat(directory, path, at(second), second.path.c_str()));
      case Op::kExchange: return of(syscall(SYS_renameat2, directory, path, at(second), second.path.c_str(), RENAME_EXCHANGE));
      case Op::kTemporary: {
        const int fd = openat(directory, path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
        const int code = fd < 0 ? errno : of(write(fd, "PLAIN", 5));
        return code != 0 ? code : keep(s, fd);
      }
      case Op::kChdir: return chdir_to(directory, path);
      case Op::kUnshare: return unshare_all();
      case Op::kBind: {
        const std::string real = n.slot < 0 ? n.path : "/proc/self/fd/" + std::to_string(directory) + "/" + n.path;
        return of(mount(real.c_str(), point.c_str(), nullptr, MS_BIND | (s.c % 2 == 0 ? MS_REC : 0), nullptr));
      }
      case Op::kTmpfs: return of(mount("none", point.c_str(), "tmpfs", 0, "mode=0777"));
      case Op::kOverlay: {
        const std::string options = "userxattr,lowerdir=" + directory_of(s.a) + ",upperdir=" + directory_of(s.b) + ",workdir=" + work_of(s);
        return of(mount("overlay", point.c_str(), "overlay", 0, options.c_str()));
      }
      case Op::kOpenTree: return keep(s, static_cast<int>(syscall(SYS_open_tree, directory, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
      case Op::kMoveMount: return of(syscall(SYS_move_mount, slot(s), "", AT_FDCWD, point.c_str(), MOVE_MOUNT_F_EMPTY_PATH));
      case Op::kRemount: return of(mount(nullptr, point.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr));
      case Op::kUmount: return of(umount2(point.c_str(), s.c % 3 == 0 ? 0 : MNT_DETACH));
      case Op::kCount: break;
    }
    return ENOSYS;
  }

  // Whoever owns a file could take the right to it from himself: that would be an EACCES of another kind.
  static mode_t mode_of(const Step& s, int directory, const char* path) {
    struct stat st{};
    const bool is_directory = fstatat(directory, path, &st, path[0] == '\0' ? AT_EMPTY_PATH : 0) == 0 && S_ISDIR(st.st_mode);
    return is_directory ? (s.c % 2 == 0 ? 0777 : 0755) : (s.c % 2 == 0 ? 0666 : 0640);
  }

  static long truncate_at(int directory, const char* path, off_t size) {
    if (directory == AT_FDCWD) {
      return truncate(path, size);
    }
    return truncate(("/proc/self/fd/" + std::to_string(directory) + "/" + path).c_str(), size);
  }

  static int chdir_to(int directory, const char* path) {
    const int fd = openat(directory, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    const int code = fd < 0 ? errno : of(fchdir(fd));
    close(fd);
    return code;
  }

  int channel_;
  unsigned mapped_ = kUser;
  std::array<int, kSlots> slots_{};
  std::vector<int> looked_at_;
  Reply reply_;
};

// --- root, and the model -----------------------------------------------------------------------

struct State {
  std::string content;
  std::set<std::string> names;
  mode_t mode = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  nlink_t links = 0;
  off_t size = 0;
  std::int64_t changed = 0;
  ssize_t attributes = 0;
};

struct Protected {
  int fd = -1;
  State state;
};

struct Failure {
  std::string kind;  // the same for what has one cause
  std::string what;
  std::size_t step = 0;
};

struct Totals {
  unsigned long episodes = 0, steps = 0, refused = 0, done = 0;
};

enum class MovesIn : std::uint8_t { kAll, kFiles, kSingle };

class Episode {
 public:
  Episode(bool policy, MovesIn moves_in, Totals& totals) : policy_(policy), moves_in_(moves_in), totals_(totals) {}
  Episode(const Episode&) = delete;
  Episode& operator=(const Episode&) = delete;

  ~Episode() {
    for (unsigned i = 0; i < kUsers; ++i) {
      if (pid_[i] > 0) {
        kill(pid_[i], SIGKILL);
        waitpid(pid_[i], nullptr, 0);
      }
      close(channel_[i]);
    }
    for (const auto& [id, p] : protected_) {
      close(p.fd);
    }
    close(secret_.fd);
    close(top_);
  }

  std::optional<Failure> run(const std::vector<Step>& steps, std::vector<std::string>* log) {
    begin();
    for (std::size_t i = 0; i < steps.size(); ++i) {
      ++totals_.steps;
      note_.clear();
      std::optional<Failure> failure = steps[i].actor == kRoot ? by_root(steps[i]) : by_user(steps[i]);
      if (log != nullptr) {
        log->push_back(describe(steps[i]) + note_);
      }
      if (failure) {
        failure->step = i;
        return failure;
      }
    }
    return std::nullopt;
  }

  static void prepare_tree();

 private:
  static Id id_of(const struct stat& st) { return {st.st_dev, st.st_ino}; }

  static std::set<std::string> names_in(int fd) {
    std::set<std::string> names;
    const int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR* d = again < 0 ? nullptr : fdopendir(again);
    while (const dirent* entry = d != nullptr ? readdir(d) : nullptr) {
      if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
        names.insert(entry->d_name);
      }
    }
    if (d != nullptr) {
      closedir(d);
    }
    return names;
  }

  static State state_of(int fd) {
    State s;
    struct stat st{};
    fstat(fd, &st);
    s.mode = st.st_mode;
    s.uid = st.st_uid;
    s.gid = st.st_gid;
    s.attributes = flistxattr(fd, nullptr, 0);
    if (S_ISDIR(st.st_mode)) {
      s.names = names_in(fd);
      return s;
    }
    s.links = st.st_nlink;
    s.size = st.st_size;
    s.changed = st.st_mtim.tv_sec * 1'000'000'000 + st.st_mtim.tv_nsec;
    char bytes[256];
    const ssize_t size = pread(fd, bytes, sizeof bytes, 0);
    s.content.assign(bytes, static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
    return s;
  }

  static std::string difference(const State& was, const State& is) {
    if (was.content != is.content) return "content";
    if (was.names != is.names) return "names";
    if (was.links != is.links) return "links";
    if (was.size != is.size) return "size";
    if (was.mode != is.mode) return "mode";
    if (was.uid != is.uid || was.gid != is.gid) return "owner";
    if (was.changed != is.changed) return "time of change";
    if (was.attributes != is.attributes) return "attributes";
    return "";
  }

  void begin() {
    ++totals_.episodes;
    prepare_tree();
    top_ = open(top.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct stat st{};
    if (top_ < 0 || fstatat(top_, "..", &st, 0) != 0) {
      die(top);
    }
    above_ = id_of(st);
    secret_.fd = openat(top_, "secret", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (secret_.fd < 0 || fstat(secret_.fd, &st) != 0) {
      die("secret");
    }
    secret_id_ = id_of(st);
    protect_below(secret_.fd);
    refresh();
    for (unsigned i = 0; i < kUsers; ++i) {
      start(i);
    }
  }

  void start(unsigned i) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
      die("socketpair");
    }
    fflush(nullptr);
    pid_[i] = fork();
    if (pid_[i] < 0) {
      die("fork");
    }
    if (pid_[i] == 0) {
      // None of root's descriptors: they would be ways in that a user does not have.
      if (ends[1] != 3) {
        dup2(ends[1], 3);
      }
      close_range(4, ~0U, 0);
      User(3).serve();
    }
    close(ends[1]);
    channel_[i] = ends[0];
  }

  // Everything below this directory, and what regular files hold says so.
  void protect_below(int directory) {
    for (const std::string& name : names_in(directory)) {
      protect(directory, name);
    }
  }

  void protect(int directory, const std::string& name) {
    struct stat st{};
    if (fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))) {
      return;
    }
    const int fd = openat(directory, name.c_str(), (S_ISDIR(st.st_mode) ? O_RDONLY : O_RDWR) | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
      return;
    }
    if (auto [at, fresh] = protected_.try_emplace(id_of(st)); fresh) {
      at->second.fd = fd;
    } else {
      close(fd);
    }
    Protected& p = protected_[id_of(st)];
    if (S_ISDIR(st.st_mode)) {
      protect_below(p.fd);
    } else if (pwrite(p.fd, "SECRET", 6, 0) != 6) {
      die("pwrite");
    }
  }

  // After root's own changes.
  void refresh() {
    secret_.state = state_of(secret_.fd);
    // One whose last name is gone is protected for whoever has a descriptor of it; our own keeps its number from being given again.
    for (auto& [id, p] : protected_) {
      p.state = state_of(p.fd);
    }
  }

  std::optional<Failure> violated(const Step& s) {
    if (!policy_) {
      refresh();
      return std::nullopt;
    }
    const std::string op = kOpNames[s.op];
    // The mode, time and attributes of DIR/secret are not protected, only what is below.
    if (state_of(secret_.fd).names != secret_.state.names) {
      return Failure{op + " changed names below secret", "names in the protected directory changed"};
    }
    struct stat st{};
    if (fstatat(top_, "secret", &st, AT_SYMLINK_NOFOLLOW) != 0 || id_of(st) != secret_id_) {
      return Failure{op + " moved secret", "the directory that the policy names was moved"};
    }
    for (const auto& [id, p] : protected_) {
      if (const std::string how = difference(p.state, state_of(p.fd)); !how.empty()) {
        char path[PATH_MAX]{};
        const std::string link = "/proc/self/fd/" + std::to_string(p.fd);
        if (readlink(link.c_str(), path, sizeof path - 1) < 0) {
          strcpy(path, "?");
        }
        return Failure{op + " changed " + how, how + " of the protected " + path + " changed"};
      }
    }
    return std::nullopt;
  }

  // Whether something protected is below a directory of the user's, as that process sees it.
  bool contains_protected(int directory, int depth) const {
    for (const std::string& name : names_in(directory)) {
      struct stat st{};
      if (fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
        continue;
      }
      if (is_protected(id_of(st))) {
        return true;
      }
      if (S_ISDIR(st.st_mode) && depth > 0) {
        const int fd = openat(directory, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        const bool found = fd >= 0 && contains_protected(fd, depth - 1);
        close(fd);
        if (found) {
          return true;
        }
      }
    }
    return false;
  }

  bool is_protected(const Id& id) const { return id == secret_id_ || protected_.contains(id); }

  // EACCES may be right: something protected is concerned, or the documents do not say.
  bool may_refuse(const Step& s, const Reply& r) const {
    const auto op = static_cast<Op>(s.op);
    const bool moves = op == Op::kRename || op == Op::kExchange || op == Op::kRmdir;
    for (int i = 0; i < r.objects; ++i) {
      const Object& o = r.object[static_cast<std::size_t>(i)];
      if (is_protected(o.id) || o.id == above_ || o.has_no_name != 0) {
        return true;
      }
      if (o.on_overlay != 0 && (overlays_doubtful_ || std::ranges::any_of(protected_, [&](const auto& p) { return p.first.ino == o.id.ino; }))) {
        return true;
      }
      if (moves && o.is_directory != 0) {
        const std::string path = "/proc/" + std::to_string(pid_[s.actor]) + "/fd/" + std::to_string(o.fd);
        const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        const bool found = fd >= 0 && i_is_moved(r, i) && contains_protected(fd, 6);
        close(fd);
        if (found) {
          return true;
        }
      }
    }
    return false;
  }

  // DIR itself is on everybody's way up: only what lies below it is moved.
  bool i_is_moved(const Reply& r, int i) const {
    struct stat st{};
    return fstat(top_, &st) == 0 && r.object[static_cast<std::size_t>(i)].id != id_of(st);
  }

  std::optional<Failure> by_user(const Step& s) {
    const unsigned who = s.actor;
    const std::string op = kOpNames[s.op];
    Reply r;
    pollfd wait{channel_[who], POLLIN, 0};
    if (send(channel_[who], &s, sizeof s, MSG_NOSIGNAL) < 0 || poll(&wait, 1, 120'000) == 0) {
      return Failure{op + " hangs", "no answer after 120 s"};
    }
    if (recv(channel_[who], &r, sizeof r, 0) != static_cast<ssize_t>(sizeof r)) {
      int status = 0;
      waitpid(pid_[who], &status, 0);
      pid_[who] = 0;
      note_ = ": killed";
      return Failure{op + " killed", WIFSIGNALED(status) ? "killed by signal " + std::to_string(WTERMSIG(status)) : "the user's process ended"};
    }
    note_ = std::string(": ") + (r.code == 0 ? "done" : strerrorname_np(r.code));
    r.code == EACCES ? ++totals_.refused : ++totals_.done;
    if (r.got_secret != 0 && policy_) {
      return Failure{op + " got the content", "the user got the content of a protected file"};
    }
    if (static_cast<Op>(s.op) == Op::kOverlay && r.code == 0) {
      overlays_doubtful_ = overlays_doubtful_ || may_refuse(s, r);
    }
    if (auto failure = violated(s)) {
      return failure;
    }
    if (r.code == EACCES && !may_refuse(s, r)) {
      return Failure{op + " refused", "refused with EACCES, and nothing protected is concerned"};
    }
    return std::nullopt;
  }

  // --- what root does ---

  // The directory of a name below DIR, by no symbolic link and no mount of a user's making.
  int directory_at(const std::string& path) const {
    open_how how{};
    how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV | RESOLVE_BENEATH;
    return static_cast<int>(syscall(SYS_openat2, top_, path.c_str(), &how, sizeof how));
  }

  static std::string secret_directory(std::uint32_t w) { return std::array{"secret", "secret", "secret/sub", "secret/d0"}[w % 4]; }
  static std::string open_directory(std::uint32_t w) { return std::array{"open", "open", "open/d0", "open/d1", "open/d0/d1"}[w % 5]; }
  static std::string leaf(std::uint32_t w) { return kLeaves[(w >> 8) % kLeaves.size()]; }

  // The next name that something of this type has, or that is free (type 0), if there is one.
  static std::string next_name(int directory, std::uint32_t w, mode_t type) {
    for (std::uint32_t i = 0; i < kLeaves.size(); ++i) {
      const std::string name = leaf(w + (i << 8));
      struct stat st{};
      const bool exists = fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0;
      if (exists ? (st.st_mode & S_IFMT) == type : type == 0) {
        return name;
      }
    }
    return leaf(w);
  }

  static bool type_at(int directory, const std::string& name, mode_t type) {
    struct stat st{};
    return fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 && (st.st_mode & S_IFMT) == type;
  }

  // Whether it, or something below it, has a name elsewhere.
  static bool has_other_names(int directory, const std::string& name) {
    struct stat st{};
    if (fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISDIR(st.st_mode)) {
      return st.st_nlink > 1;
    }
    const int below = openat(directory, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    const auto names = below < 0 ? std::set<std::string>{} : names_in(below);
    const bool found = std::ranges::any_of(names, [&](const std::string& n) { return has_other_names(below, n); });
    close(below);
    return found;
  }

  bool may_move_in(int directory, const std::string& name) const {
    if (type_at(directory, name, S_IFREG)) {
      return moves_in_ != MovesIn::kSingle || !has_other_names(directory, name);
    }
    return type_at(directory, name, S_IFDIR) && (moves_in_ == MovesIn::kAll || !has_other_names(directory, name));
  }

  static void plain(int directory, const std::string& name) {
    const int fd = openat(directory, name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd >= 0) {
      if (write(fd, "PLAIN", 5) != 5 || fchown(fd, kUser, kUser) != 0) {
        die("create");
      }
      close(fd);
    }
  }

  static void folder(int directory, const std::string& name) {
    if (mkdirat(directory, name.c_str(), 0777) == 0 && fchownat(directory, name.c_str(), kUser, kUser, AT_SYMLINK_NOFOLLOW) != 0) {
      die("mkdir");
    }
  }

  std::optional<Failure> by_root(const Step& s) {
    const int in = directory_at(secret_directory(s.a));
    const int out = directory_at(open_directory(s.b));
    const auto op = static_cast<RootOp>(s.op);
    const bool into = op == RootOp::kMoveIn || op == RootOp::kCreateIn;
    const bool from_outside = op == RootOp::kMoveIn || op == RootOp::kRename;
    const std::string inside = next_name(in, s.a, into ? 0 : S_IFREG);
    const std::string outside = next_name(out, s.b, !from_outside ? 0 : s.c % 3 == 0 ? S_IFDIR : S_IFREG);
    const std::string in_text = secret_directory(s.a) + "/" + inside;
    const std::string out_text = open_directory(s.b) + "/" + outside;
    long result = 0;
    bool changes = true;
    switch (op) {
      case RootOp::kLinkOut:
        note_ = " " + in_text + " to " + out_text;
        result = type_at(in, inside, S_IFREG) ? linkat(in, inside.c_str(), out, outside.c_str(), 0) : -1;
        break;
      case RootOp::kMoveOut:
        note_ = " " + in_text + " to " + out_text;
        result = type_at(in, inside, S_IFREG) ? syscall(SYS_renameat2, in, inside.c_str(), out, outside.c_str(), RENAME_NOREPLACE) : -1;
        break;
      case RootOp::kMoveIn:
        note_ = " " + out_text + " to " + in_text;
        result = may_move_in(out, outside) ? syscall(SYS_renameat2, out, outside.c_str(), in, inside.c_str(), RENAME_NOREPLACE) : -1;
        if (result == 0) {
          protect(in, inside);
        }
        break;
      case RootOp::kCreateIn:
        note_ = " " + in_text;
        if (in >= 0) {
          plain(in, inside);
          protect(in, inside);
        }
        break;
      case RootOp::kUnlink:
        // With the last protected name the protection of the others ends, some time later.
        note_ = " " + in_text;
        result = in < 0 || has_other_names(in, inside) ? -1 : unlinkat(in, inside.c_str(), 0);
        break;
      case RootOp::kRename: {
        const int to = directory_at(open_directory(s.c));
        note_ = " " + out_text + " to " + open_directory(s.c) + "/" + leaf(s.c);
        result = syscall(SYS_renameat2, out, outside.c_str(), to, leaf(s.c).c_str(), s.c % 2 == 0 ? RENAME_NOREPLACE : RENAME_EXCHANGE);
        close(to);
        break;
      }
      case RootOp::kRepair: repair(); break;
      case RootOp::kBind: {
        const std::string from = std::array{"secret", "secret/sub", "open", "open/d0"}[s.a % 4];
        const std::string to = s.b % 2 == 0 ? "b0" : "b1";
        const int source = directory_at(from);
        const int target = directory_at(to);
        note_ = " " + from + " on " + to;
        result = source < 0 || target < 0 ? -1
                                          : mount(("/proc/self/fd/" + std::to_string(source)).c_str(), ("/proc/self/fd/" + std::to_string(target)).c_str(),
                                                  nullptr, MS_BIND, nullptr);
        close(source);
        close(target);
        changes = false;
        break;
      }
      case RootOp::kUmount:
        note_ = s.b % 2 == 0 ? " b0" : " b1";
        result = umount2((top + (s.b % 2 == 0 ? "/b0" : "/b1")).c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
        changes = false;
        break;
      case RootOp::kDropCaches: {
        const int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
        result = fd < 0 ? -1 : write(fd, "2", 1);
        close(fd);
        changes = false;
        break;
      }
      case RootOp::kCount: break;
    }
    close(in);
    close(out);
    note_ += result < 0 ? ": failed" : ": done";
    overlays_doubtful_ = overlays_doubtful_ || changes;
    refresh();
    return std::nullopt;
  }

  void repair() const {
    for (const char* name : {"open", "m0", "m1", "b0", "b1"}) {
      folder(top_, name);
    }
    if (const int open = directory_at("open"); open >= 0) {
      for (const char* name : {"a", "b"}) {
        plain(open, name);
      }
      for (const char* name : {"d0", "d1", "w"}) {
        folder(open, name);
      }
      close(open);
    }
    for (const char* name : {"open/d0", "open/d1"}) {
      if (const int below = directory_at(name); below >= 0) {
        folder(below, "d1");
        plain(below, "a");
        plain(below, "c");
        close(below);
      }
    }
  }

  bool policy_;
  MovesIn moves_in_;
  Totals& totals_;
  int top_ = -1;
  Id above_, secret_id_;
  Protected secret_;
  std::map<Id, Protected> protected_;
  std::array<pid_t, kUsers> pid_{};
  std::array<int, kUsers> channel_{};
  bool overlays_doubtful_ = false;
  std::string note_;
};

void remove_below(int directory) {
  DIR* d = fdopendir(directory);
  if (d == nullptr) {
    close(directory);
    return;
  }
  while (const dirent* entry = readdir(d)) {
    const char* name = entry->d_name;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
      continue;
    }
    if (unlinkat(dirfd(d), name, 0) != 0) {
      if (const int below = openat(dirfd(d), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); below >= 0) {
        remove_below(below);
      }
      unlinkat(dirfd(d), name, AT_REMOVEDIR);
    }
  }
  closedir(d);
}

void Episode::prepare_tree() {
  for (const char* name : {"/b0", "/b1"}) {
    while (umount2((top + name).c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
    }
  }
  if (mkdir(top.c_str(), 0777) != 0 && errno != EEXIST) {
    die(top);
  }
  remove_below(open(top.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const int at = open(top.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (at < 0 || chown(top.c_str(), kUser, kUser) != 0 || chmod(top.c_str(), 0777) != 0) {
    die(top);
  }
  for (const char* name : {"secret", "secret/sub", "open", "open/d0", "open/d1", "open/d0/d1", "open/w", "m0", "m1", "b0", "b1", "m0/d0", "m1/d0"}) {
    folder(at, name);
  }
  for (const char* name : {"secret/a", "secret/b", "secret/sub/a", "open/a", "open/b", "open/d0/a", "open/d0/d1/b", "open/d1/c", "m0/a"}) {
    plain(at, name);
  }
  close(at);
}

// --- runs --------------------------------------------------------------------------------------

struct Options {
  std::uint64_t seed = 1;
  unsigned seconds = 10;
  unsigned steps = 150;
  std::optional<std::uint64_t> replay;
  bool prepare = false;
  bool keep_going = false;
  bool policy = true;
  MovesIn moves_in = MovesIn::kAll;
};

void print_last(const std::vector<std::string>& log, std::size_t count) {
  for (std::size_t i = log.size() > count ? log.size() - count : 0; i < log.size(); ++i) {
    printf("  %3zu %s\n", i, log[i].c_str());
  }
}

std::optional<Failure> play(const std::vector<Step>& steps, const Options& options, Totals& totals, std::vector<std::string>* log) {
  Episode episode(options.policy, options.moves_in, totals);
  return episode.run(steps, log);
}

// What depends on time as well does not fail each time.
std::optional<Failure> fails(const std::vector<Step>& steps, const Options& options, Totals& totals, int times, const std::string& kind,
                             std::vector<std::string>* log = nullptr) {
  for (int i = 0; i < times; ++i) {
    if (log != nullptr) {
      log->clear();
    }
    auto failure = play(steps, options, totals, log);
    if (failure && (kind.empty() || failure->kind == kind)) {
      return failure;
    }
  }
  return std::nullopt;
}

int replay(const Options& options) {
  Totals totals;
  std::vector<Step> steps = make_steps(*options.replay, options.steps);
  std::optional<Failure> failure = fails(steps, options, totals, 10, "");
  if (!failure) {
    printf("model: episode %llu does not fail by itself\n", static_cast<unsigned long long>(*options.replay));
    return 0;
  }
  steps.resize(failure->step + 1);
  for (std::size_t chunk = std::max<std::size_t>(steps.size() / 2, 1);; chunk /= 2) {
    for (std::size_t begin = 0; begin < steps.size();) {
      std::vector<Step> fewer = steps;
      const std::size_t end = std::min(begin + chunk, steps.size());
      fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(begin), fewer.begin() + static_cast<std::ptrdiff_t>(end));
      if (const auto again = fails(fewer, options, totals, 2, failure->kind)) {
        fewer.resize(again->step + 1);
        steps = std::move(fewer);
      } else {
        begin = end;
      }
    }
    if (chunk <= 1) {
      break;
    }
  }
  std::vector<std::string> log;
  failure = fails(steps, options, totals, 10, failure->kind, &log);
  printf("model: %zu steps are enough (%lu episodes tried)\n", steps.size(), totals.episodes);
  print_last(log, log.size());
  printf("model: FAILED: %s\n", failure ? failure->what.c_str() : "not this time");
  return 1;
}

int run(const Options& options) {
  Totals totals;
  std::map<std::string, std::pair<unsigned long, std::uint64_t>> kinds;
  std::mt19937_64 seeds(options.seed);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(options.seconds);
  while (std::chrono::steady_clock::now() < end) {
    const std::uint64_t seed = seeds();
    std::vector<std::string> log;
    const auto failure = play(make_steps(seed, options.steps), options, totals, &log);
    if (!failure) {
      continue;
    }
    const auto [at, fresh] = kinds.try_emplace(failure->kind, 0, seed);
    ++at->second.first;
    if (fresh) {
      printf("model: FAILED: %s\n", failure->what.c_str());
      print_last(log, 30);
      printf("model: seed %llu, episode %llu: --replay %llu --steps %u\n", static_cast<unsigned long long>(options.seed), static_cast<unsigned long long>(seed),
             static_cast<unsigned long long>(seed), options.steps);
      fflush(stdout);
    }
    if (!options.keep_going) {
      return 1;
    }
  }
  for (const auto& [kind, count] : kinds) {
    printf("model: %lu times: %s (--replay %llu)\n", count.first, kind.c_str(), static_cast<unsigned long long>(count.second));
  }
  printf("model: seed=%llu episodes=%lu steps=%lu done=%lu refused=%lu failures=%zu\n", static_cast<unsigned long long>(options.seed), totals.episodes,
         totals.steps, totals.done, totals.refused, kinds.size());
  return kinds.empty() ? 0 : 1;
}

[[noreturn]] void usage() {
  fprintf(
      stderr,
      "usage: model DIR --prepare | --seed N --seconds S [--steps K] [--keep-going] [--moves-in all|files|single] [--no-policy] | --replay SEED [--steps K]\n");
  exit(64);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (argc < 3 || argv[1][0] != '/') {
    usage();
  }
  top = argv[1];
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--prepare") {
      options.prepare = true;
    } else if (word == "--keep-going") {
      options.keep_going = true;
    } else if (word == "--no-policy") {
      options.policy = false;
    } else if (i + 1 == argc) {
      usage();
    } else if (word == "--seed") {
      options.seed = strtoull(argv[++i], nullptr, 10);
    } else if (word == "--seconds") {
      options.seconds = static_cast<unsigned>(strtoul(argv[++i], nullptr, 10));
    } else if (word == "--steps") {
      options.steps = static_cast<unsigned>(strtoul(argv[++i], nullptr, 10));
    } else if (word == "--moves-in") {
      const std::string what = argv[++i];
      options.moves_in = what == "files" ? MovesIn::kFiles : what == "single" ? MovesIn::kSingle : MovesIn::kAll;
    } else if (word == "--replay") {
      options.replay = strtoull(argv[++i], nullptr, 10);
    } else {
      usage();
    }
  }
  umask(0);
  if (options.prepare) {
    Episode::prepare_tree();
    return 0;
  }
  return options.replay ? replay(options) : run(options);
}
