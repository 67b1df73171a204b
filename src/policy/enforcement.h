// SPDX-License-Identifier: Apache-2.0
// From a checked policy to the tables by which the kernel decides (bpf/abi/control.h, bpf/lib/rules.bpf.h): the rules that deny or kill, with
// everything that they ask of the subject, and the directories that protected paths lead through.
//
// A decision costs a walk of the object's path and what the rules about that path ask; how many other rules there are does not matter.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "policy/automaton.h"
#include "policy/policy.h"
#include "util/result.h"

namespace vfsguard::policy {

// Tables larger than this are refused: kernel memory that is never given back while the policy stands.
inline constexpr std::size_t kMaxTableBytes = 64u << 20;

struct Enforcement {
  std::vector<std::byte> tables;  // the value of the map `tables`
  std::uint64_t operations = 0;   // bit per VG_OP_*: some rule that denies or kills is about it
  std::uint32_t rules = 0;        // of the policy, those that only record too: a clause names its rule by its place among them
  std::uint32_t clauses = 0;
  std::uint32_t sets = 0;
  Automaton automaton;                                // as in the tables, for what is looked up in user space
  std::vector<std::vector<std::uint32_t>> set_rules;  // per match set of a path: its rules' places in the policy; empty: it is of something else
  std::vector<std::uint32_t> translation;             // per match set of the policy before: the one that says the same in this
  std::vector<std::vector<std::string>> exe_sets;     // per match set of an executable: the globs that match
  std::uint32_t kinds = 0;                            // bit per VG_WHO_*: what the rules ask of the subject
};

// The policy that these tables are to replace: what its match sets become is in the tables too, for the objects that the kernel marked with them.
// A rule goes on as the rule of its name or, where there is none, as all rules with one of its globs.
struct Before {
  const Policy& policy;
  const Enforcement& tables;
};

util::Result<Enforcement> compile_enforcement(const Policy& policy, const Before* before = nullptr);

// What records and what enforces, of one policy: of many rules side by side, on two CPUs. `enforcement`: also the second; `only_deciding`: the first
// by compile_deciding().
struct Tables {
  Compiled compiled;
  Enforcement enforcement;
};
util::Result<Tables> compile_tables(const Policy& policy, bool enforcement, const Before* before = nullptr, const Watched* watched = nullptr,
                                    bool only_deciding = false);

// The paths of the directories that lead to what a glob matches, and into it: "/home", "/home/*" for "/home/*/.ssh"; "/srv", "/srv/**" for
// "/srv/**".
std::vector<std::string> directories_above(const std::string& glob);

}  // namespace vfsguard::policy
