// SPDX-License-Identifier: Apache-2.0
// What carries a policy's verdicts out: loads bpf/enforce.bpf.c, hands it the compiled policy, and keeps it informed of what only user space
// can list: where file systems are mounted here, and which protected files have several names already.
//
// One thread owns an Enforcer. From attach() on, what the policy forbids does not happen, whoever reads the events or does not; destroying
// the object ends that. Nothing is pinned.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "abi/control.h"
#include "policy/enforcement.h"
#include "policy/policy.h"
#include "util/result.h"

namespace vfsguard::enforce {

// Of one rule, or in all.
struct Counts {
  std::vector<vg_rule_counts> rules;  // by place in the policy
  vg_enforcement total{};
};

class Enforcer {
 public:
  // Loads; attaches nothing yet. Refuses rules in mode enforce that this kernel cannot hold exactly, unless they accept that (Rule::degraded),
  // with file:line. EX_UNAVAILABLE: the kernel's reason.
  static util::Result<Enforcer> open(const policy::Policy& policy, const policy::Enforcement& tables);

  Enforcer(Enforcer&&) noexcept;
  Enforcer& operator=(Enforcer&&) noexcept;
  ~Enforcer();

  // Fails, with nothing attached, where the hooks are never called.
  util::Result<void> attach();

  // Where it notes what it refused, for the programs that write events; lives as long as this.
  [[nodiscard]] int decisions() const;
  [[nodiscard]] int worker_decisions() const;

  // Readable (POLLPRI) when something was mounted or unmounted here; then call mounts_changed().
  [[nodiscard]] int mounts_fd() const;
  void mounts_changed();

  [[nodiscard]] Counts counts() const;
  [[nodiscard]] std::uint64_t table_bytes() const;
  // What is weaker than the rules say, a line each.
  [[nodiscard]] const std::vector<std::string>& notes() const;

 private:
  struct State;
  explicit Enforcer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace vfsguard::enforce
