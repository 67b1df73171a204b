// SPDX-License-Identifier: Apache-2.0
// A mixed workload that keeps its own list of what it did, for the account of an observer to be held against.
//
//   ledger DIR THREADS OPERATIONS SEED LIST
//
// Every thread works in a directory of its own below DIR, by a random choice of system calls, 64-bit and 32-bit, absolute and relative, on
// names and descriptors, that succeed or fail. LIST gets a line for each that an observer must tell, in order within a thread:
//   TID OPERATION PATH DST-PATH ERRNO EXTRA        (- where there is none; EXTRA of a close: reads/bytes/writes/bytes)
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

long call32(long nr, long a, long b, long c) {
  long result = 0;
  asm volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
  result = static_cast<int>(result);
  if (result < 0) {
    errno = static_cast<int>(-result);
    return -1;
  }
  return result;
}

class Worker {
 public:
  Worker(const std::string& base, int number, unsigned seed)
      : directory_(base + "/t" + std::to_string(number)),
        random_(seed * 1000003u + static_cast<unsigned>(number)),
        low_(static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0))) {
    mkdir(directory_.c_str(), 0755);
    home_ = open(directory_.c_str(), O_PATH | O_DIRECTORY);
  }

  void run(long operations) {
    tid_ = gettid();
    for (long i = 0; i < operations; ++i) {
      step();
    }
    for (File& file : files_) {
      shut(file);
    }
  }

  // Whoever compares looks only at what happened after this line of the thread.
  std::string list;

 private:
  struct File {
    int fd;
    std::string path;
    bool reads_allowed, writes_allowed;
    long reads = 0, bytes_read = 0, writes = 0, bytes_written = 0, failed = 0;
  };

  unsigned pick(unsigned n) { return std::uniform_int_distribution<unsigned>(0, n - 1)(random_); }
  std::string name() { return "f" + std::to_string(pick(12)); }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }

  void note(const char* operation, const std::string& path, const std::string& dst, long result, const std::string& extra = "-") {
    const int code = result < 0 ? errno : 0;
    list += std::to_string(tid_) + " " + operation + " " + path + " " + (dst.empty() ? "-" : dst) + " " + std::to_string(code) + " " + extra + "\n";
  }

  // The name in memory that a 32-bit pointer reaches.
  long low(const std::string& text, int slot = 0) {
    memcpy(low_ + slot * 4096, text.c_str(), text.size() + 1);
    return static_cast<long>(reinterpret_cast<std::uintptr_t>(low_ + slot * 4096));
  }

  void step() {
    const std::string a = name();
    const std::string b = name();
    switch (pick(20)) {
      case 0:
      case 1:
      case 2: return open_one(a, O_RDONLY);
      case 3:
      case 4: return open_one(a, O_RDWR);
      case 5:
      case 6: return open_one(a, O_RDWR | O_CREAT | (pick(2) ? O_EXCL : 0));
      case 7:
      case 8:
      case 9: return use_one();
      case 10:
      case 11: return shut_one();
      case 12: return note("rename", path(a), path(b), renames(a, b));
      case 13:
      case 14: return note("unlink", path(a), "", pick(2) ? syscall(SYS_unlink, path(a).c_str()) : unlinks(a));
      case 15: {
        const std::string d = "d" + std::to_string(pick(4));
        if (pick(2)) {
          return note("mkdir", path(d), "", pick(2) ? syscall(SYS_mkdir, path(d).c_str(), 0700) : call32(296, home_, low(d), 0700));
        }
        return note("rmdir", path(d), "", pick(2) ? syscall(SYS_rmdir, path(d).c_str()) : syscall(SYS_unlinkat, home_, d.c_str(), AT_REMOVEDIR));
      }
      case 16:
        return note("link", path(a), path(b), pick(2) ? syscall(SYS_link, path(a).c_str(), path(b).c_str()) : call32(9, low(path(a)), low(path(b), 1), 0));
      case 17: {
        const std::string s = "s" + std::to_string(pick(4));
        return pick(3) ? note("symlink", path(s), "",
                              pick(2) ? syscall(SYS_symlink, "nowhere", path(s).c_str()) : syscall(SYS_symlinkat, "nowhere", home_, s.c_str()))
                       : note("unlink", path(s), "", syscall(SYS_unlinkat, home_, s.c_str(), 0));
      }
      case 18: return change(a);
      default: return note("truncate", path(a), "", pick(2) ? syscall(SYS_truncate, path(a).c_str(), pick(9000)) : call32(92, low(path(a)), pick(9000), 0));
    }
  }

  long renames(const std::string& a, const std::string& b) {
    switch (pick(4)) {
      case 0: return syscall(SYS_rename, path(a).c_str(), path(b).c_str());
      case 1: return syscall(SYS_renameat, home_, a.c_str(), home_, b.c_str());
      case 2: return syscall(SYS_renameat2, home_, a.c_str(), AT_FDCWD, path(b).c_str(), pick(2));  // RENAME_NOREPLACE
      default: return call32(38, low(path(a)), low(path(b), 1), 0);
    }
  }

  long unlinks(const std::string& a) { return pick(2) ? syscall(SYS_unlinkat, home_, a.c_str(), 0) : call32(10, low(path(a)), 0, 0); }

  void change(const std::string& a) {
    switch (pick(4)) {
      case 0: return note("chmod", path(a), "", pick(2) ? syscall(SYS_chmod, path(a).c_str(), 0600 + pick(64)) : call32(306, home_, low(a), 0640));
      case 1: return note("chown", path(a), "", syscall(SYS_fchownat, home_, a.c_str(), pick(100), pick(100), 0));
      case 2: return note("utimes", path(a), "", syscall(SYS_utimensat, home_, a.c_str(), nullptr, 0));
      default: return note("mknod", path(a), "", syscall(SYS_mknodat, home_, a.c_str(), S_IFREG | 0600, 0));
    }
  }

  void open_one(const std::string& a, int flags) {
    if (files_.size() >= 8) {
      return shut_one();
    }
    const bool existed = (flags & O_CREAT) == 0 || faccessat(home_, a.c_str(), F_OK, 0) == 0;
    long fd = 0;
    switch (pick(5)) {
      case 0: fd = syscall(SYS_open, path(a).c_str(), flags, 0600); break;
      case 1: fd = syscall(SYS_openat, home_, a.c_str(), flags, 0600); break;
      case 2: {
        open_how how{};
        how.flags = static_cast<unsigned>(flags);
        how.mode = (flags & O_CREAT) != 0 ? 0600 : 0;
        fd = syscall(SYS_openat2, home_, a.c_str(), &how, sizeof how);
        break;
      }
      case 3: fd = call32(5, low(path(a)), flags, 0600); break;
      default: fd = call32(295, home_, low(a), flags); break;
    }
    note(fd >= 0 && !existed ? "create" : "open", path(a), "", fd);
    if (fd >= 0) {
      files_.push_back({static_cast<int>(fd), path(a), true, (flags & O_ACCMODE) == O_RDWR});
    }
  }

  void use_one() {
    if (files_.empty()) {
      return;
    }
    File& file = files_[pick(static_cast<unsigned>(files_.size()))];
    const unsigned size = 1 + pick(64);
    char bytes[64] = {};
    const std::string now = where(file);
    if (pick(2)) {
      const long n = pick(2) ? syscall(SYS_pread64, file.fd, bytes, size, 0) : call32(3, file.fd, low(std::string(64, 'x')), size);
      if (file.reads++ == 0) {
        note("read", now, "", n);
      }
      file.bytes_read += n;
    } else {
      const long n = syscall(SYS_pwrite64, file.fd, bytes, size, pick(4096));
      if (n < 0) {
        if (file.failed++ == 0 && file.writes == 0) {
          note("write", now, "", n);
        }
        return;
      }
      if (file.writes++ == 0 && file.failed == 0) {
        note("write", now, "", n);
      }
      file.bytes_written += n;
    }
  }

  // What the open file is called now; "?" where it has no name any more.
  static std::string where(const File& file) {
    char target[4096];
    const ssize_t n = readlink(("/proc/self/fd/" + std::to_string(file.fd)).c_str(), target, sizeof target);
    const std::string now(target, n > 0 ? static_cast<std::size_t>(n) : 0);
    return now.ends_with(" (deleted)") ? "?" : now;
  }

  void shut(File& file) {
    const std::string now = where(file);
    close(file.fd);
    if (file.reads + file.writes + file.failed > 0) {
      list += std::to_string(tid_) + " close " + now + " - 0 " + std::to_string(file.reads) + "/" + std::to_string(file.bytes_read) + "/" +
              std::to_string(file.writes) + "/" + std::to_string(file.bytes_written) + "\n";
    }
  }

  void shut_one() {
    if (files_.empty()) {
      return;
    }
    const std::size_t i = pick(static_cast<unsigned>(files_.size()));
    shut(files_[i]);
    files_.erase(files_.begin() + static_cast<std::ptrdiff_t>(i));
  }

  std::string directory_;
  std::mt19937 random_;
  char* low_;
  int home_ = -1;
  int tid_ = 0;
  std::vector<File> files_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    fprintf(stderr, "usage: ledger DIR THREADS OPERATIONS SEED LIST\n");
    return 64;
  }
  umask(0);
  const int threads = atoi(argv[2]);
  std::vector<Worker> workers;
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back(argv[1], i, static_cast<unsigned>(atoi(argv[4])));
  }
  mkdir((std::string(argv[1]) + "/begin").c_str(), 0755);
  std::vector<std::thread> all;
  for (Worker& worker : workers) {
    all.emplace_back([&] { worker.run(atol(argv[3]) / threads); });
  }
  for (std::thread& thread : all) {
    thread.join();
  }
  FILE* out = fopen(argv[5], "we");
  for (const Worker& worker : workers) {
    fwrite(worker.list.data(), 1, worker.list.size(), out);
  }
  fclose(out);
  return 0;
}
