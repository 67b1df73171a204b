// SPDX-License-Identifier: Apache-2.0
#include "sensor/sensor.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <optional>
#include <unordered_set>

#include <fmt/format.h>

#include "event/names.h"
#include "sensor/attach.h"
#include "sensor/call_functions.h"
#include "sensor/grace.h"
#include "sensor/kernel_facts.h"
#include "sensor/kprobe_events.h"
#include "sensor/loaded.h"
#include "sensor/map_access.h"
#include "sensor/ring.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/memory.h"
#include "util/read_file.h"
#include "vfsguard.skel.h"
#include "vfsguard_probe.skel.h"

namespace vfsguard::sensor {

namespace {

constexpr std::size_t kMostHeld = 4096;  // records of the priority lane, at a time

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

}  // namespace

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

void keep_libbpf_words() {
  libbpf_set_print(log_libbpf);
  libbpf_log().clear();
}

util::Result<void> may_load() {
  if (geteuid() != 0 && access("/sys/kernel/btf/vmlinux", R_OK) == 0) {
    // Not the last word (capabilities do without uid 0), but a load says so in many more words.
    const util::UniqueFd probe(bpf_map_create(BPF_MAP_TYPE_ARRAY, "vg_probe", 4, 4, 1, nullptr));
    if (!probe) {
      return util::fail(EX_NOPERM, "loading BPF programs needs root (CAP_BPF and CAP_PERFMON); run with sudo");
    }
  }
  return {};
}

namespace {

struct BtfDeleter {
  void operator()(btf* b) const { btf__free(b); }
};

}  // namespace

namespace {

// Between the two members that lead from an overlay's inode to the file in its upper layer; 0 where the struct is not as we know it.
__s32 overlay_upper_offset(const btf* types, __u32 id) {
  const btf_type* type = btf__type_by_id(types, id);
  std::optional<__s32> inode;
  std::optional<__s32> upper;
  for (__u32 i = 0; i < btf_vlen(type); ++i) {
    const std::string_view name = btf__name_by_offset(types, btf_members(type)[i].name_off);
    const auto offset = static_cast<__s32>(btf_member_bit_offset(type, i) / 8);
    if (name == "vfs_inode") {
      inode = offset;
    } else if (name == "__upperdentry") {
      upper = offset;
    }
  }
  return inode && upper ? *upper - *inode : 0;
}

// overlayfs is a module in many kernels, with type information of its own.
__s32 overlay_upper_offset_in_module(btf* kernel) {
  if (access("/sys/kernel/btf/overlay", R_OK) != 0) {
    return 0;
  }
  const std::unique_ptr<btf, BtfDeleter> module(btf__load_module_btf("overlay", kernel));
  const __s32 id = module ? btf__find_by_name_kind(module.get(), "ovl_inode", BTF_KIND_STRUCT) : -1;
  return id > 0 ? overlay_upper_offset(module.get(), static_cast<__u32>(id)) : 0;
}

// Arguments of the tracepoint behind a typedef btf_trace_NAME, the leading `void *` among them.
__u32 tracepoint_arguments(const btf* types, const btf_type* definition) {
  const btf_type* pointer = btf__type_by_id(types, definition->type);
  return btf_vlen(btf__type_by_id(types, pointer->type));
}

bool is_probed(std::string_view function) {
  return function.starts_with("__x64_sys_") || function.starts_with("__ia32_") || function.starts_with("security_") || function.starts_with("bpf_lsm_") ||
         function.starts_with("io_") || function == "__do_sys_fork" || function == "__do_sys_vfork" || function == "vfs_open" ||
         function == "register_fprobe_ips";
}

}  // namespace

util::Result<KernelFacts> kernel_facts() {
  const std::unique_ptr<btf, BtfDeleter> kernel(btf__load_vmlinux_btf());
  if (!kernel) {
    return util::fail(EX_UNAVAILABLE, fmt::format("this kernel offers no type information ({}); it needs CONFIG_DEBUG_INFO_BTF=y (/sys/kernel/btf/vmlinux)",
                                                  util::errno_text(errno)));
  }
  KernelFacts facts;
  // One pass for everything: a search by name is a pass each.
  for (__u32 id = 1, end = btf__type_cnt(kernel.get()); id < end; ++id) {
    const btf_type* type = btf__type_by_id(kernel.get(), id);
    const bool function = btf_is_func(type);
    if (!function && !btf_is_typedef(type) && !btf_is_struct(type)) {
      continue;
    }
    const std::string_view name = btf__name_by_offset(kernel.get(), type->name_off);
    if (!function) {
      if (btf_is_struct(type) && name == "ovl_inode") {
        facts.overlay_upper = overlay_upper_offset(kernel.get(), id);
      } else if (name == "btf_trace_io_uring_complete") {
        facts.uring = true;
        facts.complete_cqe = tracepoint_arguments(kernel.get(), type) == 4;  // void *, ctx, req, cqe
      } else if (name == "btf_trace_io_uring_submit_req") {
        facts.submit = "io_uring_submit_req";
      } else if (name == "btf_trace_io_uring_submit_sqe") {  // until 6.3
        facts.submit = "io_uring_submit_sqe";
      }
    } else if (is_probed(name)) {
      facts.functions.emplace(name);
      if (name == "bpf_lsm_inode_setattr") {
        facts.setattr_takes_idmap = btf_vlen(btf__type_by_id(kernel.get(), type->type)) == 3;
      } else if (name == "bpf_lsm_file_open") {
        facts.lsm_file_open = static_cast<int>(id);
      }
    } else if (name == "bpf_rdonly_cast") {
      facts.rdonly_cast = true;
    }
  }
  if (facts.overlay_upper == 0) {
    facts.overlay_upper = overlay_upper_offset_in_module(kernel.get());
  }
  facts.fprobe = facts.has("register_fprobe_ips");
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

namespace {

// Tracepoints need no function of their own for an operation.
std::vector<Unserved> unserved_by(Hook hook, std::uint64_t operations, const KernelFacts& facts) {
  if (hook != Hook::kLsm && hook != Hook::kKprobe) {
    return {};
  }
  return unserved(operations, hook == Hook::kLsm ? "bpf_lsm_" : "security_", hook == Hook::kKprobe, [&](const std::string& name) { return facts.has(name); });
}

// The operations whose calls must be followed for these to be seen: a create and an O_TRUNC are opens, rmdir can be unlinkat, and
// what sendfile and its like write comes with what they read.
std::uint64_t followed(std::uint64_t operations) {
  std::uint64_t mask = operations;
  if ((operations & (event::operation_bit(VG_OP_CREATE) | event::operation_bit(VG_OP_TRUNCATE))) != 0) {
    mask |= event::operation_bit(VG_OP_OPEN);
  }
  if ((operations & event::operation_bit(VG_OP_RMDIR)) != 0) {
    mask |= event::operation_bit(VG_OP_UNLINK);
  }
  if ((operations & (event::operation_bit(VG_OP_READ) | event::operation_bit(VG_OP_WRITE))) != 0) {
    mask |= event::operation_bit(VG_OP_READ) | event::operation_bit(VG_OP_WRITE);
  }
  return mask;
}

using Bss = vfsguard_bpf::vfsguard_bpf__bss;
using Data = vfsguard_bpf::vfsguard_bpf__data;

// How often the kernel skipped them for recursion.
std::uint64_t recursion_misses(const Loaded& loaded) {
  std::uint64_t misses = 0;
  for (const Loaded::Program& program : loaded.programs()) {
    bpf_prog_info info{};
    __u32 size = sizeof info;
    misses += bpf_obj_get_info_by_fd(program.fd.get(), &info, &size) == 0 ? info.recursion_misses : 0;
  }
  return misses;
}

}  // namespace

struct Sensor::State {
  Loaded loaded;
  KprobeEvents kprobes;
  std::vector<Link> links;
  std::optional<Grace> grace;
  std::optional<Ring> ring;
  std::optional<Ring> priority_ring;
  util::UniqueFd wait;                      // readable when one of the rings is
  std::deque<std::vector<std::byte>> held;  // records of the priority lane whose turn has not come
  Handler handler;
  Hook hook = Hook::kAuto;
  KernelFacts facts;
  std::uint64_t operations = 0;       // whose calls are followed
  bool probe_requests = false;        // io_uring's, by kprobes
  bool refused_accesses = false;      // of reads and writes only those that enforcement refused
  std::vector<std::string> programs;  // that are wanted
  std::vector<Probe> calls;           // where they go by name
  std::vector<Probe> requests;
  std::vector<Probe> objects;
  std::vector<Unserved> missing;
  std::vector<std::byte> tables;  // until they are in the kernel
  std::size_t table_size = 0;     // of one version
  std::uint64_t asked = 0;        // operations that the filter let through when it was loaded
  bool enforcing = false;
  bool killing = false;
  bool aggregates = false;
  std::uint32_t version = VG_FIRST_VERSION;
  std::uint64_t program_misses = 0;  // of programs that are gone
  std::size_t budget = 0;
  std::size_t consumed = 0;
  std::uint64_t probe_misses = 0;  // of probes that are gone
  std::array<Image, 2> images;     // of both versions of the tables
  std::uint32_t tgid = 0;          // as the kernel counts
  std::uint32_t epoch = 0;         // of aggregates
  std::uint32_t described_seen = 0;

  [[nodiscard]] std::uint64_t misses() const;
  [[nodiscard]] Bss& bss() const { return loaded.bss<Bss>(); }
  [[nodiscard]] Data& data() const { return loaded.data<Data>(); }

  util::Result<void> hold_priority();
  util::Result<void> consume();
  // When an event happened; none for other records.
  static std::optional<std::uint64_t> event_time(std::span<const std::byte> record);
  void deliver_held(std::uint64_t until_ns);

  void choose_programs(vfsguard_bpf& skeleton, const Filter& filter);
  void set_knobs(vfsguard_bpf& skeleton, const Filter& filter);
  void size_maps(vfsguard_bpf& skeleton, const Options& options);
  void take_over(vfsguard_bpf& skeleton, const State& before);
  util::Result<void> fill_tables(std::uint32_t of_version);
  util::Result<void> fill_maps(const Filter& filter);
  void find_places();
  util::Result<void> attach_kprobes();
  util::Result<void> attach_requests();
  util::Result<void> attach_to(const Loaded::Program& program, const std::vector<Probe>& probes, bool returns) {
    return attach_probes(program, probes, returns, facts.fprobe, kprobes, links);
  }
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
    if (bpf_obj_get_info_by_fd(link.get(), &info, &size) == 0 && info.type == BPF_LINK_TYPE_KPROBE_MULTI) {
      total += info.missed;
    }
  }
  return total;
}

std::optional<std::uint64_t> Sensor::State::event_time(std::span<const std::byte> record) {
  vg_event e;
  if (record.size() < sizeof e) {
    return std::nullopt;
  }
  std::memcpy(&e, record.data(), offsetof(vg_event, time_ns) + sizeof e.time_ns);
  return e.head.kind == VG_RECORD_EVENT ? std::optional(e.time_ns) : std::nullopt;
}

// As many as wait here; further ones wait in their lane, which has its bounds.
util::Result<void> Sensor::State::hold_priority() {
  if (held.size() >= kMostHeld) {
    return {};
  }
  return priority_ring->consume([this](std::span<const std::byte> record) {
    held.emplace_back(record.begin(), record.end());
    return held.size() < kMostHeld;
  });
}

// The lanes are merged by time. What describes a process of the priority lane was in the bulk lane before; what is younger than it can only be
// behind that.
util::Result<void> Sensor::State::consume() {
  util::Result<void> urgent = hold_priority();
  auto read = ring->consume([&](std::span<const std::byte> record) {
    if (const auto time = event_time(record); time && urgent) {
      urgent = hold_priority();
      deliver_held(*time);
    }
    handler(record);
    return urgent.has_value() && ++consumed < budget;
  });
  if (!read) {
    return read;
  }
  if (urgent && consumed < budget) {
    deliver_held(~std::uint64_t{0});  // the bulk lane is empty: nothing there is older
  }
  return urgent;
}

void Sensor::State::deliver_held(std::uint64_t until_ns) {
  while (!held.empty()) {
    if (const auto time = event_time(held.front()); time && *time > until_ns) {
      return;
    }
    const std::vector<std::byte> record = std::move(held.front());
    held.pop_front();
    ++consumed;
    handler(record);
  }
}

void Sensor::State::choose_programs(vfsguard_bpf& skeleton, const Filter& filter) {
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton.obj) { bpf_program__set_autoload(program, false); }
  operations = followed(filter.operations);
  // What an open may not do, reads and maps of an older descriptor may not either. Kprobes on every read would cost more than they tell.
  constexpr std::uint64_t kReadsAndWrites = event::operation_bit(VG_OP_READ) | event::operation_bit(VG_OP_WRITE);
  if (filter.refusals >= 0 && hook != Hook::kKprobe) {
    refused_accesses = (operations & kReadsAndWrites) == 0;
    operations |= kReadsAndWrites | event::operation_bit(VG_OP_MMAP);
  }
  if (filter.refusals >= 0) {
    operations |= event::operation_bit(VG_OP_RENAME);  // of a directory that protected paths lead through, which no rule needs to name
  }
  programs = {"process_fork", "process_exec", "process_exit", "who_am_i", "finish"};
  if (facts.uring) {
    programs.push_back("io_uring_req_failed");
  }
  if (hook == Hook::kTracepoint || hook == Hook::kLsm) {
    programs.insert(programs.end(), {"sys_enter", "sys_exit"});
  }
  // Under LSM requests are followed where they are carried out, as the hooks are; without kprobes by their names alone.
  probe_requests = hook == Hook::kKprobe || (hook == Hook::kLsm && kprobes_usable(facts));
  // Reads and writes are told by the tracepoints always.
  if ((!probe_requests || (operations & event::kAccesses) != 0) && facts.uring && facts.submit != nullptr) {
    programs.insert(programs.end(), {"io_uring_submit", "io_uring_complete"});
  }
  if (hook == Hook::kLsm) {
    for (const ObjectHook& object : object_hooks()) {
      // file_open always: it also shows that LSM programs are called at all.
      if (((object.operations & operations) != 0 || object.where == VG_AT_FILE_OPEN) && facts.has(std::string("bpf_lsm_") + object.name)) {
        programs.push_back(std::string("decide_") + object.name);
      }
    }
    if (facts.uring && probe_requests) {
      programs.insert(programs.end(), {"request_enter", "call_return"});
    }
  }
  if (hook == Hook::kKprobe) {
    programs.insert(programs.end(), {"call_enter", "call_return", "decide_kprobe", "request_enter"});
  }
  for (const std::string& name : programs) {
    bpf_program* wanted = bpf_object__find_program_by_name(skeleton.obj, name.c_str());
    bpf_program__set_autoload(wanted, true);
    fit_to_kprobes(wanted, facts.fprobe);
  }
}

void Sensor::State::set_knobs(vfsguard_bpf& skeleton, const Filter& filter) {
  auto& knobs = *skeleton.rodata;
  knobs.hook_id = static_cast<__u32>(hook);
  knobs.complete_takes_cqe = facts.complete_cqe ? 1 : 0;
  knobs.setattr_takes_idmap = facts.setattr_takes_idmap ? 1 : 0;
  knobs.operation_mask = filter.operations;
  knobs.begin_mask = operations;
  knobs.overlay_upper = facts.overlay_upper;
  struct stat mounts{};
  knobs.agent_mnt_ns = stat("/proc/self/ns/mnt", &mounts) == 0 ? static_cast<__u32>(mounts.st_ino) : 0;
  knobs.requests_probed = probe_requests ? 1 : 0;
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
  knobs.refused_accesses = refused_accesses ? 1 : 0;
  knobs.enforcing = filter.refusals >= 0 ? 1 : 0;
  knobs.killing = filter.killing ? 1 : 0;
}

void Sensor::State::size_maps(vfsguard_bpf& skeleton, const Options& options) {
  const Filter& filter = options.filter;
  const auto resize = [](bpf_map* map, std::size_t entries) { bpf_map__set_max_entries(map, static_cast<__u32>(std::max<std::size_t>(entries, 1))); };
  resize(skeleton.maps.ring, options.ring_bytes);
  resize(skeleton.maps.aggregates_even, options.aggregates);
  resize(skeleton.maps.aggregates_odd, options.aggregates);
  aggregates = options.aggregates > 0;
  skeleton.rodata->aggregate = aggregates ? 1 : 0;
  if (filter.refusals >= 0) {
    bpf_map__reuse_fd(skeleton.maps.refusals, filter.refusals);
    bpf_map__reuse_fd(skeleton.maps.worker_refusals, filter.worker_refusals);
  }
  tables = policy::kernel_tables(filter.automaton, filter.set_operations);
  table_size = std::max(tables.size(), options.tables_at_least);
  asked = filter.operations;
  enforcing = filter.refusals >= 0;
  killing = filter.killing;
  bpf_map__set_value_size(skeleton.maps.tables, static_cast<__u32>(table_size));
  bpf_map__set_map_flags(skeleton.maps.tables, BPF_F_RDONLY_PROG);  // no program writes it, ours or anybody's
  skeleton.rodata->table_mask = static_cast<__u32>(table_size - 1);
  skeleton.data->policy_version = version;
  resize(skeleton.maps.comms, filter.comms.size());
  resize(skeleton.maps.uids, filter.uids.size());
}

// All that is not this object's own: its tables, its globals, its programs.
void Sensor::State::take_over(vfsguard_bpf& skeleton, const State& before) {
  version = before.version + 1;
  probe_misses = before.misses();
  program_misses = before.program_misses;
  program_misses += recursion_misses(before.loaded);
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, skeleton.obj) {
    const int same = before.loaded.map_fd(bpf_map__name(map));
    if (map != skeleton.maps.tables && map != skeleton.maps.finisher && !bpf_map__is_internal(map) && same >= 0) {
      bpf_map__reuse_fd(map, same);
    }
  }
  skeleton.bss->aggregate_epoch = std::atomic_ref(before.bss().aggregate_epoch).load();
  skeleton.data->describe_epoch = std::atomic_ref(before.data().describe_epoch).load();
}

util::Result<void> Sensor::State::fill_tables(std::uint32_t of_version) {
  const __u32 place = of_version & 1;
  images[place] = Image::of(tables, table_size);
  tables.resize(table_size);
  const int code = bpf_map_update_elem(loaded.map_fd("tables"), &place, tables.data(), BPF_ANY);
  util::free_memory_of(tables);
  if (code != 0) {
    return util::fail_errno(EX_OSERR, "cannot fill the filter's tables", -code);
  }
  return {};
}

util::Result<void> Sensor::State::fill_maps(const Filter& filter) {
  const auto put = [this](const char* map, const void* key, const void* value) { return bpf_map_update_elem(loaded.map_fd(map), key, value, BPF_ANY) == 0; };
  const __u32 zero = 0;
  const __u8 one = 1;
  const int finisher = loaded.program_fd("finish");
  // Nobody takes that call away again, this process included.
  bool ok = put("finisher", &zero, &finisher) && bpf_map_freeze(loaded.map_fd("finisher")) == 0;
  for (const std::string& comm : filter.comms) {
    char key[VG_COMM_LEN] = {};
    comm.copy(key, sizeof key - 1);
    ok = ok && put("comms", key, &one);
  }
  for (const std::uint32_t& uid : filter.uids) {
    ok = ok && put("uids", &uid, &one);
  }
  for (const std::uint32_t& pid : filter.pids) {
    ok = ok && put("pids", &pid, &one);
  }
  if (!ok) {
    return util::fail_errno(EX_OSERR, "cannot fill the filter's tables");
  }
  return fill_tables(version);
}

// What of this kernel is asked for, so that its list of functions is not kept.
void Sensor::State::find_places() {
  const HasFunction has = [&](const std::string& name) { return facts.has(name); };
  calls = call_probes(operations, has);
  requests = request_probes(operations, has);
  objects = object_probes(operations, has);
  missing = unserved_by(hook, ~std::uint64_t{0}, facts);
  util::free_memory_of(facts.functions);
}

util::Result<void> Sensor::State::attach_kprobes() {
  if (calls.empty()) {
    return util::fail(EX_UNAVAILABLE, "none of the system calls' functions can be probed");
  }
  // Of reads and writes the return says all, of closes the entry.
  const auto without = [this](std::uint64_t set) {
    std::vector<Probe> probes = calls;
    std::erase_if(probes, [set](const Probe& probe) { return (set & event::operation_bit(event::call_operation(VG_COOKIE_CALL_OF(probe.cookie)))) != 0; });
    return probes;
  };
  std::vector<Probe> returns = without(event::operation_bit(VG_OP_CLOSE));
  returns.insert(returns.end(), requests.begin(), requests.end());
  // Object and return first: a call that began before its return probe was there would count as missed.
  auto done = attach_to(loaded.program("decide_kprobe"), objects, false);
  done = done ? attach_to(loaded.program("call_return"), returns, true) : done;
  done = done ? attach_to(loaded.program("request_enter"), requests, false) : done;
  return done ? attach_to(loaded.program("call_enter"), without(event::operation_bit(VG_OP_READ) | event::operation_bit(VG_OP_WRITE)), false) : done;
}

util::Result<void> Sensor::State::attach_requests() {
  auto done = attach_to(loaded.program("call_return"), requests, true);
  return done ? attach_to(loaded.program("request_enter"), requests, false) : done;
}

// A kernel can accept and attach LSM programs and never call them: "bpf" must be in its lsm= list.
util::Result<void> Sensor::State::check_lsm_fires() {
  const __u32 before = bss().lsm_canary;
  const util::UniqueFd canary(::open("/proc/self/status", O_RDONLY | O_CLOEXEC));
  if (std::atomic_ref(bss().lsm_canary).load() == before) {
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
  keep_libbpf_words();
  if (auto ok = may_load(); !ok) {
    return util::pass_on(ok.error());
  }
  auto facts = kernel_facts();
  if (!facts) {
    return util::pass_on(facts.error());
  }
  if (options.hook == Hook::kAuto) {
    // The strongest that works; a mechanism that loads but does not work is found out by attach().
    util::Error last;
    for (const Hook hook : {Hook::kLsm, Hook::kKprobe, Hook::kTracepoint}) {
      if (hook == Hook::kLsm && !lsm_programs_load(*facts)) {
        continue;
      }
      if (hook == Hook::kKprobe && !kprobes_usable(*facts)) {
        continue;
      }
      Options one = options;
      one.hook = hook;
      auto sensor = open_one(one, *facts, handler);
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
  return open_one(options, *facts, std::move(handler));
}

util::Result<Sensor> Sensor::open_one(const Options& options, const KernelFacts& facts, Handler handler) {
  if (const auto missing = unserved_by(options.hook, options.filter.required, facts); !missing.empty()) {
    const std::string_view name = event::operation_name(missing.front().operation);
    return util::fail(EX_UNAVAILABLE,
                      fmt::format("--hook {} cannot follow '{}' on this kernel, which has no {}; leave '{}' out of --op, or use --hook tracepoint",
                                  event::hook_name(static_cast<unsigned>(options.hook)), name, missing.front().function, name));
  }
  auto state = std::make_unique<State>();
  state->handler = std::move(handler);
  state->hook = options.hook;
  state->facts = facts;
  const Skeleton<vfsguard_bpf> skeleton(VFSGUARD_OPEN_VARIANT(vfsguard, facts.rdonly_cast), vfsguard_bpf__destroy);
  if (!skeleton) {
    return util::fail(EX_SOFTWARE, fmt::format("cannot open the BPF object: {}", why()));
  }
  if (skeleton->rodata->abi_version != VG_ABI_VERSION) {
    return util::fail(EX_SOFTWARE, fmt::format("BPF object of schema {}, program of schema {}", +skeleton->rodata->abi_version, VG_ABI_VERSION));
  }
  if (options.follows != nullptr) {
    state->take_over(*skeleton, *options.follows->state_);
  }
  state->choose_programs(*skeleton, options.filter);
  state->set_knobs(*skeleton, options.filter);
  state->size_maps(*skeleton, options);
  if (const int code = vfsguard_bpf__load(skeleton.get()); code != 0) {
    return util::pass_on(load_error(code, options.hook));
  }
  auto loaded = Loaded::of(skeleton->obj);
  if (!loaded) {
    return util::pass_on(loaded.error());
  }
  state->loaded = std::move(*loaded);
  state->find_places();
  auto grace = Grace::open();
  if (!grace) {
    return util::pass_on(grace.error());
  }
  state->grace = std::move(*grace);
  if (auto filled = state->fill_maps(options.filter); !filled) {
    return util::pass_on(filled.error());
  }
  LIBBPF_OPTS(bpf_test_run_opts, run);
  if (bpf_prog_test_run_opts(state->loaded.program_fd("who_am_i"), &run) != 0) {
    return util::fail_errno(EX_OSERR, "cannot learn this process's own pid from the kernel");
  }
  state->tgid = state->bss().self_tgid;
  state->epoch = state->bss().aggregate_epoch;
  state->wait.reset(epoll_create1(EPOLL_CLOEXEC));
  const std::pair<const char*, std::optional<Ring>&> lanes[] = {{"ring", state->ring}, {"priority_ring", state->priority_ring}};
  for (const auto& [name, ring] : lanes) {
    const Loaded::Map& map = state->loaded.map(name);
    auto opened = Ring::open(map.fd.get(), map.max_entries);
    if (!opened) {
      return util::pass_on(opened.error());
    }
    ring.emplace(std::move(*opened));
    epoll_event readable{};
    readable.events = EPOLLIN;
    if (epoll_ctl(state->wait.get(), EPOLL_CTL_ADD, ring->fd(), &readable) != 0) {
      return util::fail_errno(EX_OSERR, "cannot wait for the ring buffers");
    }
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
  if (state_->hook == Hook::kLsm && std::ranges::find(state_->programs, "request_enter") != state_->programs.end()) {
    if (auto done = state_->attach_requests(); !done) {
      detach();
      return done;
    }
  }
  for (const std::string& name : state_->programs) {
    const Loaded::Program& program = state_->loaded.program(name);
    if (program.type == BPF_PROG_TYPE_SYSCALL || program.type == BPF_PROG_TYPE_KPROBE || name == "finish") {
      continue;  // run by hand, attached above, tail-called
    }
    auto link = attach_program(program, name == "io_uring_submit" ? state_->facts.submit : nullptr);
    if (!link) {
      detach();
      return util::pass_on(link.error());
    }
    state_->links.push_back(std::move(*link));
  }
  if (state_->hook == Hook::kLsm) {
    if (auto fires = state_->check_lsm_fires(); !fires) {
      detach();
      return fires;
    }
  }
  return {};
}

bool Sensor::fits(const Filter& filter) const {
  return (filter.operations & ~state_->asked) == 0 && (filter.refusals >= 0) == state_->enforcing && filter.killing == state_->killing &&
         policy::kernel_tables(filter.automaton, filter.set_operations).size() <= state_->table_size;
}

std::uint64_t Sensor::operations() const { return state_->asked; }

util::Result<void> Sensor::replace(const Filter& filter) {
  State& state = *state_;
  state.tables = policy::kernel_tables(filter.automaton, filter.set_operations);
  const std::uint32_t next = state.version + 1;
  if (auto filled = state.fill_tables(next); !filled) {
    return util::pass_on(filled.error());
  }
  std::atomic_ref(state.data().policy_version).store(next);
  state.images[state.version & 1] = {};
  state.version = next;
  // The place of the old one is free when all that began by it is done.
  return state.grace->wait();
}

std::uint32_t Sensor::version() const { return state_->version; }

void Sensor::detach() {
  state_->probe_misses = state_->misses();
  state_->links.clear();
  state_->kprobes.clear();
}

util::Result<std::size_t> Sensor::consume(std::size_t limit) {
  state_->budget = limit;
  state_->consumed = 0;
  if (auto done = state_->consume(); !done) {
    return util::pass_on(std::move(done.error()));
  }
  return state_->consumed;
}

Sensor::Ends Sensor::ends() const { return {state_->ring->reserved(), state_->priority_ring->reserved(), util::clock_ns(CLOCK_BOOTTIME)}; }

util::Result<bool> Sensor::consume_until(const Ends& ends, std::size_t limit) {
  const auto consumed = consume(limit);
  if (!consumed) {
    return util::pass_on(consumed.error());
  }
  if (*consumed == 0) {
    return true;
  }
  if (state_->ring->read() < ends.bulk || state_->priority_ring->read() < ends.priority) {
    return false;
  }
  state_->deliver_held(ends.time_ns);
  return true;
}

int Sensor::wait_fd() const { return state_->wait.get(); }

util::Result<void> Sensor::turn_aggregates() {
  std::atomic_ref(state_->bss().aggregate_epoch).store(++state_->epoch);
  return state_->grace->wait();  // then no program runs that saw the old value
}

util::Result<void> Sensor::take_aggregates(const std::function<void(const vg_aggregate&)>& each) {
  const bool odd = filled_table() == 0;  // the one that is not filled now
  const int map = state_->loaded.map_fd(odd ? "aggregates_odd" : "aggregates_even");
  constexpr __u32 kBatch = 512;
  std::vector<vg_aggregate_key> keys(kBatch);
  std::vector<vg_aggregate> values(kBatch);
  // The table is nobody's now, so that what is deleted in a batch is what was read.
  for (;;) {
    __u32 batch = 0;
    __u32 count = kBatch;
    const int code = bpf_map_lookup_and_delete_batch(map, nullptr, &batch, keys.data(), values.data(), &count, nullptr);
    if (code != 0 && code != -ENOENT) {
      return util::fail_errno(EX_OSERR, "cannot read the table of counted events", -code);
    }
    for (__u32 i = 0; i < count; ++i) {
      each(values[i]);
    }
    if (count == 0 || code == -ENOENT) {
      return {};
    }
  }
}

std::uint64_t Sensor::filled_table() const { return std::atomic_ref(state_->bss().aggregate_epoch).load() & 1; }

bool Sensor::aggregates_were_full() { return std::atomic_ref(state_->bss().aggregates_full).exchange(0) != 0; }

void Sensor::arm() { std::atomic_ref(state_->bss().reader_waits).store(1, std::memory_order_seq_cst); }

Hook Sensor::hook() const { return state_->hook; }

bool Sensor::needs_admin() const {
  const std::string text = util::read_file("/proc/sys/kernel/perf_event_paranoid").value_or("");
  int paranoid = 0;
  std::from_chars(text.data(), text.data() + text.size(), paranoid);
  return !state_->facts.fprobe && kprobes_usable(state_->facts) && paranoid > 2;
}

bool Sensor::sees() const {
  if ((operations() >> VG_OP_OPEN & 1) == 0) {
    return true;
  }
  const std::atomic_ref calls(state_->bss().own_calls);
  const std::atomic_ref at_hook(state_->bss().lsm_canary);
  const std::uint64_t calls_before = calls.load();
  const std::uint32_t at_hook_before = at_hook.load();
  {
    const util::UniqueFd canary(::open("/proc/self/status", O_RDONLY | O_CLOEXEC));
  }
  return calls.load() != calls_before && (state_->hook != Hook::kLsm || at_hook.load() != at_hook_before);
}

Inventory Sensor::inventory() const {
  Inventory inventory;
  add_object(inventory, "record", state_->loaded);
  for (std::size_t i = 0; i < state_->links.size(); ++i) {
    add_link(inventory, "record", std::to_string(i), state_->links[i].get());
  }
  return inventory;
}

void Sensor::register_state(guard::KernelState& state) const {
  State& s = *state_;
  state.add_word("record/.bss", "record/self_tgid", s.bss().self_tgid, s.tgid);
  state.add_word("record/.bss", "record/aggregate_epoch", s.bss().aggregate_epoch, s.epoch);
  state.add_word("record/.data", "record/policy_version", s.data().policy_version, s.version);
  state.add_counter("record/.data", "record/describe_epoch", s.data().describe_epoch, s.described_seen);
  s.images[s.version & 1].register_at(state, "record/tables", "tables record", s.loaded.map_fd("tables"), s.version & 1);
}

std::uint64_t Sensor::names_only() const {
  constexpr std::uint64_t kByName = event::operation_bit(VG_OP_RENAME) | event::operation_bit(VG_OP_UNLINK) | event::operation_bit(VG_OP_RMDIR) |
                                    event::operation_bit(VG_OP_MKDIR) | event::operation_bit(VG_OP_MKNOD) | event::operation_bit(VG_OP_LINK) |
                                    event::operation_bit(VG_OP_SYMLINK) | event::operation_bit(VG_OP_MOUNT) | event::operation_bit(VG_OP_UMOUNT) |
                                    event::operation_bit(VG_OP_PIVOT_ROOT) | event::operation_bit(VG_OP_CHROOT);
  return state_->hook == Hook::kTracepoint ? kByName : 0;  // a descriptor is what tracepoints find an object by
}

std::vector<Unserved> Sensor::unserved(std::uint64_t operations) const {
  std::vector<Unserved> found = state_->missing;
  std::erase_if(found, [&](const Unserved& missing) { return (operations & event::operation_bit(missing.operation)) == 0; });
  return found;
}

Limits Sensor::limits() const {
  const auto entries = [&](const char* map) { return state_->loaded.map(map).max_entries; };
  const auto value_size = [&](const char* map) { return state_->loaded.map(map).value_size; };
  Limits limits;
  limits.ring_bytes = std::uint64_t{entries("ring")} + entries("priority_ring");
  limits.open_files = entries("sessions");
  limits.requests = entries("pending_requests");
  limits.kinds = state_->aggregates ? entries("aggregates_even") : 0;
  limits.thread_bytes = value_size("pending_calls") + (state_->hook == Hook::kTracepoint ? 0 : value_size("decided_paths"));
  limits.process_bytes = value_size("processes");
  for (const Loaded::Map& map : state_->loaded.maps()) {
    constexpr std::uint64_t kHashOverhead = 64;  // struct htab_elem and its share of the buckets, kernel/bpf/hashtab.c
    const auto aligned = [](std::uint64_t size) { return (size + 7) / 8 * 8; };
    const std::uint64_t value = aligned(map.value_size);
    switch (map.type) {
      case BPF_MAP_TYPE_HASH:
      case BPF_MAP_TYPE_LRU_HASH: limits.table_bytes += std::uint64_t{map.max_entries} * (kHashOverhead + aligned(map.key_size) + value); break;
      case BPF_MAP_TYPE_ARRAY: limits.table_bytes += map.max_entries * value; break;
      case BPF_MAP_TYPE_PERCPU_ARRAY: limits.table_bytes += map.max_entries * value * static_cast<std::uint64_t>(libbpf_num_possible_cpus()); break;
      default: break;
    }
  }
  return limits;
}

void Sensor::describe_again() { std::atomic_ref(state_->data().describe_epoch).fetch_add(1); }

Counters Sensor::counters() const {
  Counters total;
  const int cpus = libbpf_num_possible_cpus();
  std::vector<vg_counters> each(static_cast<std::size_t>(std::max(cpus, 1)));
  const __u32 zero = 0;
  if (bpf_map_lookup_elem(state_->loaded.map_fd("counters"), &zero, each.data()) == 0) {
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
      for (std::size_t lane = 0; lane < VG_LANE_COUNT; ++lane) {
        total.sequences[lane].push_back(c.seq[lane]);
      }
    }
  }
  total.probe_misses = state_->misses();
  total.program_misses = state_->program_misses;
  total.program_misses += recursion_misses(state_->loaded);
  return total;
}

}  // namespace vfsguard::sensor
