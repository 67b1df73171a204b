// SPDX-License-Identifier: Apache-2.0
// Policy files (docs/policy.md): YAML to a checked policy, and from there to the automaton and the tables of the kernel side.
// This version audits; what it does not know it refuses, with file:line:column and a suggestion.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "event/event.h"
#include "event/names.h"
#include "policy/automaton.h"
#include "policy/glob.h"
#include "util/result.h"

namespace vfsguard::policy {

// Conditions on who does it; an empty list does not restrict. All lists that are given must hold.
struct Subjects {
  std::vector<std::uint32_t> uids;
  std::vector<std::uint32_t> gids;
  std::vector<Glob> exes;
  std::vector<std::string> comms;
  std::vector<std::string> containers;  // ids, or prefixes of at least 12 digits

  [[nodiscard]] bool empty() const { return uids.empty() && gids.empty() && exes.empty() && comms.empty() && containers.empty(); }
  [[nodiscard]] bool hold(const event::Operation& operation) const;
};

struct Rule {
  std::string name;
  std::vector<Glob> paths;
  std::uint64_t operations = event::kDefaultOperations;  // bit per VG_OP_*
  Subjects only;
  Subjects unless;
  std::string severity = "info";
};

struct Policy {
  std::string file;
  std::vector<Rule> rules;
};

// Everything the kernel side needs to let through what some rule may ask for.
struct Compiled {
  Automaton automaton;
  std::vector<std::uint64_t> set_operations;          // per match set: bit per operation, for the kernel side
  std::vector<std::vector<std::uint32_t>> set_rules;  // per match set: the rules, in order
  std::uint64_t operations = 0;                       // all that any rule asks for
};

util::Result<Policy> load(const std::string& file);
util::Result<Policy> parse(const std::string& file, const std::string& text);
util::Result<Compiled> compile_policy(const Policy& policy);

// Names the rules that ask for this event (operation.policies, severity). False when none does.
bool attribute(const Policy& policy, const Compiled& compiled, event::Operation& operation);

}  // namespace vfsguard::policy
