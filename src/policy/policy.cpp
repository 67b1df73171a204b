// SPDX-License-Identifier: Apache-2.0
#include "policy/policy.h"

#include <grp.h>
#include <pwd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include "event/names.h"

namespace vfsguard::policy {

namespace {

constexpr std::array<std::string_view, 5> kSeverities{"info", "low", "medium", "high", "critical"};

// The closest of the known words, for "did you mean".
std::string suggestion(std::string_view word, std::span<const std::string_view> known) {
  std::string_view best;
  std::size_t best_distance = 3;
  for (const std::string_view candidate : known) {
    std::vector<std::size_t> row(candidate.size() + 1);
    for (std::size_t j = 0; j < row.size(); ++j) {
      row[j] = j;
    }
    for (std::size_t i = 1; i <= word.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i;
      for (std::size_t j = 1; j < row.size(); ++j) {
        const std::size_t substitute = diagonal + (word[i - 1] == candidate[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best.empty() ? fmt::format("known: {}", fmt::join(known, ", ")) : fmt::format("did you mean '{}'?", best);
}

// Walks the YAML tree; the first error ends it.
class Reader {
 public:
  explicit Reader(std::string file) : file_(std::move(file)) {}

  util::Result<Policy> read(const YAML::Node& root) {
    Policy policy;
    policy.file = file_;
    static constexpr std::array<std::string_view, 3> kKeys{"version", "mode", "rules"};
    if (auto ok = only_keys(root, "a policy", kKeys); !ok) {
      return util::pass_on(ok.error());
    }
    const YAML::Node version = root["version"];
    if (!version) {
      return at(root, "'version' is missing; begin the file with 'version: 1'");
    }
    if (!version.IsScalar() || version.Scalar() != "1") {
      return at(version, "this program reads policies of version 1");
    }
    if (const YAML::Node mode = root["mode"]; mode && (!mode.IsScalar() || (mode.Scalar() != "observe" && mode.Scalar() != "enforce"))) {
      return at(mode, "'mode' is observe or enforce");
    }
    const YAML::Node rules = root["rules"];
    if (!rules || !rules.IsSequence() || rules.size() == 0) {
      return at(rules ? rules : root, "'rules' is missing or empty; it is a list of rules, each with 'name' and 'paths'");
    }
    std::map<std::string, int> names;
    for (const YAML::Node& node : rules) {
      auto rule = read_rule(node);
      if (!rule) {
        return util::pass_on(rule.error());
      }
      const int line = node["name"].Mark().line + 1;
      if (const auto [it, added] = names.try_emplace(rule->name, line); !added) {
        return at(node["name"], fmt::format("a rule named '{}' stands in line {} already", rule->name, it->second));
      }
      policy.rules.push_back(std::move(*rule));
    }
    return policy;
  }

 private:
  std::unexpected<util::Error> at(const YAML::Node& node, std::string_view why, int column_offset = 0) const {
    const YAML::Mark mark = node.Mark();
    return util::fail(EX_CONFIG, fmt::format("{}:{}:{}: {}", file_, mark.line + 1, mark.column + 1 + column_offset, why));
  }

  util::Result<void> only_keys(const YAML::Node& node, std::string_view what, std::span<const std::string_view> keys) const {
    if (!node.IsMap()) {
      return at(node, fmt::format("{} is a mapping with the keys {}", what, fmt::join(keys, ", ")));
    }
    std::vector<std::string> seen;
    for (const auto& entry : node) {
      const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "";
      if (std::ranges::find(keys, key) == keys.end()) {
        return at(entry.first, fmt::format("{} has no key '{}'; {}", what, key, suggestion(key, keys)));
      }
      if (std::ranges::find(seen, key) != seen.end()) {
        return at(entry.first, fmt::format("'{}' stands here twice", key));
      }
      seen.push_back(key);
    }
    return {};
  }

  // A list, or one value for a list of one.
  static std::vector<YAML::Node> items(const YAML::Node& node) {
    std::vector<YAML::Node> all;
    if (node.IsSequence()) {
      for (const YAML::Node& item : node) {
        all.push_back(item);
      }
    } else {
      all.push_back(node);
    }
    return all;
  }

  util::Result<Rule> read_rule(const YAML::Node& node) const {
    static constexpr std::array<std::string_view, 7> kKeys{"name", "paths", "operations", "only", "unless", "action", "severity"};
    if (auto ok = only_keys(node, "a rule", kKeys); !ok) {
      return util::pass_on(ok.error());
    }
    Rule rule;
    const YAML::Node name = node["name"];
    if (!name || !name.IsScalar() || name.Scalar().empty()) {
      return at(name ? name : node, "a rule needs a 'name'");
    }
    rule.name = name.Scalar();
    const YAML::Node paths = node["paths"];
    if (!paths || paths.IsNull() || (paths.IsSequence() && paths.size() == 0)) {
      return at(paths ? paths : node, fmt::format("rule '{}' needs 'paths', a list of globs such as /etc/shadow or /srv/keys/**", rule.name));
    }
    for (const YAML::Node& path : items(paths)) {
      if (!path.IsScalar()) {
        return at(path, "a path is a string");
      }
      auto glob = parse_glob(path.Scalar());
      if (!glob) {
        return at(path, glob.error().message);
      }
      rule.paths.push_back(std::move(*glob));
    }
    if (const YAML::Node operations = node["operations"]) {
      rule.operations = 0;
      for (const YAML::Node& operation : items(operations)) {
        const auto wanted = operation.IsScalar() ? event::operations_from_name(operation.Scalar()) : std::nullopt;
        if (!wanted) {
          return at(operation,
                    fmt::format("no operation '{}' in this version; known: {}", operation.IsScalar() ? operation.Scalar() : "", event::operation_list()));
        }
        rule.operations |= *wanted;
      }
    }
    if (const YAML::Node action = node["action"]) {
      const std::string text = action.IsScalar() ? action.Scalar() : "";
      if (text == "deny" || text == "kill") {
        return at(action, fmt::format("action '{}' is not available in this version, which records and does not stop; write 'audit'", text));
      }
      if (text != "audit") {
        return at(action, fmt::format("no action '{}'; write 'audit'", text));
      }
    }
    if (const YAML::Node severity = node["severity"]) {
      const std::string text = severity.IsScalar() ? severity.Scalar() : "";
      if (std::ranges::find(kSeverities, text) == kSeverities.end()) {
        return at(severity, fmt::format("no severity '{}'; {}", text, suggestion(text, kSeverities)));
      }
      rule.severity = text;
    }
    for (const auto& [key, subjects] : {std::pair{"only", &rule.only}, std::pair{"unless", &rule.unless}}) {
      if (const YAML::Node who = node[key]) {
        if (auto ok = read_subjects(who, key, *subjects); !ok) {
          return util::pass_on(ok.error());
        }
      }
    }
    return rule;
  }

  static std::optional<std::uint32_t> to_id(const std::string& text) {
    std::uint32_t id = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
    if (error != std::errc{} || end != text.data() + text.size()) {
      return std::nullopt;
    }
    return id;
  }

  util::Result<void> read_subjects(const YAML::Node& node, std::string_view key, Subjects& out) const {
    static constexpr std::array<std::string_view, 6> kKeys{"uid", "gid", "user", "exe", "comm", "container"};
    if (auto ok = only_keys(node, fmt::format("'{}'", key), kKeys); !ok) {
      return ok;
    }
    for (const auto& entry : node) {
      const std::string what = entry.first.Scalar();
      for (const YAML::Node& item : items(entry.second)) {
        if (!item.IsScalar()) {
          return at(item, fmt::format("'{}' is a value or a list of values", what));
        }
        const std::string& text = item.Scalar();
        if (what == "uid" || what == "gid") {
          const auto id = to_id(text);
          if (!id) {
            return at(item, fmt::format("'{}' is no {}; write a number{}", text, what, what == "uid" ? ", or 'user:' with a name" : ""));
          }
          (what == "uid" ? out.uids : out.gids).push_back(*id);
        } else if (what == "user") {
          const passwd* user = getpwnam(text.c_str());
          if (user == nullptr) {
            return at(item, fmt::format("there is no user '{}' on this host", text));
          }
          out.uids.push_back(user->pw_uid);
        } else if (what == "exe") {
          auto glob = parse_glob(text);
          if (!glob) {
            return at(item, glob.error().message);
          }
          out.exes.push_back(std::move(*glob));
        } else if (what == "comm") {
          if (text.empty() || text.size() >= VG_COMM_LEN) {
            return at(item, fmt::format("'{}': the kernel keeps 1 to {} bytes of a process's name", text, VG_COMM_LEN - 1));
          }
          out.comms.push_back(text);
        } else {
          if (text.size() < 12) {
            return at(item, fmt::format("'{}': write at least 12 digits of the container's id", text));
          }
          out.containers.push_back(text);
        }
      }
    }
    return {};
  }

  std::string file_;
};

std::size_t severity_rank(std::string_view severity) { return static_cast<std::size_t>(std::ranges::find(kSeverities, severity) - kSeverities.begin()); }

}  // namespace

bool Subjects::hold(const event::Operation& operation) const {
  const vg_event& e = operation.raw;
  const auto among = [](const auto& list, const auto& value) { return list.empty() || std::ranges::find(list, value) != list.end(); };
  if (!among(uids, e.uid) || !among(gids, e.gid) || !among(comms, std::string(e.comm, strnlen(e.comm, sizeof e.comm)))) {
    return false;
  }
  const event::Process* process = operation.process.get();
  if (!exes.empty()) {
    if (process == nullptr || !process->exe || process->exe_deleted) {
      return false;
    }
    if (std::ranges::none_of(exes, [&](const Glob& glob) { return reference_match(glob, *process->exe); })) {
      return false;
    }
  }
  if (!containers.empty()) {
    if (process == nullptr || process->container_id.empty()) {
      return false;
    }
    if (std::ranges::none_of(containers, [&](const std::string& id) { return process->container_id.starts_with(id); })) {
      return false;
    }
  }
  return true;
}

util::Result<Policy> parse(const std::string& file, const std::string& text) {
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsDefined() || root.IsNull()) {
      return util::fail(EX_CONFIG, fmt::format("{}:1:1: the file is empty; a policy begins with 'version: 1'", file));
    }
    return Reader(file).read(root);
  } catch (const YAML::Exception& e) {
    return util::fail(EX_CONFIG, fmt::format("{}:{}:{}: not YAML: {}", file, e.mark.line + 1, e.mark.column + 1, e.msg));
  }
}

util::Result<Policy> load(const std::string& file) {
  if (std::error_code ignored; std::filesystem::is_directory(file, ignored)) {
    return util::fail(EX_NOINPUT, fmt::format("cannot read the policy {}: it is a directory", file));
  }
  std::ifstream in(file);
  if (!in) {
    return util::fail_errno(EX_NOINPUT, fmt::format("cannot read the policy {}", file));
  }
  std::stringstream text;
  text << in.rdbuf();
  return parse(file, text.str());
}

util::Result<Compiled> compile_policy(const Policy& policy) {
  Compiled compiled;
  PatternSet paths;
  std::vector<std::uint32_t> rule_of;
  for (std::size_t r = 0; r < policy.rules.size(); ++r) {
    compiled.operations |= policy.rules[r].operations;
    for (const Glob& glob : policy.rules[r].paths) {
      paths.globs.push_back(glob);
      rule_of.push_back(static_cast<std::uint32_t>(r));
    }
  }
  // Match set 0 means none.
  compiled.set_rules.emplace_back();
  compiled.set_operations.push_back(0);
  std::map<std::vector<std::uint32_t>, std::uint32_t> known;
  paths.resolve = [&](std::span<const std::uint32_t> globs) {
    std::vector<std::uint32_t> rules;
    std::uint64_t operations = 0;
    for (const std::uint32_t glob : globs) {
      rules.push_back(rule_of[glob]);
      operations |= policy.rules[rule_of[glob]].operations;
    }
    std::ranges::sort(rules);
    rules.erase(std::ranges::unique(rules).begin(), rules.end());
    const auto [it, added] = known.try_emplace(rules, static_cast<std::uint32_t>(compiled.set_rules.size()));
    if (added) {
      compiled.set_rules.push_back(rules);
      compiled.set_operations.push_back(operations);
    }
    return it->second;
  };
  auto automaton = compile(paths, {{}, [](auto) { return 0u; }});
  if (!automaton) {
    return util::pass_on(std::move(automaton.error()).context(policy.file));
  }
  compiled.automaton = std::move(*automaton);
  return compiled;
}

bool attribute(const Policy& policy, const Compiled& compiled, event::Operation& operation) {
  const auto rules_of = [&](std::uint32_t set) -> std::span<const std::uint32_t> {
    return set < compiled.set_rules.size() ? std::span(compiled.set_rules[set]) : std::span<const std::uint32_t>{};
  };
  // Both paths of a rename or link can be asked for; rules stay in the policy's order and count once.
  std::vector<std::uint32_t> both;
  std::span<const std::uint32_t> asked = rules_of(operation.raw.match);
  if (operation.raw.match2 != 0) {
    std::ranges::set_union(asked, rules_of(operation.raw.match2), std::back_inserter(both));
    asked = both;
  }
  for (const std::uint32_t index : asked) {
    const Rule& rule = policy.rules[index];
    if ((rule.operations >> operation.raw.operation & 1) == 0) {
      continue;
    }
    if (!rule.only.empty() && !rule.only.hold(operation)) {
      continue;
    }
    if (!rule.unless.empty() && rule.unless.hold(operation)) {
      continue;
    }
    operation.policies.push_back(rule.name);
    if (operation.severity.empty() || severity_rank(rule.severity) > severity_rank(operation.severity)) {
      operation.severity = rule.severity;
    }
  }
  return !operation.policies.empty();
}

}  // namespace vfsguard::policy
