// SPDX-License-Identifier: Apache-2.0
// Ways that have the object or the subject taken for another one: further names, memory,
// executables, ancestors and control groups.
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/prctl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "ways.h"

namespace {

constexpr std::size_t kPage = 4096;

// --- Memory: rules about reads.

void prepare_reads(Place& p) {
  const std::string path = p.dir + "/reads";
  write_file(path, 0666, std::string(3 * kPage, 'c'));
  p.fd = open(path.c_str(), O_RDWR);
  void* memory = mmap(nullptr, kPage, PROT_READ, MAP_SHARED, p.fd, 0);
  must(memory != MAP_FAILED, "mmap");
  p.map = static_cast<char*>(memory);
}

int content(const char* memory) { return memory[0] == 'c' ? 0 : EIO; }

int maps_private(const Place& p) {
  void* memory = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, p.fd, 0);
  return memory == MAP_FAILED ? errno : content(static_cast<char*>(memory));
}

int maps_nothing(const Place& p) {
  void* memory = mmap(nullptr, kPage, PROT_NONE, MAP_PRIVATE, p.fd, 0);
  if (memory == MAP_FAILED) {
    return errno;
  }
  const int fd = open("/proc/self/mem", O_RDONLY);
  char byte = 0;
  const auto at = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(memory));
  return pread(fd, &byte, 1, at) != 1 ? errno : content(&byte);
}

int grows(const Place& p) {
  void* memory = mremap(p.map, kPage, 3 * kPage, MREMAP_MAYMOVE);
  return memory == MAP_FAILED ? errno : content(static_cast<char*>(memory) + 2 * kPage);
}

// --- Names: a file that gets a protected name, or a protected file without any.

void prepare_opens(Place& p) {
  make_directory(p.dir + "/opens");
  write_file(p.dir + "/opens/c", 0666);
}

void link_in(const Place& p) {
  by_user([&] { return of(link(p.x.c_str(), (p.dir + "/opens/x").c_str())); });
}

void move_in(const Place& p) {
  by_user([&] {
    const std::string other = p.dir + "/other";
    return link(p.x.c_str(), other.c_str()) != 0
               ? errno
               : of(rename(other.c_str(), (p.dir + "/opens/x").c_str()));
  });
}

// By its other name; where it was refused the protected one there is nothing to be had.
int opens_other(const Place& p) {
  return access((p.dir + "/opens/x").c_str(), F_OK) != 0 ? EACCES : opens_and_reads(AT_FDCWD, p.x);
}

void prepare_weak(Place& p) {
  write_file(p.dir + "/weak", 0666);
  make_directory(p.dir + "/strong");
}

// By root, who may: the first step has the weak rule remember the file.
void through_strong(const Place& p) {
  must(rename((p.dir + "/weak").c_str(), (p.dir + "/weak2").c_str()) == 0, "rename");
  must(rename((p.dir + "/weak2").c_str(), (p.dir + "/strong/w").c_str()) == 0, "rename");
  must(rename((p.dir + "/strong/w").c_str(), (p.dir + "/out").c_str()) == 0, "rename");
}

void remember_handle(Place& p) {
  alignas(file_handle) char memory[sizeof(file_handle) + MAX_HANDLE_SZ]{};
  auto* handle = reinterpret_cast<file_handle*>(memory);
  handle->handle_bytes = MAX_HANDLE_SZ;
  int id = 0;
  if (name_to_handle_at(AT_FDCWD, p.b.c_str(), handle, &id, 0) == 0) {
    p.handle.assign(memory, sizeof memory);
  }
  close(p.old_b);
  p.old_b = -1;
}

int by_handle(const Place& p) {
  if (p.handle.empty()) {
    return EOPNOTSUPP;
  }
  alignas(file_handle) char memory[sizeof(file_handle) + MAX_HANDLE_SZ];
  std::memcpy(memory, p.handle.data(), sizeof memory);
  const int fd = open_by_handle_at(p.old_dir, reinterpret_cast<file_handle*>(memory), O_RDONLY);
  return fd < 0 ? errno : reads(fd);
}

// Sent by somebody else, who may have such a descriptor: whoever gets it must live.
int receives_path_descriptor(const Place& p) {
  int pair[2];
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
  const pid_t sender = fork();
  if (sender == 0) {
    const int fd = open((p.dir + "/kills").c_str(), O_PATH);
    _exit(fd < 0 ? errno : send_descriptor(pair[0], fd));
  }
  int status = 0;
  waitpid(sender, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return EACCES;  // it was not even sent
  }
  return receive_descriptor(pair[1]) < 0 ? EACCES : 0;
}

// --- Executables.

// Has the kernel take `program` for what this process executes: possible once none of the old
// executable's pages is mapped, so they are replaced by copies of themselves.
int takes_identity(const std::string& program) {
  const int fd = open(program.c_str(), O_RDONLY);
  const std::string own = own_program();
  if (fd < 0) {
    return errno;
  }
  struct Range {
    std::uintptr_t begin, end;
    int protection;
  };
  std::vector<Range> ranges;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    Range r{};
    char bits[5] = "";
    if (line.ends_with(own) &&
        sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %4s", &r.begin, &r.end, bits) == 3) {
      r.protection = (bits[0] == 'r' ? PROT_READ : 0) | (bits[1] == 'w' ? PROT_WRITE : 0) |
                     (bits[2] == 'x' ? PROT_EXEC : 0);
      ranges.push_back(r);
    }
  }
  maps.close();
  for (const Range& r : ranges) {
    const std::size_t size = r.end - r.begin;
    void* copy = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void* place = reinterpret_cast<void*>(r.begin);  // NOLINT(performance-no-int-to-ptr)
    if (copy == MAP_FAILED) {
      return errno;
    }
    std::memcpy(copy, place, size);
    if (mprotect(copy, size, r.protection) != 0 ||
        mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, place) == MAP_FAILED) {
      return errno;
    }
  }
  std::ifstream stat("/proc/self/stat");
  std::string text;
  std::getline(stat, text);
  std::istringstream rest(text.substr(text.rfind(')') + 2));
  std::vector<std::uint64_t> field(3);  // so that field[N] is proc(5)'s N
  for (std::string word; rest >> word;) {
    field.push_back(strtoull(word.c_str(), nullptr, 10));
  }
  prctl_mm_map map{};
  map.start_code = field[26];
  map.end_code = field[27];
  map.start_stack = field[28];
  map.start_data = field[45];
  map.end_data = field[46];
  map.start_brk = field[47];
  map.brk = reinterpret_cast<std::uintptr_t>(sbrk(0));
  map.arg_start = field[48];
  map.arg_end = field[49];
  map.env_start = field[50];
  map.env_end = field[51];
  map.exe_fd = static_cast<std::uint32_t>(fd);
  return of(prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0));
}

int forged(const Place& p, const char* file) {
  return in_user_namespace([&] {
    const int code = takes_identity(p.dir + "/trusted");
    return code != 0 ? code : opens_and_reads(AT_FDCWD, p.dir + file);
  });
}

void prepare_programs(Place& p) {
  copy_file("/bin/true", p.dir + "/trusted");
  write_file(p.dir + "/exe", 0666);
  write_file(p.dir + "/only-exe", 0666);
}

// --- Ancestors.

void prepare_ancestor(Place& p) {
  copy_file(own_program(), p.dir + "/parent");
  write_file(p.dir + "/inherited", 0666);
}

int below_ancestor(const Place& p, const char* how) {
  const std::string program = p.dir + "/parent";
  const std::string own = own_program();
  const std::string file = p.dir + "/inherited";
  prctl(PR_SET_CHILD_SUBREAPER, 1);  // its child comes to this process when it ends
  const pid_t pid = fork();
  if (pid == 0) {
    execl(program.c_str(), "ways", "--helper", how, own.c_str(), file.c_str(), nullptr);
    _exit(errno);
  }
  const int code = result_of(pid);
  return code != 0 ? code : result_of(-1);
}

int generations(int left, const std::string& file) {
  if (left == 0) {
    return opens_and_reads(AT_FDCWD, file);
  }
  const pid_t pid = fork();
  if (pid == 0) {
    _exit(generations(left - 1, file));
  }
  return result_of(pid);
}

// --- Control groups.

const std::string kGroups = "/sys/fs/cgroup/vfsguard-ways";

bool into(const std::string& group) {
  const int fd = open((group + "/cgroup.procs").c_str(), O_WRONLY);
  const bool ok = write(fd, "0", 1) == 1;
  close(fd);
  return ok;
}

// A control group of the process's own, which is the user's to divide.
std::string own_group() { return kGroups + "/" + std::to_string(getpid()); }

void delegate() {
  (void)!mkdir(kGroups.c_str(), 0755);
  const std::string own = own_group();
  (void)!mkdir(own.c_str(), 0755);
  for (const char* file : {"", "/cgroup.procs", "/cgroup.subtree_control"}) {
    (void)!chown((own + file).c_str(), kUser, kUser);
  }
  (void)into(own);
}

void remove_groups(const std::string& group) {
  DIR* dir = opendir(group.c_str());
  while (const dirent* entry = dir == nullptr ? nullptr : readdir(dir)) {
    if (entry->d_type == DT_DIR && entry->d_name[0] != '.') {
      remove_groups(group + "/" + entry->d_name);
    }
  }
  closedir(dir);
  rmdir(group.c_str());
}

void clean_groups(const Place&) { remove_groups(kGroups); }

int nested_groups(const Place& p) {
  std::string group = own_group();
  for (int i = 0; i < 64; ++i) {
    group += "/g";
    if (mkdir(group.c_str(), 0755) != 0) {
      return errno;
    }
  }
  return into(group) ? opens_and_reads(AT_FDCWD, p.dir + "/jailed") : ENOSYS;
}

int self_made_container(const Place& p) {
  const std::string group = own_group() + "/docker-0123456789ab" + std::string(52, '0') + ".scope";
  return mkdir(group.c_str(), 0755) == 0 && into(group)
             ? opens_and_reads(AT_FDCWD, p.dir + "/boxed")
             : ENOSYS;
}

// --- Names that a file has by its file system.

void prepare_folding(Place& p) {
  const std::string fold = p.dir + "/fold";
  make_directory(fold);
  const int fd = open(fold.c_str(), O_RDONLY);
  int flags = 0;
  (void)ioctl(fd, FS_IOC_GETFLAGS, &flags);
  flags |= FS_CASEFOLD_FL;
  (void)ioctl(fd, FS_IOC_SETFLAGS, &flags);
  close(fd);
  write_file(fold + "/Secret", 0666);
  write_file(p.dir + "/long-secret.txt", 0666);
}

Way by_name(const char* name, const char* file, bool cached = false) {
  return {.name = name,
          .tries = [file](const Place& p) { return opens_and_reads(AT_FDCWD, p.dir + file); },
          .prepare = prepare_folding,
          .enter = cached ? std::function<void()>{} : drop_dentries};
}

}  // namespace

int helper(const std::vector<std::string>& words) {
  const std::string& what = words[0];
  const std::string& file = words.back();
  if (what == "opens") {
    return opens_and_reads(AT_FDCWD, file);
  }
  if (what == "generations") {
    return generations(17, file);
  }
  // What this image forks goes on once nothing of this image lives.
  const std::string& program = words[1];
  const pid_t self = getpid();
  if (fork() != 0) {
    return 0;
  }
  while (getppid() == self) {
    usleep(1000);
  }
  if (what == "forks") {
    execl(program.c_str(), "ways", "--helper", "generations", file.c_str(), nullptr);
  } else {
    std::thread([&] {
      execl(program.c_str(), "ways", "--helper", "opens", file.c_str(), nullptr);
      _exit(errno);
    }).join();
  }
  return errno;
}

std::vector<Way> identity_ways() {
  return {
      {.name = "private writable map of what may not be read",
       .tries = maps_private,
       .prepare = prepare_reads},
      {.name = "map without access, read by /proc/self/mem",
       .tries = maps_nothing,
       .prepare = prepare_reads},
      {.name = "older map that is made longer", .tries = grows, .prepare = prepare_reads},
      {.name = "open by an older name of what was linked in",
       .tries = opens_other,
       .first = link_in,
       .prepare = prepare_opens},
      {.name = "open by another name of what was moved in",
       .tries = opens_other,
       .first = move_in,
       .prepare = prepare_opens},
      {.name = "open of what went from a weaker rule through a stronger one",
       .tries = [](const Place& p) { return opens_and_reads(AT_FDCWD, p.dir + "/out"); },
       .first = through_strong,
       .prepare = prepare_weak},
      {.name = "by a file handle, with no name in memory",
       .tries = by_handle,
       .capable = true,
       .prepare = remember_handle,
       .enter = drop_dentries,
       .fails_closed = true},
      {.name = "O_PATH received by SCM_RIGHTS, of what kills",
       .tries = receives_path_descriptor,
       .prepare = [](Place& p) { write_file(p.dir + "/kills", 0666); }},
      {.name = "executable forged, of a trusted program",
       .tries = [](const Place& p) { return forged(p, "/exe"); },
       .prepare = prepare_programs},
      {.name = "executable forged, of another program",
       .tries = [](const Place& p) { return forged(p, "/only-exe"); },
       .prepare = prepare_programs},
      {.name = "17 forks below an ancestor",
       .tries = [](const Place& p) { return below_ancestor(p, "forks"); },
       .prepare = prepare_ancestor},
      {.name = "exec by a thread, below an ancestor",
       .tries = [](const Place& p) { return below_ancestor(p, "thread"); },
       .prepare = prepare_ancestor},
      {.name = "64 control groups below its own",
       .tries = nested_groups,
       .prepare = [](Place& p) { write_file(p.dir + "/jailed", 0666); },
       .enter = delegate,
       .clean = clean_groups},
      {.name = "control group named like a container",
       .tries = self_made_container,
       .prepare = [](Place& p) { write_file(p.dir + "/boxed", 0666); },
       .enter = delegate,
       .clean = clean_groups},
  };
}

std::vector<Way> name_ways() {
  return {
      by_name("name in another case", "/fold/SECRET"),
      by_name("name in another case, in memory", "/fold/sECRET", true),
      by_name("short name", "/LONG-S~1.TXT"),
      by_name("long name in another case", "/LONG-SECRET.TXT"),
  };
}
