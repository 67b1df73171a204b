// SPDX-License-Identifier: Apache-2.0
#include "policy/trial.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

namespace vfsguard::policy {

namespace {

// What reads well, if the set has it.
char pick(const ByteSet& set) {
  for (const char c : std::string_view("xabcdefghijklmnopqrstuvwyz0123456789-_")) {
    if (set.test(static_cast<unsigned char>(c))) {
      return c;
    }
  }
  for (unsigned c = 1; c < 256; ++c) {
    if (c != '/' && set.test(c)) {
      return static_cast<char>(c);
    }
  }
  return '/';
}

// One of the list, if there is one, that the other list does not have; else one that it does not have.
std::uint32_t pick_id(const std::vector<std::uint32_t>& only, const std::vector<std::uint32_t>& unless) {
  const auto free = [&](std::uint32_t id) { return std::ranges::find(unless, id) == unless.end(); };
  if (!only.empty()) {
    const auto found = std::ranges::find_if(only, free);
    return found == only.end() ? only.front() : *found;
  }
  std::uint32_t id = 60000;
  while (!free(id)) {
    ++id;
  }
  return id;
}

}  // namespace

std::optional<std::string> sample(const Glob& glob) {
  for (const std::string_view directories : {"", "x/"}) {
    std::string path;
    for (const GlobToken& token : glob.tokens) {
      if (token.kind == GlobToken::Kind::kDirectories) {
        path += directories;
      } else {
        path += pick(token.set);
      }
    }
    if (reference_match(glob, path)) {
      return path;
    }
  }
  return std::nullopt;
}

std::vector<Trial> make_trials(const Policy& policy, const Compiled& compiled, std::uint64_t among, std::vector<std::uint32_t>& untried) {
  std::vector<Trial> trials;
  for (std::uint32_t r = 0; r < policy.rules.size(); ++r) {
    const Rule& rule = policy.rules[r];
    if (!rule.decides()) {
      continue;
    }
    Trial trial;
    trial.rule = r;
    const std::uint64_t operations = rule.operations & among;
    trial.operation.path = rule.paths.empty() ? std::nullopt : sample(rule.paths.front());
    vg_event& e = trial.operation.raw;
    e.operation = static_cast<vg_u8>(std::countr_zero(operations));
    e.uid = pick_id(rule.only.uids, rule.unless.uids);
    e.gid = pick_id(rule.only.gids, rule.unless.gids);
    trial.name = rule.only.comms.empty() ? "a-trial" : rule.only.comms.front();
    trial.name.copy(e.comm, sizeof e.comm - 1);
    auto process = std::make_shared<event::Process>();
    const auto of = [](const std::vector<Glob>& globs, const char* otherwise) {
      return globs.empty() ? std::optional<std::string>(otherwise) : sample(globs.front());
    };
    process->exe = of(rule.only.exes, "/a/trial");
    if (const auto above = of(rule.only.ancestors, "/a/trial")) {
      process->ancestors.push_back({1, 0, 0, std::make_shared<const std::string>(*above)});
    }
    process->cgroup = of(rule.only.cgroups, "/a-trial");
    if (!rule.only.containers.empty()) {
      process->container.id = rule.only.containers.front();
      process->cgroup = "/a-trial-" + process->container.id;
    }
    trial.operation.process = std::move(process);
    if (operations == 0 || !trial.operation.path || !rule.asks_for(trial.operation)) {
      untried.push_back(r);
      continue;
    }
    match_paths(compiled, trial.operation);
    if (const Rule* deciding = deciding_rule(policy, compiled, trial.operation)) {
      trial.decides = static_cast<std::uint32_t>(deciding - policy.rules.data());
    }
    trials.push_back(std::move(trial));
  }
  return trials;
}

}  // namespace vfsguard::policy
