// SPDX-License-Identifier: Apache-2.0
#include "policy/policy.h"

#include <grp.h>
#include <pwd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <map>
#include <unordered_map>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include "event/names.h"
#include "util/read_file.h"
#include "util/suggestion.h"

namespace vfsguard::policy {

namespace {

constexpr std::array<std::string_view, 5> kSeverities{"info", "low", "medium", "high", "critical"};
constexpr std::array<std::string_view, 3> kActions{"audit", "deny", "kill"};
constexpr std::array<std::string_view, 3> kVerdicts{"allow", "deny", "kill"};
constexpr std::array<std::string_view, 9> kSubjects{"uid", "gid", "user", "exe", "comm", "ancestor", "cgroup", "container", "group"};
constexpr int kMaxIncludes = 16;
constexpr std::size_t kMaxBytes = 16u << 20;  // of a policy file

std::optional<std::uint32_t> to_id(std::string_view text) {
  std::uint32_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc{} || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return id;
}

// Of the conditions uid, gid, user and group.
util::Result<std::uint32_t> subject_id(std::string_view what, const std::string& text) {
  if (what == "user" || what == "group") {
    const passwd* user = what == "user" ? getpwnam(text.c_str()) : nullptr;
    const group* group = what == "group" ? getgrnam(text.c_str()) : nullptr;
    if (user == nullptr && group == nullptr) {
      return util::fail(EX_USAGE, fmt::format("there is no {} '{}' on this host", what, text));
    }
    return user != nullptr ? user->pw_uid : group->gr_gid;
  }
  const auto id = to_id(text);
  if (!id) {
    return util::fail(EX_USAGE, fmt::format("'{}' is no {}; write a number{}", text, what, what == "uid" ? ", or 'user:' with a name" : ""));
  }
  return *id;
}

bool is_id(std::string_view what) { return what == "uid" || what == "gid" || what == "user" || what == "group"; }
bool is_user(std::string_view what) { return what == "uid" || what == "user"; }

util::Result<void> check_comm(const std::string& text) {
  if (text.empty() || text.size() >= VG_COMM_LEN) {
    return util::fail(EX_USAGE, fmt::format("'{}': the kernel keeps 1 to {} bytes of a process's name", text, VG_COMM_LEN - 1));
  }
  return {};
}

// The number from 1 on, below `end`, that `name_of` gives this name.
template <typename NameOf>
std::optional<int> number_of(std::string_view name, int end, NameOf name_of) {
  for (int number = 1; number < end; ++number) {
    if (name_of(number) == name) {
      return number;
    }
  }
  return std::nullopt;
}

std::optional<int> error_number(std::string_view name) { return number_of(name, 134, event::error_name); }
std::optional<int> signal_number(std::string_view name) {
  return number_of(name, 65, [](int signal) { return event::signal_name(static_cast<unsigned>(signal)); });
}

// Walks the YAML tree; the first error ends it.
class Reader {
 public:
  explicit Reader(std::string file) : file_(std::move(file)) {}

  util::Result<Policy> read(const YAML::Node& root) {
    Policy policy;
    policy.file = file_;
    policy.files.push_back(file_);
    static constexpr std::array<std::string_view, 9> kKeys{"version",  "mode",      "persist", "include", "forbid_ptrace",
                                                           "debugger", "integrity", "secrets", "rules"};
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
    if (auto ok = read_mode(root, enforce_); !ok) {
      return util::pass_on(ok.error());
    }
    if (const YAML::Node persist = root["persist"]) {
      if (!persist.IsScalar() || (persist.Scalar() != "true" && persist.Scalar() != "false")) {
        return at(persist, "'persist' is true or false");
      }
      policy.persist = persist.Scalar() == "true";
    }
    if (auto ok = read_guard(root, policy); !ok) {
      return util::pass_on(ok.error());
    }
    if (const YAML::Node include = root["include"]) {
      for (const YAML::Node& file : items(include)) {
        if (!file.IsScalar() || file.Scalar().empty()) {
          return at(file, "'include' is a file or a list of files");
        }
        includes_.push_back({file.Scalar(), file.Mark().line + 1, file.Mark().column + 1});
      }
    }
    std::map<std::string, int> names;
    if (const YAML::Node secrets = root["secrets"]) {
      if (!secrets.IsSequence() || secrets.size() == 0) {
        return at(secrets, "'secrets' is a list, as in [{ path: /srv/keys/**, level: 1 }]");
      }
      for (const YAML::Node& node : secrets) {
        auto both = read_secret(node);
        if (!both) {
          return util::pass_on(both.error());
        }
        const int line = node.Mark().line + 1;
        if (const auto [it, added] = names.try_emplace(both->front().name, line); !added) {
          return at(node, fmt::format("'{}' stands in line {} already", both->front().name, it->second));
        }
        policy.rules.insert(policy.rules.end(), std::make_move_iterator(both->begin()), std::make_move_iterator(both->end()));
      }
    }
    const YAML::Node rules = root["rules"];
    if (!rules && (!includes_.empty() || !policy.rules.empty() || !policy.guard_keys.empty())) {
      return policy;
    }
    if (!rules || !rules.IsSequence() || rules.size() == 0) {
      return at(rules ? rules : root, "'rules' is missing or empty; it is a list of rules, each with 'name' and 'paths'");
    }
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

  struct Include {
    std::string file;
    int line = 0;
    int column = 0;
  };
  [[nodiscard]] const std::vector<Include>& includes() const { return includes_; }

 private:
  // "mode" of a policy or of one rule.
  util::Result<void> read_mode(const YAML::Node& node, bool& enforce) const {
    if (const YAML::Node mode = node["mode"]) {
      if (!mode.IsScalar() || (mode.Scalar() != "observe" && mode.Scalar() != "enforce")) {
        return at(mode, "'mode' is observe or enforce");
      }
      enforce = mode.Scalar() == "enforce";
    }
    return {};
  }

  util::Result<void> read_severity(const YAML::Node& node, std::string& out) const {
    if (const YAML::Node severity = node["severity"]) {
      const std::string text = severity.IsScalar() ? severity.Scalar() : "";
      if (std::ranges::find(kSeverities, text) == kSeverities.end()) {
        return at(severity, fmt::format("no severity '{}'; {}", text, util::suggestion(text, kSeverities)));
      }
      out = text;
    }
    return {};
  }

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
        return at(entry.first, fmt::format("{} has no key '{}'; {}", what, key, util::suggestion(key, keys)));
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

  // Which of these words stands there, by its place among them.
  util::Result<std::size_t> word_of(const YAML::Node& node, std::string_view key, std::span<const std::string_view> words) const {
    const auto found = node.IsScalar() ? std::ranges::find(words, node.Scalar()) : words.end();
    if (found == words.end()) {
      return at(node, fmt::format("'{}' is {}", key, fmt::join(words, ", ")));
    }
    return static_cast<std::size_t>(found - words.begin());
  }

  util::Result<void> read_guard(const YAML::Node& root, Policy& policy) const {
    static constexpr std::array<std::string_view, 3> kForbid{"off", "agent", "all"};
    static constexpr std::array<std::string_view, 3> kOnDebugger{"report", "end", "kill"};
    Guard& guard = policy.guard;
    if (const YAML::Node node = root["forbid_ptrace"]) {
      policy.guard_keys.emplace_back("forbid_ptrace");
      const YAML::Node who = node.IsMap() ? node["who"] : node;
      if (node.IsMap()) {
        static constexpr std::array<std::string_view, 2> kKeys{"who", "unless"};
        if (auto ok = only_keys(node, "'forbid_ptrace'", kKeys); !ok) {
          return ok;
        }
        if (!who) {
          return at(node, "'forbid_ptrace' needs 'who': off, agent or all");
        }
      }
      const auto word = word_of(who, "forbid_ptrace", kForbid);
      if (!word) {
        return util::pass_on(word.error());
      }
      guard.forbid = static_cast<Guard::Forbid>(*word);
      if (const YAML::Node unless = node.IsMap() ? node["unless"] : YAML::Node(YAML::NodeType::Undefined)) {
        if (guard.forbid != Guard::Forbid::kAll) {
          return at(unless, "'unless' goes with 'who: all'; from the agent itself nobody is exempt");
        }
        if (auto ok = read_exempt(unless, guard); !ok) {
          return ok;
        }
      }
    }
    if (const YAML::Node node = root["debugger"]) {
      policy.guard_keys.emplace_back("debugger");
      const auto word = word_of(node, "debugger", kOnDebugger);
      if (!word) {
        return util::pass_on(word.error());
      }
      guard.on_debugger = static_cast<Guard::OnDebugger>(*word);
    }
    if (const YAML::Node node = root["integrity"]) {
      policy.guard_keys.emplace_back("integrity");
      return read_integrity(node, guard);
    }
    return {};
  }

  util::Result<void> read_exempt(const YAML::Node& unless, Guard& guard) const {
    static constexpr std::array<std::string_view, 3> kWho{"uid", "user", "exe"};
    constexpr std::size_t kMost = 64;
    if (auto ok = only_keys(unless, "'unless' of 'forbid_ptrace'", kWho); !ok) {
      return ok;
    }
    for (const auto& entry : unless) {
      for (const YAML::Node& item : items(entry.second)) {
        const std::string text = item.IsScalar() ? item.Scalar() : "";
        if (entry.first.Scalar() == "exe") {
          if (!text.starts_with('/') || text.find_first_of("*?[") != std::string::npos) {
            return at(item, fmt::format("'{}': write an executable's own path, such as /usr/bin/gdb; globs do not go here", text));
          }
          guard.exempt_exes.push_back(text);
          continue;
        }
        const auto id = subject_id(entry.first.Scalar(), text);
        if (!id) {
          return at(item, id.error().message);
        }
        guard.exempt_uids.push_back(*id);
      }
    }
    if (guard.exempt_exes.size() > kMost || guard.exempt_uids.size() > kMost) {
      return at(unless, fmt::format("there is room for {} users and {} executables", kMost, kMost));
    }
    return {};
  }

  util::Result<void> read_integrity(const YAML::Node& node, Guard& guard) const {
    static constexpr std::array<std::string_view, 3> kReactions{"report", "refuse_reload", "stop"};
    static constexpr std::array<std::string_view, 2> kKeys{"every", "reaction"};
    if (node.IsScalar() && node.Scalar() == "off") {
      guard.integrity_seconds = 0;
      return {};
    }
    if (auto ok = only_keys(node, "'integrity' (off, or a mapping)", kKeys); !ok) {
      return ok;
    }
    if (const YAML::Node every = node["every"]) {
      constexpr std::uint32_t kDay = 86400;
      const std::string text = every.IsScalar() ? every.Scalar() : "";
      std::uint32_t number = 0;
      const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
      const std::string_view unit(rest, text.data() + text.size());
      const std::uint32_t scale = unit == "s" ? 1 : unit == "m" ? 60 : unit == "h" ? 3600 : 0;
      if (error != std::errc{} || scale == 0) {
        return at(every, fmt::format("'{}': write a time such as 60s, 5m or 1h", text));
      }
      if (number == 0) {
        return at(every, "a time of zero would be a look without end; write 'integrity: off' for none");
      }
      if (number > kDay / scale) {
        return at(every, "at most a day (24h)");
      }
      guard.integrity_seconds = number * scale;
    }
    if (const YAML::Node reaction = node["reaction"]) {
      const auto word = word_of(reaction, "reaction", kReactions);
      if (!word) {
        return util::pass_on(word.error());
      }
      guard.on_difference = static_cast<Guard::OnDifference>(*word);
    }
    return {};
  }

  util::Result<void> read_degraded(const YAML::Node& node, bool& accepted) const {
    if (const YAML::Node degraded = node["degraded"]) {
      const std::string word = degraded.IsScalar() ? degraded.Scalar() : std::string();
      if (word != "refuse" && word != "accept") {
        return at(degraded, "'degraded' is refuse or accept");
      }
      accepted = word == "accept";
    }
    return {};
  }

  // A secret file is two rules: one that stops whoever may not have it, and one that records whoever may.
  util::Result<std::vector<Rule>> read_secret(const YAML::Node& node) const {
    static constexpr std::array<std::string_view, 6> kKeys{"path", "level", "unless", "mode", "degraded", "severity"};
    if (auto ok = only_keys(node, "a secret", kKeys); !ok) {
      return util::pass_on(ok.error());
    }
    const YAML::Node path = node["path"];
    if (!path || (!path.IsScalar() && !path.IsSequence()) || (path.IsSequence() && path.size() == 0)) {
      return at(path ? path : node, "a secret needs a 'path', a glob such as /etc/shadow or /srv/keys/**, or a list of them");
    }
    std::vector<Glob> globs;
    for (const YAML::Node& one : items(path)) {
      auto glob = one.IsScalar() ? parse_glob(one.Scalar()) : util::fail(EX_CONFIG, "a path is a string");
      if (!glob) {
        return at(one, glob.error().message);
      }
      globs.push_back(std::move(*glob));
    }
    std::uint32_t level = 1;
    if (const YAML::Node text = node["level"]) {
      const auto number = text.IsScalar() ? to_id(text.Scalar()) : std::nullopt;
      if (!number || *number == 0) {
        return at(text, "'level' is 1 (the caller gets EACCES) or more (the caller is killed)");
      }
      level = *number;
    }
    Rule stops;
    stops.file = file_;
    stops.line = node.Mark().line + 1;
    stops.enforce = enforce_;
    stops.name = "secret " + globs.front().text;
    stops.paths = std::move(globs);
    stops.action = level == 1 ? Action::kDeny : Action::kKill;
    stops.severity = "high";
    if (auto ok = read_severity(node, stops.severity); !ok) {
      return util::pass_on(ok.error());
    }
    if (const YAML::Node unless = node["unless"]) {
      if (auto ok = read_subjects(unless, "unless", stops.unless); !ok) {
        return util::pass_on(ok.error());
      }
    } else {
      stops.unless.uids.push_back(0);
    }
    if (auto ok = read_mode(node, stops.enforce); !ok) {
      return util::pass_on(ok.error());
    }
    if (auto ok = read_degraded(node, stops.degraded); !ok) {
      return util::pass_on(ok.error());
    }
    Rule records = stops;
    records.name += " (allowed)";
    records.action = Action::kAudit;
    records.only = std::move(records.unless);
    records.unless = {};
    records.severity = "info";
    return std::vector<Rule>{std::move(stops), std::move(records)};
  }

  util::Result<Rule> read_rule(const YAML::Node& node) const {
    static constexpr std::array<std::string_view, 12> kKeys{"name",  "paths",  "operations", "only",     "unless",   "action",
                                                            "errno", "signal", "mode",       "degraded", "severity", "expect"};
    if (auto ok = only_keys(node, "a rule", kKeys); !ok) {
      return util::pass_on(ok.error());
    }
    Rule rule;
    rule.file = file_;
    rule.line = node.Mark().line + 1;
    rule.enforce = enforce_;
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
          const std::string word = operation.IsScalar() ? operation.Scalar() : "";
          return at(operation, fmt::format("there is no operation '{}'; {}", word, event::nearest_operation(word)));
        }
        rule.operations |= *wanted;
      }
    }
    if (auto ok = read_action(node, rule); !ok) {
      return util::pass_on(ok.error());
    }
    if (auto ok = read_severity(node, rule.severity); !ok) {
      return util::pass_on(ok.error());
    }
    for (const auto& [key, subjects] : {std::pair{"only", &rule.only}, std::pair{"unless", &rule.unless}}) {
      if (const YAML::Node who = node[key]) {
        if (auto ok = read_subjects(who, key, *subjects); !ok) {
          return util::pass_on(ok.error());
        }
      }
    }
    if (const YAML::Node expect = node["expect"]) {
      for (const YAML::Node& one : items(expect)) {
        auto expectation = read_expectation(one);
        if (!expectation) {
          return util::pass_on(expectation.error());
        }
        rule.expect.push_back(std::move(*expectation));
      }
    }
    return rule;
  }

  util::Result<void> read_action(const YAML::Node& node, Rule& rule) const {
    const auto scalar = [](const YAML::Node& value) { return value.IsScalar() ? value.Scalar() : std::string(); };
    if (const YAML::Node action = node["action"]) {
      const auto known = std::ranges::find(kActions, scalar(action));
      if (known == kActions.end()) {
        return at(action, fmt::format("no action '{}'; {}", scalar(action), util::suggestion(scalar(action), kActions)));
      }
      rule.action = static_cast<Action>(known - kActions.begin());
    }
    if (const YAML::Node error = node["errno"]) {
      const auto number = error_number(scalar(error));
      if (rule.action != Action::kDeny) {
        return at(error, "'errno' goes with 'action: deny'");
      }
      if (!number) {
        return at(error, fmt::format("no error '{}'; write a name such as EACCES, EPERM or ENOENT", scalar(error)));
      }
      rule.error = *number;
    }
    if (const YAML::Node signal = node["signal"]) {
      const auto number = signal_number(scalar(signal));
      if (rule.action != Action::kKill) {
        return at(signal, "'signal' goes with 'action: kill'");
      }
      if (!number) {
        return at(signal, fmt::format("no signal '{}'; write a name such as SIGKILL or SIGTERM", scalar(signal)));
      }
      rule.signal = *number;
    }
    if (auto ok = read_degraded(node, rule.degraded); !ok) {
      return util::pass_on(ok.error());
    }
    return read_mode(node, rule.enforce);
  }

  util::Result<Expectation> read_expectation(const YAML::Node& node) const {
    static constexpr std::array<std::string_view, 5> kKeys{"as", "do", "path", "dst_path", "verdict"};
    if (auto ok = only_keys(node, "an expectation", kKeys); !ok) {
      return util::pass_on(ok.error());
    }
    Expectation expectation;
    expectation.line = node.Mark().line + 1;
    event::Operation& operation = expectation.operation;
    for (const char* key : {"do", "path", "verdict"}) {
      if (const YAML::Node value = node[key]; !value || !value.IsScalar()) {
        return at(value ? value : node,
                  fmt::format("an expectation needs '{}', as in {{ as: {{uid: 1000}}, do: open, path: /etc/shadow, verdict: deny }}", key));
      }
    }
    const auto wanted = event::operation_from_name(node["do"].Scalar());
    if (!wanted) {
      return at(node["do"], fmt::format("there is no operation '{}'; {}", node["do"].Scalar(), event::nearest_operation(node["do"].Scalar())));
    }
    operation.raw.operation = static_cast<vg_u8>(*wanted);
    for (const auto& [key, path] : {std::pair{"path", &operation.path}, std::pair{"dst_path", &operation.dst_path}}) {
      if (const YAML::Node value = node[key]) {
        if (!value.IsScalar() || !value.Scalar().starts_with('/')) {
          return at(value, fmt::format("'{}' is an absolute path", key));
        }
        *path = value.Scalar();
      }
    }
    const std::string verdict = node["verdict"].Scalar();
    const auto known = std::ranges::find(kVerdicts, verdict);
    if (known == kVerdicts.end()) {
      return at(node["verdict"], fmt::format("no verdict '{}'; {}", verdict, util::suggestion(verdict, kVerdicts)));
    }
    expectation.verdict = static_cast<Action>(known - kVerdicts.begin());
    if (const YAML::Node as = node["as"]) {
      if (auto ok = only_keys(as, "'as'", kSubjects); !ok) {
        return util::pass_on(ok.error());
      }
      for (const auto& entry : as) {
        for (const YAML::Node& item : items(entry.second)) {
          if (auto ok = set_subject(operation, entry.first.Scalar(), item.IsScalar() ? item.Scalar() : ""); !ok) {
            return at(item, ok.error().message);
          }
        }
      }
    }
    return expectation;
  }

  util::Result<void> read_subjects(const YAML::Node& node, std::string_view key, Subjects& out) const {
    if (auto ok = only_keys(node, fmt::format("'{}'", key), kSubjects); !ok) {
      return ok;
    }
    for (const auto& entry : node) {
      const std::string what = entry.first.Scalar();
      for (const YAML::Node& item : items(entry.second)) {
        if (!item.IsScalar()) {
          return at(item, fmt::format("'{}' is a value or a list of values", what));
        }
        const std::string& text = item.Scalar();
        if (is_id(what)) {
          const auto id = subject_id(what, text);
          if (!id) {
            return at(item, id.error().message);
          }
          (is_user(what) ? out.uids : out.gids).push_back(*id);
        } else if (what == "exe" || what == "ancestor" || what == "cgroup") {
          auto glob = parse_glob(text);
          if (!glob) {
            return at(item, glob.error().message);
          }
          (what == "exe" ? out.exes : what == "ancestor" ? out.ancestors : out.cgroups).push_back(std::move(*glob));
        } else if (what == "comm") {
          if (auto ok = check_comm(text); !ok) {
            return at(item, ok.error().message);
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
  bool enforce_ = true;
  std::vector<Include> includes_;
};

std::size_t severity_rank(std::string_view severity) { return static_cast<std::size_t>(std::ranges::find(kSeverities, severity) - kSeverities.begin()); }

}  // namespace

bool Subjects::hold(const event::Operation& operation) const {
  const vg_event& e = operation.raw;
  const auto among = [](const auto& list, const auto& value) { return list.empty() || std::ranges::find(list, value) != list.end(); };
  if (!among(uids, e.uid) || !among(gids, e.gid) || !among(comms, std::string(e.comm, strnlen(e.comm, sizeof e.comm)))) {
    return false;
  }
  const auto matches = [](const std::vector<Glob>& globs, const std::string& text) {
    return std::ranges::any_of(globs, [&](const Glob& glob) { return reference_match(glob, text); });
  };
  const event::Process* process = operation.process.get();
  if (!exes.empty()) {
    if (process == nullptr || !process->exe || process->exe_deleted) {
      return false;
    }
    if (!matches(exes, *process->exe)) {
      return false;
    }
  }
  if (!ancestors.empty() &&
      (process == nullptr || std::ranges::none_of(process->ancestors, [&](const event::Ancestor& a) { return a.exe && matches(ancestors, *a.exe); }))) {
    return false;
  }
  if (!cgroups.empty() && (process == nullptr || !process->cgroup || !matches(cgroups, *process->cgroup))) {
    return false;
  }
  if (!containers.empty()) {
    if (process == nullptr || process->container.id.empty()) {
      return false;
    }
    if (std::ranges::none_of(containers, [&](const std::string& id) { return process->container.id.starts_with(id); })) {
      return false;
    }
  }
  return true;
}

namespace {

// One file's text, and what it includes, in its place: before its own rules.
util::Result<Policy> parse_with_includes(const std::string& file, const std::string& text, int depth);

util::Result<Policy> load_file(const std::string& file, int depth) {
  // What is named on the command line may be a pipe; what a file includes is a file.
  if (std::error_code error; depth > 0 && std::filesystem::exists(file, error) && !std::filesystem::is_regular_file(file, error)) {
    return util::fail(EX_NOINPUT, fmt::format("cannot read the policy {}: it is not a regular file", file));
  }
  auto text = util::read_text(file, kMaxBytes);
  if (!text) {
    return util::fail_errno(EX_NOINPUT, fmt::format("cannot read the policy {}", file));
  }
  if (text->size() > kMaxBytes) {
    return util::fail(EX_CONFIG, fmt::format("{}:1:1: the file is larger than {} MiB; no policy of that size would fit", file, kMaxBytes >> 20));
  }
  return parse_with_includes(file, *text, depth);
}

util::Result<void> append(Policy& policy, Policy more) {
  std::unordered_map<std::string, std::size_t> places;
  for (std::size_t r = 0; r < policy.rules.size(); ++r) {
    places.emplace(policy.rules[r].name, r);
  }
  for (Rule& rule : more.rules) {
    if (const auto known = places.find(rule.name); known != places.end()) {
      const Rule& first = policy.rules[known->second];
      return util::fail(EX_CONFIG, fmt::format("{}:{}:1: a rule named '{}' stands in {}:{} already", rule.file, rule.line, rule.name, first.file, first.line));
    }
    policy.rules.push_back(std::move(rule));
  }
  policy.persist = policy.persist || more.persist;
  policy.files.insert(policy.files.end(), more.files.begin(), more.files.end());
  for (const std::string& key : more.guard_keys) {
    policy.guard_keys.push_back(key);
    if (key == "forbid_ptrace") {
      policy.guard.forbid = more.guard.forbid;
      policy.guard.exempt_uids = more.guard.exempt_uids;
      policy.guard.exempt_exes = more.guard.exempt_exes;
    } else if (key == "debugger") {
      policy.guard.on_debugger = more.guard.on_debugger;
    } else {
      policy.guard.integrity_seconds = more.guard.integrity_seconds;
      policy.guard.on_difference = more.guard.on_difference;
    }
  }
  return {};
}

util::Result<Policy> parse_with_includes(const std::string& file, const std::string& text, int depth) {
  if (text.find('\0') != std::string::npos) {
    return util::fail(EX_CONFIG, fmt::format("{}:1:1: there is a NUL byte in the file; it is no text", file));
  }
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsDefined() || root.IsNull()) {
      return util::fail(EX_CONFIG, fmt::format("{}:1:1: the file is empty; a policy begins with 'version: 1'", file));
    }
    Reader reader(file);
    auto own = reader.read(root);
    if (!own) {
      return own;
    }
    Policy policy;
    policy.file = file;
    for (const Reader::Include& include : reader.includes()) {
      const auto where = [&](std::string_view why) { return util::fail(EX_CONFIG, fmt::format("{}:{}:{}: {}", file, include.line, include.column, why)); };
      if (depth >= kMaxIncludes) {
        return where(fmt::format("'{}' is included {} files deep; do files include each other?", include.file, depth));
      }
      auto included = load_file(std::filesystem::path(file).parent_path() / include.file, depth + 1);
      if (!included) {
        return included.error().exit_code == EX_NOINPUT ? where(included.error().message) : util::pass_on(included.error());
      }
      if (auto ok = append(policy, std::move(*included)); !ok) {
        return util::pass_on(ok.error());
      }
    }
    if (auto ok = append(policy, std::move(*own)); !ok) {
      return util::pass_on(ok.error());
    }
    return policy;
  } catch (const YAML::Exception& e) {
    return util::fail(EX_CONFIG, fmt::format("{}:{}:{}: not YAML: {}", file, e.mark.line + 1, e.mark.column + 1, e.msg));
  }
}

}  // namespace

util::Result<Policy> parse(const std::string& file, const std::string& text) { return parse_with_includes(file, text, 0); }

util::Result<Policy> load(const std::string& file) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(file, ignored)) {
    return load_file(file, 0);
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(file, ignored)) {
    const std::string extension = entry.path().extension();
    if (extension == ".yaml" || extension == ".yml" || extension == ".json") {
      files.push_back(entry.path());
    }
  }
  if (files.empty()) {
    return util::fail(EX_NOINPUT, fmt::format("cannot read the policy {}: the directory holds no .yaml, .yml or .json file", file));
  }
  std::ranges::sort(files);
  Policy policy;
  policy.file = file;
  for (const auto& one : files) {
    auto read = load_file(one, 0);
    if (!read) {
      return read;
    }
    if (auto ok = append(policy, std::move(*read)); !ok) {
      return util::pass_on(ok.error());
    }
  }
  return policy;
}

namespace {

util::Result<Compiled> compile_some(const Policy& policy, bool all, const Watched* watched) {
  Compiled compiled;
  PatternSet paths;
  std::vector<std::uint32_t> rule_of;
  for (std::size_t r = 0; r < policy.rules.size(); ++r) {
    if (!all && !policy.rules[r].decides()) {
      continue;
    }
    compiled.operations |= policy.rules[r].operations;
    for (const Glob& glob : policy.rules[r].paths) {
      paths.globs.push_back(glob);
      rule_of.push_back(static_cast<std::uint32_t>(r));
    }
  }
  const std::size_t watched_from = paths.globs.size();
  std::vector<std::uint64_t> watched_operations;
  if (watched != nullptr) {
    compiled.operations |= watched->operations;
    // Those that match wherever a path begins are told of for all operations that any of them is about, and so are alike: else their automata would
    // multiply with each other, and with the policy's.
    paths.alike.assign(watched_from, 0);
    paths.moot_with.assign(watched_from, 0);
    std::uint64_t anywhere = 0;
    for (const Watched::Place& place : watched->places) {
      anywhere |= place.glob.text.starts_with("/**/") ? place.operations : 0;
    }
    for (const Watched::Place& place : watched->places) {
      const bool alike = place.glob.text.starts_with("/**/");
      paths.globs.push_back(place.glob);
      paths.alike.push_back(alike ? 1 : 0);
      paths.moot_with.push_back(!alike && (place.operations & ~anywhere) == 0 ? 1 : 0);
      watched_operations.push_back(alike ? anywhere : place.operations);
    }
  }
  // Match set 0 means none.
  compiled.set_rules.emplace_back();
  compiled.set_operations.push_back(0);
  std::map<std::pair<std::vector<std::uint32_t>, std::uint64_t>, std::uint32_t> known;
  paths.resolve = [&](std::span<const std::uint32_t> globs) {
    std::vector<std::uint32_t> rules;
    std::uint64_t operations = 0;
    for (const std::uint32_t glob : globs) {
      if (glob >= watched_from) {
        operations |= watched_operations[glob - watched_from];
        continue;
      }
      rules.push_back(rule_of[glob]);
      operations |= policy.rules[rule_of[glob]].operations;
    }
    std::ranges::sort(rules);
    rules.erase(std::ranges::unique(rules).begin(), rules.end());
    const auto [it, added] = known.try_emplace({rules, operations}, static_cast<std::uint32_t>(compiled.set_rules.size()));
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
  compiled.automaton.head.anywhere = watched != nullptr ? watched->anywhere : 0;
  return compiled;
}

}  // namespace

util::Result<Compiled> compile_policy(const Policy& policy, const Watched* watched) { return compile_some(policy, true, watched); }

util::Result<Compiled> compile_deciding(const Policy& policy) { return compile_some(policy, false, nullptr); }

std::string_view action_name(Action action) { return kVerdicts[static_cast<std::size_t>(action)]; }

bool Rule::asks_for(const event::Operation& operation) const {
  return (operations >> operation.raw.operation & 1) != 0 && (only.empty() || only.hold(operation)) && (unless.empty() || !unless.hold(operation));
}

bool Rule::stops(const event::Operation& operation) const {
  constexpr std::uint64_t kReports = event::operation_bit(VG_OP_CLOSE) | event::operation_bit(VG_OP_EXIT);
  return decides() && (kReports >> operation.raw.operation & 1) == 0;
}

void match_paths(const Compiled& compiled, event::Operation& operation) {
  const Automaton& automaton = compiled.automaton;
  const auto match = [&](const std::optional<std::string>& path) { return path ? automaton.match(automaton.head.path_start, *path) : 0; };
  operation.raw.match = match(operation.path);
  operation.raw.match2 = match(operation.dst_path);
}

std::span<const std::uint32_t> rules_at(const Compiled& compiled, const event::Operation& operation, std::vector<std::uint32_t>& both) {
  const auto rules_of = [&](std::uint32_t set) -> std::span<const std::uint32_t> {
    return set < compiled.set_rules.size() ? std::span(compiled.set_rules[set]) : std::span<const std::uint32_t>{};
  };
  if (operation.raw.match2 == 0) {
    return rules_of(operation.raw.match);
  }
  both.clear();
  std::ranges::set_union(rules_of(operation.raw.match), rules_of(operation.raw.match2), std::back_inserter(both));
  return both;
}

const Rule* deciding_rule(const Policy& policy, const Compiled& compiled, const event::Operation& operation) {
  std::vector<std::uint32_t> both;
  for (const std::uint32_t index : rules_at(compiled, operation, both)) {
    const Rule& rule = policy.rules[index];
    if (rule.stops(operation) && rule.asks_for(operation)) {
      return &rule;
    }
  }
  return nullptr;
}

bool attribute(const Policy& policy, const Compiled& compiled, event::Operation& operation, const Refusal* carried_out) {
  std::vector<std::uint32_t> both;
  // What was carried out is the kernel's to say: it knows the object by its other names too.
  const bool refused = operation.raw.verdict != VG_VERDICT_NONE;
  const bool unknown = refused && operation.raw.cause != VG_UNKNOWN_NONE;  // nobody's rule
  bool decided = carried_out != nullptr || unknown;
  if (decided) {
    operation.verdict = action_name(operation.raw.verdict == VG_VERDICT_KILL ? Action::kKill : Action::kDeny);
  }
  if (unknown) {
    operation.severity = "high";
  } else if (carried_out != nullptr) {
    operation.policies.push_back(carried_out->name);
    operation.severity = carried_out->severity;
  }
  for (const std::uint32_t index : rules_at(compiled, operation, both)) {
    const Rule& rule = policy.rules[index];
    if ((decided && carried_out != nullptr && rule.name == carried_out->name) || !rule.asks_for(operation)) {
      continue;
    }
    if (!decided && rule.stops(operation)) {
      decided = true;
      operation.verdict = action_name(rule.action);
      operation.policies.insert(operation.policies.begin(), rule.name);
    } else {
      operation.policies.push_back(rule.name);
    }
    if (operation.severity.empty() || severity_rank(rule.severity) > severity_rank(operation.severity)) {
      operation.severity = rule.severity;
    }
  }
  return unknown || !operation.policies.empty();
}

bool enforces(const Policy& policy) {
  return std::ranges::any_of(policy.rules, [](const Rule& rule) { return rule.decides() && rule.enforce; });
}

util::Result<void> set_subject(event::Operation& operation, std::string_view key, const std::string& value) {
  auto process = operation.process ? std::make_shared<event::Process>(*operation.process) : std::make_shared<event::Process>();
  if (is_id(key)) {
    const auto id = subject_id(key, value);
    if (!id) {
      return util::pass_on(id.error());
    }
    (is_user(key) ? operation.raw.uid : operation.raw.gid) = *id;
  } else if (key == "comm") {
    if (auto ok = check_comm(value); !ok) {
      return ok;
    }
    std::memset(operation.raw.comm, 0, sizeof operation.raw.comm);
    value.copy(operation.raw.comm, sizeof operation.raw.comm - 1);
  } else if (key == "exe" || key == "ancestor" || key == "cgroup") {
    if (!value.starts_with('/')) {
      return util::fail(EX_USAGE, fmt::format("{} '{}' is no absolute path", key, value));
    }
    if (key == "ancestor") {
      event::Ancestor ancestor;
      ancestor.exe = std::make_shared<const std::string>(value);
      process->ancestors.push_back(std::move(ancestor));
    } else {
      (key == "exe" ? process->exe : process->cgroup) = value;
    }
  } else if (key == "container") {
    process->container.id = value;
  } else {
    return util::fail(EX_USAGE, fmt::format("no subject '{}'; {}", key, util::suggestion(key, kSubjects)));
  }
  operation.process = std::move(process);
  return {};
}

namespace {

// What a host cannot go on without.
constexpr std::array<std::string_view, 7> kVital{"/etc/passwd", "/etc/ld.so.cache", "/bin/sh", "/sbin/init", "/usr/bin/env", "/usr/bin/sudo", "/proc/self/exe"};

std::string canonical(const std::string& path) {
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error);
  return error ? path : real.string();
}

}  // namespace

std::vector<std::string> review(const Policy& policy, const Compiled& compiled) {
  std::vector<std::string> notes;
  const auto note = [&](const Rule& rule, const std::string& text) {
    notes.push_back(fmt::format("{}:{}: rule '{}' {}", rule.file, rule.line, rule.name, text));
  };
  std::vector<std::vector<std::uint32_t>> sets_of(policy.rules.size());  // the match sets that a rule is in
  for (std::size_t set = 0; set < compiled.set_rules.size(); ++set) {
    for (const std::uint32_t rule : compiled.set_rules[set]) {
      sets_of[rule].push_back(static_cast<std::uint32_t>(set));
    }
  }
  std::vector<event::Operation> vital(kVital.size());
  for (std::size_t i = 0; i < kVital.size(); ++i) {
    vital[i].path = canonical(std::string(kVital[i]));
    match_paths(compiled, vital[i]);
  }
  for (std::size_t r = 0; r < policy.rules.size(); ++r) {
    const Rule& rule = policy.rules[r];
    for (const Subjects* subjects : {&rule.only, &rule.unless}) {
      if (!subjects->comms.empty()) {
        note(rule, "goes by 'comm', which any process can set for itself; 'exe' it cannot");
        break;
      }
    }
    if (!rule.decides()) {
      continue;
    }
    // Where its globs match: is there always an earlier rule that decides for everybody, or one with another verdict?
    const auto place = static_cast<std::uint32_t>(r);
    bool reached = false;
    const Rule* before = nullptr;
    const Rule* other = nullptr;
    for (const std::uint32_t number : sets_of[r]) {
      const auto& set = compiled.set_rules[number];
      const auto covers = [&](std::uint32_t index) {
        const Rule& earlier = policy.rules[index];
        return index < place && earlier.decides() && earlier.only.empty() && earlier.unless.empty() && (rule.operations & ~earlier.operations) == 0;
      };
      const auto cover = std::ranges::find_if(set, covers);
      if (cover == set.end()) {
        reached = true;
      } else {
        before = &policy.rules[*cover];
      }
      for (const std::uint32_t index : set) {
        const Rule& earlier = policy.rules[index];
        if (index < place && earlier.decides() && (earlier.operations & rule.operations) != 0 &&
            (earlier.action != rule.action || (rule.action == Action::kDeny && earlier.error != rule.error))) {
          other = &earlier;
        }
      }
    }
    if (!reached && before != nullptr) {
      note(rule, fmt::format("never decides: '{}' ({}:{}) comes first wherever it matches", before->name, before->file, before->line));
    } else if (other != nullptr) {
      note(rule, fmt::format("overlaps '{}' ({}:{}), which comes first and has another verdict", other->name, other->file, other->line));
    }
    for (event::Operation& operation : vital) {  // by root, with a program that no rule names
      operation.raw.operation = static_cast<vg_u8>((rule.operations & event::operation_bit(VG_OP_OPEN)) != 0 ? VG_OP_OPEN : VG_OP_EXEC);
      if (std::ranges::find(sets_of[r], operation.raw.match) != sets_of[r].end() && rule.asks_for(operation)) {
        note(rule, fmt::format("keeps root from {}; leave it out with 'unless: {{ uid: 0 }}' or narrower paths", *operation.path));
        break;
      }
    }
  }
  return notes;
}

}  // namespace vfsguard::policy
