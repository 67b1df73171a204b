// SPDX-License-Identifier: Apache-2.0
// What carries a policy's verdicts out, by one of the mechanisms that kernels have: BPF programs (bpf_enforcer.h) or fanotify (fanotify.h).
//
// One thread owns an Enforcer. From attach() on, what the policy forbids does not happen, whoever reads the events or does not; destroying
// the object ends that, unless it was made to stand by itself (pin()).
//
// Policies have versions (bpf/lib/tables.bpf.h). replace() puts the next one in force at one moment; what it needs that was not loaded (another
// hook, larger tables) an Enforcer that follows this one has: open(..., heritage()), attach(), take_over(before), and then `before` may go. While
// both are attached both policies hold.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "abi/control.h"
#include "guard/kernel_state.h"
#include "policy/enforcement.h"
#include "policy/policy.h"
#include "sensor/inventory.h"
#include "util/fd.h"
#include "util/result.h"

namespace vfsguard::enforce {

// The strongest first. What is weaker about the others: docs/policy.md.
enum class Mechanism {
  kAuto = 0,
  kLsm = VG_MECHANISM_LSM,
  kOverride = VG_MECHANISM_OVERRIDE,
  kSignal = VG_MECHANISM_SIGNAL,
  kFanotify = VG_MECHANISM_FANOTIFY,
};

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
// Why a rule is kUntried.
inline constexpr const char* kNothingToTry = "nothing could be made up that it is about; does 'unless' leave nobody of 'only'?";
std::string_view state_name(RuleState::Kind kind);
std::string_view mechanism_name(Mechanism mechanism);

struct Counts {
  std::map<std::string, vg_rule_counts> rules;  // by name, of this policy and those before it
  vg_enforcement total{};                       // `asked` with those that were answered without a decision

  void add(const std::string& name, const vg_rule_counts& more);
  void add_per_cpu(int map);                    // of vg_enforcement
  [[nodiscard]] std::uint64_t stopped() const;  // by all rules
};

// What an enforcer that follows another one goes on with. Descriptors are borrowed, for as long as the new one is being opened; -1: there is none.
struct Heritage {
  std::optional<Mechanism> mechanism;  // that must stay
  std::uint32_t version = 0;
  int protected_inodes = -1;  // maps of bpf/lib/decision.bpf.h
  int mount_points = -1;
  int refusals = -1;
  int worker_refusals = -1;
  int ancestries = -1;
  std::set<std::string> globs;             // whose files were looked at for other names
  std::vector<std::uint32_t> translation;  // from the version before into this one
};

class Enforcer {
 public:
  // Loads; attaches nothing yet. Refuses rules in mode enforce that this kernel, or this mechanism, cannot hold exactly, unless they accept that
  // (Rule::degraded), with file:line. EX_UNAVAILABLE: the kernel's reason. `before`: whom it follows; what is marked stays so (tables: compiled for that).
  // Tries every rule: what the kernel's tables say to an operation that it is about. EX_SOFTWARE where that is not what the rules say.
  static util::Result<std::unique_ptr<Enforcer>> open(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables,
                                                      Mechanism mechanism, const Heritage* before = nullptr);

  // Loads and tries every rule, for its states() and notes() alone: looks for nobody's hard links, and is not to be attached.
  static util::Result<std::unique_ptr<Enforcer>> try_out(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables,
                                                         Mechanism mechanism);

  Enforcer(const Enforcer&) = delete;
  Enforcer& operator=(const Enforcer&) = delete;
  virtual ~Enforcer() = default;

  // Fails, with nothing attached, where the kernel never calls it. The policy that it was opened with: files that it
  // protects are looked for once the programs note what becomes of their names, and only then it decides.
  virtual util::Result<void> attach(const policy::Policy& policy, const policy::Enforcement& tables) = 0;

  // The next version, `tables` compiled to follow the one in force. A decision is made by one of the two, and by the next once this returns.
  // An error: a rule that this kernel cannot hold (see open()), or the kernel's reason; then nothing has changed. It must fit what was loaded.
  virtual util::Result<void> replace(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables) = 0;
  [[nodiscard]] virtual bool fits(const policy::Enforcement& tables) const = 0;
  [[nodiscard]] virtual Heritage heritage() const = 0;
  // Ends it in the kernel, pinned or not, and waits for what it had begun: from here on its counts() stay as they are.
  virtual void cease() = 0;
  // Another's counts, who decides no more. `policy`, `tables`: in force, by this; where it is pinned its description tells of the counts.
  virtual util::Result<void> take_over(const Counts& before, const policy::Policy& policy, const policy::Enforcement& tables);
  [[nodiscard]] std::uint32_t version() const { return version_; }
  [[nodiscard]] Mechanism mechanism() const { return mechanism_; }

  // From here on it stands in the kernel by itself, in a new directory of bpffs (pins.h), whatever becomes of this process; unpin() ends that. It must be
  // attached, and by this policy.
  virtual util::Result<void> pin(const std::string& directory, const policy::Policy& policy, const policy::Enforcement& tables) = 0;
  virtual void unpin() = 0;
  // That directory; empty: it ends with this object.
  [[nodiscard]] const std::string& pinned() const { return pinned_; }

  // Where it notes what it refused, for the programs that write events; lives as long as this.
  [[nodiscard]] virtual int refusals() const = 0;
  [[nodiscard]] virtual int worker_refusals() const = 0;

  // Readable (POLLPRI) when something was mounted or unmounted here; then call mounts_changed().
  [[nodiscard]] int mounts_fd() const { return mountinfo_.get(); }
  virtual void mounts_changed() = 0;
  // To be called each second or so: looks, in a thread, whether files are still protected whose protected names went.
  virtual void look_after() {}

  [[nodiscard]] virtual Counts counts() const = 0;
  [[nodiscard]] virtual std::uint64_t table_bytes() const = 0;
  // What of it is in the kernel now.
  [[nodiscard]] virtual sensor::Inventory inventory() const = 0;
  // What decides and could be written to by others, and how it must be (guard/kernel_state.h).
  virtual void register_state(guard::KernelState&) {}
  // Some of that was not so, and is again: what programs remember of their decisions is void.
  virtual void state_restored() {}
  // By place in the policy.
  [[nodiscard]] const std::vector<RuleState>& states() const { return states_; }
  // What is weaker than the rules say, a line each.
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }

 protected:
  explicit Enforcer(Mechanism mechanism) : mechanism_(mechanism) {}

  // What is weaker about the mechanism than what rules say, as it is on this kernel.
  [[nodiscard]] virtual std::string weakness() const = 0;
  // Operations that it cannot stop here.
  [[nodiscard]] virtual std::uint64_t missing() const = 0;
  // Refuses what it cannot hold; notes what the rule accepts of that.
  util::Result<void> check(const policy::Policy& policy);
  // The state of a rule that decides what it was tried with.
  [[nodiscard]] RuleState state_of(const policy::Rule& rule) const;

  Mechanism mechanism_;
  std::uint32_t version_ = VG_FIRST_VERSION;
  std::vector<std::string> notes_;
  std::vector<RuleState> states_;
  Counts before_;  // what earlier versions did
  util::UniqueFd mountinfo_;
  std::string pinned_;
};

}  // namespace vfsguard::enforce
