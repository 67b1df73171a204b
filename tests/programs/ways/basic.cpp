// SPDX-License-Identifier: Apache-2.0
// By name, by a descriptor from before, and changes.
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "ways.h"

namespace {

long call32(long nr, long a, long b = 0, long c = 0, long d = 0) {
  long result = 0;
  asm volatile("int $0x80"
               : "=a"(result)
               : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d)
               : "memory", "r8", "r9", "r10", "r11");
  return result;
}

// A text where 32-bit calls can reach it; at most two of them.
long low(const Place& p, const std::string& text, int slot = 0) {
  char* at = p.low + slot * 2048;
  strcpy(at, text.c_str());
  return static_cast<long>(reinterpret_cast<std::uintptr_t>(at));
}

int of32(long result) { return result < 0 ? static_cast<int>(-result) : 0; }

// One request of io_uring, to its end.
int request(const std::function<void(io_uring_sqe&)>& fill, unsigned sq_flags = 0,
            int registered = -1) {
  io_uring_params params{};
  params.flags = sq_flags;
  params.sq_thread_idle = 1000;
  const int ring = static_cast<int>(syscall(SYS_io_uring_setup, 4, &params));
  must(ring >= 0, "io_uring_setup");
  const auto map = [&](std::size_t size, off_t offset) {
    auto* memory = static_cast<char*>(
        mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, offset));
    must(memory != MAP_FAILED, "io_uring mmap");
    return memory;
  };
  char* submissions =
      map(params.sq_off.array + params.sq_entries * sizeof(std::uint32_t), IORING_OFF_SQ_RING);
  char* completions =
      map(params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe), IORING_OFF_CQ_RING);
  auto* entries = reinterpret_cast<io_uring_sqe*>(
      map(params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES));
  if (registered >= 0) {
    must(syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, &registered, 1) == 0,
         "io_uring register");
  }
  std::memset(entries, 0, sizeof *entries);
  fill(*entries);
  reinterpret_cast<std::uint32_t*>(submissions + params.sq_off.array)[0] = 0;
  std::atomic_ref(*reinterpret_cast<std::uint32_t*>(submissions + params.sq_off.tail)).store(1);
  const unsigned wake = (sq_flags & IORING_SETUP_SQPOLL) != 0 ? IORING_ENTER_SQ_WAKEUP : 0;
  must(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS | wake, nullptr, 0) >= 0,
       "io_uring_enter");
  const auto* done = reinterpret_cast<const io_uring_cqe*>(completions + params.cq_off.cqes);
  return done->res < 0 ? -done->res : 0;
}

std::uint64_t address(const void* p) { return reinterpret_cast<std::uint64_t>(p); }

int request_open(const std::string& path, unsigned char flags = 0, unsigned sq_flags = 0) {
  return request(
      [&](io_uring_sqe& e) {
        e.opcode = IORING_OP_OPENAT;
        e.flags = flags;
        e.fd = AT_FDCWD;
        e.addr = address(path.c_str());
        e.open_flags = O_RDONLY;
      },
      sq_flags);
}

int request_two(unsigned char opcode, const std::string& from, const std::string& to) {
  return request([&](io_uring_sqe& e) {
    e.opcode = opcode;
    e.fd = AT_FDCWD;
    e.addr = address(from.c_str());
    e.len = static_cast<unsigned>(AT_FDCWD);
    e.off = address(to.c_str());
  });
}

int received(const Place& p) {
  int pair[2];
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
  must(send_descriptor(pair[0], p.old) == 0, "sendmsg");
  const int fd = receive_descriptor(pair[1]);
  char byte = 0;
  return fd < 0 ? EACCES : of(pread(fd, &byte, 1, 0));
}

int by_handle(const Place& p) {
  alignas(file_handle) char memory[sizeof(file_handle) + MAX_HANDLE_SZ]{};
  auto* handle = reinterpret_cast<file_handle*>(memory);
  handle->handle_bytes = MAX_HANDLE_SZ;
  int id = 0;
  if (name_to_handle_at(AT_FDCWD, p.a.c_str(), handle, &id, 0) != 0) {
    return errno;
  }
  const int fd = open_by_handle_at(p.old_dir, handle, O_RDONLY);
  const int code = of(fd);
  close(fd);
  return code;
}

int executes(const std::string& path, bool by_descriptor) {
  char* const words[] = {const_cast<char*>(path.c_str()), nullptr};
  if (by_descriptor) {
    const int fd = open(path.c_str(), O_PATH | O_CLOEXEC);
    if (fd < 0) {
      return errno;
    }
    syscall(SYS_execveat, fd, "", words, nullptr, AT_EMPTY_PATH);
  } else {
    execve(path.c_str(), words, nullptr);
  }
  return errno;
}

int pipes(const Place& p) {
  int ends[2];
  must(pipe(ends) == 0, "pipe");
  off64_t from = 0;
  return of(splice(p.old, &from, ends[1], nullptr, 1, 0));
}

int maps(const Place& p, int protection, int flags) {
  void* memory = mmap(nullptr, 7, protection, flags, p.old, 0);
  if (memory == MAP_FAILED) {
    return errno;
  }
  if ((protection & PROT_WRITE) != 0 && (flags & MAP_SHARED) != 0) {
    static_cast<char*>(memory)[0] = 'X';
    msync(memory, 7, MS_SYNC);
  }
  return 0;
}

int attributes(const Place& p) {
  const int fd = open(p.a.c_str(), O_RDONLY);
  if (fd < 0) {
    return errno;
  }
  int flags = 0;
  if (ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0) {
    return errno;
  }
  flags |= FS_NODUMP_FL;
  return of(ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

int copies(const Place& p, bool from_it) {
  const int other = open(p.x.c_str(), O_RDWR);
  off64_t at = 0;
  off64_t to = 0;
  return of(copy_file_range(from_it ? p.old : other, &at, from_it ? other : p.old, &to, 3, 0));
}

}  // namespace

std::vector<Way> basic_ways() {
  return {
      // By name.
      {"open", [](const Place& p) { return opens(p.a, O_RDONLY); }},
      {"open to write", [](const Place& p) { return opens(p.a, O_RDWR | O_APPEND); }},
      {"open and truncate", [](const Place& p) { return opens(p.a, O_WRONLY | O_TRUNC); }},
      {"openat2",
       [](const Place& p) {
         const open_how how{.flags = O_RDONLY, .mode = 0, .resolve = RESOLVE_NO_MAGICLINKS};
         return of(syscall(SYS_openat2, AT_FDCWD, p.a.c_str(), &how, sizeof how));
       }},
      {"creat", [](const Place& p) { return of(creat(p.a.c_str(), 0600)); }},
      {"open, 32-bit", [](const Place& p) { return of32(call32(5, low(p, p.a), O_RDONLY)); }},
      {"openat, 32-bit",
       [](const Place& p) { return of32(call32(295, AT_FDCWD, low(p, p.a), O_RDWR)); }},
      {"openat, io_uring", [](const Place& p) { return request_open(p.a); }},
      {"openat, io_uring worker", [](const Place& p) { return request_open(p.a, IOSQE_ASYNC); }},
      {"openat, io_uring SQPOLL",
       [](const Place& p) { return request_open(p.a, 0, IORING_SETUP_SQPOLL); }},
      {"dots and slashes", [](const Place& p) { return opens(p.dir + "/s/..//./a", O_RDONLY); }},
      {"relative",
       [](const Place& p) {
         return chdir(p.dir.c_str()) != 0 ? errno : opens(std::string("a"), O_RDONLY);
       }},
      {"below a descriptor",
       [](const Place& p) {
         const std::string name =
             "a";  // in memory that is there: what cannot be read is another way
         return of(openat(p.old_dir, name.c_str(), O_RDONLY));
       }},
      {"a name that is not in memory",
       [](const Place& p) {
         const int fd = open((p.dir + "/name").c_str(), O_RDONLY);
         return of(
             open(static_cast<const char*>(mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fd, 0)),
                  O_RDONLY));
       }},
      {"in a protected directory", [](const Place& p) { return opens(p.b, O_RDONLY); }},
      {"symbolic link", [](const Place& p) { return opens(p.link, O_RDONLY); }},
      {"symbolic link on the way",
       [](const Place& p) { return opens(p.dirlink + "/b", O_RDONLY); }},
      {"hard link from before", [](const Place& p) { return opens(p.alias, O_RDONLY); }},
      {"/proc/self/root", [](const Place& p) { return opens("/proc/self/root" + p.a, O_RDONLY); }},
      {"/proc/self/cwd",
       [](const Place& p) {
         return chdir(p.dir.c_str()) != 0 ? errno : opens("/proc/self/cwd/a", O_RDONLY);
       }},
      {"O_PATH, opened again",
       [](const Place& p) {
         const int fd = open(p.a.c_str(), O_PATH);
         return fd < 0 ? errno : opens("/proc/self/fd/" + std::to_string(fd), O_RDONLY);
       }},
      {"by a file handle", by_handle, true},
      {"bind mount of the directory",
       [](const Place& p) {
         return in_namespaces(CLONE_NEWNS, [&] {
           return mount(p.dir.c_str(), "/mnt", nullptr, MS_BIND, nullptr) != 0
                      ? errno
                      : opens("/mnt/a", O_RDONLY);
         });
       },
       true},
      {"bind mount of the file",
       [](const Place& p) {
         return in_namespaces(CLONE_NEWNS, [&] {
           return mount(p.a.c_str(), p.x.c_str(), nullptr, MS_BIND, nullptr) != 0
                      ? errno
                      : opens(p.x, O_RDONLY);
         });
       },
       true},
      {"user and mount namespaces",
       [](const Place& p) {
         return in_namespaces(CLONE_NEWUSER | CLONE_NEWNS, [&] {
           return mount(p.dir.c_str(), "/mnt", nullptr, MS_BIND | MS_REC, nullptr) != 0
                      ? errno
                      : opens("/mnt/a", O_RDONLY);
         });
       }},
      {"chroot",
       [](const Place& p) { return chroot(p.dir.c_str()) != 0 ? errno : opens("/a", O_RDONLY); },
       true},
      {"exec", [](const Place& p) { return executes(p.prog, false); }},
      {"exec by descriptor", [](const Place& p) { return executes(p.prog, true); }},
      // By a descriptor from before.
      {"read",
       [](const Place& p) {
         char c;
         return of(pread(p.old, &c, 1, 0));
       }},
      {"read, 32-bit", [](const Place& p) { return of32(call32(3, p.old, low(p, ""), 1)); }},
      {"read, io_uring",
       [](const Place& p) {
         char c;
         return request([&](io_uring_sqe& e) {
           e.opcode = IORING_OP_READ;
           e.fd = p.old;
           e.addr = address(&c);
           e.len = 1;
         });
       }},
      {"read, io_uring registered file",
       [](const Place& p) {
         char c;
         return request(
             [&](io_uring_sqe& e) {
               e.opcode = IORING_OP_READ;
               e.flags = IOSQE_FIXED_FILE;
               e.addr = address(&c);
               e.len = 1;
             },
             0, p.old);
       }},
      {"write", [](const Place& p) { return of(pwrite(p.old, "Y", 1, 0)); }},
      {"write, 32-bit", [](const Place& p) { return of32(call32(4, p.old, low(p, "Y"), 1)); }},
      {"write, io_uring",
       [](const Place& p) {
         return request([&](io_uring_sqe& e) {
           e.opcode = IORING_OP_WRITE;
           e.fd = p.old;
           e.addr = address("Y");
           e.len = 1;
         });
       }},
      {"sendfile",
       [](const Place& p) { return of(sendfile(open(p.x.c_str(), O_RDWR), p.old, nullptr, 1)); }},
      {"splice", pipes},
      {"copy_file_range from it", [](const Place& p) { return copies(p, true); }},
      {"copy_file_range to it", [](const Place& p) { return copies(p, false); }},
      {"map to read", [](const Place& p) { return maps(p, PROT_READ, MAP_PRIVATE); }},
      {"map to write", [](const Place& p) { return maps(p, PROT_READ | PROT_WRITE, MAP_SHARED); }},
      {"ftruncate", [](const Place& p) { return of(ftruncate(p.old, 1)); }},
      {"fallocate", [](const Place& p) { return of(fallocate(p.old, 0, 0, 8192)); }},
      {"fchmod", [](const Place& p) { return of(fchmod(p.old, 0640)); }},
      {"fsetxattr", [](const Place& p) { return of(fsetxattr(p.old, "user.x", "1", 1, 0)); }},
      {"received by SCM_RIGHTS", received},
      // Changes.
      {"unlink", [](const Place& p) { return of(unlink(p.a.c_str())); }},
      {"unlink, 32-bit", [](const Place& p) { return of32(call32(10, low(p, p.a))); }},
      {"unlink, io_uring",
       [](const Place& p) {
         return request([&](io_uring_sqe& e) {
           e.opcode = IORING_OP_UNLINKAT;
           e.fd = AT_FDCWD;
           e.addr = address(p.a.c_str());
         });
       }},
      {"rename away",
       [](const Place& p) { return of(rename(p.a.c_str(), (p.dir + "/y").c_str())); }},
      {"rename, 32-bit",
       [](const Place& p) { return of32(call32(38, low(p, p.a), low(p, p.dir + "/y", 1))); }},
      {"rename, io_uring",
       [](const Place& p) { return request_two(IORING_OP_RENAMEAT, p.a, p.dir + "/y"); }},
      {"replace by rename", [](const Place& p) { return of(rename(p.x.c_str(), p.a.c_str())); }},
      {"exchange",
       [](const Place& p) {
         return of(
             syscall(SYS_renameat2, AT_FDCWD, p.a.c_str(), AT_FDCWD, p.x.c_str(), RENAME_EXCHANGE));
       }},
      {"exchange, the other way",
       [](const Place& p) {
         return of(
             syscall(SYS_renameat2, AT_FDCWD, p.x.c_str(), AT_FDCWD, p.a.c_str(), RENAME_EXCHANGE));
       }},
      {"rename of a directory above",
       [](const Place& p) { return of(rename(p.above.c_str(), (p.dir + "/elsewhere").c_str())); }},
      {"open of a file renamed before",
       [](const Place& p) { return opens(p.dir + "/moved", O_RDONLY); }, false,
       [](const Place& p) {
         (void)!unlink(p.alias.c_str());  // not everywhere
         must(rename(p.a.c_str(), (p.dir + "/moved").c_str()) == 0, "rename");
       }},
      {"link", [](const Place& p) { return of(link(p.a.c_str(), (p.dir + "/y").c_str())); }},
      {"link, io_uring",
       [](const Place& p) { return request_two(IORING_OP_LINKAT, p.a, p.dir + "/y"); }},
      {"create in it",
       [](const Place& p) { return opens(p.s + "/new", O_WRONLY | O_CREAT | O_EXCL); }},
      {"mkdir in it", [](const Place& p) { return of(mkdir((p.s + "/new").c_str(), 0700)); }},
      {"mknod in it",
       [](const Place& p) { return of(mknod((p.s + "/new").c_str(), S_IFIFO | 0600, 0)); }},
      {"symlink in it", [](const Place& p) { return of(symlink("/", (p.s + "/new").c_str())); }},
      {"truncate", [](const Place& p) { return of(truncate(p.a.c_str(), 1)); }},
      {"chmod", [](const Place& p) { return of(chmod(p.a.c_str(), 0640)); }},
      {"chown", [](const Place& p) { return of(chown(p.a.c_str(), kUser, 4321)); }, true},
      {"utimes",
       [](const Place& p) {
         const timespec times[2] = {{1, 0}, {1, 0}};
         return of(utimensat(AT_FDCWD, p.a.c_str(), times, 0));
       }},
      {"setxattr", [](const Place& p) { return of(setxattr(p.a.c_str(), "user.x", "1", 1, 0)); }},
      {"removexattr", [](const Place& p) { return of(removexattr(p.a.c_str(), "user.before")); }},
      {"chattr", attributes},
      {"mount over it",
       [](const Place& p) {
         return of(mount(p.x.c_str(), p.a.c_str(), nullptr, MS_BIND, nullptr));
       },
       true},
  };
}
