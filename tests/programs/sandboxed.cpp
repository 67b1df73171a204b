// SPDX-License-Identifier: Apache-2.0
// What the agent's filter of system calls (src/guard/sandbox.h) says to each of some: a process of its own has the filter, and makes the call. Prints
// "NAME killed|EPERM|fine|ERRNO" a line.
#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>

#include "guard/sandbox.h"

namespace {

int result(long code) { return code < 0 ? errno : 0; }

// Nothing that would do anything were it let through: bad arguments all.
const std::pair<const char*, std::function<int()>> kTries[] = {
    {"execve", [] { return result(execl("/nowhere", "nowhere", nullptr)); }},
    {"ptrace", [] { return result(ptrace(PTRACE_ATTACH, -1, nullptr, nullptr)); }},
    {"mount", [] { return result(mount("/nowhere", "/nowhere", "none", 0, nullptr)); }},
    {"setns", [] { return result(syscall(SYS_setns, -1, 0)); }},
    {"process_vm_writev", [] { return result(process_vm_writev(-1, nullptr, 0, nullptr, 0, 0)); }},
    {"init_module", [] { return result(syscall(SYS_init_module, nullptr, 0, nullptr)); }},
    {"socket_inet", [] { return result(socket(AF_INET, SOCK_STREAM, 0)); }},
    {"socket_unix", [] { return result(socket(AF_UNIX, SOCK_DGRAM, 0)); }},
    {"mprotect_exec",
     [] {
       void* const memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
       return result(mprotect(memory, 4096, PROT_READ | PROT_EXEC));
     }},
    {"mmap_write_exec", [] { return mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? errno : 0; }},
    {"keyctl", [] { return result(syscall(SYS_keyctl, -1, 0, 0, 0, 0)); }},
    {"userfaultfd", [] { return result(syscall(SYS_userfaultfd, ~0)); }},
    {"io_uring_setup", [] { return result(syscall(SYS_io_uring_setup, 0, nullptr)); }},
    {"capset", [] { return result(syscall(SYS_capset, nullptr, nullptr)); }},
    {"open", [] { return result(open("/proc/self/status", O_RDONLY | O_CLOEXEC)); }},
    {"thread",
     [] {
       bool ran = false;
       std::thread([&] { ran = true; }).join();
       return ran ? 0 : EAGAIN;
     }},
    {"bpf",
     [] {
       const long code = syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, nullptr, 0);
       return code < 0 && errno == EPERM ? EPERM : 0;  // it came as far as the kernel's own checks
     }},
};

}  // namespace

int main() {
  for (const auto& [name, attempt] : kTries) {
    const pid_t child = fork();
    if (child == 0) {
      if (!vfsguard::guard::restrict_calls()) {
        _exit(255);
      }
      _exit(attempt());
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
      printf("%s %s\n", name, WTERMSIG(status) == SIGSYS ? "killed" : "crashed");
    } else {
      const int code = WEXITSTATUS(status);
      printf("%s %s\n", name, code == 0 ? "fine" : code == EPERM ? "EPERM" : strerrorname_np(code));
    }
  }
  return 0;
}
