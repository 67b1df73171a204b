// SPDX-License-Identifier: Apache-2.0
#include "daemon/control.h"

#include <unistd.h>

#include <array>
#include <chrono>

#include <fmt/format.h>
#include <simdjson.h>

#include "control/server.h"
#include "event/names.h"
#include "output/escape.h"
#include "version.h"

namespace vfsguard::daemon {

namespace {

using output::json_list;
using output::json_string;
using simdjson::dom::element;

util::Error bad(std::string message) { return {std::move(message), EX_DATAERR, EINVAL}; }

util::Result<std::vector<std::string>> strings(const element& value, std::string_view what) {
  std::vector<std::string> out;
  simdjson::dom::array array;
  std::string_view one;
  if (value.get(one) == simdjson::SUCCESS) {
    out.emplace_back(one);
  } else if (value.get(array) == simdjson::SUCCESS) {
    for (const element& item : array) {
      if (item.get(one) != simdjson::SUCCESS) {
        return util::pass_on(bad(fmt::format("'{}' is a string or a list of strings", what)));
      }
      out.emplace_back(one);
    }
  }
  if (out.empty()) {
    return util::pass_on(bad(fmt::format("'{}' is a string or a list of strings, not empty", what)));
  }
  return out;
}

util::Result<policy::Secret> secret_of(const simdjson::dom::object& request) {
  policy::Secret secret;
  bool has_paths = false;
  for (const auto& [key, value] : request) {
    if (key == "command") {
      continue;
    }
    if (key == "paths") {
      auto paths = strings(value, "paths");
      if (!paths) {
        return util::pass_on(paths.error());
      }
      secret.paths = std::move(*paths);
      has_paths = true;
    } else if (key == "level") {
      std::uint64_t level = 0;
      if (value.get(level) != simdjson::SUCCESS || level == 0 || level > 1000) {
        return util::pass_on(bad("'level' is 1 (the caller gets EACCES) or more (the caller is killed)"));
      }
      secret.level = static_cast<std::uint32_t>(level);
    } else if (key == "degraded") {
      std::string_view word;
      if (value.get(word) != simdjson::SUCCESS || (word != "accept" && word != "refuse")) {
        return util::pass_on(bad("'degraded' is accept or refuse"));
      }
      secret.degraded = word == "accept";
    } else if (key == "unless") {
      simdjson::dom::object conditions;
      if (value.get(conditions) != simdjson::SUCCESS) {
        return util::pass_on(bad("'unless' is an object of conditions"));
      }
      for (const auto& [name, values] : conditions) {
        auto texts = strings(values, name);
        if (!texts) {
          return util::pass_on(texts.error());
        }
        secret.unless.emplace_back(std::string(name), std::move(*texts));
      }
    } else {
      return util::pass_on(bad(fmt::format("protect knows no '{}'; it takes paths, level, unless and degraded", key)));
    }
  }
  if (!has_paths) {
    return util::pass_on(bad("protect needs 'paths'"));
  }
  return secret;
}

std::string secrets_of(const Governor& governor) {
  std::string out = "\"protected\":[";
  for (const policy::Secret& secret : governor.secrets()) {
    out += out.back() == '[' ? "" : ",";
    out += fmt::format(R"({{"paths":{},"level":{},"degraded":"{}","unless":{{)", json_list(secret.paths), secret.level, secret.degraded ? "accept" : "refuse");
    for (std::size_t i = 0; i < secret.unless.size(); ++i) {
      out += fmt::format("{}{}:{}", i > 0 ? "," : "", json_string(secret.unless[i].first), json_list(secret.unless[i].second));
    }
    if (secret.unless.empty()) {
      out += R"("uid":["0"])";
    }
    out += "}}";
  }
  return out + "]";
}

// Of the rules that decide, how each is carried out; at most so many, that a reply stays small.
constexpr std::size_t kRulesTold = 1000;

std::string rules_of(Governor& governor) {
  const enforce::Counts counts = governor.enforcer() != nullptr ? governor.enforcer()->counts() : enforce::Counts{};
  std::string out = "\"rules\":[";
  std::size_t told = 0;
  const std::vector<enforce::RuleState> states = governor.enforcer() != nullptr ? governor.enforcer()->states() : std::vector<enforce::RuleState>{};
  for (const policy::Rule& rule : governor.policy().rules) {
    if (++told > kRulesTold) {
      break;
    }
    out += out.back() == '[' ? "{" : ",{";
    out +=
        fmt::format(R"("name":{},"action":"{}","place":{},"severity":{})", json_string(rule.name), rule.decides() ? policy::action_name(rule.action) : "audit",
                    json_string(fmt::format("{}:{}", rule.file, rule.line)), json_string(rule.severity));
    if (rule.decides()) {
      const bool enforced = rule.enforce && governor.enforcer() != nullptr;
      const auto known = counts.rules.find(rule.name);
      out += fmt::format(",\"mode\":\"{}\",\"mechanism\":\"{}\",\"stopped\":{}", rule.enforce ? "enforce" : "observe",
                         enforced ? mechanism_name(governor.enforcer()->mechanism()) : "none", known == counts.rules.end() ? 0 : known->second.stopped);
      // Without an enforcer no rule is to be carried out.
      const enforce::RuleState state = told <= states.size() ? states[told - 1] : enforce::RuleState{enforce::RuleState::Kind::kObserved, {}};
      out += fmt::format(R"(,"state":"{}")", enforce::state_name(state.kind));
      if (!state.why.empty()) {
        out += fmt::format(R"(,"why":{})", json_string(state.why));
      }
    } else {
      out += R"(,"state":"recorded")";
    }
    out += '}';
  }
  return out + fmt::format("],\"rules_in_all\":{}", governor.policy().rules.size());
}

std::string status_of(const Agent& agent) {
  Governor& governor = agent.governor;
  std::string out = R"({"ok":true,"schema":1,"version":")" VFSGUARD_VERSION R"(",)";
  out += fmt::format("\"pid\":{},", getpid());
  out += fmt::format(R"("config":{},"protected_file":{},"policy_changes":{},)", json_string(governor.source().config),
                     json_string(governor.source().protected_file), governor.changes());
  out += agent.status();
  if (const enforce::Enforcer* enforcer = governor.enforcer()) {
    const enforce::Counts counts = enforcer->counts();
    out += fmt::format(
        R"("enforcement":{{"mechanism":"{}","version":{},"persist":{},"table_bytes":{},"decisions":{},"unknown":{},"refused_unknown":{},"no_memory":{},"no_ancestors":{},"protected_inodes_full":{},)"
        R"("notes":{}}},)",
        mechanism_name(enforcer->mechanism()), enforcer->version(), governor.persists(), enforcer->table_bytes(), counts.total.asked, counts.total.unknown,
        counts.total.refused_unknown, counts.total.no_memory, counts.total.no_ancestors, counts.total.protected_inodes_full, json_list(enforcer->notes()));
  } else {
    out += R"("enforcement":{"mechanism":"none"},)";
  }
  return out + rules_of(governor) + "," + secrets_of(governor) + "}";
}

util::Result<std::string> carry_out(std::string_view request, const Agent& agent) {
  simdjson::dom::parser parser(control::kMaxRequest + 64);
  element root;
  simdjson::dom::object object;
  if (parser.parse(request.data(), request.size()).get(root) != simdjson::SUCCESS || root.get(object) != simdjson::SUCCESS) {
    return util::pass_on(bad("a request is one JSON object a line, as in {\"command\":\"status\"}"));
  }
  std::string_view command;
  if (object["command"].get(command) != simdjson::SUCCESS) {
    return util::pass_on(bad("a request has a 'command': status, reload, protect, unprotect or protected"));
  }
  const auto begun = std::chrono::steady_clock::now();
  const auto done = [&] {
    const auto spent = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begun);
    return fmt::format(R"({{"ok":true,"rules":{},"enforced":{},"milliseconds":{:.1f}}})", agent.governor.policy().rules.size(),
                       agent.governor.enforcer() != nullptr, static_cast<double>(spent.count()) / 1000);
  };
  if (command == "status") {
    return status_of(agent);
  }
  if (command == "protected") {
    return R"({"ok":true,)" + secrets_of(agent.governor) + "}";
  }
  if (command == "reload") {
    auto ok = agent.reload();
    if (!ok) {
      return util::pass_on(ok.error());
    }
    return done();
  }
  if (command == "protect") {
    auto secret = secret_of(object);
    if (!secret) {
      return util::pass_on(secret.error());
    }
    auto ok = agent.governor.protect(std::move(*secret), agent.recorder());
    agent.changed("protect", ok);
    if (!ok) {
      return util::pass_on(ok.error());
    }
    return done();
  }
  if (command == "unprotect") {
    std::string_view path;
    if (object["path"].get(path) != simdjson::SUCCESS) {
      return util::pass_on(bad("unprotect needs a 'path'"));
    }
    auto ok = agent.governor.unprotect(std::string(path), agent.recorder());
    agent.changed("unprotect", ok);
    if (!ok) {
      return util::pass_on(ok.error());
    }
    return done();
  }
  return util::pass_on(bad(fmt::format("there is no command '{}'; there are status, reload, protect, unprotect and protected", command)));
}

}  // namespace

std::string answer(std::string_view request, const Agent& agent) {
  auto reply = carry_out(request, agent);
  return reply ? std::move(*reply) : control::refusal(reply.error());
}

}  // namespace vfsguard::daemon
