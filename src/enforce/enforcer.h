// SPDX-License-Identifier: Apache-2.0
// What carries a policy's verdicts out: loads bpf/enforce.bpf.c, hands it the compiled policy, and keeps it informed of what only user space
// can list: where file systems are mounted here, and which protected files have several names already.
//
// One thread owns an Enforcer. From attach() on, what the policy forbids does not happen, whoever reads the events or does not; destroying
// the object ends that. Nothing is pinned.
//
// Policies have versions (bpf/lib/tables.bpf.h). replace() puts the next one in force at one moment; what it needs that was not loaded (another
// hook, larger tables) an Enforcer that follows this one has: open(..., before), attach(), take_over(before), and then `before` may go. While
// both are attached both policies hold.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "abi/control.h"
#include "policy/enforcement.h"
#include "policy/policy.h"
#include "util/result.h"

namespace vfsguard::enforce {

// The strongest first. What is weaker about the others: docs/policy.md.
enum class Mechanism { kAuto = 0, kLsm = VG_MECHANISM_LSM, kOverride = VG_MECHANISM_OVERRIDE, kSignal = VG_MECHANISM_SIGNAL };

// What was found of a rule when it was tried, before it was put in force.
struct RuleState {
  enum class Kind {
    kNone,      // it neither denies nor kills
    kActive,    // the kernel decides as the rule says, and carries it out
    kDegraded,  // so, by a mechanism that is weaker than the rule, or not for all of its operations
    kObserved,  // so, and nothing is stopped: its mode
    kCovered,   // a rule before it decides what was tried
    kUntried,   // nothing could be made up that it is about
  };
  Kind kind = Kind::kNone;
  std::string why;
};
std::string_view state_name(RuleState::Kind kind);

struct Counts {
  std::map<std::string, vg_rule_counts> rules;  // by name, of this policy and those before it
  vg_enforcement total{};
};

class Enforcer {
 public:
  // Loads; attaches nothing yet. Refuses rules in mode enforce that this kernel, or this mechanism, cannot hold exactly, unless they accept that
  // (Rule::degraded), with file:line. EX_UNAVAILABLE: the kernel's reason. `before`: whom it follows; what is marked stays so (tables: compiled for that).
  // Tries every rule: what the kernel's tables say to an operation that it is about. EX_SOFTWARE where that is not what the rules say.
  static util::Result<Enforcer> open(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables, Mechanism mechanism,
                                     const Enforcer* before = nullptr);

  // Loads and tries every rule, for its states() and notes() alone: looks for nobody's hard links, and is not to be attached.
  static util::Result<Enforcer> try_out(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables, Mechanism mechanism);

  Enforcer(Enforcer&&) noexcept;
  Enforcer& operator=(Enforcer&&) noexcept;
  ~Enforcer();

  // Fails, with nothing attached, where the hooks are never called.
  util::Result<void> attach();

  // The next version, `tables` compiled to follow the one in force. A decision is made by one of the two, and by the next once this returns.
  // An error: a rule that this kernel cannot hold (see open()), or the kernel's reason; then nothing has changed. It must fit what was loaded.
  util::Result<void> replace(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables);
  [[nodiscard]] bool fits(const policy::Enforcement& tables) const;
  // The counts of `before`, which decides no more.
  void take_over(const Enforcer& before);
  [[nodiscard]] std::uint32_t version() const;
  [[nodiscard]] unsigned mechanism() const;  // VG_MECHANISM_*

  // Where it notes what it refused, for the programs that write events; lives as long as this.
  [[nodiscard]] int decisions() const;
  [[nodiscard]] int worker_decisions() const;

  // Readable (POLLPRI) when something was mounted or unmounted here; then call mounts_changed().
  [[nodiscard]] int mounts_fd() const;
  void mounts_changed();

  [[nodiscard]] Counts counts() const;
  [[nodiscard]] std::uint64_t table_bytes() const;
  // By place in the policy.
  [[nodiscard]] const std::vector<RuleState>& states() const;
  // What is weaker than the rules say, a line each.
  [[nodiscard]] const std::vector<std::string>& notes() const;

 private:
  struct State;
  explicit Enforcer(std::unique_ptr<State> state);
  static util::Result<std::unique_ptr<State>> load_and_try(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables,
                                                           Mechanism mechanism, const Enforcer* before);
  std::unique_ptr<State> state_;
};

}  // namespace vfsguard::enforce
