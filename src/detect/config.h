// SPDX-License-Identifier: Apache-2.0
// The configuration of detection (docs/rules.md): which rules, which of them not, and what is otherwise about them, without touching their files.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "detect/correlate.h"
#include "detect/sigma_parse.h"
#include "util/result.h"

namespace vfsguard::detect {

struct Throttle {
  std::uint32_t alerts = 0;  // in `per_ns`, of one rule and one value of `by`; 0: all are told
  std::uint64_t per_ns = 0;
  std::vector<std::string> by;  // fields
};

// What is done about a match, beyond telling it.
struct Response {
  bool kill = false;  // the process that did it, with SIGKILL
  bool deny = false;  // what it was done to, to everybody, until the next reload
  [[nodiscard]] bool any() const { return kill || deny; }
};

// Where the configuration names a rule, or a list that it adds to. What is not there is refused once the rules are read.
struct Mention {
  std::string_view key;  // that it stands below
  std::string word;
  int line = 0;
  int column = 0;
};

struct Config {
  std::string file;                            // empty: there is none
  std::vector<std::string> rules;              // files and directories
  std::vector<std::string> enable;             // only these; empty: all. A rule's id or name, or tag:T
  std::vector<std::string> disable;            // not these
  std::map<std::string, Severity> severities;  // by id or name
  Lists lists;                                 // instead of those that belong to the rules
  Lists more;                                  // beside them
  Throttle throttle;
  std::map<std::string, Throttle> throttles;  // by id or name
  Correlator::Options limits;
  std::map<std::string, Response> responses;  // by id or name
  std::vector<std::string> spared;            // programs that are never killed: names, or paths
  std::vector<Mention> mentions;              // in no order
};

// EX_NOINPUT: it cannot be read (code ENOENT: it is not there); EX_CONFIG with file:line:column.
util::Result<Config> load_config(const std::string& file);
util::Result<Config> parse_config(const std::string& file, const std::string& text);

}  // namespace vfsguard::detect
