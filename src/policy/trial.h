// SPDX-License-Identifier: Apache-2.0
// What each rule of a policy can be tried with: a path that its first glob matches, an operation that it names, and somebody that it is about. What
// the kernel's tables say to that is held against what the rules say (enforce/enforcer.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "event/event.h"
#include "policy/policy.h"

namespace vfsguard::policy {

struct Trial {
  std::uint32_t rule = 0;                // whom it is for, by place in the policy
  event::Operation operation;            // path, operation, subject
  std::string name;                      // of the process
  std::optional<std::uint32_t> decides;  // the rule that is to decide it: this one, or one before it
};

// One for each rule that denies or kills. `among`: operations that can be tried. `untried` gets the rules for which none could be made.
std::vector<Trial> make_trials(const Policy& policy, const Compiled& compiled, std::uint64_t among, std::vector<std::uint32_t>& untried);

// A path that the glob matches; none where that is not simple to say.
std::optional<std::string> sample(const Glob& glob);

}  // namespace vfsguard::policy
