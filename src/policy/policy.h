// SPDX-License-Identifier: Apache-2.0
// Policy files (docs/policy.md): YAML to a checked policy, and from there to the automaton and the tables of the kernel side.
// Rules that deny or kill become the kernel's tables in policy/enforcement.h. What is not known is refused, with file:line:column and a
// suggestion.
#pragma once

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
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
  std::vector<Glob> ancestors;          // executables, of any of them
  std::vector<Glob> cgroups;            // paths in the hierarchy
  std::vector<std::string> containers;  // ids, or prefixes of at least 12 digits

  [[nodiscard]] bool empty() const {
    return uids.empty() && gids.empty() && exes.empty() && comms.empty() && ancestors.empty() && cgroups.empty() && containers.empty();
  }
  [[nodiscard]] bool hold(const event::Operation& operation) const;
};

// Audit records and goes on; of the rules that deny or kill, the first that applies decides.
enum class Action { kAudit, kDeny, kKill };
std::string_view action_name(Action action);  // of a verdict: "allow", "deny", "kill"

// A test that lives with its rule: what the whole policy is to say.
struct Expectation {
  event::Operation operation;  // who, what and where; raw.match is set when it is tried
  Action verdict = Action::kAudit;
  int line = 0;
};

struct Rule {
  std::string file;
  int line = 0;
  std::string name;
  std::vector<Glob> paths;
  std::uint64_t operations = event::kDefaultOperations;  // bit per VG_OP_*
  Subjects only;
  Subjects unless;
  Action action = Action::kAudit;
  int error = EACCES;     // of deny
  int signal = SIGKILL;   // of kill
  bool enforce = true;    // else observe: the same verdict, and nothing is stopped
  bool degraded = false;  // start although this kernel cannot enforce it exactly
  std::string severity = "info";
  std::vector<Expectation> expect;

  // Whether it asks for this operation by this subject; the paths are the automaton's.
  [[nodiscard]] bool asks_for(const event::Operation& operation) const;
  // Whether its verdict can be other than to let pass.
  [[nodiscard]] bool decides() const { return action != Action::kAudit; }
  // Whether it would stop such an operation, where it asks for it: not what is only told of, the end of a session and of a process.
  [[nodiscard]] bool stops(const event::Operation& operation) const;
};

// What the agent does about those who would get hold of it, and about what is no longer as it was when it started (src/guard).
struct Guard {
  enum class Forbid { kOff, kAgent, kAll };
  enum class OnDebugger { kReport, kEnd, kKill };
  enum class OnDifference { kReport, kRefuseReload, kStop };

  Forbid forbid = Forbid::kAgent;  // whom nobody may trace, by BPF LSM
  std::vector<std::uint32_t> exempt_uids;
  std::vector<std::string> exempt_exes;  // paths; from the agent itself nobody is exempt
  OnDebugger on_debugger = OnDebugger::kReport;
  std::uint32_t integrity_seconds = 60;  // between two looks; 0: none
  OnDifference on_difference = OnDifference::kReport;
};

struct Policy {
  std::string file;
  bool persist = false;  // what it stops is stopped after the agent's end, too
  Guard guard;
  std::vector<std::string> guard_keys;  // of the guard, those that some file has set; the last one counts, and what includes comes after what is included
  std::vector<std::string> files;       // that it was read from
  std::vector<Rule> rules;
};

// Everything the kernel side needs to let through what some rule may ask for.
struct Compiled {
  Automaton automaton;
  std::vector<std::uint64_t> set_operations;          // per match set: bit per operation, for the kernel side
  std::vector<std::vector<std::uint32_t>> set_rules;  // per match set: the rules, in order
  std::uint64_t operations = 0;                       // all that any rule asks for
};

// What somebody else is to be told of, beside what rules ask for.
struct Watched {
  struct Place {
    Glob glob;
    std::uint64_t operations = 0;
  };
  std::vector<Place> places;
  std::uint64_t operations = 0;  // all
  std::uint64_t anywhere = 0;    // of these, whatever the path; VG_ANYWHERE_WRITES
};

// A file with what it includes, or a directory: its .yaml, .yml and .json files in the order of their names.
util::Result<Policy> load(const std::string& file);
util::Result<Policy> parse(const std::string& file, const std::string& text);
util::Result<Compiled> compile_policy(const Policy& policy, const Watched* watched = nullptr);
// Of the rules that deny or kill alone: enough for deciding_rule().
util::Result<Compiled> compile_deciding(const Policy& policy);

// The match sets of the operation's two paths, as the kernel side would find them.
void match_paths(const Compiled& compiled, event::Operation& operation);

// The rules whose globs match one of the operation's paths, in the policy's order. `both` is memory for the result.
std::span<const std::uint32_t> rules_at(const Compiled& compiled, const event::Operation& operation, std::vector<std::uint32_t>& both);

// The first rule that denies or kills this; null: none does.
const Rule* deciding_rule(const Policy& policy, const Compiled& compiled, const event::Operation& operation);

// The rule by which the kernel refused an operation; of a policy that may have been replaced since.
struct Refusal {
  std::uint32_t place = 0;  // in that policy
  std::string name;
  std::string severity;
  Action action = Action::kDeny;
};

// Names the rules that ask for this event, the deciding one first, and its verdict (operation.policies, severity, verdict). False when none
// does.
// `carried_out`: null where the kernel did not refuse it.
bool attribute(const Policy& policy, const Compiled& compiled, event::Operation& operation, const Refusal* carried_out = nullptr);

// Whether any rule is to be carried out.
bool enforces(const Policy& policy);

// What is worth a second look: rules that can never decide, that overlap with another verdict, that lock out root or the agent, or that trust
// what any process can choose. Each begins with file:line.
std::vector<std::string> review(const Policy& policy, const Compiled& compiled);

// One condition of `as`: "uid=1000". Words as the keys of `only`; values are exact here, no globs.
util::Result<void> set_subject(event::Operation& operation, std::string_view key, const std::string& value);

}  // namespace vfsguard::policy
