// SPDX-License-Identifier: Apache-2.0
#include "enforce/bpf_enforcer.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "enforce/link_scan.h"
#include "enforce/pins.h"
#include "event/names.h"
#include "policy/trial.h"
#include "util/clock.h"
#include "version.h"

namespace vfsguard::enforce {

namespace {

// Room from the start, so that most changes of a policy fit.
constexpr std::uint32_t kRulesAtLeast = 256;

}  // namespace

BpfEnforcer::~BpfEnforcer() {
  if (pinned_.empty()) {
    return;
  }
  probes_.forget();
}

std::string BpfEnforcer::weakness() const {
  if (mechanism_ == Mechanism::kOverride) {
    return "override refuses by the name that the caller gives, and by descriptors; who comes by another name is killed, and what such a call changed stays "
           "changed";
  }
  return at_return_ ? "signal kills at the call's return, by what it opened, executed, read, wrote or mapped; requests of io_uring are not seen"
                    : "signal kills at the object; a call that changes something has changed it";
}

// What of the kernel's hooks there is, for this mechanism.
void BpfEnforcer::choose(const sensor::KernelFacts& facts) {
  fprobe_ = facts.fprobe;
  at_return_ = mechanism_ == Mechanism::kSignal && !sensor::kprobes_usable(facts);
  if (at_return_) {
    missing_ = kAll & ~kAtReturn;
    return;
  }
  const std::string prefix = mechanism_ == Mechanism::kLsm ? "bpf_lsm_" : "security_";
  for (const EnforcedHook& hook : enforced_hooks()) {
    if (facts.has(prefix + hook.name)) {
      hooks_.push_back(&hook);
    } else if (!came_later(hook)) {
      missing_ |= hook.operations;
    }
  }
}

void BpfEnforcer::choose_programs(enforce_bpf& skeleton, const sensor::KernelFacts& facts) {
  for (const EnforcedHook* hook : hooks_) {
    if (!is_needed(*hook, operations_)) {
      continue;
    }
    loaded_.insert(hook);
    if (mechanism_ == Mechanism::kLsm) {
      programs_.push_back(std::string("enforce_") + hook->name);
    } else {
      if (hook->where != 0) {
        objects_.push_back({std::string("security_") + hook->name, hook->where});
      }
    }
  }
  if (mechanism_ == Mechanism::kOverride) {
    calls_ = sensor::call_probes(with_opens(operations_) & kByCall, [&](const std::string& name) { return facts.has(name); });
    programs_.emplace_back("enforce_call");
  }
  if (at_return_) {
    programs_.emplace_back("enforce_return");
  } else if (mechanism_ != Mechanism::kLsm) {
    programs_.emplace_back("enforce_at");
  }
  if (forks_) {
    programs_.emplace_back("note_fork");
    bpf_program__set_autoload(skeleton.progs.carry_ancestries, true);
  }
  for (const std::string& name : programs_) {
    bpf_program* program = bpf_object__find_program_by_name(skeleton.obj, name.c_str());
    bpf_program__set_autoload(program, true);
    sensor::fit_to_kprobes(program, fprobe_);
  }
}

util::Result<void> BpfEnforcer::load(const policy::Enforcement& tables, const sensor::KernelFacts& facts, const Heritage* before) {
  const sensor::Skeleton<enforce_bpf> skeleton(VFSGUARD_OPEN_VARIANT(enforce, facts.rdonly_cast), enforce_bpf__destroy);
  if (!skeleton) {
    return util::fail_errno(EX_SOFTWARE, "cannot open the BPF object of enforcement");
  }
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton->obj) { bpf_program__set_autoload(program, false); }
  operations_ = tables.operations;
  forks_ = (tables.kinds >> VG_WHO_ANCESTOR & 1) != 0 || (before != nullptr && before->ancestries >= 0);
  choose_programs(*skeleton, facts);
  for (bpf_program* tool :
       {skeleton->progs.who_enforces, skeleton->progs.look, skeleton->progs.protect, skeleton->progs.protect_named, skeleton->progs.try_rule}) {
    bpf_program__set_autoload(tool, true);
  }
  auto& knobs = *skeleton->rodata;
  knobs.knows_ancestries = forks_ ? 1 : 0;
  knobs.attributes_come_second = facts.setattr_takes_idmap ? 1 : 0;
  knobs.mechanism = mechanism_ == Mechanism::kLsm ? VG_MECHANISM_LSM : VG_MECHANISM_SIGNAL;  // at the object
  struct stat mounts{};
  knobs.our_mnt_ns = stat("/proc/self/ns/mnt", &mounts) == 0 ? static_cast<__u32>(mounts.st_ino) : 0;
  const auto cpus = static_cast<__u32>(std::max(libbpf_num_possible_cpus(), 1));
  const __u32 at_once = std::bit_ceil(std::max(cpus * 4, 64u));
  knobs.decision_mask = at_once - 1;
  bpf_map__set_max_entries(skeleton->maps.decisions, at_once);
  capacity_ = std::max(std::bit_ceil(2 * tables.rules), kRulesAtLeast);
  knobs.rule_capacity = capacity_;
  bpf_map__set_max_entries(skeleton->maps.rule_counts, 2 * capacity_);
  table_size_ = std::max(tables.tables.size(), policy::kTablesAtLeast);
  bpf_map__set_value_size(skeleton->maps.tables, static_cast<__u32>(table_size_));
  knobs.table_mask = static_cast<__u32>(table_size_ - 1);
  skeleton->data->policy_version = version_;
  if (before != nullptr && before->protected_inodes >= 0) {
    // What is marked stays so, and what either of them refuses is told as it was.
    bpf_map__reuse_fd(skeleton->maps.protected_inodes, before->protected_inodes);
    bpf_map__reuse_fd(skeleton->maps.refusals, before->refusals);
    bpf_map__reuse_fd(skeleton->maps.worker_refusals, before->worker_refusals);
    if (before->mount_points >= 0) {
      bpf_map__reuse_fd(skeleton->maps.mount_points, before->mount_points);
    }
    if (before->ancestries >= 0) {
      bpf_map__reuse_fd(skeleton->maps.ancestries, before->ancestries);
    }
    vg_inode_key any{};
    skeleton->bss->inodes_protected = bpf_map_get_next_key(before->protected_inodes, nullptr, &any) == 0 ? 1 : 0;
  }
  if (const int code = enforce_bpf__load(skeleton.get()); code != 0) {
    return util::fail(EX_UNAVAILABLE, fmt::format("cannot load the programs of enforcement: {} ({})", util::errno_text(-code), sensor::why()));
  }
  auto loaded = sensor::Loaded::of(skeleton->obj);
  if (!loaded) {
    return util::pass_on(loaded.error());
  }
  object_ = std::move(*loaded);
  if (auto filled = fill(tables, version_); !filled) {
    return filled;
  }
  LIBBPF_OPTS(bpf_test_run_opts, run);
  if (bpf_prog_test_run_opts(object_.program_fd("who_enforces"), &run) != 0) {
    return util::fail_errno(EX_OSERR, "cannot learn this process's own pid from the kernel");
  }
  decided_ = tables.operations;
  tgid_ = bss().agent_tgid;
  start_ = bss().agent_start;
  protected_entries_ = sensor::HashEntries(object_.map("protected_inodes"));
  mount_point_entries_ = sensor::HashEntries(object_.map("mount_points"));
  return {};
}

util::Result<void> BpfEnforcer::fill(const policy::Enforcement& tables, std::uint32_t of_version) {
  const __u32 place = of_version & 1;
  std::vector<std::byte> image = tables.tables;
  image.resize(table_size_);
  if (bpf_map_update_elem(object_.map_fd("tables"), &place, image.data(), BPF_ANY) != 0) {
    return util::fail_errno(EX_OSERR, "cannot fill the tables of enforcement");
  }
  images_[place] = sensor::Image::of(tables.tables, table_size_);
  return {};
}

// Each rule tried on this kernel, by the tables as they lie there.
util::Result<std::vector<RuleState>> BpfEnforcer::prove(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables,
                                                        std::uint32_t of_version) const {
  std::vector<RuleState> found(policy.rules.size());
  std::vector<std::uint32_t> untried;
  const auto trials = policy::make_trials(policy, compiled, kAll & ~kEnds, untried);
  for (const std::uint32_t rule : untried) {
    found[rule] = {RuleState::Kind::kUntried, kNothingToTry};
  }
  const policy::Automaton& automaton = tables.automaton;
  for (const policy::Trial& trial : trials) {
    const policy::Rule& rule = policy.rules[trial.rule];
    const event::Process& process = *trial.operation.process;
    vg_try context{};
    context.path = reinterpret_cast<std::uintptr_t>(trial.operation.path->c_str());
    context.operations = event::operation_bit(trial.operation.raw.operation);
    context.version = of_version;
    context.uid = trial.operation.raw.uid;
    context.gid = trial.operation.raw.gid;
    context.exe = process.exe ? automaton.match(automaton.head.exe_start, *process.exe) : 0;
    context.comm = automaton.match(automaton.head.comm_start, trial.name);
    context.cgroup = process.cgroup ? automaton.match(automaton.head.cgroup_start, *process.cgroup) : 0;
    context.ancestor = process.ancestors.empty() ? 0 : automaton.match(automaton.head.exe_start, *process.ancestors.front().exe);
    if (!object_.run("try_rule", context)) {
      return util::fail_errno(EX_OSERR, fmt::format("cannot try rule '{}' in the kernel", rule.name));
    }
    const std::uint32_t wanted = trial.decides.value_or(~0u);
    const bool same = context.rule == wanted && (wanted == ~0u || (context.enforce != 0) == policy.rules[wanted].enforce);
    if (!same) {
      const auto name = [&](std::uint32_t place) {
        return place < policy.rules.size() ? fmt::format("rule '{}'", policy.rules[place].name) : std::string("no rule");
      };
      return util::fail(
          EX_SOFTWARE,
          fmt::format("{}:{}: rule '{}' was tried with {} of {}, which {} is to decide; the kernel's tables say {}. That is a defect of vfsguard", rule.file,
                      rule.line, rule.name, event::operation_name(trial.operation.raw.operation), *trial.operation.path, name(wanted), name(context.rule)));
    }
    if (wanted == trial.rule) {
      found[trial.rule] = state_of(rule);
    } else {
      found[trial.rule] = {RuleState::Kind::kCovered, fmt::format("rule '{}' decides {} of {}", wanted == ~0u ? "" : policy.rules[wanted].name,
                                                                  event::operation_name(trial.operation.raw.operation), *trial.operation.path)};
    }
  }
  return found;
}

void BpfEnforcer::remember(const policy::Policy& policy, const policy::Enforcement& tables) {
  names_.clear();
  globs_.clear();
  for (const policy::Rule& rule : policy.rules) {
    names_.push_back(rule.name);
    if (scanned_all_ && rule.decides() && rule.enforce) {
      for (const policy::Glob& glob : rule.paths) {
        globs_.insert(glob.text);
      }
    }
  }
  translation_ = tables.translation;
}

util::Result<std::unique_ptr<Enforcer>> BpfEnforcer::open(Mechanism mechanism, const Opening& opening) {
  auto enforcer = std::unique_ptr<BpfEnforcer>(new BpfEnforcer(mechanism));
  BpfEnforcer& e = *enforcer;
  e.choose(opening.facts);
  if (auto ok = e.check(opening.policy); !ok) {
    return util::pass_on(ok.error());
  }
  auto grace = sensor::Grace::open();
  if (!grace) {
    return util::pass_on(grace.error());
  }
  e.grace_ = std::move(*grace);
  if (opening.before != nullptr) {
    e.version_ = opening.before->version + 1;
    e.globs_ = opening.before->globs;
  }
  if (auto ok = e.load(opening.tables, opening.facts, opening.before); !ok) {
    return util::pass_on(ok.error());
  }
  auto states = e.prove(opening.policy, opening.compiled, opening.tables, e.version_);
  if (!states) {
    return util::pass_on(states.error());
  }
  e.states_ = std::move(*states);
  if (opening.attachable) {
    e.mountinfo_.reset(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
    e.starts_ = scan_starts(opening.policy, {});
    e.remember_mount_points();
    if (opening.before != nullptr && opening.before->protected_inodes >= 0) {
      e.carry_protected(opening.tables, opening.before->translation, opening.before->version);
      if (auto carried = e.carry_ancestries(e.version_); !carried) {
        return util::pass_on(carried.error());
      }
    }
    e.note_protected();
  }
  if (!opening.attachable) {
    e.remember(opening.policy, opening.tables);
  }
  return enforcer;
}

util::Result<void> BpfEnforcer::replace(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables) {
  check_.reset();
  auto notes = std::move(notes_);
  if (auto ok = check(policy); !ok) {
    notes_ = std::move(notes);
    return util::pass_on(ok.error());
  }
  const std::uint32_t next = version_ + 1;
  if (auto ok = fill(tables, next); !ok) {
    return util::pass_on(ok.error());
  }
  auto states = prove(policy, compiled, tables, next);
  if (!states) {
    return util::pass_on(states.error());
  }
  // There before it is in force, so that whoever goes on from here always finds the one that decides.
  if (!pinned_.empty()) {
    if (auto ok = describe(policy, tables, next); !ok) {
      return util::pass_on(ok.error());
    }
  }
  const std::uint32_t place = (next & 1) * capacity_;
  for (std::uint32_t i = 0; i < capacity_; ++i) {
    const __u32 index = place + i;
    const vg_rule_counts none{};
    bpf_map_update_elem(object_.map_fd("rule_counts"), &index, &none, BPF_ANY);
  }
  if (auto carried = carry_ancestries(next); !carried) {
    return carried;
  }
  starts_ = scan_starts(policy, {});
  remember_mount_points();
  carry_protected(tables, translation_, version_);
  // From here on what is linked or renamed is noted for the next version, too: whatever the scan misses.
  std::atomic_ref(bss().next_version).store(next);
  auto noted = grace_->wait();
  find_links(policy, tables, next);
  std::atomic_ref decided(bss().decided_operations);
  decided.store(decided.load() | tables.operations);
  std::atomic_ref(data().policy_version).store(next);
  std::atomic_ref(bss().next_version).store(0u);
  if (!noted) {
    notes_.push_back(noted.error().message);
  }
  // From here on it is in force. What was begun before goes on by the old one, whose place is free again only then.
  auto waited = grace_->wait();
  decided.store(tables.operations);
  decided_ = tables.operations;
  for (const auto& [name, counts] : rule_counts(version_)) {
    before_.add(name, counts);
  }
  images_[version_ & 1] = {};
  version_ = next;
  note_protected();
  states_ = std::move(*states);
  remember(policy, tables);
  if (!pinned_.empty()) {
    (void)unlink(fmt::format("{}/{}{}", pinned_, kAbout, version_ - 1).c_str());
    (void)describe(policy, tables, version_);  // the counts of the one before are among those of earlier versions now
  }
  return waited;
}

sensor::Inventory BpfEnforcer::inventory() const {
  sensor::Inventory inventory;
  sensor::add_object(inventory, "enforce", object_);
  for (std::size_t i = 0; i < links_.size(); ++i) {
    sensor::add_link(inventory, "enforce", std::to_string(i), links_[i].get());
  }
  return inventory;
}

void BpfEnforcer::register_state(guard::KernelState& state) {
  constexpr std::string_view kBss = "enforce/.bss";
  constexpr std::string_view kData = "enforce/.data";
  state.add_word(kBss, "enforce/decided_operations", bss().decided_operations, decided_);
  state.add_word(kBss, "enforce/agent_tgid", bss().agent_tgid, tgid_);
  state.add_word(kBss, "enforce/agent_start", bss().agent_start, start_);
  state.add_word(kData, "enforce/policy_version", data().policy_version, version_);
  state.add_counter(kData, "enforce/generation", data().generation, generation_seen_);
  state.add_word(kBss, "enforce/next_version", bss().next_version, 0);
  if (forks_) {
    state.add_word(kData, "enforce/forks_noted_since", data().forks_noted_since, forks_noted_since_);
  }
  if (known_protected_.size() > 0) {
    state.add_word(kBss, "enforce/inodes_protected", bss().inodes_protected, 1);
  }
  images_[version_ & 1].register_at(state, "enforce/tables", "tables enforce", object_.map_fd("tables"), version_ & 1);
  state.add_entries("enforce/mount_points", known_mount_points_, mount_point_entries_);
  // A program fills slots of the version in force, and removes inodes that are gone, which it counts.
  const std::uint64_t freed = std::atomic_ref(bss().inodes_freed).load();
  const auto removals = std::make_shared<std::uint64_t>(freed - std::exchange(freed_seen_, freed));
  state.add_entries("enforce/protected_inodes", known_protected_, protected_entries_,
                    [version = version_, removals](const std::byte* was, const std::byte* is) {
                      if (is == nullptr) {
                        const bool expected = *removals > 0;
                        *removals -= expected ? 1 : 0;
                        return expected;
                      }
                      vg_protection before{};
                      vg_protection now{};
                      std::memcpy(&before, was, sizeof before);
                      std::memcpy(&now, is, sizeof now);
                      for (std::size_t i = 0; i < VG_PROTECTION_SETS; ++i) {
                        const bool filled = before.by[version & 1][i] >> 32 != version && now.by[version & 1][i] >> 32 == version;
                        if (before.by[~version & 1][i] != now.by[~version & 1][i] || (before.by[version & 1][i] != now.by[version & 1][i] && !filled)) {
                          return false;
                        }
                      }
                      return true;
                    });
}

void BpfEnforcer::state_restored() { std::atomic_ref(data().generation).fetch_add(1); }

bool BpfEnforcer::fits(const policy::Enforcement& tables) const {
  const bool hooked = std::ranges::all_of(hooks_, [&](const EnforcedHook* hook) { return !is_needed(*hook, tables.operations) || loaded_.contains(hook); });
  const bool probed = mechanism_ == Mechanism::kLsm || (tables.operations & ~operations_) == 0;
  return hooked && probed && (forks_ || (tables.kinds >> VG_WHO_ANCESTOR & 1) == 0) && tables.tables.size() <= table_size_ && tables.rules <= capacity_;
}

// Only functions that the kernel lists for error injection can be answered for, and one that is not refuses all that come with it. A call that this
// kernel does not have is among them, as a weak function that answers ENOSYS; what else is left out, the programs at the object still stop.
util::Result<std::size_t> BpfEnforcer::attach_calls(std::span<const sensor::Probe> some) {
  if (some.empty()) {
    return 0;
  }
  const std::size_t held = links_.size();
  auto done = sensor::attach_probes(object_.program("enforce_call"), {some.begin(), some.end()}, false, fprobe_, probes_, links_);
  if (done) {
    return some.size();
  }
  links_.resize(held);
  if (done.error().code != EINVAL) {
    return util::pass_on(done.error());
  }
  if (some.size() == 1) {
    return 0;
  }
  auto first = attach_calls(some.first(some.size() / 2));
  auto second = first ? attach_calls(some.subspan(some.size() / 2)) : first;
  return second ? util::Result<std::size_t>(*first + *second) : second;
}

util::Result<void> BpfEnforcer::attach(const policy::Policy& policy, const policy::Enforcement& tables) {
  const auto fails = [&](util::Error error) {
    links_.clear();
    probes_.clear();
    return util::pass_on(std::move(error));
  };
  for (const std::string& name : programs_) {
    const sensor::Loaded::Program& program = object_.program(name);
    if (name == "enforce_at") {
      if (auto done = sensor::attach_probes(program, objects_, false, fprobe_, probes_, links_); !done) {
        return fails(std::move(done.error()));
      }
    } else if (name == "enforce_call") {
      auto calls = attach_calls(calls_);
      if (calls && *calls == 0) {
        calls = util::fail(EX_UNAVAILABLE, "no system call of this kernel can be overridden (CONFIG_FUNCTION_ERROR_INJECTION)");
      }
      if (!calls) {
        return fails(std::move(calls.error()));
      }
    } else {
      auto link = sensor::attach_program(program);
      if (!link) {
        return fails(std::move(link.error()));
      }
      links_.push_back(std::move(*link));
    }
  }
  const __u32 before = std::atomic_ref(bss().hook_canary).load();
  const util::UniqueFd canary(::open("/proc/self/status", O_RDONLY | O_CLOEXEC));
  if (std::atomic_ref(bss().hook_canary).load() == before) {
    links_.clear();
    return util::fail(EX_UNAVAILABLE, mechanism_ == Mechanism::kLsm ? "LSM programs attach but are never called: 'bpf' is not in the kernel's lsm= list"
                                                                    : "the programs that enforce attach but are never called");
  }
  // They note new names of protected files already: those that are there are looked for now, then they decide.
  forks_noted_since_ = util::clock_ns(CLOCK_BOOTTIME);
  std::atomic_ref(data().forks_noted_since).store(forks_noted_since_);
  find_links(policy, tables, version_);
  note_protected();
  std::atomic_ref(bss().decided_operations).store(tables.operations);
  in_force_ = true;
  remember(policy, tables);
  return {};
}

std::map<std::string, vg_rule_counts> BpfEnforcer::rule_counts(std::uint32_t of_version) const {
  std::map<std::string, vg_rule_counts> counts;
  for (std::uint32_t i = 0; i < names_.size(); ++i) {
    const __u32 index = (of_version & 1) * capacity_ + i;
    vg_rule_counts one{};
    if (bpf_map_lookup_elem(object_.map_fd("rule_counts"), &index, &one) == 0 && one.stopped > 0) {
      counts[names_[i]] = one;
    }
  }
  return counts;
}

Counts BpfEnforcer::counts() const {
  Counts counts = before_;
  for (const auto& [name, one] : rule_counts(version_)) {
    counts.add(name, one);
  }
  counts.add_per_cpu(object_.map_fd("enforcement"));
  return counts;
}

Heritage BpfEnforcer::heritage() const {
  return {.mechanism = mechanism_,
          .version = version_,
          .protected_inodes = object_.map_fd("protected_inodes"),
          .mount_points = object_.map_fd("mount_points"),
          .refusals = refusals(),
          .worker_refusals = worker_refusals(),
          .ancestries = forks_ ? object_.map_fd("ancestries") : -1,
          .globs = globs_,
          .translation = translation_};
}

// What the executables of all processes' ancestors are to the next version; it is filled already.
util::Result<void> BpfEnforcer::carry_ancestries(std::uint32_t to_version) {
  if (!forks_) {
    return {};
  }
  std::atomic_ref(bss().carried_to).store(to_version);
  const sensor::Link link(bpf_link_create(object_.program_fd("carry_ancestries"), 0, BPF_TRACE_ITER, nullptr));
  const util::UniqueFd iterator(link ? bpf_iter_create(link.get()) : -1);
  char none = 0;
  if (!iterator || read(iterator.get(), &none, sizeof none) != 0) {
    return util::fail_errno(EX_OSERR, "cannot carry the ancestors of processes over to the next version of the policy");
  }
  return {};
}

int BpfEnforcer::refusals() const { return object_.map_fd("refusals"); }

int BpfEnforcer::worker_refusals() const { return object_.map_fd("worker_refusals"); }

// What pins.h tells of, for a version that is about to be in force, or is.
util::Result<void> BpfEnforcer::describe(const policy::Policy& policy, const policy::Enforcement& tables, std::uint32_t of_version) {
  Description d;
  d.version = of_version;
  d.version_at = static_cast<std::uint32_t>(offsetof(enforce_bpf::enforce_bpf__data, policy_version));
  d.capacity = capacity_;
  d.mechanism = static_cast<std::uint32_t>(mechanism_);
  d.since_ns = util::clock_ns(CLOCK_REALTIME);
  d.by = fmt::format("vfsguard {}, pid {}", VFSGUARD_VERSION, getpid());
  for (const policy::Rule& rule : policy.rules) {
    Description::Rule& one = d.rules.emplace_back(rule.name, std::vector<std::string>{});
    for (const policy::Glob& glob : rule.paths) {
      one.globs.push_back(glob.text);
      if (rule.decides() && rule.enforce) {
        d.globs.push_back(glob.text);
      }
    }
  }
  d.set_rules = tables.set_rules;
  d.translation = tables.translation;
  d.exe_sets = tables.exe_sets;
  d.forks = forks_ ? 1 : 0;
  d.before = before_;
  const std::string path = fmt::format("{}/{}{}", pinned_, kAbout, of_version);
  const std::vector<std::byte> bytes = encode(d);
  const __u32 zero = 0;
  const util::UniqueFd map(bpf_map_create(BPF_MAP_TYPE_ARRAY, "about", sizeof zero, static_cast<__u32>(bytes.size()), 1, nullptr));
  if (!map || bpf_map_update_elem(map.get(), &zero, bytes.data(), BPF_ANY) != 0) {
    return util::fail_errno(EX_OSERR, "cannot keep a description of the policy in the kernel");
  }
  const std::string fresh = path + "-new";
  (void)unlink(fresh.c_str());
  if (bpf_obj_pin(map.get(), fresh.c_str()) != 0 || rename(fresh.c_str(), path.c_str()) != 0) {
    return util::fail_errno(EX_CANTCREAT, fmt::format("cannot pin '{}'", path));
  }
  return {};
}

util::Result<void> BpfEnforcer::pin(const std::string& directory, const policy::Policy& policy, const policy::Enforcement& tables) {
  const auto fails = [&](std::string_view what, int code) {
    remove_set(directory);
    pinned_.clear();
    return util::fail_errno(EX_CANTCREAT, fmt::format("cannot pin '{}/{}'", directory, what), code);
  };
  if (mkdir(directory.c_str(), 0700) != 0) {
    return util::fail_errno(EX_CANTCREAT, fmt::format("cannot make '{}'", directory));
  }
  const std::pair<const char*, int> things[] = {{"protected_inodes", object_.map_fd("protected_inodes")},
                                                {"mount_points", object_.map_fd("mount_points")},
                                                {"refusals", refusals()},
                                                {"worker_refusals", worker_refusals()},
                                                {"ancestries", object_.map_fd("ancestries")},
                                                {"rule_counts", object_.map_fd("rule_counts")},
                                                {"enforcement", object_.map_fd("enforcement")},
                                                {"data", object_.map_fd(".data")},
                                                {"who_enforces", object_.program_fd("who_enforces")}};
  for (const auto& [name, fd] : things) {
    if (bpf_obj_pin(fd, fmt::format("{}/{}", directory, name).c_str()) != 0) {
      return fails(name, errno);
    }
  }
  for (std::size_t i = 0; i < links_.size(); ++i) {
    const std::string name = fmt::format("link-{}", i);
    if (bpf_obj_pin(links_[i].get(), fmt::format("{}/{}", directory, name).c_str()) != 0) {
      return fails(name, errno);
    }
  }
  pinned_ = directory;
  if (auto ok = describe(policy, tables, version_); !ok) {
    unpin();
    return ok;
  }
  return {};
}

void BpfEnforcer::unpin() {
  if (!pinned_.empty()) {
    remove_set(pinned_);
    pinned_.clear();
  }
}

void BpfEnforcer::cease() {
  check_.reset();
  unpin();
  links_.clear();
  probes_.clear();
  (void)grace_->wait();
}

util::Result<void> BpfEnforcer::take_over(const Counts& before, const policy::Policy& policy, const policy::Enforcement& tables) {
  before_ = before;
  return pinned_.empty() ? util::Result<void>() : describe(policy, tables, version_);
}

}  // namespace vfsguard::enforce
