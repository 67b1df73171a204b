// SPDX-License-Identifier: Apache-2.0
#include "guard/debugger.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstring>
#include <filesystem>

#include <fmt/format.h>

#include "enrich/processes.h"
#include "self_protect.skel.h"
#include "sensor/attach.h"
#include "sensor/kernel_facts.h"
#include "sensor/loaded.h"
#include "sensor/map_access.h"
#include "sensor/ring.h"
#include "util/read_file.h"

namespace vfsguard::guard {

namespace {

// The number behind "Name:" in /proc/PID/status.
std::optional<std::uint32_t> number_in(const std::string& status, std::string_view name) {
  const std::string key = fmt::format("\n{}:\t", name);
  const std::size_t at = status.find(key);
  if (at == std::string::npos) {
    return std::nullopt;
  }
  std::uint32_t number = 0;
  const char* const begin = status.data() + at + key.size();
  return std::from_chars(begin, status.data() + status.size(), number).ec == std::errc{} ? std::optional(number) : std::nullopt;
}

}  // namespace

Tracer describe(std::uint32_t pid) {
  const std::string base = fmt::format("/proc/{}", pid);
  Tracer tracer{.pid = pid};
  const std::string status = util::read_file(base + "/status").value_or("");
  tracer.uid = number_in(status, "Uid").value_or(0);
  tracer.comm = util::read_file(base + "/comm").value_or("");
  while (tracer.comm.ends_with('\n')) {
    tracer.comm.pop_back();
  }
  std::error_code error;
  tracer.exe = std::filesystem::read_symlink(base + "/exe", error).string();
  tracer.start_ns = enrich::start_of(pid).value_or(0);
  return tracer;
}

std::optional<Tracer> tracer() {
  const auto of = [](const std::string& status) {
    const auto pid = number_in(status, "TracerPid");
    return pid && *pid != 0 ? std::optional(describe(*pid)) : std::nullopt;
  };
  const std::string own = util::read_file("/proc/thread-self/status").value_or("");
  if (number_in(own, "Threads") == 1) {
    return of(own);
  }
  std::error_code error;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task", error)) {
    if (auto who = of(util::read_file(thread.path() / "status").value_or(""))) {
      return who;
    }
  }
  return std::nullopt;
}

using Bss = self_protect_bpf::self_protect_bpf__bss;

struct PtraceGuard::State {
  sensor::Loaded object;
  std::vector<sensor::Link> links;
  std::optional<sensor::Ring> ring;
  std::optional<sensor::Ring> access_ring;
  util::UniqueFd wait;  // readable when one of the rings is
  Bss expected{};       // what set() and the start left there
  std::map<std::uint64_t, std::string> objects;
  Entries known_objects{sizeof(std::uint64_t), sizeof(std::uint32_t)};
  sensor::HashEntries guarded;

  [[nodiscard]] Bss& bss() const { return object.bss<Bss>(); }
};

PtraceGuard::PtraceGuard(std::unique_ptr<State> state) : state_(std::move(state)) {}
PtraceGuard::PtraceGuard(PtraceGuard&&) noexcept = default;
PtraceGuard& PtraceGuard::operator=(PtraceGuard&&) noexcept = default;
PtraceGuard::~PtraceGuard() = default;

namespace {

constexpr const char* kHooks[] = {"guard_access", "guard_traceme", "guard_map", "guard_program", "guard_command"};

// What a child of this process gets when it reads a byte of it: an errno, 0 for the byte.
int errno_of_a_childs_read() {
  static char byte = 'x';
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child == 0) {
    char into = 0;
    const iovec here{&into, 1};
    const iovec there{&byte, 1};
    _exit(process_vm_readv(parent, &here, 1, &there, 1, 0) == 1 ? 0 : errno & 0xff);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) {
    return EAGAIN;
  }
  return WEXITSTATUS(status);
}

}  // namespace

util::Result<PtraceGuard> PtraceGuard::open(const policy::Guard& policy) {
  const auto list = util::read_file("/sys/kernel/security/lsm");
  if (list && fmt::format(",{},", list->substr(0, list->find('\n'))).find(",bpf,") == std::string::npos) {
    return util::fail(EX_UNAVAILABLE, fmt::format("'bpf' is not in this kernel's lsm={}", list->substr(0, list->find('\n'))));
  }
  sensor::keep_libbpf_words();
  const sensor::Skeleton<self_protect_bpf> skeleton(self_protect_bpf__open_and_load(), self_protect_bpf__destroy);
  if (!skeleton) {
    return util::fail_errno(EX_UNAVAILABLE, "this kernel does not load LSM programs");
  }
  auto loaded = sensor::Loaded::of(skeleton->obj);
  if (!loaded) {
    return util::pass_on(loaded.error());
  }
  PtraceGuard guard(std::make_unique<State>());
  State& state = *guard.state_;
  state.object = std::move(*loaded);
  LIBBPF_OPTS(bpf_test_run_opts, run);
  if (bpf_prog_test_run_opts(state.object.program_fd("who_is_guarded"), &run) != 0) {
    return util::fail_errno(EX_OSERR, "cannot learn this process's own pid from the kernel");
  }
  for (const char* program : kHooks) {
    auto link = sensor::attach_program(state.object.program(program));
    if (!link) {
      return util::pass_on(link.error());
    }
    state.links.push_back(std::move(*link));
  }
  policy::Guard trial = policy;
  trial.forbid = policy::Guard::Forbid::kAgent;
  guard.set(trial);
  if (errno_of_a_childs_read() != EPERM) {
    return util::fail(EX_UNAVAILABLE, "LSM programs attach, but this kernel never calls them ('bpf' is not in its lsm= list)");
  }
  guard.set(policy);
  state.guarded = sensor::HashEntries(state.object.map("guarded"));
  state.wait.reset(epoll_create1(EPOLL_CLOEXEC));
  const std::pair<const char*, std::optional<sensor::Ring>&> rings[] = {{"held_off", state.ring}, {"accesses", state.access_ring}};
  for (const auto& [name, into] : rings) {
    const sensor::Loaded::Map& map = state.object.map(name);
    auto ring = sensor::Ring::open(map.fd.get(), map.max_entries);
    if (!ring) {
      return util::pass_on(ring.error());
    }
    into.emplace(std::move(*ring));
    epoll_event readable{};
    readable.events = EPOLLIN;
    if (epoll_ctl(state.wait.get(), EPOLL_CTL_ADD, into->fd(), &readable) != 0) {
      return util::fail_errno(EX_OSERR, "cannot wait for the ring buffers");
    }
  }
  (void)guard.take();  // the trial's
  return guard;
}

void PtraceGuard::set(const policy::Guard& policy) {
  Bss& bss = state_->bss();
  missing_.clear();
  std::atomic_ref(bss.exempt_uid_count).store(0);
  std::atomic_ref(bss.exempt_exe_count).store(0);
  std::uint32_t uids = 0;
  for (const std::uint32_t uid : policy.exempt_uids) {
    if (uids < VG_EXEMPT_MAX) {
      bss.exempt_uids[uids++] = uid;
    }
  }
  std::uint32_t exes = 0;
  for (const std::string& path : policy.exempt_exes) {
    struct stat status{};
    if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
      missing_.push_back(path);
    } else if (exes < VG_EXEMPT_MAX) {
      // The kernel's own encoding: 12 bits of major, 20 of minor number.
      bss.exempt_exes[exes++] = {status.st_ino, static_cast<std::uint32_t>(major(status.st_dev) << 20 | minor(status.st_dev)), 0};
    }
  }
  std::atomic_ref(bss.exempt_uid_count).store(uids);
  std::atomic_ref(bss.exempt_exe_count).store(exes);
  std::atomic_ref(bss.forbids)
      .store(policy.forbid == policy::Guard::Forbid::kAll     ? VG_FORBID_ALL
             : policy.forbid == policy::Guard::Forbid::kAgent ? VG_FORBID_AGENT
                                                              : 0u);
  const Bss before = state_->expected;
  std::memcpy(&state_->expected, &bss, sizeof bss);
  if (before.agent_tgid != 0) {  // not what others may have made of it
    state_->expected.agent_tgid = before.agent_tgid;
    state_->expected.agent_start = before.agent_start;
  }
}

std::vector<vg_held_off> PtraceGuard::take() {
  std::vector<vg_held_off> taken;
  // A record that cannot be reached stays where it is; `untold` counts what finds no room behind it.
  (void)state_->ring->consume([&](std::span<const std::byte> bytes) {
    if (vg_held_off record{}; bytes.size() >= sizeof record) {
      std::memcpy(&record, bytes.data(), sizeof record);
      taken.push_back(record);
    }
    return true;
  });
  return taken;
}

std::uint64_t PtraceGuard::untold() const { return std::atomic_ref(state_->bss().untold).load(); }
int PtraceGuard::fd() const { return state_->wait.get(); }

void PtraceGuard::guard_objects(std::map<std::uint64_t, std::string> ids) {
  State& state = *state_;
  constexpr std::uint32_t kOne = 1;
  for (const auto& [key, name] : state.objects) {
    if (!ids.contains(key)) {
      (void)state.guarded.remove(bytes_of(key));
    }
  }
  state.known_objects.take({});
  for (const auto& [key, name] : ids) {
    if (state.guarded.put(bytes_of(key), bytes_of(kOne))) {
      state.known_objects.set(bytes_of(key), bytes_of(kOne));
    }
  }
  state.objects = std::move(ids);
}

std::vector<PtraceGuard::Access> PtraceGuard::take_accesses() {
  std::vector<Access> taken;
  (void)state_->access_ring->consume([&](std::span<const std::byte> bytes) {
    if (Access access; bytes.size() >= sizeof access.raw) {
      std::memcpy(&access.raw, bytes.data(), sizeof access.raw);
      const auto object = state_->objects.find(access.raw.key);
      access.object = object != state_->objects.end() ? object->second : "an object that is gone";
      taken.push_back(std::move(access));
    }
    return true;
  });
  return taken;
}

std::uint64_t PtraceGuard::unseen_accesses() const { return std::atomic_ref(state_->bss().unseen_accesses).load(); }

void PtraceGuard::register_state(KernelState& state) {
  Bss& now = state_->bss();
  const Bss& then = state_->expected;
  state.add_word("guard/.bss", "guard/forbids", now.forbids, then.forbids);
  state.add_word("guard/.bss", "guard/agent_tgid", now.agent_tgid, then.agent_tgid);
  state.add_word("guard/.bss", "guard/agent_start", now.agent_start, then.agent_start);
  state.add_word("guard/.bss", "guard/exempt_uid_count", now.exempt_uid_count, then.exempt_uid_count);
  state.add_word("guard/.bss", "guard/exempt_exe_count", now.exempt_exe_count, then.exempt_exe_count);
  state.add_memory("guard/.bss", "guard/exempt_uids", now.exempt_uids, std::as_bytes(std::span(then.exempt_uids)));
  state.add_memory("guard/.bss", "guard/exempt_exes", now.exempt_exes, std::as_bytes(std::span(then.exempt_exes)));
  state.add_entries("guard/guarded", state_->known_objects, state_->guarded);
}

sensor::Inventory PtraceGuard::inventory() const {
  sensor::Inventory inventory;
  sensor::add_object(inventory, "guard", state_->object);
  for (std::size_t i = 0; i < state_->links.size(); ++i) {
    sensor::add_link(inventory, "guard", kHooks[i], state_->links[i].get());
  }
  return inventory;
}

}  // namespace vfsguard::guard
