// SPDX-License-Identifier: Apache-2.0
// The verbs of scenarios, as plain system calls: nothing here may open a file that the scenario did not ask for.
#include <arpa/inet.h>
#include <elf.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
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
                                                  {"PROT_READ", PROT_READ},
                                                  {"PROT_WRITE", PROT_WRITE},
                                                  {"PROT_EXEC", PROT_EXEC},
                                                  {"MAP_SHARED", MAP_SHARED},
                                                  {"MAP_PRIVATE", MAP_PRIVATE},
                                                  {"MAP_32BIT", MAP_32BIT},
                                                  {"MAP_ANONYMOUS", MAP_ANONYMOUS},
                                                  {"FS_IOC_SETFLAGS", 0x40086602},
                                                  {"FS_IOC32_SETFLAGS", 0x40046602},
                                                  {"FS_IOC_FSSETXATTR", 0x401c5820},
                                                  {"FS_IOC_GETFLAGS", 0x80086601},
                                                  {"FICLONE", 0x40049409},
                                                  {"FICLONERANGE", 0x4020940d},
                                                  {"FIDEDUPERANGE", 0xc0189436},
                                                  {"AF_UNIX", AF_UNIX},
                                                  {"AF_INET", AF_INET},
                                                  {"AF_INET6", AF_INET6},
                                                  {"SOCK_STREAM", SOCK_STREAM},
                                                  {"SOCK_DGRAM", SOCK_DGRAM},
                                                  {"SIGUSR1", SIGUSR1},
                                                  {"SIGCHLD", SIGCHLD},
                                                  {"PTRACE_TRACEME", PTRACE_TRACEME},
                                                  {"PTRACE_ATTACH", PTRACE_ATTACH},
                                                  {"PTRACE_SEIZE", PTRACE_SEIZE},
                                                  {"PTRACE_PEEKDATA", PTRACE_PEEKDATA},
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
  const auto narrow = static_cast<int>(result);
  if (narrow < 0 && narrow > -4096) {  // an address may be above 2 GiB
    errno = -narrow;
    return -1;
  }
  return static_cast<unsigned>(narrow);
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

  void register_file(int fd) { must(syscall(SYS_io_uring_register, fd_, IORING_REGISTER_FILES, &fd, 1) == 0, "io_uring register file"); }
  void register_buffer(void* memory, std::size_t size) {
    const iovec buffer{memory, size};
    must(syscall(SYS_io_uring_register, fd_, IORING_REGISTER_BUFFERS, &buffer, 1) == 0, "io_uring register buffer");
  }

  // As whom a request may be carried out: the current credentials. Returns their number.
  [[nodiscard]] std::uint16_t register_personality() const {
    const long id = syscall(SYS_io_uring_register, fd_, IORING_REGISTER_PERSONALITY, nullptr, 0);
    must(id > 0, "io_uring register personality");
    return static_cast<std::uint16_t>(id);
  }

  // Two requests, the second only after the first; returns the second's result.
  int run_linked(io_uring_sqe first, const io_uring_sqe& second) {
    first.flags |= IOSQE_IO_LINK;
    queue(first);
    queue(second);
    enter(2, 2);
    reap();
    return reap();
  }

  // Submits, waits, returns the result.
  int run(const io_uring_sqe& request, bool expect_completion = true) {
    queue(request);
    enter(1, expect_completion ? 1 : 0);
    if (!expect_completion) {
      usleep(50000);
      return 0;
    }
    return reap();
  }

 private:
  [[nodiscard]] unsigned& word(unsigned offset) const { return *reinterpret_cast<unsigned*>(sq_ + offset); }
  [[nodiscard]] std::atomic<unsigned>& shared(unsigned offset) const { return *reinterpret_cast<std::atomic<unsigned>*>(sq_ + offset); }

  void queue(const io_uring_sqe& request) {
    auto& tail = shared(params_.sq_off.tail);
    const unsigned index = tail.load() & word(params_.sq_off.ring_mask);
    sqes_[index] = request;
    reinterpret_cast<unsigned*>(sq_ + params_.sq_off.array)[index] = index;
    tail.store(tail.load() + 1);
  }

  void enter(unsigned submitted, unsigned wanted) const {
    const unsigned wake = (params_.flags & IORING_SETUP_SQPOLL) != 0 ? IORING_ENTER_SQ_WAKEUP : 0;
    syscall(SYS_io_uring_enter, fd_, submitted, wanted, IORING_ENTER_GETEVENTS | wake, nullptr, 0);
  }

  // The next result.
  int reap() {
    auto& head = shared(params_.cq_off.head);
    while (head.load() == shared(params_.cq_off.tail).load()) {
      usleep(100);
    }
    const int result = reinterpret_cast<io_uring_cqe*>(sq_ + params_.cq_off.cqes)[head.load() & word(params_.cq_off.ring_mask)].res;
    head.store(head.load() + 1);
    return result;
  }

  int fd_;
  char* sq_;
  io_uring_sqe* sqes_;
  io_uring_params params_{};
};

// sa:inet:ADDRESS:PORT, sa:inet6:ADDRESS:PORT (its colons as dots), sa:unix:PATH, sa:abstract:NAME. Its size is the next argument.
std::pair<sockaddr_storage, socklen_t> socket_address(const std::string& text) {
  const std::size_t colon = text.find(':');
  const std::string kind = text.substr(0, colon);
  const std::string rest = text.substr(colon + 1);
  const std::size_t port = rest.rfind(':');
  sockaddr_storage storage{};
  if (kind == "inet") {
    auto* in = reinterpret_cast<sockaddr_in*>(&storage);
    in->sin_family = AF_INET;
    in->sin_port = htons(static_cast<std::uint16_t>(std::stoul(rest.substr(port + 1))));
    must(inet_pton(AF_INET, rest.substr(0, port).c_str(), &in->sin_addr) == 1, text);
    return {storage, sizeof(sockaddr_in)};
  }
  if (kind == "inet6") {
    auto* in = reinterpret_cast<sockaddr_in6*>(&storage);
    in->sin6_family = AF_INET6;
    in->sin6_port = htons(static_cast<std::uint16_t>(std::stoul(rest.substr(port + 1))));
    must(inet_pton(AF_INET6, rest.substr(0, port).c_str(), &in->sin6_addr) == 1, text);
    return {storage, sizeof(sockaddr_in6)};
  }
  auto* un = reinterpret_cast<sockaddr_un*>(&storage);
  un->sun_family = AF_UNIX;
  const std::size_t skip = kind == "abstract" ? 1 : 0;
  memcpy(un->sun_path + skip, rest.data(), std::min(rest.size(), sizeof un->sun_path - skip));
  return {storage, static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + skip + rest.size() + (skip == 0 ? 1 : 0))};
}

// A child gets the descriptor by SCM_RIGHTS and uses it; the parent waits for its end.
void pass_descriptor(int fd, const std::function<void(int)>& use) {
  int pair[2];
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
  const pid_t child = fork();
  char control[CMSG_SPACE(sizeof(int))] = {};
  char byte = 0;
  iovec io{&byte, 1};
  msghdr message{};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (child == 0) {
    close(fd);
    must(recvmsg(pair[1], &message, 0) == 1, "recvmsg");
    int got = -1;
    memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof got);
    use(got);
    _exit(0);
  }
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(head), &fd, sizeof fd);
  must(sendmsg(pair[0], &message, 0) == 1, "sendmsg");
  waitpid(child, nullptr, 0);
  close(pair[0]);
  close(pair[1]);
}

// A child takes the descriptor out of the parent by pidfd_getfd and uses it.
void fetch_descriptor(int fd, const std::function<void(int)>& use) {
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child == 0) {
    close(fd);
    const auto pidfd = static_cast<int>(syscall(SYS_pidfd_open, parent, 0));
    const auto got = static_cast<int>(syscall(SYS_pidfd_getfd, pidfd, fd, 0));
    must(got >= 0, "pidfd_getfd");
    use(got);
    _exit(0);
  }
  waitpid(child, nullptr, 0);
}

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
    {"mmap", {9, 192}},
    {"old_mmap", {0, 90}},
    {"mprotect", {10, 125}},
    {"pkey_mprotect", {329, 380}},
    {"ioctl", {16, 54}},
    {"socket", {41, 359}},
    {"connect", {42, 362}},
    {"bind", {49, 361}},
    {"socketcall", {0, 102}},
    {"ptrace", {101, 26}},
    {"bpf", {321, 357}},
    {"kill", {62, 37}},
    {"tkill", {200, 238}},
    {"tgkill", {234, 270}},
    {"rt_sigqueueinfo", {129, 178}},
    {"pidfd_open", {434, 434}},
    {"pidfd_getfd", {438, 438}},
    {"process_vm_readv", {310, 347}},
    {"process_vm_writev", {311, 348}},
    {"pidfd_send_signal", {424, 424}},
    {"setuid", {105, 213}},
    {"setgid", {106, 214}},
    {"setreuid", {113, 203}},
    {"setregid", {114, 204}},
    {"setresuid", {117, 208}},
    {"setresgid", {119, 210}},
    {"setfsuid", {122, 215}},
    {"setfsgid", {123, 216}},
    {"setgroups", {116, 206}},
    {"setuid16", {0, 23}},
    {"setresuid16", {0, 164}},
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
  if (v == "walk_down") {  // walk_down N NAME: into N directories, each NAME
    for (std::uint64_t i = 0; i < number(w[1]); ++i) {
      if (chdir(w[2].c_str()) != 0) {
        return -1;
      }
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
  if (v == "xfs") {  // xfs IMAGE TARGET: a new file system that can share blocks
    return system(fmt::format("truncate -s 300M {0} && mkfs.xfs -q -K {0} && mount -o loop {0} {1}", w[1], w[2]).c_str()) == 0 ? 0 : -1;
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
    } else if (w[i].starts_with("sa:")) {
      const auto [address, size] = socket_address(w[i].substr(3));
      to = low.put(&address, size);
      if (i + 1 < w.size() && w[i + 1] == "len" && i - 1 < a.size()) {
        a[i - 1] = size;
        ++i;
      }
    } else if (w[i].starts_with("w32:") || w[i].starts_with("w64:")) {  // an array of words in memory; "sa" in it: an address
      std::vector<std::uint32_t> narrow;
      std::vector<std::uint64_t> wide;
      for (std::size_t begin = 4; begin <= w[i].size();) {
        const std::size_t end = std::min(w[i].find(',', begin), w[i].size());
        std::string part = w[i].substr(begin, end - begin);
        std::uint64_t value = 0;
        if (part.starts_with("sa:")) {
          const auto [address, size] = socket_address(part.substr(3));
          value = low.put(&address, size);
        } else {
          value = number(part);
        }
        wide.push_back(value);
        narrow.push_back(static_cast<std::uint32_t>(value));
        begin = end + 1;
      }
      to = w[i][1] == '3' ? low.put(narrow.data(), narrow.size() * 4) : low.put(wide.data(), wide.size() * 8);
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

// The name lies in a page that is not in memory: in a file, mapped and never touched.
long open_not_resident(const std::string& name) {
  const int names = memfd_create("names", 0);
  must(names >= 0 && write(names, name.c_str(), name.size() + 1) >= 0, "names");
  const void* page = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, names, 0);
  must(page != MAP_FAILED, "mmap names");
  const long fd = syscall(SYS_openat, AT_FDCWD, page, O_RDONLY, 0);
  const int saved = errno;
  close(names);
  errno = saved;
  return fd;
}

// The kernel's copy of the name waits for a page that another thread brings: it holds FIFO while it is copied, and another name once the call
// waits for the FIFO's other end.
long open_userfault(const std::string& fifo, const std::string& other) {
  const int faults = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));
  uffdio_api api{};
  api.api = UFFD_API;
  must(faults >= 0 && ioctl(faults, UFFDIO_API, &api) == 0, "userfaultfd");
  auto* page = static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  uffdio_register range{};
  range.range = {reinterpret_cast<std::uintptr_t>(page), 4096};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  must(ioctl(faults, UFFDIO_REGISTER, &range) == 0, "userfaultfd register");
  std::thread helper([&] {
    uffd_msg message{};
    must(read(faults, &message, sizeof message) == sizeof message, "userfault");
    usleep(20000);
    alignas(4096) static char content[4096];
    fifo.copy(content, sizeof content - 1);
    uffdio_copy copy{};
    copy.dst = reinterpret_cast<std::uintptr_t>(page);
    copy.src = reinterpret_cast<std::uintptr_t>(content);
    copy.len = 4096;
    must(ioctl(faults, UFFDIO_COPY, &copy) == 0, "userfaultfd copy");
    usleep(50000);  // the call waits for a writer now
    std::memcpy(page, other.c_str(), other.size() + 1);
    const int writer = open(fifo.c_str(), O_WRONLY);
    close(writer);
  });
  const long fd = syscall(SYS_openat, AT_FDCWD, page, O_RDONLY, 0);
  helper.join();
  return fd;
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
  if (v == "open_not_resident") return open_not_resident(w[1]);
  if (v == "open_userfault") return open_userfault(w[1], w[2]);
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
                                                            {"fsetxattr", IORING_OP_FSETXATTR},
                                                            {"read", IORING_OP_READ},
                                                            {"write", IORING_OP_WRITE},
                                                            {"readv", IORING_OP_READV},
                                                            {"writev", IORING_OP_WRITEV},
                                                            {"read_fixed", IORING_OP_READ_FIXED},
                                                            {"write_fixed", IORING_OP_WRITE_FIXED},
                                                            {"splice", IORING_OP_SPLICE},
                                                            {"close", IORING_OP_CLOSE},
                                                            {"connect", IORING_OP_CONNECT}};
  const auto opcode = kOpcodes.find(at(w, 1));
  if (opcode == kOpcodes.end()) {
    give_up("no request " + at(w, 1));
  }
  static std::vector<std::string> kept;  // memory that a request points to must outlive it
  kept.assign(8, "");
  io_uring_sqe sqe{};
  sqe.opcode = opcode->second;
  unsigned setup = 0;
  static char* const memory = static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  static iovec vector;
  bool skips = false;
  bool fixed = false;
  bool buffers = sqe.opcode == IORING_OP_READ_FIXED || sqe.opcode == IORING_OP_WRITE_FIXED;
  bool linked = false;
  uid_t personality = 0;
  for (std::size_t i = 2; i < w.size(); ++i) {
    const std::size_t equals = w[i].find('=');
    const std::string key = w[i].substr(0, equals);
    const std::string text = equals == std::string::npos ? "" : w[i].substr(equals + 1);
    std::uint64_t value = 0;
    if (text == "buf") {
      value = reinterpret_cast<std::uintptr_t>(memory);
    } else if (text.starts_with("iov:")) {
      vector = {memory, number(text.substr(4))};
      value = reinterpret_cast<std::uintptr_t>(&vector);
    } else if (text.starts_with("sa:")) {
      const auto [address, size] = socket_address(text.substr(3));
      kept[i % 8].assign(reinterpret_cast<const char*>(&address), size);
      value = reinterpret_cast<std::uintptr_t>(kept[i % 8].data());
      sqe.off = size;
    } else if (text.starts_with("s:")) {
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
    } else if (key == "in") {
      sqe.splice_fd_in = static_cast<int>(value);
      sqe.splice_off_in = ~0ull;
    } else if (key == "fixed") {  // the descriptor as a registered file
      fixed = true;
    } else if (key == "skip") {
      sqe.flags |= IOSQE_CQE_SKIP_SUCCESS;
      skips = true;
    } else if (key == "twice") {  // linked with another of the same
      linked = true;
    } else if (key == "as") {  // carried out with this user's rights (IORING_REGISTER_PERSONALITY)
      personality = static_cast<uid_t>(value);
    } else if (key == "async") {
      sqe.flags = IOSQE_ASYNC;
    } else if (key == "sqpoll") {
      setup = IORING_SETUP_SQPOLL;
    } else {
      give_up("no part of a request: " + w[i]);
    }
  }
  Ring ring(setup);
  if (buffers) {
    ring.register_buffer(memory, 4096);
    sqe.addr = reinterpret_cast<std::uintptr_t>(memory);
  }
  if (fixed) {
    ring.register_file(sqe.fd);
    sqe.fd = 0;
    sqe.flags |= IOSQE_FIXED_FILE;
  }
  if (personality != 0) {
    must(seteuid(personality) == 0, "seteuid");
    sqe.personality = ring.register_personality();
    must(seteuid(0) == 0, "seteuid back");
  }
  const int result = linked ? ring.run_linked(sqe, sqe) : ring.run(sqe, !skips);
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
  const auto read_seven = [](int fd) {
    char bytes[7];
    (void)!pread(fd, bytes, sizeof bytes, 0);
    close(fd);
  };
  if (v == "chattr" || v == "chattr32") {  // chattr FD FLAGS: adds them; chattr FD 0: none but those that the file system gives
    const int fd = static_cast<int>(number(w[1]));
    unsigned flags = 0;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0) {
      return -1;
    }
    flags = number(w[2]) == 0 ? flags & 0x80000 : flags | static_cast<unsigned>(number(w[2]));
    return v == "chattr" ? ioctl(fd, FS_IOC_SETFLAGS, &flags)
                         : call32(54, static_cast<std::uint32_t>(fd), FS_IOC32_SETFLAGS, LowMemory().put(&flags, sizeof flags));
  }
  if (v == "memfd_execve") {  // a program that lies in no file system
    const int source = open(w[1].c_str(), O_RDONLY);
    const int copy = memfd_create("copy", 0);
    char chunk[65536];
    ssize_t n = 0;
    while ((n = read(source, chunk, sizeof chunk)) > 0) {
      (void)!write(copy, chunk, static_cast<std::size_t>(n));
    }
    return in_child([&] {
      char name[] = "";
      char* argv[] = {name, nullptr};
      syscall(SYS_execveat, copy, "", argv, argv + 1, AT_EMPTY_PATH);
    });
  }
  if (v == "orphan_openat") {  // a grandchild whose parent is gone
    int done[2];
    must(pipe(done) == 0, "pipe");
    in_child([&] {
      if (fork() == 0) {
        usleep(20000);  // the parent is gone by then
        syscall(SYS_openat, AT_FDCWD, w[1].c_str(), O_RDONLY, 0);
        _exit(0);
      }
      errno = 0;
    });
    close(done[1]);
    char end = 0;
    (void)!read(done[0], &end, 1);  // until the grandchild is gone
    return 0;
  }
  if (v == "pass") {  // pass FD: a child gets it by SCM_RIGHTS, reads 7 bytes, closes it
    pass_descriptor(static_cast<int>(number(w[1])), read_seven);
    return 0;
  }
  if (v == "fetch") {  // fetch FD: a child takes it by pidfd_getfd, reads 7 bytes, closes it
    fetch_descriptor(static_cast<int>(number(w[1])), read_seven);
    return 0;
  }
  if (v == "inherit") {  // inherit FD: a child reads 7 bytes and closes its copy
    return in_child([&] { read_seven(static_cast<int>(number(w[1]))); });
  }
  if (v == "child_exits") return in_child([&] { _exit(static_cast<int>(number(w[1]))); });
  if (v == "vfork_exits") {  // vfork_exits CODE: on one CPU, so that the child ends before the call returns
    cpu_set_t all, one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<unsigned>(sched_getcpu()), &one);
    must(sched_getaffinity(0, sizeof(all), &all) == 0 && sched_setaffinity(0, sizeof(one), &one) == 0, "affinity");
    const int code = static_cast<int>(number(w[1]));
    const pid_t child = vfork();
    if (child == 0) {
      _exit(code);
    }
    sched_setaffinity(0, sizeof(all), &all);
    return waitpid(child, nullptr, 0);
  }
  if (v == "fork_call" || v == "fork_call32") {  // fork_call NUMBER, fork_call32 NUMBER: the call itself
    const auto call = static_cast<long>(number(w[1]));
    const long child = v == "fork_call" ? syscall(call) : call32(call);
    if (child == 0) {
      _exit(0);
    }
    return waitpid(static_cast<pid_t>(child), nullptr, 0);
  }
  if (v == "child_dies") {  // child_dies SIGNAL
    return in_child([&] { kill(getpid(), static_cast<int>(number(w[1]))); });
  }
  if (v == "sleeper") {  // a child that waits for a signal
    const pid_t child = fork();
    if (child == 0) {
      pause();
      _exit(0);
    }
    return child;
  }
  if (v == "reap") return waitpid(static_cast<pid_t>(number(w[1])), nullptr, 0);
  if (v == "as") {  // as UID VERB...: in a child
    return in_child([&] {
      const auto id = static_cast<uid_t>(number(w[1]));
      must(setresgid(id, id, id) == 0 && setresuid(id, id, id) == 0, "setresuid");
      errno = 0;
      verb(std::vector<std::string>(w.begin() + 2, w.end()));
      errno = 0;
    });
  }
  if (v == "exec_refused") {  // exec_refused NAME: an execve that returns
    char* argv[] = {const_cast<char*>(w[1].c_str()), nullptr};
    return syscall(SYS_execve, w[1].c_str(), argv, argv + 1);
  }
  if (v == "guarded") return setresgid(777, 777, 777);  // from here on tests/scenario/held/policy.yaml is about this process
  if (v == "killed") {                                  // killed VERB...: a child that does not live to see its result
    const pid_t child = fork();
    if (child == 0) {
      verb(std::vector<std::string>(w.begin() + 1, w.end()));
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
      give_up("not killed");
    }
    return 0;
  }
  if (v == "mapped_write") {  // mapped_write FD: a shared map that is made writable afterwards, and written
    char* memory = static_cast<char*>(mmap(nullptr, 4096, PROT_READ, MAP_SHARED, static_cast<int>(number(w[1])), 0));
    if (memory == MAP_FAILED || mprotect(memory, 4096, PROT_READ | PROT_WRITE) != 0) {
      return -1;
    }
    memory[0] = 'X';
    return munmap(memory, 4096);
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
