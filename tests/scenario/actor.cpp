// SPDX-License-Identifier: Apache-2.0
// The verbs of scenarios, as plain system calls: nothing here may open a file that the scenario did not ask for.
#include <elf.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>

#include <fmt/format.h>

#include "scenario.h"

namespace vfsguard::scenario {

namespace {

[[noreturn]] void give_up(const std::string& why) {
  fmt::print(stderr, "actor: {}\n", why);
  _exit(99);
}

void must(bool ok, const std::string& what) {
  if (!ok) {
    give_up(what + ": " + util::errno_text(errno));
  }
}

const std::map<std::string, std::uint64_t> kFlags{{"O_RDONLY", 0},
                                                  {"O_WRONLY", 1},
                                                  {"O_RDWR", 2},
                                                  {"O_ACCMODE", 3},
                                                  {"O_CREAT", O_CREAT},
                                                  {"O_EXCL", O_EXCL},
                                                  {"O_NOCTTY", O_NOCTTY},
                                                  {"O_TRUNC", O_TRUNC},
                                                  {"O_APPEND", O_APPEND},
                                                  {"O_NONBLOCK", O_NONBLOCK},
                                                  {"O_SYNC", O_SYNC},
                                                  {"O_DSYNC", O_DSYNC},
                                                  {"O_DIRECT", O_DIRECT},
                                                  {"O_DIRECTORY", O_DIRECTORY},
                                                  {"O_NOFOLLOW", O_NOFOLLOW},
                                                  {"O_NOATIME", O_NOATIME},
                                                  {"O_CLOEXEC", O_CLOEXEC},
                                                  {"O_PATH", O_PATH},
                                                  {"O_TMPFILE", O_TMPFILE},
                                                  {"O_LARGEFILE", 0100000},
                                                  {"AT_EMPTY_PATH", AT_EMPTY_PATH},
                                                  {"AT_REMOVEDIR", AT_REMOVEDIR},
                                                  {"AT_SYMLINK_FOLLOW", AT_SYMLINK_FOLLOW},
                                                  {"RENAME_NOREPLACE", 1},
                                                  {"RENAME_EXCHANGE", 2},
                                                  {"RENAME_WHITEOUT", 4},
                                                  {"FALLOC_FL_KEEP_SIZE", 1},
                                                  {"FALLOC_FL_PUNCH_HOLE", 2},
                                                  {"S_IFREG", S_IFREG},
                                                  {"S_IFIFO", S_IFIFO},
                                                  {"S_IFCHR", S_IFCHR},
                                                  {"MS_BIND", MS_BIND},
                                                  {"MNT_DETACH", MNT_DETACH},
                                                  {"XATTR_CREATE", 1},
                                                  {"OPEN_TREE_CLONE", 1},
                                                  {"MOVE_MOUNT_F_EMPTY_PATH", 4},
                                                  {"AT_SYMLINK_NOFOLLOW", AT_SYMLINK_NOFOLLOW},
                                                  {"RESOLVE_NO_SYMLINKS", RESOLVE_NO_SYMLINKS},
                                                  {"RESOLVE_BENEATH", RESOLVE_BENEATH},
                                                  {"RESOLVE_IN_ROOT", RESOLVE_IN_ROOT},
                                                  {"RESOLVE_NO_XDEV", RESOLVE_NO_XDEV},
                                                  {"RESOLVE_NO_MAGICLINKS", RESOLVE_NO_MAGICLINKS}};

std::uint64_t number(const std::string& text) {
  std::uint64_t value = 0;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t bar = std::min(text.find('|', at), text.size());
    const std::string part = text.substr(at, bar - at);
    if (const auto it = kFlags.find(part); it != kFlags.end()) {
      value |= it->second;
    } else if (part == "AT_FDCWD") {
      value |= static_cast<std::uint64_t>(AT_FDCWD);
    } else {
      char* end = nullptr;
      value |= static_cast<std::uint64_t>(std::strtoll(part.c_str(), &end, 0));
      if (end == part.c_str() || *end != '\0') {
        give_up("no number: " + part);
      }
    }
    at = bar + 1;
  }
  return value;
}

// int $0x80 takes 32-bit pointers: everything it is given lies in memory below 4 GiB.
class LowMemory {
 public:
  LowMemory() {
    base_ = static_cast<char*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0));
    must(base_ != MAP_FAILED, "mmap below 4 GiB");
  }
  template <typename T>
  std::uint32_t put(const T* data, std::size_t size) {
    used_ = (used_ + 15) & ~std::size_t{15};
    memcpy(base_ + used_, data, size);
    const std::uint32_t at = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(base_ + used_));
    used_ += size;
    return at;
  }
  std::uint32_t put(const std::string& text) { return put(text.c_str(), text.size() + 1); }

 private:
  static constexpr std::size_t kSize = 1 << 16;
  char* base_;
  std::size_t used_ = 0;
};

long call32(long nr, std::uint32_t a = 0, std::uint32_t b = 0, std::uint32_t c = 0, std::uint32_t d = 0, std::uint32_t e = 0, std::uint64_t f = 0) {
  long result = 0;
  // The sixth argument goes in ebp, which the compiler may need itself.
  asm volatile("xchg %%rbp, %[sixth]\n int $0x80\n xchg %%rbp, %[sixth]"
               : "=a"(result)
               : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), [sixth] "r"(f), "D"(e)
               : "memory", "r8", "r9", "r10", "r11");
  result = static_cast<int>(result);
  if (result < 0) {
    errno = static_cast<int>(-result);
    return -1;
  }
  return result;
}

// The least of io_uring: one request at a time.
class Ring {
 public:
  explicit Ring(unsigned flags) {
    io_uring_params params{};
    params.flags = flags;
    params.sq_thread_idle = 2000;
    fd_ = static_cast<int>(syscall(SYS_io_uring_setup, 8, &params));
    must(fd_ >= 0, "io_uring_setup");
    const std::size_t sq = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    const std::size_t cq = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
    sq_ = static_cast<char*>(mmap(nullptr, std::max(sq, cq), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, IORING_OFF_SQ_RING));
    must(sq_ != MAP_FAILED, "io_uring mmap");
    sqes_ = static_cast<io_uring_sqe*>(
        mmap(nullptr, params.sq_entries * sizeof(io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, IORING_OFF_SQES));
    must(sqes_ != MAP_FAILED, "io_uring mmap sqes");
    params_ = params;
  }

  void register_files(unsigned n) {
    std::vector<int> files(n, -1);
    must(syscall(SYS_io_uring_register, fd_, IORING_REGISTER_FILES, files.data(), n) == 0, "io_uring register files");
  }

  // Submits, waits, returns the result.
  int run(const io_uring_sqe& request, bool expect_completion = true) {
    auto* tail = reinterpret_cast<std::atomic<unsigned>*>(sq_ + params_.sq_off.tail);
    const unsigned mask = *reinterpret_cast<unsigned*>(sq_ + params_.sq_off.ring_mask);
    const unsigned index = tail->load() & mask;
    sqes_[index] = request;
    reinterpret_cast<unsigned*>(sq_ + params_.sq_off.array)[index] = index;
    tail->store(tail->load() + 1);
    unsigned enter = IORING_ENTER_GETEVENTS;
    if ((params_.flags & IORING_SETUP_SQPOLL) != 0) {
      enter |= IORING_ENTER_SQ_WAKEUP;
    }
    syscall(SYS_io_uring_enter, fd_, 1, expect_completion ? 1 : 0, enter, nullptr, 0);
    if (!expect_completion) {
      usleep(50000);
      return 0;
    }
    auto* head = reinterpret_cast<std::atomic<unsigned>*>(sq_ + params_.cq_off.head);
    auto* cq_tail = reinterpret_cast<std::atomic<unsigned>*>(sq_ + params_.cq_off.tail);
    while (head->load() == cq_tail->load()) {
      usleep(100);
    }
    const unsigned cq_mask = *reinterpret_cast<unsigned*>(sq_ + params_.cq_off.ring_mask);
    const int result = reinterpret_cast<io_uring_cqe*>(sq_ + params_.cq_off.cqes)[head->load() & cq_mask].res;
    head->store(head->load() + 1);
    return result;
  }

 private:
  int fd_;
  char* sq_;
  io_uring_sqe* sqes_;
  io_uring_params params_{};
};

struct Handle {
  file_handle head;
  unsigned char bytes[MAX_HANDLE_SZ];
};

// System calls by name: native and 32-bit numbers (arch/x86/entry/syscalls); 0: that ABI has none.
struct CallNumbers {
  long native;
  long compat;
};
const std::map<std::string, CallNumbers> kCalls{
    {"rename", {82, 38}},
    {"renameat", {264, 302}},
    {"renameat2", {316, 353}},
    {"unlink", {87, 10}},
    {"unlinkat", {263, 301}},
    {"rmdir", {84, 40}},
    {"mkdir", {83, 39}},
    {"mkdirat", {258, 296}},
    {"mknod", {133, 14}},
    {"mknodat", {259, 297}},
    {"link", {86, 9}},
    {"linkat", {265, 303}},
    {"symlink", {88, 83}},
    {"symlinkat", {266, 304}},
    {"truncate", {76, 92}},
    {"ftruncate", {77, 93}},
    {"truncate64", {0, 193}},
    {"ftruncate64", {0, 194}},
    {"fallocate", {285, 324}},
    {"chmod", {90, 15}},
    {"fchmod", {91, 94}},
    {"fchmodat", {268, 306}},
    {"fchmodat2", {452, 452}},
    {"chown", {92, 212}},
    {"fchown", {93, 207}},
    {"lchown", {94, 198}},
    {"fchownat", {260, 298}},
    {"chown16", {0, 182}},
    {"fchown16", {0, 95}},
    {"lchown16", {0, 16}},
    {"utime", {132, 30}},
    {"utimes", {235, 271}},
    {"futimesat", {261, 299}},
    {"utimensat", {280, 320}},
    {"utimensat64", {280, 412}},
    {"setxattr", {188, 226}},
    {"lsetxattr", {189, 227}},
    {"fsetxattr", {190, 228}},
    {"removexattr", {197, 235}},
    {"lremovexattr", {198, 236}},
    {"fremovexattr", {199, 237}},
    {"mount", {165, 21}},
    {"umount2", {166, 52}},
    {"umount", {0, 22}},
    {"pivot_root", {155, 217}},
    {"read", {0, 3}},
    {"pread64", {17, 180}},
    {"readv", {19, 145}},
    {"preadv", {295, 333}},
    {"preadv2", {327, 378}},
    {"getdents", {78, 141}},
    {"getdents64", {217, 220}},
    {"write", {1, 4}},
    {"pwrite64", {18, 181}},
    {"writev", {20, 146}},
    {"pwritev", {296, 334}},
    {"pwritev2", {328, 379}},
    {"sendfile", {40, 187}},
    {"splice", {275, 313}},
    {"copy_file_range", {326, 377}},
    {"close", {3, 6}},
    {"close_range", {436, 436}},
    {"dup2", {33, 63}},
    {"dup3", {292, 330}},
    {"dup", {32, 41}},
    {"chroot", {161, 61}},
    {"move_mount", {429, 429}},
    {"open_tree", {428, 428}},
};

class Actor {
 public:
  explicit Actor(std::map<std::string, std::string> variables) : variables_(std::move(variables)) { must(chdir(variables_.at("D").c_str()) == 0, "chdir"); }

  void line(const Line& line) {
    std::vector<std::string> words;
    for (const std::string& word : line.words) {
      words.push_back(substitute(word, variables_));
    }
    // "... -> name" keeps the result.
    std::string keep;
    if (words.size() > 2 && words[words.size() - 2] == "->") {
      keep = words.back();
      words.resize(words.size() - 2);
    }
    // "... ! ERROR" demands a failure; without it a failure of the verb is an error of the scenario.
    std::string error;
    if (words.size() > 2 && words[words.size() - 2] == "!") {
      error = words.back();
      words.resize(words.size() - 2);
    }
    errno = 0;
    const long result = verb(words);
    if (error.empty() ? result < 0 : (result >= 0 || error != strerrorname_np(errno))) {
      give_up(fmt::format("line {}: {} gave {} ({})", line.number, fmt::format("{}", words[0]), result, result < 0 ? strerrorname_np(errno) : "success"));
    }
    if (!keep.empty()) {
      variables_[keep] = std::to_string(result);
    }
  }

 private:
  long verb(const std::vector<std::string>& w);
  long files(const std::vector<std::string>& w);
  long call(const std::vector<std::string>& w);
  long opens(const std::vector<std::string>& w);
  long uring(const std::vector<std::string>& w);
  long request(const std::vector<std::string>& w);
  long processes(const std::vector<std::string>& w);
  static constexpr long kUnknown = -1000000;

  static std::string at(const std::vector<std::string>& w, std::size_t i, const std::string& otherwise = "0") { return i < w.size() ? w[i] : otherwise; }
  static long in_child(const std::function<void()>& body) {
    const pid_t child = fork();
    if (child == 0) {
      body();
      _exit(errno == 0 ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return 0;
  }

  std::map<std::string, std::string> variables_;
};

long Actor::files(const std::vector<std::string>& w) {
  const std::string& v = w[0];
  if (v == "file") {
    const int fd = open(w[1].c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd >= 0) {
      (void)!write(fd, "content", 7);
      close(fd);
      chmod(w[1].c_str(), static_cast<mode_t>(std::stoul(at(w, 2, "0644"), nullptr, 8)));
    }
    return fd < 0 ? -1 : 0;
  }
  if (v == "dir") {
    const int done = mkdir(w[1].c_str(), 0755);
    chmod(w[1].c_str(), static_cast<mode_t>(std::stoul(at(w, 2, "0755"), nullptr, 8)));
    return done;
  }
  if (v == "deep") {  // deep BASE N NAME: N directories, each NAME, one in the other; stays in the last
    must(chdir(w[1].c_str()) == 0, "chdir");
    for (std::uint64_t i = 0; i < number(w[2]); ++i) {
      mkdir(w[3].c_str(), 0755);
      must(chdir(w[3].c_str()) == 0, "chdir");
    }
    return 0;
  }
  if (v == "symlink") return symlink(w[1].c_str(), w[2].c_str());
  if (v == "link") return link(w[1].c_str(), w[2].c_str());
  if (v == "rename") return rename(w[1].c_str(), w[2].c_str());
  if (v == "unlink") return unlink(w[1].c_str());
  if (v == "fifo") return mkfifo(w[1].c_str(), 0666);
  if (v == "chmod") return chmod(w[1].c_str(), static_cast<mode_t>(std::stoul(w[2], nullptr, 8)));
  if (v == "chown") return chown(w[1].c_str(), static_cast<uid_t>(number(w[2])), static_cast<gid_t>(number(w[3])));
  if (v == "chdir") return chdir(w[1].c_str());
  if (v == "fchdir") return fchdir(static_cast<int>(number(w[1])));
  if (v == "chroot") return chroot(w[1].c_str());
  if (v == "close") return close(static_cast<int>(number(w[1])));
  if (v == "dup2") return dup2(static_cast<int>(number(w[1])), static_cast<int>(number(w[2])));
  if (v == "memfd") return memfd_create(w[1].c_str(), 0);
  if (v == "pipe") {
    int fds[2];
    return pipe(fds) == 0 ? fds[0] : -1;
  }
  if (v == "bind") return mount(w[1].c_str(), w[2].c_str(), nullptr, MS_BIND, nullptr);
  if (v == "bind_ro") {
    return mount(w[1].c_str(), w[2].c_str(), nullptr, MS_BIND, nullptr) != 0 ? -1
                                                                             : mount(nullptr, w[2].c_str(), nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr);
  }
  if (v == "tmpfs") return mount("tmpfs", w[1].c_str(), "tmpfs", 0, nullptr);
  if (v == "overlay") {  // overlay TARGET LOWER UPPER WORK
    return mount("overlay", w[1].c_str(), "overlay", 0, fmt::format("lowerdir={},upperdir={},workdir={}", w[2], w[3], w[4]).c_str());
  }
  if (v == "umount_lazy") return umount2(w[1].c_str(), MNT_DETACH);
  if (v == "copy") {  // copy FROM TO: a program, executable
    const int from = open(w[1].c_str(), O_RDONLY);
    const int to = open(w[2].c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0755);
    char buffer[4096];
    ssize_t n = 0;
    while (from >= 0 && to >= 0 && (n = read(from, buffer, sizeof buffer)) > 0) {
      (void)!write(to, buffer, static_cast<std::size_t>(n));
    }
    close(from);
    return close(to);
  }
  if (v == "script") {  // script NAME INTERPRETER
    const int fd = open(w[1].c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0755);
    const std::string text = "#!" + w[2] + "\n";
    (void)!write(fd, text.data(), text.size());
    return close(fd);
  }
  return kUnknown;
}

// call NAME ARG..., call32 NAME ARG...: arguments are numbers, flags, `null`, s:TEXT, buf (4096 bytes), or iov:N (one buffer of N bytes).
long Actor::call(const std::vector<std::string>& w) {
  const auto it = kCalls.find(at(w, 1));
  if (it == kCalls.end()) {
    give_up("no call " + at(w, 1));
  }
  const bool compat = w[0] == "call32";
  LowMemory low;
  std::array<std::uint64_t, 6> a{};
  for (std::size_t i = 2; i < w.size() && i < 8; ++i) {
    std::uint64_t& to = a[i - 2];
    if (w[i].starts_with("s:")) {
      to = low.put(w[i].substr(2));
    } else if (w[i] == "buf" || w[i].starts_with("iov:")) {
      const char zeros[4096] = {};
      to = low.put(zeros, sizeof zeros);
      if (w[i] != "buf") {
        const std::uint64_t length = number(w[i].substr(4));
        const std::uint64_t native[2] = {to, length};
        const std::uint32_t narrow[2] = {static_cast<std::uint32_t>(to), static_cast<std::uint32_t>(length)};
        to = compat ? low.put(narrow, sizeof narrow) : low.put(native, sizeof native);
      }
    } else if (w[i] != "null") {
      to = number(w[i]);
    }
  }
  if (!compat) {
    return syscall(it->second.native, a[0], a[1], a[2], a[3], a[4], a[5]);
  }
  const auto narrow = [&](std::size_t i) { return static_cast<std::uint32_t>(a[i]); };
  return call32(it->second.compat, narrow(0), narrow(1), narrow(2), narrow(3), narrow(4), narrow(5));
}

long Actor::opens(const std::vector<std::string>& w) {
  const std::string& v = w[0];
  const auto mode = [&](std::size_t i) { return std::stoul(at(w, i), nullptr, 8); };
  if (v == "open") return syscall(SYS_open, w[1].c_str(), number(w[2]), mode(3));
  if (v == "openat") return syscall(SYS_openat, number(w[1]), w[2].c_str(), number(w[3]), mode(4));
  if (v == "creat") return syscall(SYS_creat, w[1].c_str(), mode(2));
  if (v == "openat2" || v == "openat2_32") {
    open_how how{};
    how.flags = number(w[3]);
    how.mode = mode(4);
    how.resolve = number(at(w, 5));
    if (v == "openat2") {
      return syscall(SYS_openat2, number(w[1]), w[2].c_str(), &how, sizeof how);
    }
    LowMemory low;
    return call32(437, static_cast<std::uint32_t>(number(w[1])), low.put(w[2]), low.put(&how, sizeof how), sizeof how);
  }
  if (v == "openat2_size") {  // a size that the kernel refuses
    open_how how{};
    return syscall(SYS_openat2, AT_FDCWD, w[1].c_str(), &how, number(w[2]));
  }
  if (v == "open_bad_pointer") return syscall(SYS_openat, AT_FDCWD, 16, O_RDONLY, 0);
  if (v == "open32") return call32(5, LowMemory().put(w[1]), static_cast<std::uint32_t>(number(w[2])), static_cast<std::uint32_t>(mode(3)));
  if (v == "creat32") return call32(8, LowMemory().put(w[1]), static_cast<std::uint32_t>(mode(2)));
  if (v == "openat32") {
    return call32(295, static_cast<std::uint32_t>(number(w[1])), LowMemory().put(w[2]), static_cast<std::uint32_t>(number(w[3])),
                  static_cast<std::uint32_t>(mode(4)));
  }
  if (v == "handle" || v == "handle32") {  // handle DIRFD NAME FLAGS: name_to_handle_at, then open_by_handle_at
    Handle handle{};
    handle.head.handle_bytes = MAX_HANDLE_SZ;
    int mount_id = 0;
    if (name_to_handle_at(static_cast<int>(number(w[1])), w[2].c_str(), &handle.head, &mount_id, 0) != 0) {
      return -1;
    }
    // Any descriptor on the file system will do as the mount; a directory by O_PATH is no open of the file.
    const int fs = static_cast<int>(number(w[4]));
    if (v == "handle") {
      return syscall(SYS_open_by_handle_at, fs, &handle.head, number(w[3]));
    }
    return call32(342, static_cast<std::uint32_t>(fs), LowMemory().put(&handle, sizeof handle), static_cast<std::uint32_t>(number(w[3])));
  }
  if (v == "open_many") {  // until EMFILE
    for (;;) {
      if (syscall(SYS_openat, AT_FDCWD, w[1].c_str(), O_RDONLY, 0) < 0) {
        return -1;
      }
    }
  }
  if (v == "fifo_pair") {  // one process blocks in open until another opens the other end
    const pid_t child = fork();
    if (child == 0) {
      usleep(100000);
      _exit(syscall(SYS_openat, AT_FDCWD, w[1].c_str(), O_WRONLY, 0) < 0);
    }
    const long fd = syscall(SYS_openat, AT_FDCWD, w[1].c_str(), O_RDONLY, 0);
    waitpid(child, nullptr, 0);
    return fd;
  }
  if (v == "fifo_interrupted") {
    struct sigaction action{};
    action.sa_handler = [](int) {};
    sigaction(SIGALRM, &action, nullptr);
    itimerval timer{{0, 0}, {0, 100000}};
    setitimer(ITIMER_REAL, &timer, nullptr);
    return syscall(SYS_openat, AT_FDCWD, w[1].c_str(), O_RDONLY, 0);
  }
  if (v == "threads") {  // threads N PREFIX: thread i opens PREFIX.i
    std::vector<std::thread> all;
    std::atomic<int> failures{0};
    for (std::uint64_t i = 0; i < number(w[1]); ++i) {
      all.emplace_back([&, i] {
        const std::string name = fmt::format("{}.{}", w[2], i);
        for (int n = 0; n < 20; ++n) {
          const long fd = syscall(SYS_openat, AT_FDCWD, name.c_str(), O_RDONLY, 0);
          failures += fd < 0 ? 1 : 0;
          close(static_cast<int>(fd));
        }
      });
    }
    for (std::thread& t : all) {
      t.join();
    }
    return failures == 0 ? 0 : -1;
  }
  if (v == "dirfd_reused") {  // a relative name, its directory closed and the number reused right after
    const long fd = syscall(SYS_openat, number(w[1]), w[2].c_str(), O_RDONLY, 0);
    const int saved = errno;
    dup2(static_cast<int>(number(w[3])), static_cast<int>(number(w[1])));
    errno = saved;
    return fd;
  }
  return kUnknown;
}

long Actor::uring(const std::vector<std::string>& w) {
  const std::string& v = w[0];
  if (!v.starts_with("uring_")) {
    return kUnknown;
  }
  static std::map<std::string, std::string> kept;  // memory that a request points to must outlive it
  kept["name"] = at(w, 2, "");
  io_uring_sqe request{};
  request.fd = static_cast<int>(number(at(w, 1, "AT_FDCWD")));
  request.addr = reinterpret_cast<std::uintptr_t>(kept["name"].c_str());
  request.open_flags = static_cast<unsigned>(number(at(w, 3)));
  request.len = static_cast<unsigned>(std::stoul(at(w, 4), nullptr, 8));
  request.opcode = IORING_OP_OPENAT;
  static open_how how;
  bool completes = true;
  unsigned setup = 0;
  bool fixed = false;
  if (v == "uring_openat2") {
    how = {};
    how.flags = number(w[3]);
    how.mode = std::stoul(at(w, 4), nullptr, 8);
    how.resolve = number(at(w, 5));
    request.opcode = IORING_OP_OPENAT2;
    request.addr2 = reinterpret_cast<std::uintptr_t>(&how);
    request.len = sizeof how;
    request.open_flags = 0;
  } else if (v == "uring_sqpoll") {
    setup = IORING_SETUP_SQPOLL;
  } else if (v == "uring_async") {
    request.flags = IOSQE_ASYNC;
  } else if (v == "uring_fixed") {
    fixed = true;
    request.file_index = 1;
  } else if (v == "uring_skip") {
    request.flags = IOSQE_CQE_SKIP_SUCCESS;
    completes = false;
  } else if (v == "uring_bad_pointer") {
    request.addr = 16;
  } else if (v != "uring_openat") {
    return kUnknown;
  }
  Ring ring(setup);
  if (fixed) {
    ring.register_files(4);
  }
  const int result = ring.run(request, completes);
  if (result < 0) {
    errno = -result;
    return -1;
  }
  return result;
}

// request OPCODE [fd=N] [addr=s:TEXT] [addr2=s:TEXT] [off=N] [len=N] [flags=N] [addr3=N] [sqpoll|async]: any io_uring request.
long Actor::request(const std::vector<std::string>& w) {
  static const std::map<std::string, std::uint8_t> kOpcodes{{"renameat", IORING_OP_RENAMEAT},
                                                            {"unlinkat", IORING_OP_UNLINKAT},
                                                            {"mkdirat", IORING_OP_MKDIRAT},
                                                            {"symlinkat", IORING_OP_SYMLINKAT},
                                                            {"linkat", IORING_OP_LINKAT},
                                                            {"fallocate", IORING_OP_FALLOCATE},
                                                            {"ftruncate", 55},
                                                            {"setxattr", IORING_OP_SETXATTR},
                                                            {"fsetxattr", IORING_OP_FSETXATTR}};
  const auto opcode = kOpcodes.find(at(w, 1));
  if (opcode == kOpcodes.end()) {
    give_up("no request " + at(w, 1));
  }
  static std::vector<std::string> kept;  // memory that a request points to must outlive it
  kept.assign(8, "");
  io_uring_sqe sqe{};
  sqe.opcode = opcode->second;
  unsigned setup = 0;
  for (std::size_t i = 2; i < w.size(); ++i) {
    const std::size_t equals = w[i].find('=');
    const std::string key = w[i].substr(0, equals);
    const std::string text = equals == std::string::npos ? "" : w[i].substr(equals + 1);
    std::uint64_t value = 0;
    if (text.starts_with("s:")) {
      kept[i % 8] = text.substr(2);
      value = reinterpret_cast<std::uintptr_t>(kept[i % 8].c_str());
    } else if (!text.empty()) {
      value = number(text);
    }
    if (key == "fd") {
      sqe.fd = static_cast<int>(value);
    } else if (key == "addr") {
      sqe.addr = value;
    } else if (key == "addr2" || key == "off") {
      sqe.off = value;
    } else if (key == "len") {
      sqe.len = static_cast<unsigned>(value);
    } else if (key == "flags") {
      sqe.rename_flags = static_cast<unsigned>(value);
    } else if (key == "addr3") {
      sqe.addr3 = value;
    } else if (key == "async") {
      sqe.flags = IOSQE_ASYNC;
    } else if (key == "sqpoll") {
      setup = IORING_SETUP_SQPOLL;
    } else {
      give_up("no part of a request: " + w[i]);
    }
  }
  const int result = Ring(setup).run(sqe);
  if (result < 0) {
    errno = -result;
    return -1;
  }
  return result;
}

long Actor::processes(const std::vector<std::string>& w) {
  const std::string& v = w[0];
  if (v == "setuid") {
    const auto id = static_cast<uid_t>(number(w[1]));
    return setresgid(id, id, id) == 0 ? setresuid(id, id, id) : -1;
  }
  if (v == "seteuid") return setresuid(static_cast<uid_t>(-1), static_cast<uid_t>(number(w[1])), static_cast<uid_t>(-1));
  if (v == "comm") return prctl(PR_SET_NAME, w[1].c_str());
  if (v == "nofile") {
    const rlimit limit{number(w[1]), number(w[1])};
    return setrlimit(RLIMIT_NOFILE, &limit);
  }
  if (v == "mount_namespace") {
    return unshare(CLONE_NEWNS) != 0 ? -1 : mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
  }
  if (v == "user_namespace") return unshare(CLONE_NEWUSER);
  if (v == "execve" || v == "execveat" || v == "execve32" || v == "thread_execve" || v == "execve_self") {
    return in_child([&] {
      std::vector<std::string> words(w.begin() + (v == "execveat" ? 4 : 1), w.end());
      if (v == "execveat") {
        words.insert(words.begin(), w[2]);
      }
      std::vector<char*> argv;
      for (std::string& word : words) {
        argv.push_back(word.data());
      }
      argv.push_back(nullptr);
      char* env[] = {nullptr};
      if (v == "execve") {
        syscall(SYS_execve, argv[0], argv.data(), env);
      } else if (v == "execveat") {
        syscall(SYS_execveat, number(w[1]), w[2].c_str(), argv.data(), env, number(w[3]));
      } else if (v == "thread_execve") {
        std::thread thread([&] { syscall(SYS_execve, argv[0], argv.data(), env); });
        thread.join();
      } else {
        LowMemory low;
        const std::uint32_t name = low.put(words[0]);
        const std::uint32_t arguments[2] = {name, 0};
        call32(11, name, low.put(arguments, sizeof arguments), low.put(&arguments[1], 4));
      }
    });
  }
  if (v == "child_openat") {  // a process that is gone at once
    return in_child([&] { syscall(SYS_openat, AT_FDCWD, w[1].c_str(), O_RDONLY, 0); });
  }
  if (v == "cgroup_openat") {  // cgroup_openat CGROUP-DIR NAME: a child that is born in the cgroup
    mkdir(w[1].c_str(), 0755);
    const int cgroup = open(w[1].c_str(), O_RDONLY | O_DIRECTORY);
    clone_args args{};
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = SIGCHLD;
    args.cgroup = static_cast<std::uint64_t>(cgroup);
    const long child = syscall(SYS_clone3, &args, sizeof args);
    if (child == 0) {
      syscall(SYS_openat, AT_FDCWD, w[2].c_str(), O_RDONLY, 0);
      _exit(0);
    }
    if (child > 0) {
      waitpid(static_cast<pid_t>(child), nullptr, 0);
    }
    rmdir(w[1].c_str());
    return child < 0 ? -1 : 0;
  }
  if (v == "sleep_ms") return usleep(static_cast<useconds_t>(number(w[1]) * 1000));
  return kUnknown;
}

long Actor::verb(const std::vector<std::string>& w) {
  if (w[0] == "call" || w[0] == "call32") {
    return call(w);
  }
  if (w[0] == "request") {
    return request(w);
  }
  for (const auto group : {&Actor::files, &Actor::opens, &Actor::uring, &Actor::processes}) {
    errno = 0;
    const long result = (this->*group)(w);
    if (result != kUnknown) {
      return result;
    }
  }
  give_up("unknown verb " + w[0]);
}

}  // namespace

void act(const std::vector<Line>& lines, std::map<std::string, std::string> variables) {
  Actor actor(std::move(variables));
  for (const Line& line : lines) {
    actor.line(line);
  }
}

void prepare(const std::vector<Line>& lines, const std::map<std::string, std::string>& variables) {
  // In a process of its own: setup may change directory.
  const pid_t child = fork();
  if (child == 0) {
    umask(0);
    act(lines, variables);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    fmt::print(stderr, "setup failed\n");
    exit(99);
  }
}

}  // namespace vfsguard::scenario
