// SPDX-License-Identifier: Apache-2.0
#include "detect/config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <set>

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include "util/read_file.h"
#include "util/suggestion.h"

namespace vfsguard::detect {

namespace {

constexpr std::size_t kMaxBytes = 16u << 20;

struct Refused {
  YAML::Mark mark;
  std::string why;
};

class Reader {
 public:
  explicit Reader(std::string file) : file_(std::move(file)) {}

  util::Result<Config> read(const YAML::Node& root) {
    Config config;
    config.file = file_;
    try {
      only_keys(root, "the configuration", {"version", "rules", "enable", "disable", "severity", "lists", "throttle", "limits", "response"});
      if (!root["version"] || !root["version"].IsScalar() || root["version"].Scalar() != "1") {
        refuse(root["version"] ? root["version"] : root, "begin the file with 'version: 1'");
      }
      const std::filesystem::path here = std::filesystem::path(file_).parent_path();
      for (const std::string& path : texts(root["rules"], "rules")) {
        config.rules.push_back(path.starts_with('/') ? path : (here / path).string());
      }
      config.enable = all_named(root["enable"], "enable", config);
      config.disable = all_named(root["disable"], "disable", config);
      for (const auto& entry : map(root["severity"], "severity")) {
        const std::string word = scalar(entry.second, "a severity");
        const auto severity = severity_from_name(word);
        if (!severity) {
          refuse(entry.second, fmt::format("there is no severity '{}'; known: info, low, medium, high, critical", word));
        }
        config.severities[named(entry.first, "severity", config)] = *severity;
      }
      for (const auto& entry : map(root["lists"], "lists")) {
        const std::string name = scalar(entry.first, "a list");
        if (!entry.second.IsMap()) {
          config.lists[name] = texts(entry.second, name);
          continue;
        }
        only_keys(entry.second, "a list that is added to", {"add"});
        config.more[name] = texts(entry.second["add"], "add");
        mention(entry.first, "lists", config);
      }
      if (const YAML::Node throttle = root["throttle"]) {
        only_keys(throttle, "'throttle'", {"alerts", "per", "by", "rules"});
        config.throttle = read_throttle(throttle);
        for (const auto& entry : map(throttle["rules"], "rules")) {
          only_keys(entry.second, "a rule's throttle", {"alerts", "per", "by"});
          config.throttles[named(entry.first, "throttle", config)] = read_throttle(entry.second);
        }
      }
      if (const YAML::Node response = root["response"]) {
        read_response(response, config);
      }
      if (const YAML::Node limits = root["limits"]) {
        only_keys(limits, "'limits'", {"memory", "late"});
        if (limits["memory"]) {
          config.limits.memory = size(limits["memory"]);
        }
        if (limits["late"]) {
          config.limits.late_ns = span(limits["late"]);
        }
      }
    } catch (const Refused& refused) {
      return util::fail(EX_CONFIG, fmt::format("{}:{}:{}: {}", file_, refused.mark.line + 1, refused.mark.column + 1, refused.why));
    }
    return config;
  }

 private:
  [[noreturn]] static void refuse(const YAML::Node& node, std::string why) { throw Refused{node.Mark(), std::move(why)}; }

  static std::string scalar(const YAML::Node& node, std::string_view what) {
    if (!node.IsScalar()) {
      refuse(node, fmt::format("{} is one text", what));
    }
    return node.Scalar();
  }

  static std::vector<std::string> texts(const YAML::Node& node, std::string_view what) {
    std::vector<std::string> all;
    if (!node || node.IsNull()) {
      return all;
    }
    if (!node.IsSequence()) {
      refuse(node, fmt::format("'{}' is a list", what));
    }
    for (const YAML::Node& one : node) {
      all.push_back(scalar(one, "an entry"));
    }
    return all;
  }

  static void mention(const YAML::Node& node, std::string_view key, Config& config) {
    config.mentions.push_back({key, node.Scalar(), node.Mark().line + 1, node.Mark().column + 1});
  }

  // A rule's name, and several.
  static std::string named(const YAML::Node& node, std::string_view key, Config& config) {
    std::string word = scalar(node, "a rule");
    mention(node, key, config);
    return word;
  }
  static std::vector<std::string> all_named(const YAML::Node& node, std::string_view key, Config& config) {
    std::vector<std::string> all = texts(node, key);
    for (std::size_t i = 0; i < all.size(); ++i) {
      mention(node[i], key, config);
    }
    return all;
  }

  static YAML::Node map(const YAML::Node& node, std::string_view what) {
    if (!node || node.IsNull()) {
      return YAML::Node(YAML::NodeType::Map);
    }
    if (!node.IsMap()) {
      refuse(node, fmt::format("'{}' is a mapping", what));
    }
    return node;
  }

  static void only_keys(const YAML::Node& node, std::string_view what, std::initializer_list<std::string_view> keys) {
    if (!node.IsMap()) {
      refuse(node, fmt::format("{} is a mapping", what));
    }
    std::set<std::string> seen;
    const std::vector<std::string_view> known(keys);
    for (const auto& entry : node) {
      const std::string key = scalar(entry.first, "a key");
      if (std::ranges::find(known, key) == known.end()) {
        refuse(entry.first, fmt::format("{} has no key '{}'; {}", what, key, util::suggestion(key, known)));
      }
      if (!seen.insert(key).second) {
        refuse(entry.first, fmt::format("'{}' stands here twice", key));
      }
    }
  }

  // A whole number and a unit out of a list of them.
  static std::uint64_t measure(const YAML::Node& node, std::span<const std::pair<std::string_view, std::uint64_t>> units, std::string_view example) {
    const std::string word = scalar(node, "a quantity");
    std::uint64_t count = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), count);
    const std::string_view unit(end, static_cast<std::size_t>(word.data() + word.size() - end));
    const auto known = std::ranges::find(units, unit, &std::pair<std::string_view, std::uint64_t>::first);
    if (error != std::errc{} || known == units.end() || count > (std::uint64_t{1} << 62) / known->second) {
      refuse(node, fmt::format("'{}' is not understood; write it as {}", word, example));
    }
    return count * known->second;
  }
  static std::uint64_t span(const YAML::Node& node) {
    static constexpr std::pair<std::string_view, std::uint64_t> kUnits[] = {
        {"ms", 1'000'000}, {"s", 1'000'000'000}, {"m", 60'000'000'000}, {"h", 3'600'000'000'000}};
    return measure(node, kUnits, "500ms, 30s, 5m or 1h");
  }
  static std::size_t size(const YAML::Node& node) {
    static constexpr std::pair<std::string_view, std::uint64_t> kUnits[] = {{"KiB", 1u << 10}, {"MiB", 1u << 20}, {"GiB", 1u << 30}};
    const std::size_t bytes = measure(node, kUnits, "512KiB or 16MiB");
    if (bytes < 64u << 10) {
      refuse(node, "at least 64KiB are needed");
    }
    return bytes;
  }

  static void read_response(const YAML::Node& node, Config& config) {
    only_keys(node, "'response'", {"rules", "spare"});
    config.spared = texts(node["spare"], "spare");
    for (const auto& entry : map(node["rules"], "rules")) {
      Response& response = config.responses[named(entry.first, "response", config)];
      const std::vector<std::string> words = entry.second.IsSequence() ? texts(entry.second, "a response") : std::vector{scalar(entry.second, "a response")};
      for (const std::string& word : words) {
        if (word != "kill" && word != "deny") {
          refuse(entry.second, fmt::format("there is no response '{}'; known: kill, deny", word));
        }
        (word == "kill" ? response.kill : response.deny) = true;
      }
    }
    if (config.responses.empty()) {
      refuse(node, "'response' names no rule; write them under 'rules', such as { ransomware_like: kill }");
    }
  }

  static Throttle read_throttle(const YAML::Node& node) {
    Throttle throttle;
    const YAML::Node alerts = node["alerts"];
    const YAML::Node per = node["per"];
    if (!alerts || !per) {
      refuse(node, "a throttle says how many 'alerts' in which time ('per'), such as { alerts: 10, per: 1m }");
    }
    const std::string word = scalar(alerts, "alerts");
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), throttle.alerts);
    if (error != std::errc{} || end != word.data() + word.size() || throttle.alerts == 0) {
      refuse(alerts, "'alerts' is a number from 1 on; to silence a rule, put it under 'disable'");
    }
    throttle.per_ns = span(per);
    throttle.by = texts(node["by"], "by");
    for (const std::string& field : throttle.by) {
      if (!find_field(field, Dialect::kSigma)) {
        refuse(node["by"], fmt::format("there is no field '{}'; vfsguard rules fields lists them", field));
      }
    }
    return throttle;
  }

  std::string file_;
};

}  // namespace

util::Result<Config> parse_config(const std::string& file, const std::string& text) {
  if (text.size() > kMaxBytes || text.find('\0') != std::string::npos) {
    return util::fail(EX_CONFIG,
                      fmt::format("{}:1:1: {}", file, text.size() > kMaxBytes ? "the file is too large" : "there is a NUL byte in the file; it is no text"));
  }
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsDefined() || root.IsNull()) {
      return util::fail(EX_CONFIG, fmt::format("{}:1:1: the file is empty; it begins with 'version: 1'", file));
    }
    return Reader(file).read(root);
  } catch (const YAML::Exception& e) {
    return util::fail(EX_CONFIG, fmt::format("{}:{}:{}: not YAML: {}", file, e.mark.line + 1, e.mark.column + 1, e.msg));
  }
}

util::Result<Config> load_config(const std::string& file) {
  auto text = util::read_text(file, kMaxBytes);
  if (!text) {
    return util::fail_errno(EX_NOINPUT, fmt::format("cannot read the configuration of detection {}", file));
  }
  return parse_config(file, *text);
}

}  // namespace vfsguard::detect
