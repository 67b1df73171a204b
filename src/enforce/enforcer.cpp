// SPDX-License-Identifier: Apache-2.0
#include "enforce/enforcer.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>

#include <fmt/format.h>

#include "enforce/bpf_enforcer.h"
#include "enforce/fanotify.h"
#include "enforce/hooks.h"
#include "sensor/attach.h"
#include "sensor/kernel_facts.h"

namespace vfsguard::enforce {

namespace {

// Lines of one kind.
constexpr std::size_t kNotesAtMost = 5;

}  // namespace

void Counts::add(const std::string& name, const vg_rule_counts& more) {
  vg_rule_counts& counts = rules[name];
  counts.stopped += more.stopped;
  counts.kill_failed += more.kill_failed;
}

std::uint64_t Counts::stopped() const {
  std::uint64_t sum = 0;
  for (const auto& [name, counts] : rules) {
    sum += counts.stopped;
  }
  return sum;
}

void Counts::add_per_cpu(int map) {
  const __u32 zero = 0;
  std::vector<vg_enforcement> per_cpu(static_cast<std::size_t>(std::max(libbpf_num_possible_cpus(), 1)));
  if (bpf_map_lookup_elem(map, &zero, per_cpu.data()) != 0) {
    return;
  }
  for (const vg_enforcement& one : per_cpu) {
    total.asked += one.asked + one.known;
    total.known += one.known;
    total.unknown += one.unknown;
    total.refused_unknown += one.refused_unknown;
    total.no_memory += one.no_memory;
    total.protected_inodes_full += one.protected_inodes_full;
    total.no_ancestors += one.no_ancestors;
  }
}

// Refuses what the kernel cannot hold; notes what the rule accepts of that.
util::Result<void> Enforcer::check(const policy::Policy& policy) {
  std::vector<std::string> weaker;
  std::size_t recorded = 0;
  if (mechanism_ != Mechanism::kLsm) {
    weaker.push_back(weakness());
  }
  for (const policy::Rule& rule : policy.rules) {
    const std::uint64_t lost = rule.operations & missing() & ~kEnds;
    if (rule.decides() && rule.enforce && mechanism_ != Mechanism::kLsm && !rule.degraded) {
      return util::fail(EX_CONFIG,
                        fmt::format("{}:{}: rule '{}' is to hold exactly, which takes BPF LSM (vfsguard doctor), and {}; write 'degraded: accept' where "
                                    "that will do, or record only, by --enforce off",
                                    rule.file, rule.line, rule.name, weakness()));
    }
    if (!rule.decides() || !rule.enforce || lost == 0) {
      continue;
    }
    const std::string what = fmt::format("{}:{}: rule '{}': {} offers nothing to stop '{}' by", rule.file, rule.line, rule.name,
                                         mechanism_ == Mechanism::kLsm ? "the kernel" : mechanism_name(mechanism_), event::operation_names(lost));
    if (!rule.degraded) {
      return util::fail(EX_CONFIG, what + "; leave it out, or write 'degraded: accept' to have it only recorded");
    }
    if (++recorded <= kNotesAtMost) {
      weaker.push_back(what + "; it is only recorded");
    }
  }
  if (recorded > kNotesAtMost) {
    weaker.push_back(fmt::format("and so for {} more rules", recorded - kNotesAtMost));
  }
  notes_ = std::move(weaker);
  return {};
}

util::Result<void> Enforcer::take_over(const Counts& before, const policy::Policy& /*policy*/, const policy::Enforcement& /*tables*/) {
  before_ = before;
  return {};
}

RuleState Enforcer::state_of(const policy::Rule& rule) const {
  if (!rule.enforce) {
    return {RuleState::Kind::kObserved, {}};
  }
  if (mechanism_ != Mechanism::kLsm) {
    return {RuleState::Kind::kDegraded, fmt::format("by {}", mechanism_name(mechanism_))};
  }
  if (const std::uint64_t lost = rule.operations & missing() & ~kEnds; lost != 0) {
    return {RuleState::Kind::kDegraded, fmt::format("only recorded: {}", event::operation_names(lost))};
  }
  return {RuleState::Kind::kActive, {}};
}

std::string_view mechanism_name(Mechanism mechanism) { return event::mechanism_name(static_cast<unsigned>(mechanism)); }

std::string_view state_name(RuleState::Kind kind) {
  switch (kind) {
    case RuleState::Kind::kActive: return "active";
    case RuleState::Kind::kDegraded: return "degraded";
    case RuleState::Kind::kObserved: return "observed";
    case RuleState::Kind::kCovered: return "covered";
    case RuleState::Kind::kUntried: return "untried";
    case RuleState::Kind::kNone: break;
  }
  return "recorded";
}

namespace {

// The strongest that there is, or the one that was asked for.
util::Result<Mechanism> mechanism_for(Mechanism wanted, const sensor::KernelFacts& facts) {
  const bool lsm = sensor::lsm_programs_load(facts);
  const bool overrides = sensor::kprobes_usable(facts) && sensor::overrides_load();
  if (wanted == Mechanism::kAuto) {
    return lsm ? Mechanism::kLsm : overrides ? Mechanism::kOverride : Mechanism::kSignal;
  }
  if (wanted == Mechanism::kLsm && !lsm) {
    return util::fail(EX_UNAVAILABLE, "this kernel has no BPF LSM, which --enforce lsm needs; it needs CONFIG_BPF_LSM=y, and 'bpf' in its lsm= list");
  }
  if (wanted == Mechanism::kOverride && !overrides) {
    return util::fail(EX_UNAVAILABLE, "this kernel cannot override system calls, which --enforce override needs; it needs CONFIG_BPF_KPROBE_OVERRIDE=y");
  }
  return wanted;
}

util::Result<std::unique_ptr<Enforcer>> open_any(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables,
                                                 Mechanism mechanism, const Heritage* before, bool attachable) {
  sensor::keep_libbpf_words();
  if (auto ok = sensor::may_load(); !ok) {
    return util::pass_on(ok.error());
  }
  auto facts = sensor::kernel_facts();
  if (!facts) {
    return util::pass_on(facts.error());
  }
  if (mechanism == Mechanism::kFanotify) {
    return FanotifyEnforcer::open(policy, compiled, before);
  }
  auto chosen = before != nullptr && before->mechanism ? util::Result<Mechanism>(*before->mechanism) : mechanism_for(mechanism, *facts);
  if (!chosen) {
    return util::pass_on(chosen.error());
  }
  return BpfEnforcer::open(*chosen, {policy, compiled, tables, *facts, before, attachable});
}

}  // namespace

util::Result<std::unique_ptr<Enforcer>> Enforcer::try_out(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables,
                                                          Mechanism mechanism) {
  return open_any(policy, compiled, tables, mechanism, nullptr, false);
}

util::Result<std::unique_ptr<Enforcer>> Enforcer::open(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables,
                                                       Mechanism mechanism, const Heritage* before) {
  return open_any(policy, compiled, tables, mechanism, before, true);
}

}  // namespace vfsguard::enforce
