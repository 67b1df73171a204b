// SPDX-License-Identifier: Apache-2.0
// Scenario files: "do this as that user, expect these events", in plain text. See tests/scenario/README.md for the language.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "util/result.h"

namespace vfsguard::scenario {

struct Line {
  int number = 0;
  std::vector<std::string> words;  // quotes and escapes resolved, variables not
};

struct Condition {
  std::string key;
  std::string relation;  // =, !=, >=, ^= (prefix), *= (contains)
  std::string value;
  std::vector<std::string> hooks;  // empty: every mechanism
};

struct Expectation {
  int line = 0;
  std::vector<std::string> hooks;  // empty: every mechanism
  std::string call;
  std::vector<Condition> conditions;
};

struct Scenario {
  std::string file;
  int line = 0;
  std::string name;
  std::vector<Line> setup;  // carried out by the runner, before
  std::vector<Line> steps;  // carried out by the actor
  std::vector<Expectation> expectations;
  std::vector<std::string> needs;
  std::vector<std::string> watch;  // operations that are looked at; empty: open, create and exec
  std::vector<std::string> alike;  // mechanisms whose events are compared although others differ
  bool unordered = false;
  bool reader_stopped = false;
  bool varies = false;  // the events differ between mechanisms, as docs/limitations.md says

  [[nodiscard]] std::vector<const Expectation*> for_hook(const std::string& hook) const;
};

util::Result<std::vector<Scenario>> parse_scenarios(const std::string& file);

// $NAME and ${NAME}.
std::string substitute(const std::string& text, const std::map<std::string, std::string>& variables);

// What the actor process of a scenario does. Returns only on success; on failure prints to stderr and exits with 99.
void act(const std::vector<Line>& lines, std::map<std::string, std::string> variables);
// The runner's own preparations; the same verbs.
void prepare(const std::vector<Line>& lines, const std::map<std::string, std::string>& variables);

}  // namespace vfsguard::scenario
