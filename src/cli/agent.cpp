// SPDX-License-Identifier: Apache-2.0
// The commands that speak to the running agent: vfsguard protect, unprotect, protected, status, reload, release.
#include <filesystem>
#include <memory>

#include <fmt/format.h>
#include <simdjson.h>

#include "cli/commands.h"
#include "control/server.h"
#include "enforce/pins.h"
#include "output/escape.h"
#include "policy/glob.h"
#include "policy/secrets.h"
#include "sensor/kprobe_events.h"
#include "util/clock.h"

namespace vfsguard::cli {

namespace {

using output::json_list;
using output::json_string;
using output::printable;
using simdjson::dom::element;
using simdjson::dom::object;

struct AgentText {
  std::string control = control::kDefaultSocket;
  bool json = false;
  std::string path;
  std::uint32_t level = 1;
  std::string unless;
  std::string degraded = "refuse";
  std::string pins = enforce::kPins;
};

// What stands there, or `otherwise`: an agent of another version may not say it.
template <typename T>
T value_of(const simdjson::simdjson_result<element>& from, T otherwise) {
  T value{};
  return from.get(value) == simdjson::SUCCESS ? value : otherwise;
}

struct Reply {
  std::string line;
  std::unique_ptr<simdjson::dom::parser> parser = std::make_unique<simdjson::dom::parser>();
  object root;
};

// The agent's own refusal becomes ours.
util::Result<Reply> request(const AgentText& text, const std::string& line) {
  auto answer = control::ask(text.control, line);
  if (!answer) {
    return util::pass_on(answer.error());
  }
  Reply reply;
  reply.line = std::move(*answer);
  bool ok = false;
  if (reply.parser->parse(reply.line).get(reply.root) != simdjson::SUCCESS || reply.root["ok"].get(ok) != simdjson::SUCCESS) {
    return util::fail(EX_PROTOCOL, fmt::format("what listens at '{}' is no vfsguard: its answer is not understood", text.control));
  }
  if (!ok) {
    return util::fail(static_cast<int>(value_of(reply.root["exit_code"], std::int64_t{EX_SOFTWARE})),
                      std::string(value_of(reply.root["error"], std::string_view("refused"))));
  }
  return reply;
}

// Without the slashes and dots that no path of the kernel's has.
std::string normal(const std::filesystem::path& path) {
  std::string text = path.lexically_normal().string();
  while (text.size() > 1 && text.back() == '/') {
    text.pop_back();
  }
  return text;
}

// What is meant by PATH: the object that it leads to now, a directory with everything in it, a name that is not there yet, or a glob. Objects are
// known by their own paths, so links are followed as far as the path exists.
util::Result<std::vector<std::string>> globs_for(const std::string& text) {
  if (text.empty()) {
    return util::fail(EX_USAGE, "the path is empty");
  }
  std::string plain;
  if (!output::append_json(text, plain)) {
    return util::fail(EX_DATAERR, "the path is not UTF-8; write a glob with '?' for each byte that is none");
  }
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(text, error);
  const bool exists = std::filesystem::exists(std::filesystem::symlink_status(absolute, error));
  const std::size_t special = exists ? std::string::npos : absolute.string().find_first_of("*?[\\");
  if (special != std::string::npos) {
    // The part that holds no wildcard is a directory, if it is there.
    const std::string whole = absolute.string();
    const std::size_t slash = whole.rfind('/', special);
    const std::filesystem::path above = std::filesystem::weakly_canonical(whole.substr(0, slash == 0 ? 1 : slash), error);
    const std::string root = normal(above);
    return std::vector{(root == "/" ? "" : policy::literal_glob(root)) + whole.substr(slash)};
  }
  const std::filesystem::path real = std::filesystem::weakly_canonical(absolute, error);
  if (error) {
    return util::fail_errno(EX_NOINPUT, fmt::format("cannot tell where '{}' leads", text), error.value());
  }
  const std::string path = normal(real);
  if (path == "/") {
    return util::fail(EX_USAGE, "that is everything; name a directory below /, or write a policy");
  }
  std::vector<std::string> globs{policy::literal_glob(path)};
  if (std::filesystem::is_directory(real, error) || text.ends_with('/')) {
    globs.push_back(policy::literal_glob(path) + "/**");
  }
  return globs;
}

std::string_view done_by(std::uint64_t level) { return level == 1 ? "EACCES" : "SIGKILL"; }

util::Result<int> protect(const AgentText& text) {
  auto globs = globs_for(text.path);
  if (!globs) {
    return util::pass_on(globs.error());
  }
  std::string line = fmt::format(R"({{"command":"protect","paths":{},"level":{},"degraded":"{}")", json_list(*globs), text.level, text.degraded);
  if (!text.unless.empty()) {
    auto conditions = policy::parse_conditions(text.unless);
    if (!conditions) {
      return util::pass_on(std::move(conditions.error()).context("--unless"));
    }
    line += ",\"unless\":{";
    for (std::size_t i = 0; i < conditions->size(); ++i) {
      line += fmt::format("{}{}:{}", i > 0 ? "," : "", json_string((*conditions)[i].first), json_list((*conditions)[i].second));
    }
    line += "}";
  }
  auto reply = request(text, line + "}");
  if (!reply) {
    return util::pass_on(reply.error());
  }
  if (text.json) {
    fmt::print("{}\n", reply->line);
    return 0;
  }
  const double spent = value_of(reply->root["milliseconds"], 0.0);
  for (const std::string& glob : *globs) {
    fmt::print("protected {}: {} for all but {} (in {:.0f} ms)\n", printable(glob), done_by(text.level), text.unless.empty() ? "uid=0" : printable(text.unless),
               spent);
  }
  if (!value_of(reply->root["enforced"], true)) {
    fmt::print(stderr, "note: this agent enforces nothing (--enforce off): what would be stopped is only recorded\n");
  }
  return 0;
}

util::Result<int> unprotect(const AgentText& text) {
  auto globs = globs_for(text.path);
  if (!globs) {
    return util::pass_on(globs.error());
  }
  auto reply = request(text, fmt::format(R"({{"command":"unprotect","path":{}}})", json_string(globs->front())));
  if (!reply) {
    return util::pass_on(reply.error());
  }
  fmt::print("{}", text.json ? reply->line + "\n" : fmt::format("no longer protected: {}\n", printable(globs->front())));
  return 0;
}

std::string conditions_of(const element& secret) {
  std::string out;
  object unless;
  if (secret["unless"].get(unless) == simdjson::SUCCESS) {
    for (const auto& [key, values] : unless) {
      for (const element& value : values) {
        std::string_view one;
        if (value.get(one) == simdjson::SUCCESS) {
          out += fmt::format("{}{}={}", out.empty() ? "" : ",", key, one);
        }
      }
    }
  }
  return out;
}

util::Result<int> list_protected(const AgentText& text) {
  auto reply = request(text, R"({"command":"protected"})");
  if (!reply) {
    return util::pass_on(reply.error());
  }
  if (text.json) {
    fmt::print("{}\n", reply->line);
    return 0;
  }
  simdjson::dom::array secrets;
  if (reply->root["protected"].get(secrets) != simdjson::SUCCESS || secrets.size() == 0) {
    fmt::print(stderr, "nothing is protected by vfsguard protect; vfsguard status lists the policy's rules\n");
    return 0;
  }
  fmt::print("{:<5}  {:<8}  {:<24}  {}\n", "LEVEL", "ANSWER", "UNLESS", "PATH");
  for (const element& secret : secrets) {
    const std::uint64_t level = value_of(secret["level"], std::uint64_t{1});
    simdjson::dom::array paths;
    if (secret["paths"].get(paths) != simdjson::SUCCESS) {
      continue;
    }
    for (const element& path : paths) {
      fmt::print("{:<5}  {:<8}  {:<24}  {}\n", level, done_by(level), printable(conditions_of(secret)),
                 printable(value_of(simdjson::simdjson_result<element>(element(path)), std::string_view("-"))));
    }
  }
  return 0;
}

util::Result<int> reload(const AgentText& text) {
  auto reply = request(text, R"({"command":"reload"})");
  if (!reply) {
    return util::pass_on(std::move(reply.error()).context("the policy in force stays"));
  }
  const std::uint64_t rules = value_of(reply->root["rules"], std::uint64_t{0});
  const double spent = value_of(reply->root["milliseconds"], 0.0);
  fmt::print("{}", text.json ? reply->line + "\n" : fmt::format("reloaded: {} rules, in {:.0f} ms\n", rules, spent));
  return 0;
}

std::string_view word(const object& from, std::string_view key) { return value_of(from[key], std::string_view("-")); }

std::uint64_t number(const object& from, std::string_view key) { return value_of(from[key], std::uint64_t{0}); }

util::Result<int> status(const AgentText& text) {
  auto reply = request(text, R"({"command":"status"})");
  if (!reply) {
    return util::pass_on(reply.error());
  }
  if (text.json) {
    fmt::print("{}\n", reply->line);
    return 0;
  }
  const object& r = reply->root;
  const double seconds = value_of(r["seconds"], 0.0);
  fmt::print("vfsguard {}, pid {}, running {:.0f} s on {}\n", word(r, "version"), number(r, "pid"), seconds, word(r, "kernel"));
  fmt::print("records by   {}: seen {}, filtered {}, aggregated {}, emitted {}, lost {}\n", word(r, "hook"), number(r, "seen"), number(r, "filtered"),
             number(r, "aggregated"), number(r, "emitted"), number(r, "lost"));
  object enforcement;
  if (r["enforcement"].get(enforcement) == simdjson::SUCCESS) {
    fmt::print("enforces by  {}", word(enforcement, "mechanism"));
    if (word(enforcement, "mechanism") != "none") {
      fmt::print(": {} decisions, {} not known, {} without memory; {} KiB of tables", number(enforcement, "decisions"), number(enforcement, "unknown"),
                 number(enforcement, "no_memory"), number(enforcement, "table_bytes") >> 10);
      if (value_of(enforcement["persist"], false)) {
        fmt::print("; stays when the agent ends");
      }
    }
    fmt::print("\n");
    simdjson::dom::array notes;
    if (enforcement["notes"].get(notes) == simdjson::SUCCESS) {
      for (const element& note : notes) {
        std::string_view one;
        if (note.get(one) == simdjson::SUCCESS) {
          fmt::print("  weaker: {}\n", printable(one));
        }
      }
    }
  }
  fmt::print("policy       {}, {} rules, changed {} times\n", printable(word(r, "config")), number(r, "rules_in_all"), number(r, "policy_changes"));
  object detection;
  const bool detects = r["detection"].get(detection) == simdjson::SUCCESS;
  if (detects) {
    fmt::print("detection    {} rules, {} correlations, {} filters; {} operations looked at, {} groups of correlations in {} KiB, {} let go for want of room\n",
               number(detection, "rules"), number(detection, "correlations"), number(detection, "filters"), number(detection, "looked_at"),
               number(detection, "groups"), number(detection, "group_bytes") >> 10, number(detection, "evicted"));
  }
  simdjson::dom::array rules;
  if (r["rules"].get(rules) != simdjson::SUCCESS) {
    return 0;
  }
  fmt::print("\n{:<8}  {:<9}  {:<9}  {:>9}  {}\n", "ACTION", "STATE", "MECHANISM", "STOPPED", "RULE");
  for (const element& one : rules) {
    object rule;
    if (one.get(rule) == simdjson::SUCCESS) {
      fmt::print("{:<8}  {:<9}  {:<9}  {:>9}  {}\n", word(rule, "action"), word(rule, "state"), word(rule, "mechanism"), number(rule, "stopped"),
                 printable(word(rule, "name")));
    }
  }
  if (rules.size() < number(r, "rules_in_all")) {
    fmt::print("... and {} more\n", number(r, "rules_in_all") - rules.size());
  }
  simdjson::dom::array matched;
  if (!detects || detection["matched"].get(matched) != simdjson::SUCCESS || matched.size() == 0) {
    return 0;
  }
  fmt::print("\n{:<8}  {:>9}  {:>9}  {:>9}  {}\n", "SEVERITY", "MATCHED", "TOLD", "HELD BACK", "DETECTED");
  for (const element& one : matched) {
    object rule;
    if (one.get(rule) == simdjson::SUCCESS) {
      fmt::print("{:<8}  {:>9}  {:>9}  {:>9}  {}\n", word(rule, "severity"), number(rule, "matched"), number(rule, "told"), number(rule, "held_back"),
                 printable(word(rule, "rule")));
    }
  }
  return 0;
}

// The one command that is for when no agent runs.
util::Result<int> release(const AgentText& text) {
  auto pins = enforce::Pins::take(text.pins, false);
  if (!pins && pins.error().exit_code == EX_TEMPFAIL) {
    return util::fail(EX_TEMPFAIL,
                      fmt::format("an agent runs by what stands in '{}'; take 'persist: true' out of its policy and reload, or stop it first", text.pins));
  }
  if (!pins) {
    return util::pass_on(pins.error());
  }
  if (!*pins) {
    fmt::print(stderr, "nothing stands in '{}'\n", text.pins);
    return 0;
  }
  std::vector<std::string> notes;
  const auto standing = (*pins)->standing(notes);
  const enforce::Counts counts = standing ? standing->counts() : enforce::Counts{};
  const std::size_t dropped = (*pins)->drop_all_but("");
  sensor::KprobeEvents::remove_stale();
  if (standing) {
    for (const auto& [name, count] : counts.rules) {
      fmt::print("rule '{}': stopped {}\n", printable(name), count.stopped);
    }
    fmt::print("released: {} rules, in force since {}, by {}; {} stopped in all\n", standing->description.rules.size(),
               util::wall_time_text(standing->description.since_ns), standing->description.by, counts.stopped());
  } else if (dropped > 0) {
    fmt::print("released: {} sets of programs, of an agent that did not finish, or of another version\n", dropped);
  } else {
    fmt::print(stderr, "nothing stands in '{}'\n", text.pins);
  }
  return 0;
}

struct AgentCommand {
  const char* name;
  const char* what;
  const char* examples;
  bool path;
  util::Result<int> (*run)(const AgentText&);
};

constexpr AgentCommand kCommands[] = {
    {"protect", "Make a file, a directory or a glob secret in the running agent",
     "Examples:\n"
     "  vfsguard protect /srv/keys                         a directory and everything in it: EACCES for all but root\n"
     "  vfsguard protect '/home/*/.ssh/id_*' --level 2     whoever opens one is killed\n"
     "  vfsguard protect /etc/app.key --unless uid=0,exe=/usr/sbin/appd\n"
     "All conditions of --unless must hold together; values of one key are alternatives. It holds from now on, also after a restart of the\n"
     "agent, until vfsguard unprotect.",
     true, protect},
    {"unprotect", "Undo vfsguard protect", "Example:\n  vfsguard unprotect /srv/keys", true, unprotect},
    {"protected", "List what vfsguard protect made secret", "Example:\n  vfsguard protected --json", false, list_protected},
    {"status", "What the running agent does: mechanisms, counters, rules", "Example:\n  vfsguard status --json", false, status},
    {"reload", "Have the running agent read its policy again", "Example:\n  vfsguard reload\nIf the policy cannot be put in force, the old one stays.", false,
     reload},
    {"release", "Lift what an agent with 'persist: true' left in force",
     "Example:\n  vfsguard release\nOnly when no agent runs: a running one lifts it by its policy.", false, release},
};

}  // namespace

std::vector<Registered> add_agent(CLI::App& root) {
  std::vector<Registered> all;
  for (const AgentCommand& command : kCommands) {
    auto text = std::make_shared<AgentText>();
    CLI::App* app = root.add_subcommand(command.name, command.what);
    if (command.path) {
      app->add_option("path", text->path, "File, directory or glob")->required()->type_name("PATH");
    }
    if (command.run == protect) {
      app->add_option("--level", text->level, "1: the caller gets EACCES (the default); 2 or more: the caller is killed")->check(CLI::Range(1, 1000));
      app->add_option("--degraded", text->degraded, "refuse (the default) or accept: also where this kernel cannot hold it exactly")
          ->check(CLI::IsMember({"refuse", "accept"}));
      app->add_option("--unless", text->unless, "Who may, instead of root: KEY=VALUE,... as in a policy's 'unless'")->type_name("WHO");
    }
    if (command.run == release) {
      app->add_option("--pins", text->pins, fmt::format("Where it stands (default: {})", enforce::kPins))->type_name("DIR");
      app->footer(command.examples);
      all.push_back({app, [text] { return release(*text); }});
      continue;
    }
    app->add_option("--control", text->control, fmt::format("The agent's socket (default: {})", control::kDefaultSocket))->type_name("PATH");
    app->add_flag("--json", text->json, "The agent's answer as it is, one JSON object");
    app->footer(command.examples);
    all.push_back({app, [text, run = command.run] { return run(*text); }});
  }
  return all;
}

}  // namespace vfsguard::cli
