// SPDX-License-Identifier: Apache-2.0
#include "sensor/sensor.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <optional>
#include <unordered_set>

#include <fmt/format.h>

#include "event/names.h"
#include "sensor/call_functions.h"
#include "sensor/kprobe_events.h"
#include "util/fd.h"
#include "vfsguard.skel.h"

namespace vfsguard::sensor {

namespace {

// libbpf's words since the last take; the last warning is usually the reason.
std::string& libbpf_log() {
  static std::string log;
  return log;
}

int log_libbpf(libbpf_print_level level, const char* format, va_list arguments) {
  if (level != LIBBPF_WARN) {
    return 0;
  }
  char line[4096];
  const int n = vsnprintf(line, sizeof line, format, arguments);
  libbpf_log() += line;
  return n;
}

// The one line of libbpf's and the verifier's words that says why.
std::string why() {
  const std::string log = std::exchange(libbpf_log(), {});
  std::string best;
  std::size_t at = 0;
  while (at < log.size()) {
    const std::size_t end = std::min(log.find('\n', at), log.size());
    std::string line = log.substr(at, end - at);
    at = end + 1;
    if (line.starts_with("libbpf: ")) {
      line.erase(0, 8);
    }
    const bool frame = line.empty() || line.starts_with("--") || line.starts_with("-- ") || line.starts_with("processed ") ||
                       line.find("failed to load object") != std::string::npos || line.find("failed to load BPF skeleton") != std::string::npos;
    if (!frame && best.empty()) {
      best = line;
    }
  }
  return best;
}

struct BtfDeleter {
  void operator()(btf* b) const { btf__free(b); }
};

// What decides which programs fit this kernel; features, never version numbers.
struct KernelFacts {
  const char* submit = nullptr;  // the tracepoint of an io_uring submission
  bool complete_cqe = false;     // io_uring_complete(ctx, req, cqe) since 6.16
  bool rdonly_cast = false;
  bool uring = false;
  bool fprobe = false;               // many functions by one link (kprobe.multi)
  bool setattr_takes_idmap = false;  // lsm/inode_setattr(idmap, dentry, attr) since 6.9
  int lsm_file_open = -1;
  std::unordered_set<std::string> functions;  // those that we may probe

  [[nodiscard]] bool has(const std::string& function) const { return functions.contains(function); }
};

util::Result<KernelFacts> kernel_facts() {
  const std::unique_ptr<btf, BtfDeleter> kernel(btf__load_vmlinux_btf());
  if (!kernel) {
    return util::fail(EX_UNAVAILABLE, fmt::format("this kernel offers no type information ({}); it needs CONFIG_DEBUG_INFO_BTF=y (/sys/kernel/btf/vmlinux)",
                                                  util::errno_text(errno)));
  }
  KernelFacts facts;
  for (const char* name : {"io_uring_submit_req", "io_uring_submit_sqe"}) {  // renamed in 6.3
    if (facts.submit == nullptr && btf__find_by_name_kind(kernel.get(), fmt::format("btf_trace_{}", name).c_str(), BTF_KIND_TYPEDEF) > 0) {
      facts.submit = name;
    }
  }
  // One pass for all functions: a search by name is a pass each.
  for (__u32 id = 1, end = btf__type_cnt(kernel.get()); id < end; ++id) {
    const btf_type* type = btf__type_by_id(kernel.get(), id);
    if (!btf_is_func(type)) {
      continue;
    }
    const std::string_view name = btf__name_by_offset(kernel.get(), type->name_off);
    if (name.starts_with("__x64_sys_") || name.starts_with("__ia32_") || name.starts_with("security_") || name.starts_with("bpf_lsm_") ||
        name.starts_with("io_") || name == "vfs_open" || name == "register_fprobe_ips") {
      facts.functions.emplace(name);
      if (name == "bpf_lsm_inode_setattr") {
        facts.setattr_takes_idmap = btf_vlen(btf__type_by_id(kernel.get(), type->type)) == 3;
      }
    }
  }
  facts.fprobe = facts.has("register_fprobe_ips");
  facts.rdonly_cast = btf__find_by_name_kind(kernel.get(), "bpf_rdonly_cast", BTF_KIND_FUNC) > 0;
  facts.lsm_file_open = btf__find_by_name_kind(kernel.get(), "bpf_lsm_file_open", BTF_KIND_FUNC);
  const int complete = btf__find_by_name_kind(kernel.get(), "btf_trace_io_uring_complete", BTF_KIND_TYPEDEF);
  if (complete > 0) {
    facts.uring = true;
    const btf_type* type = btf__type_by_id(kernel.get(), static_cast<__u32>(complete));
    type = btf__type_by_id(kernel.get(), type->type);  // pointer
    type = btf__type_by_id(kernel.get(), type->type);  // prototype
    facts.complete_cqe = btf_vlen(type) == 4;          // void *, ctx, req, cqe
  }
  return facts;
}

// Where LSM programs are refused as such there is no need to load everything first.
bool lsm_programs_load(const KernelFacts& facts) {
  if (facts.lsm_file_open <= 0) {
    return false;
  }
  const bpf_insn program[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0},
                              {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0}};
  LIBBPF_OPTS(bpf_prog_load_opts, options);
  options.expected_attach_type = BPF_LSM_MAC;
  options.attach_btf_id = static_cast<__u32>(facts.lsm_file_open);
  const util::UniqueFd fd(bpf_prog_load(BPF_PROG_TYPE_LSM, "vg_probe", "GPL", program, std::size(program), &options));
  return static_cast<bool>(fd);
}

struct SkeletonDeleter {
  void operator()(vfsguard_bpf* skeleton) const { vfsguard_bpf__destroy(skeleton); }
};
struct LinkDeleter {
  void operator()(bpf_link* link) const { bpf_link__destroy(link); }
};
struct RingDeleter {
  void operator()(ring_buffer* ring) const { ring_buffer__free(ring); }
};
using Link = std::unique_ptr<bpf_link, LinkDeleter>;

constexpr std::uint64_t bit(unsigned operation) { return std::uint64_t{1} << operation; }

bool kprobes_usable(const KernelFacts& facts) {
  return facts.fprobe || (KprobeEvents::tracefs() && access((*KprobeEvents::tracefs() + "/kprobe_events").c_str(), W_OK) == 0);
}

// The operations whose calls must be followed for these to be seen: a create and an O_TRUNC are opens, rmdir can be unlinkat.
std::uint64_t followed(std::uint64_t operations) {
  std::uint64_t mask = operations;
  if ((operations & (bit(VG_OP_CREATE) | bit(VG_OP_TRUNCATE))) != 0) {
    mask |= bit(VG_OP_OPEN);
  }
  if ((operations & bit(VG_OP_RMDIR)) != 0) {
    mask |= bit(VG_OP_UNLINK);
  }
  return mask;
}

}  // namespace

struct Sensor::State {
  std::unique_ptr<vfsguard_bpf, SkeletonDeleter> skeleton;
  KprobeEvents kprobes;
  std::vector<Link> links;
  std::unique_ptr<ring_buffer, RingDeleter> ring;
  Handler handler;
  Hook hook = Hook::kAuto;
  KernelFacts facts;
  std::uint64_t operations = 0;  // whose calls are followed
  std::vector<bpf_program*> programs;
  std::size_t budget = 0;
  std::size_t consumed = 0;
  std::uint64_t probe_misses = 0;  // of probes that are gone

  [[nodiscard]] std::uint64_t misses() const;

  static int on_record(void* self, void* data, size_t size) {
    auto* state = static_cast<State*>(self);
    state->handler({static_cast<const std::byte*>(data), size});
    return ++state->consumed >= state->budget ? 1 : 0;
  }

  void choose_programs(const Filter& filter);
  void set_knobs(const Filter& filter);
  void size_maps(const Options& options);
  util::Result<void> fill_maps(const Filter& filter);
  util::Result<void> attach_kprobes();
  util::Result<void> attach_requests();
  util::Result<void> attach_probes(bpf_program* program, const std::vector<Probe>& probes, bool returns);
  util::Result<void> attach_probe(bpf_program* program, const Probe& probe, bool returns);
  [[nodiscard]] bpf_program* object_program(const ObjectHook& lsm_hook) const;
  util::Result<void> check_lsm_fires();
};

// What the kernel says of its probes that did not fire. Links of many functions tell it since 6.7.
std::uint64_t Sensor::State::misses() const {
  std::uint64_t total = probe_misses + kprobes.misses();
  for (const Link& link : links) {
    struct {  // struct bpf_link_info, as far as the kprobe_multi part of newer kernels
      __u32 type, id, prog_id, pad;
      __u64 addresses;
      __u32 count, flags;
      __u64 missed;
    } info{};
    __u32 size = sizeof info;
    if (bpf_obj_get_info_by_fd(bpf_link__fd(link.get()), &info, &size) == 0 && info.type == BPF_LINK_TYPE_KPROBE_MULTI) {
      total += info.missed;
    }
  }
  return total;
}

void Sensor::State::choose_programs(const Filter& filter) {
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton->obj) { bpf_program__set_autoload(program, false); }
  operations = followed(filter.operations);
  const auto& p = skeleton->progs;
  programs = {p.process_exec, p.process_exit, p.who_am_i};
  if (filter.follow_children) {
    programs.push_back(p.process_fork);
  }
  programs.push_back(p.finish);
  if (facts.uring) {
    programs.push_back(p.io_uring_req_failed);
  }
  if (hook == Hook::kTracepoint || hook == Hook::kLsm) {
    programs.insert(programs.end(), {p.sys_enter, p.sys_exit});
  }
  // Under LSM requests are followed where they are carried out, as the hooks are; without kprobes by their names alone.
  const bool probe_requests = hook == Hook::kLsm && kprobes_usable(facts);
  if ((hook == Hook::kTracepoint || (hook == Hook::kLsm && !probe_requests)) && facts.uring && facts.submit != nullptr) {
    programs.insert(programs.end(), {p.io_uring_submit, p.io_uring_complete});
  }
  if (hook == Hook::kLsm) {
    for (const ObjectHook& object : object_hooks()) {
      // file_open always: it also shows that LSM programs are called at all.
      if (((object.operations & operations) != 0 || object.where == VG_AT_FILE_OPEN) && facts.has(std::string("bpf_lsm_") + object.name)) {
        programs.push_back(object_program(object));
      }
    }
    if (facts.uring && probe_requests) {
      programs.insert(programs.end(), {p.request_enter, p.call_return});
    }
  }
  if (hook == Hook::kKprobe) {
    programs.insert(programs.end(), {p.call_enter, p.call_return, p.decide_kprobe, p.request_enter});
  }
  for (bpf_program* wanted : programs) {
    bpf_program__set_autoload(wanted, true);
    if (bpf_program__type(wanted) == BPF_PROG_TYPE_KPROBE && !facts.fprobe) {
      bpf_program__set_expected_attach_type(wanted, static_cast<bpf_attach_type>(0));  // one kprobe at a time
    }
  }
}

bpf_program* Sensor::State::object_program(const ObjectHook& lsm_hook) const {
  return bpf_object__find_program_by_name(skeleton->obj, (std::string("decide_") + lsm_hook.name).c_str());
}

void Sensor::State::set_knobs(const Filter& filter) {
  auto& knobs = *skeleton->rodata;
  knobs.hook_id = static_cast<__u32>(hook);
  knobs.direct_loads = facts.rdonly_cast ? 1 : 0;
  knobs.complete_takes_cqe = facts.complete_cqe ? 1 : 0;
  knobs.setattr_takes_idmap = facts.setattr_takes_idmap ? 1 : 0;
  knobs.operation_mask = filter.operations;
  knobs.begin_mask = operations;
  knobs.every_access = filter.every_access ? 1 : 0;
  knobs.only_failed = filter.only_failed ? 1 : 0;
  knobs.only_write = filter.only_write ? 1 : 0;
  knobs.filter_path = filter.by_path ? 1 : 0;
  knobs.filter_exe = filter.by_exe ? 1 : 0;
  knobs.filter_comm = filter.comms.empty() ? 0 : 1;
  knobs.filter_uid = filter.uids.empty() ? 0 : 1;
  knobs.filter_pid = filter.pids.empty() ? 0 : 1;
  knobs.follow_children = filter.follow_children ? 1 : 0;
  knobs.match_operations = filter.set_operations.empty() ? 0 : 1;
}

void Sensor::State::size_maps(const Options& options) {
  const Filter& filter = options.filter;
  const auto resize = [](bpf_map* map, std::size_t entries) { bpf_map__set_max_entries(map, static_cast<__u32>(std::max<std::size_t>(entries, 1))); };
  resize(skeleton->maps.ring, options.ring_bytes);
  resize(skeleton->maps.dfa_states, filter.automaton.states.size());
  resize(skeleton->maps.dfa_edges, filter.automaton.edges.size());
  resize(skeleton->maps.match_sets, filter.set_operations.size());
  resize(skeleton->maps.comms, filter.comms.size());
  resize(skeleton->maps.uids, filter.uids.size());
}

util::Result<void> Sensor::State::fill_maps(const Filter& filter) {
  const auto put = [](bpf_map* map, const void* key, std::size_t key_size, const void* value, std::size_t value_size) {
    return bpf_map__update_elem(map, key, key_size, value, value_size, BPF_ANY) == 0;
  };
  const auto put_all = [](bpf_map* map, const auto& values) {
    if (values.empty()) {
      return true;
    }
    std::vector<__u32> keys(values.size());
    for (std::size_t i = 0; i < keys.size(); ++i) {
      keys[i] = static_cast<__u32>(i);
    }
    auto count = static_cast<__u32>(values.size());
    return bpf_map_update_batch(bpf_map__fd(map), keys.data(), values.data(), &count, nullptr) == 0;
  };
  const auto& maps = skeleton->maps;
  const __u32 zero = 0;
  const __u8 one = 1;
  const int finisher = bpf_program__fd(skeleton->progs.finish);
  bool ok = put(maps.finisher, &zero, sizeof zero, &finisher, sizeof finisher);
  ok = ok && put(maps.dfa_head, &zero, sizeof zero, &filter.automaton.head, sizeof filter.automaton.head);
  ok = ok && put_all(maps.dfa_states, filter.automaton.states) && put_all(maps.dfa_edges, filter.automaton.edges);
  ok = ok && put_all(maps.match_sets, filter.set_operations);
  for (const std::string& comm : filter.comms) {
    char key[VG_COMM_LEN] = {};
    comm.copy(key, sizeof key - 1);
    ok = ok && put(maps.comms, key, sizeof key, &one, sizeof one);
  }
  for (const std::uint32_t uid : filter.uids) {
    ok = ok && put(maps.uids, &uid, sizeof uid, &one, sizeof one);
  }
  for (const std::uint32_t pid : filter.pids) {
    ok = ok && put(maps.pids, &pid, sizeof pid, &one, sizeof one);
  }
  if (!ok) {
    return util::fail_errno(EX_OSERR, "cannot fill the filter's tables");
  }
  return {};
}

util::Result<void> Sensor::State::attach_probe(bpf_program* program, const Probe& probe, bool returns) {
  auto perf = kprobes.add({probe.symbol, returns, probe.cookie});
  if (!perf) {
    return util::pass_on(perf.error());
  }
  LIBBPF_OPTS(bpf_perf_event_opts, options);
  options.bpf_cookie = probe.cookie;
  const int fd = fcntl(perf->get(), F_DUPFD_CLOEXEC, 0);  // the link takes one over
  bpf_link* link = bpf_program__attach_perf_event_opts(program, fd, &options);
  if (link == nullptr) {
    const int code = errno;
    close(fd);
    return util::fail_errno(EX_UNAVAILABLE, fmt::format("cannot attach to {}", probe.symbol), code);
  }
  links.emplace_back(link);
  return {};
}

// All by one link where the kernel has fprobes; else one kprobe event each.
util::Result<void> Sensor::State::attach_probes(bpf_program* program, const std::vector<Probe>& probes, bool returns) {
  if (!facts.fprobe) {
    for (const Probe& probe : probes) {
      if (auto done = attach_probe(program, probe, returns); !done) {
        return done;
      }
    }
    return {};
  }
  if (probes.empty()) {
    return {};
  }
  std::vector<const char*> symbols;
  std::vector<__u64> cookies;
  for (const Probe& probe : probes) {
    symbols.push_back(probe.symbol.c_str());
    cookies.push_back(probe.cookie);
  }
  LIBBPF_OPTS(bpf_kprobe_multi_opts, options);
  options.syms = symbols.data();
  options.cookies = cookies.data();
  options.cnt = symbols.size();
  options.retprobe = returns;
  bpf_link* link = bpf_program__attach_kprobe_multi_opts(program, nullptr, &options);
  if (link == nullptr) {
    return util::fail_errno(EX_UNAVAILABLE, fmt::format("cannot attach {} to {} functions", bpf_program__name(program), probes.size()));
  }
  links.emplace_back(link);
  return {};
}

util::Result<void> Sensor::State::attach_kprobes() {
  const auto& p = skeleton->progs;
  if (!facts.fprobe) {
    KprobeEvents::remove_stale();
  }
  const HasFunction has = [&](const std::string& name) { return facts.has(name); };
  std::vector<Probe> calls = call_probes(operations, has);
  const std::vector<Probe> requests = request_probes(operations, has);
  if (calls.empty()) {
    return util::fail(EX_UNAVAILABLE, "none of the system calls' functions can be probed");
  }
  std::vector<Probe> returns = calls;
  returns.insert(returns.end(), requests.begin(), requests.end());
  // Object and return first: a call that began before its return probe was there would count as missed.
  auto done = attach_probes(p.decide_kprobe, object_probes(operations, has), false);
  done = done ? attach_probes(p.call_return, returns, true) : done;
  done = done ? attach_probes(p.request_enter, requests, false) : done;
  return done ? attach_probes(p.call_enter, calls, false) : done;
}

util::Result<void> Sensor::State::attach_requests() {
  const std::vector<Probe> requests = request_probes(operations, [&](const std::string& name) { return facts.has(name); });
  auto done = attach_probes(skeleton->progs.call_return, requests, true);
  return done ? attach_probes(skeleton->progs.request_enter, requests, false) : done;
}

// A kernel can accept and attach LSM programs and never call them: "bpf" must be in its lsm= list.
util::Result<void> Sensor::State::check_lsm_fires() {
  const __u32 before = skeleton->bss->lsm_canary;
  const util::UniqueFd canary(::open("/proc/self/status", O_RDONLY | O_CLOEXEC));
  if (std::atomic_ref(skeleton->bss->lsm_canary).load() == before) {
    return util::fail(EX_UNAVAILABLE, "LSM programs attach but are never called: 'bpf' is not in the kernel's lsm= list");
  }
  return {};
}

namespace {

util::Error load_error(int code, Hook hook) {
  util::Error error;
  error.code = -code;
  const std::string reason = why();
  if (-code == EPERM || -code == EACCES) {
    error.exit_code = geteuid() == 0 ? EX_UNAVAILABLE : EX_NOPERM;
    error.message = geteuid() == 0 ? fmt::format("the kernel refuses the {} programs: {}", event::hook_name(static_cast<unsigned>(hook)),
                                                 reason.empty() ? util::errno_text(-code) : reason)
                                   : "loading BPF programs needs root (CAP_BPF and CAP_PERFMON); run with sudo";
  } else {
    error.exit_code = EX_UNAVAILABLE;
    error.message = fmt::format("cannot load the {} programs: {} ({})", event::hook_name(static_cast<unsigned>(hook)), util::errno_text(-code),
                                reason.empty() ? "no reason given" : reason);
  }
  return error;
}

}  // namespace

util::Result<Sensor> Sensor::open(const Options& options, Handler handler) {
  libbpf_set_print(log_libbpf);
  libbpf_log().clear();
  if (geteuid() != 0 && access("/sys/kernel/btf/vmlinux", R_OK) == 0) {
    // Not the last word (capabilities do without uid 0), but the load below says so in many more words.
    const util::UniqueFd probe(bpf_map_create(BPF_MAP_TYPE_ARRAY, "vg_probe", 4, 4, 1, nullptr));
    if (!probe) {
      return util::fail(EX_NOPERM, "loading BPF programs needs root (CAP_BPF and CAP_PERFMON); run with sudo");
    }
  }
  auto facts = kernel_facts();
  if (!facts) {
    return util::pass_on(facts.error());
  }
  const bool accesses = (options.filter.operations & ~event::kDefaultOperations) != 0;
  if (options.hook == Hook::kKprobe && accesses) {
    return util::fail(EX_UNAVAILABLE, "reads, writes and closes are not followed by kprobes; use --hook lsm or tracepoint, or leave these operations out");
  }
  if (options.hook == Hook::kAuto) {
    // The strongest that works; a mechanism that loads but does not work is found out by attach().
    util::Error last;
    for (const Hook hook : {Hook::kLsm, Hook::kKprobe, Hook::kTracepoint}) {
      if (hook == Hook::kLsm && !lsm_programs_load(*facts)) {
        continue;
      }
      if (hook == Hook::kKprobe && accesses) {
        continue;
      }
      if (hook == Hook::kKprobe && !facts->fprobe && (!KprobeEvents::tracefs() || access((*KprobeEvents::tracefs() + "/kprobe_events").c_str(), W_OK) != 0)) {
        continue;
      }
      Options one = options;
      one.hook = hook;
      auto sensor = open(one, handler);
      if (!sensor) {
        last = sensor.error();
        continue;
      }
      if (hook == Hook::kTracepoint) {
        return sensor;
      }
      // Attach for a moment to see that it works.
      if (auto works = sensor->attach(); works) {
        return sensor;
      } else {
        last = works.error();
      }
    }
    return util::pass_on(last);
  }

  auto state = std::make_unique<State>();
  state->handler = std::move(handler);
  state->hook = options.hook;
  state->facts = *facts;
  state->skeleton.reset(vfsguard_bpf__open());
  if (!state->skeleton) {
    return util::fail(EX_SOFTWARE, fmt::format("cannot open the BPF object: {}", why()));
  }
  if (state->skeleton->rodata->abi_version != VG_ABI_VERSION) {
    return util::fail(EX_SOFTWARE, fmt::format("BPF object of schema {}, program of schema {}", +state->skeleton->rodata->abi_version, VG_ABI_VERSION));
  }
  state->choose_programs(options.filter);
  state->set_knobs(options.filter);
  state->size_maps(options);
  if (const int code = vfsguard_bpf__load(state->skeleton.get()); code != 0) {
    return util::pass_on(load_error(code, options.hook));
  }
  if (auto filled = state->fill_maps(options.filter); !filled) {
    return util::pass_on(filled.error());
  }
  LIBBPF_OPTS(bpf_test_run_opts, run);
  if (bpf_prog_test_run_opts(bpf_program__fd(state->skeleton->progs.who_am_i), &run) != 0) {
    return util::fail_errno(EX_OSERR, "cannot learn this process's own pid from the kernel");
  }
  state->ring.reset(ring_buffer__new(bpf_map__fd(state->skeleton->maps.ring), State::on_record, state.get(), nullptr));
  if (!state->ring) {
    return util::fail_errno(EX_OSERR, "cannot map the ring buffer");
  }
  return Sensor(std::move(state));
}

Sensor::Sensor(std::unique_ptr<State> state) : state_(std::move(state)) {}
Sensor::Sensor(Sensor&&) noexcept = default;
Sensor& Sensor::operator=(Sensor&&) noexcept = default;
Sensor::~Sensor() = default;

util::Result<void> Sensor::attach() {
  if (!state_->links.empty()) {
    return {};
  }
  if (state_->hook == Hook::kKprobe) {
    if (auto done = state_->attach_kprobes(); !done) {
      detach();
      return done;
    }
  }
  if (state_->hook == Hook::kLsm && std::ranges::find(state_->programs, state_->skeleton->progs.request_enter) != state_->programs.end()) {
    if (!state_->facts.fprobe) {
      KprobeEvents::remove_stale();
    }
    if (auto done = state_->attach_requests(); !done) {
      detach();
      return done;
    }
  }
  for (bpf_program* program : state_->programs) {
    const bpf_prog_type type = bpf_program__type(program);
    if (type == BPF_PROG_TYPE_SYSCALL || type == BPF_PROG_TYPE_KPROBE) {
      continue;
    }
    const auto& progs = state_->skeleton->progs;
    if (program == progs.finish) {
      continue;  // tail-called
    }
    bpf_link* link = program == progs.io_uring_submit ? bpf_program__attach_raw_tracepoint(program, state_->facts.submit) : bpf_program__attach(program);
    if (link == nullptr) {
      const int code = errno;
      detach();
      return util::fail_errno(EX_UNAVAILABLE, fmt::format("cannot attach {}", bpf_program__name(program)), code);
    }
    state_->links.emplace_back(link);
  }
  if (state_->hook == Hook::kLsm) {
    if (auto fires = state_->check_lsm_fires(); !fires) {
      detach();
      return fires;
    }
  }
  return {};
}

void Sensor::detach() {
  state_->probe_misses = state_->misses();
  state_->links.clear();
  state_->kprobes.clear();
}

util::Result<std::size_t> Sensor::consume(std::size_t limit) {
  state_->budget = limit;
  state_->consumed = 0;
  const int code = ring_buffer__consume(state_->ring.get());
  // The handler stops the loop by a positive value, which libbpf hands through.
  if (code < 0 && code != -EINTR) {
    return util::fail_errno(EX_OSERR, "cannot read the ring buffer", -code);
  }
  return state_->consumed;
}

int Sensor::wait_fd() const { return ring_buffer__epoll_fd(state_->ring.get()); }

void Sensor::arm() { std::atomic_ref(state_->skeleton->bss->reader_waits).store(1, std::memory_order_seq_cst); }

Hook Sensor::hook() const { return state_->hook; }

void Sensor::describe_again() { std::atomic_ref(state_->skeleton->data->describe_epoch).fetch_add(1); }

Counters Sensor::counters() const {
  Counters total;
  const int cpus = libbpf_num_possible_cpus();
  std::vector<vg_counters> each(static_cast<std::size_t>(std::max(cpus, 1)));
  const __u32 zero = 0;
  if (bpf_map_lookup_elem(bpf_map__fd(state_->skeleton->maps.counters), &zero, each.data()) == 0) {
    for (const vg_counters& c : each) {
      for (std::size_t i = 0; i < VG_OP_COUNT; ++i) {
        total.operations[i].seen += c.seen[i];
        total.operations[i].filtered += c.filtered[i];
        total.operations[i].aggregated += c.aggregated[i];
        total.operations[i].emitted += c.emitted[i];
        total.operations[i].lost += c.lost[i];
      }
      for (std::size_t i = 0; i < VG_CAUSE_COUNT; ++i) {
        total.causes[i] += c.cause[i];
      }
      total.sequences.push_back(c.seq);
    }
  }
  total.probe_misses = state_->misses();
  for (bpf_program* program : state_->programs) {
    bpf_prog_info info{};
    __u32 size = sizeof info;
    if (bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size) == 0) {
      total.program_misses += info.recursion_misses;
    }
  }
  return total;
}

}  // namespace vfsguard::sensor
