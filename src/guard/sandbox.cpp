// SPDX-License-Identifier: Apache-2.0
#include "guard/sandbox.h"

#include <linux/bpf.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <vector>

#include <fmt/format.h>
#include <seccomp.h>

namespace vfsguard::guard {

namespace {

// Not in the headers of every libcap that is around.
constexpr cap_value_t kPerfmon = 38;
constexpr cap_value_t kBpf = 39;

struct CapDeleter {
  void operator()(_cap_struct* caps) const { cap_free(caps); }
};
struct FilterDeleter {
  void operator()(void* filter) const { seccomp_release(filter); }
};

// By what they are for. A name that this libseccomp does not know is none that its kernels have.
constexpr const char* kCalls[] = {
    // files: policies, rules, what protects and what was protected, /proc, the output
    "open", "openat", "openat2", "creat", "close", "close_range", "read", "write", "readv", "writev", "pread64", "pwrite64", "lseek", "stat", "fstat", "lstat",
    "newfstatat", "statx", "statfs", "fstatfs", "access", "faccessat", "faccessat2", "readlink", "readlinkat", "getdents", "getdents64", "getcwd", "mkdir",
    "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "fsync", "fdatasync", "ftruncate", "fchmod", "chmod", "fchown", "chown",
    "umask", "fcntl", "flock", "ioctl", "dup", "dup2", "dup3", "pipe2", "fadvise64", "getxattr", "lgetxattr",
    // memory
    "brk", "munmap", "mremap", "madvise", "msync", "mlock", "mincore", "membarrier",
    // threads, and the child that tries the ptrace guard
    "clone", "clone3", "fork", "vfork", "wait4", "waitid", "exit", "exit_group", "futex", "set_robust_list", "get_robust_list", "rseq", "set_tid_address",
    "sched_yield", "sched_getaffinity", "gettid", "getpid", "getppid", "process_vm_readv",
    // time and waiting
    "clock_gettime", "clock_getres", "gettimeofday", "time", "clock_nanosleep", "nanosleep", "timerfd_create", "timerfd_settime", "timerfd_gettime", "poll",
    "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd2", "restart_syscall",
    // signals, and ending a process
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "sigaltstack", "signalfd4", "tgkill", "kill", "pidfd_open", "pidfd_send_signal",
    // the control socket, the service manager, users' names
    "bind", "listen", "accept4", "connect", "sendto", "sendmsg", "recvfrom", "recvmsg", "getsockopt", "setsockopt", "getsockname", "getpeername", "shutdown",
    "sendmmsg",
    // the kernel's side
    "perf_event_open", "fanotify_init", "fanotify_mark", "name_to_handle_at", "open_by_handle_at",
    // who am I, on what
    "getuid", "geteuid", "getgid", "getegid", "getgroups", "getresuid", "getresgid", "capget", "uname", "sysinfo", "getrlimit", "prlimit64", "getrusage",
    "getrandom", "getcpu", "arch_prctl", "prctl", "seccomp"};

// Nobody means well who makes the agent do this.
constexpr const char* kFatal[] = {"execve",     "execveat",        "ptrace", "process_vm_writev", "init_module", "finit_module", "delete_module",
                                  "kexec_load", "kexec_file_load", "reboot", "pivot_root",        "mount",       "umount2",      "setns",
                                  "unshare"};

}  // namespace

util::Result<void> drop_capabilities(const Needed& needed) {
  std::vector<cap_value_t> keep{CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_KILL, CAP_SYSLOG, kPerfmon, kBpf};
  if (needed.starting || needed.admin) {
    keep.push_back(CAP_SYS_ADMIN);
  }
  if (needed.starting) {
    keep.push_back(CAP_SETPCAP);
  }
  if (needed.owners) {
    keep.push_back(CAP_CHOWN);
  }
  const std::unique_ptr<_cap_struct, CapDeleter> now(cap_get_proc());
  const std::unique_ptr<_cap_struct, CapDeleter> then(cap_init());
  if (!now || !then) {
    return util::fail_errno(EX_OSERR, "cannot read this process's capabilities");
  }
  // What was not there cannot be kept.
  std::erase_if(keep, [&](cap_value_t cap) {
    cap_flag_value_t has = CAP_CLEAR;
    return cap_get_flag(now.get(), cap, CAP_PERMITTED, &has) != 0 || has == CAP_CLEAR;
  });
  cap_flag_value_t may_bound = CAP_CLEAR;
  cap_get_flag(now.get(), CAP_SETPCAP, CAP_EFFECTIVE, &may_bound);
  for (cap_value_t cap = 0; may_bound == CAP_SET && cap_get_bound(cap) >= 0; ++cap) {
    if (std::ranges::find(keep, cap) == keep.end() && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0) {
      return util::fail_errno(EX_OSERR, "cannot bound this process's capabilities");
    }
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return util::fail_errno(EX_OSERR, "cannot set no_new_privs");
  }
  const int count = static_cast<int>(keep.size());
  if (cap_set_flag(then.get(), CAP_PERMITTED, count, keep.data(), CAP_SET) != 0 || cap_set_flag(then.get(), CAP_EFFECTIVE, count, keep.data(), CAP_SET) != 0 ||
      cap_set_proc(then.get()) != 0) {
    return util::fail_errno(EX_OSERR, "cannot drop this process's capabilities");
  }
  return {};
}

util::Result<void> restrict_calls() {
  const std::unique_ptr<void, FilterDeleter> filter(seccomp_init(SCMP_ACT_ERRNO(EPERM)));
  if (!filter) {
    return util::fail(EX_OSERR, "cannot make a filter of system calls");
  }
  int code = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1);
  const auto add = [&](std::uint32_t action, const char* name) {
    const int call = seccomp_syscall_resolve_name(name);
    if (call >= 0 && code == 0) {
      code = seccomp_rule_add_exact_array(filter.get(), action, call, 0, nullptr);
    }
  };
  const auto add_if = [&](int call, const scmp_arg_cmp& condition, std::uint32_t action = SCMP_ACT_ALLOW) {
    if (code == 0) {
      code = seccomp_rule_add_exact_array(filter.get(), action, call, 1, &condition);
    }
  };
  for (const char* name : kCalls) {
    add(SCMP_ACT_ALLOW, name);
  }
  for (const char* name : kFatal) {
    add(SCMP_ACT_KILL_PROCESS, name);
  }
  // Libraries are mapped executable; nothing becomes it, and nothing that is can be written to.
  constexpr scmp_datum_t kBoth = PROT_WRITE | PROT_EXEC;
  for (const scmp_datum_t protection : {scmp_datum_t{0}, scmp_datum_t{PROT_WRITE}, scmp_datum_t{PROT_EXEC}}) {
    add_if(SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, kBoth, protection));
  }
  add_if(SCMP_SYS(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, scmp_datum_t{PROT_EXEC}, scmp_datum_t{0}));
  // libbpf (1.1) looks for modules with types of their own, by a command that asks for CAP_SYS_ADMIN, and gives up when that is refused (load_module_btfs).
  // None is needed; it is told that there are none.
  add_if(SCMP_SYS(bpf), SCMP_A0(SCMP_CMP_EQ, scmp_datum_t{BPF_BTF_GET_NEXT_ID}), SCMP_ACT_ERRNO(ENOENT));
  add_if(SCMP_SYS(bpf), SCMP_A0(SCMP_CMP_NE, scmp_datum_t{BPF_BTF_GET_NEXT_ID}));
  add_if(SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, scmp_datum_t{AF_UNIX}));
  add_if(SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, scmp_datum_t{AF_NETLINK}));
  if (code == 0) {
    code = seccomp_load(filter.get());
  }
  return code == 0 ? util::Result<void>{} : util::fail_errno(EX_OSERR, "cannot filter system calls", -code);
}

}  // namespace vfsguard::guard
