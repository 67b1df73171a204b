// SPDX-License-Identifier: Apache-2.0
// vfsguard rules: check, list, test and fields. All of them read rules and watch nothing.
#include <chrono>
#include <filesystem>
#include <memory>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/options.h"
#include "daemon/blindness.h"
#include "detect/detector.h"
#include "event/names.h"
#include "output/escape.h"
#include "output/format.h"
#include "output/recorded.h"

namespace vfsguard::cli {

namespace {

using output::json_list;
using output::json_string;
using output::printable;

struct RulesText {
  std::vector<std::string> paths;
  std::string config;
  std::string hook = "auto";
  std::vector<std::string> events;
  bool keep_going = false;
  bool json = false;
  bool auditd = false;
  util::Result<int> (*chosen)(const RulesText&) = nullptr;
};

util::Result<std::unique_ptr<detect::Detector>> load(const RulesText& text, bool keep_going) {
  detect::Config config;
  if (!text.config.empty()) {
    auto read = detect::load_config(text.config);
    if (!read) {
      return util::pass_on(read.error());
    }
    config = std::move(*read);
  }
  if (text.paths.empty() && config.rules.empty()) {
    return util::fail(EX_USAGE, "name files or directories of rules, or a configuration that does (--config)");
  }
  return detect::Detector::open(config, {.keep_going = keep_going, .rules = text.paths});
}

struct Mechanism {
  detect::Blindness blindness;
  std::string name;
};

// What `run` would record by, here: found out by loading it. Attaches nothing.
util::Result<Mechanism> mechanism_here(const std::string& hook) {
  const auto wanted = parse_hook(hook);
  if (!wanted) {
    return util::pass_on(wanted.error());
  }
  sensor::Options options;
  options.hook = *wanted;
  const auto sensor = sensor::Sensor::open(options, [](auto) {});
  if (!sensor) {
    return util::pass_on(sensor.error());
  }
  return Mechanism{daemon::blindness_of(*sensor), std::string(event::hook_name(static_cast<unsigned>(sensor->hook())))};
}

// How many tests, indexes and so on; for people who wonder what their rules cost.
util::Result<int> check(const RulesText& text) {
  const auto before = std::chrono::steady_clock::now();
  // All that is wrong, in any case; what --keep-going changes is the verdict.
  auto detector = load(text, true);
  if (!detector) {
    return util::pass_on(detector.error());
  }
  detect::Detector& d = **detector;
  const double spent = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - before).count();
  for (const util::Error& error : d.refused()) {
    fmt::print(stderr, "{}\n", error.message);
  }
  const auto here = mechanism_here(text.hook);
  if (!here && here.error().exit_code == EX_USAGE) {
    return util::pass_on(here.error());
  }
  if (!here) {
    fmt::print(stderr, "note: rules that this machine's mechanism keeps from matching are not looked for: {}\n", here.error().message);
  }
  for (const std::string& note : here ? d.review(here->blindness, here->name) : d.review()) {
    fmt::print(stderr, "note: {}\n", note);
  }
  const std::string refused = d.refused().empty() ? "" : fmt::format(", {} refused", d.refused().size());
  if (text.json) {
    fmt::print(R"({{"rules":{},"correlations":{},"filters":{},"refused":{},"tests":{},"bytes":{},"milliseconds":{:.1f}}})"
               "\n",
               d.rules().size(), d.correlations().size(), d.filters().size(), d.refused().size(), d.engine().tests(), d.engine().bytes(), spent);
  } else {
    fmt::print("{} rules, {} correlations, {} filters{}; {} tests in {} KiB, read in {:.0f} ms\n", d.rules().size(), d.correlations().size(),
               d.filters().size(), refused, d.engine().tests(), d.engine().bytes() >> 10, spent);
    const detect::AllNeeds& needs = d.needs();
    fmt::print("watched: {} paths{}{}\n", needs.places.size(), needs.anywhere != 0 ? "; of any path: " + event::operation_names(needs.anywhere) : "",
               needs.opens_that_write ? " (opens that write)" : "");
  }
  return d.refused().empty() || text.keep_going ? 0 : EX_CONFIG;
}

util::Result<int> list(const RulesText& text) {
  auto detector = load(text, text.keep_going);
  if (!detector) {
    return util::pass_on(detector.error());
  }
  const detect::Detector& d = **detector;
  const std::size_t nodes = d.rules().size() + d.correlations().size();
  if (!text.json) {
    fmt::print("{:<8}  {:<20}  {:<40}  {}\n", "SEVERITY", "EVENTS", "RULE", "TITLE");
  }
  for (std::size_t node = 0; node < nodes; ++node) {
    const detect::Head& head = d.head(node);
    const bool correlates = node >= d.rules().size();
    const std::string_view events = correlates                                 ? detect::kind_name(d.correlations()[node - d.rules().size()].kind)
                                    : !d.rules()[node].source.category.empty() ? std::string_view(d.rules()[node].source.category)
                                                                               : std::string_view(d.rules()[node].source.service);
    const bool silent = d.correlator().takes(static_cast<std::uint32_t>(node));
    if (text.json) {
      fmt::print(R"({{"rule":{},"title":{},"id":{},"severity":"{}","events":"{}","tags":{},"status":{},"silent":{},"file":{},"line":{}}})"
                 "\n",
                 json_string(head.label()), json_string(head.title), json_string(head.id), detect::severity_name(head.severity), events, json_list(head.tags),
                 json_string(head.status), silent, json_string(head.file), head.line);
      continue;
    }
    fmt::print("{:<8}  {:<20}  {:<40}  {}{}\n", detect::severity_name(head.severity), events, printable(head.name.empty() ? head.id : head.name),
               printable(head.title), silent ? "  (for correlations only)" : "");
  }
  return 0;
}

// What the rules say of recorded events; exactly what they say of the same events as they happen.
util::Result<int> test(const RulesText& text) {
  auto detector = load(text, text.keep_going);
  if (!detector) {
    return util::pass_on(detector.error());
  }
  detect::Detector& d = **detector;
  output::JsonFormatter json(output::ClockKind::kBoottime, "");
  output::Recorded recorded;
  std::vector<event::Alert> alerts;
  std::uint64_t told = 0;
  std::uint64_t events = 0;
  std::uint64_t others = 0;
  std::size_t cut = 0;
  const auto tell_alerts = [&] {
    for (const event::Alert& alert : alerts) {
      ++told;
      std::string line;
      if (text.json) {
        json.append(alert, line);
      } else {
        line = fmt::format("{:<8}  {}  {}\n", alert.severity, printable(alert.rule), printable(alert.message));
      }
      fmt::print("{}", line);
    }
    alerts.clear();
  };
  for (const std::string& file : text.events) {
    const auto counts = recorded.read(file, [&](event::Operation& operation) {
      d.look(operation, alerts);
      tell_alerts();  // what follows for correlations comes before the event, as it does live
      if (operation.detected) {
        ++told;
        const event::Detected& found = *operation.detected;
        if (text.json) {
          fmt::print(R"({{"timestamp":{}.{:06},"seq":{},"cpu":{},"rule":{},"rules":{},"severity":"{}","tags":{},"message":{}}})"
                     "\n",
                     operation.wall_ns / 1'000'000'000u, operation.wall_ns % 1'000'000'000u / 1000, operation.raw.seq, operation.raw.head.cpu,
                     json_string(found.rules.front()), json_list(found.rules), found.severity, json_list(found.tags), json_string(found.message));
        } else {
          fmt::print("{:<8}  {}  {}{}\n", found.severity, printable(found.rules.front()), printable(found.message),
                     found.rules.size() > 1 ? fmt::format("  (and {} more rules)", found.rules.size() - 1) : "");
        }
      }
    });
    if (!counts) {
      return util::pass_on(counts.error());
    }
    events += counts->operations;
    others += counts->others;
    cut += counts->cut;
  }
  d.finish(alerts);
  tell_alerts();
  for (std::size_t node = 0; node < d.counts().size(); ++node) {
    const detect::Detector::Count& count = d.counts()[node];
    if (count.matched > 0) {
      fmt::print(stderr, "{:>8}  {}{}{}\n", count.matched, printable(d.head(node).label()),
                 count.taken > 0 ? fmt::format(", {} for correlations", count.taken) : "",
                 count.held_back > 0 ? fmt::format(", {} held back", count.held_back) : "");
    }
  }
  fmt::print(stderr, "{} events, {} alerts\n", events, told);
  if (others > 0) {
    fmt::print(stderr, "note: {} lines were no operations\n", others);
  }
  if (cut > 0) {
    fmt::print(stderr, "note: the last {} bytes are no whole line and were left out\n", cut);
  }
  const detect::Correlator::Counters& c = d.correlator().counters();
  if (c.late + c.evicted + c.clock_steps + c.incomplete + c.left_out > 0) {
    fmt::print(stderr,
               "note: correlations: {} matches came too late, {} lacked a field, {} were left out of groups that were full, {} groups had to go for want of "
               "memory, {} clock steps\n",
               c.late, c.incomplete, c.left_out, c.evicted, c.clock_steps);
  }
  return told > 0 ? 1 : 0;
}

util::Result<int> fields(const RulesText& text) {
  const detect::Dialect dialect = text.auditd ? detect::Dialect::kAuditd : detect::Dialect::kSigma;
  for (const std::string_view name : detect::field_names(dialect)) {
    const auto key = detect::find_field(name, dialect);
    const std::string same = detect::field_name(*key, dialect);
    const bool number = detect::is_number(*key);
    fmt::print("{:<22}{}{}{}\n", name, number ? "number" : "text", detect::is_never_known(*key) ? ", never known" : "",
               same != name ? fmt::format(", the same as {}", same) : "");
  }
  if (text.auditd) {
    fmt::print("{:<22}text, the arguments of an execution\n", "a0 to a99");
  }
  return 0;
}

}  // namespace

Registered add_rules(CLI::App& root) {
  auto text = std::make_shared<RulesText>();
  CLI::App* app = root.add_subcommand("rules", "Check, list and test detection rules (Sigma)");
  const auto command = [&](const char* name, const char* what) {
    CLI::App* sub = app->add_subcommand(name, what);
    sub->add_option("PATH", text->paths, "Files or directories of Sigma rules");
    sub->add_option("--config", text->config, "Configuration of detection, as vfsguard run --detection takes it")->type_name("FILE");
    sub->add_flag("--json", text->json, "Machine output");
    sub->add_flag("--keep-going", text->keep_going, "Leave out rules that are refused");
    return sub;
  };
  CLI::App* check_app = command("check", "Read rules and say what is wrong with them, with file:line:column");
  check_app->add_option("--hook", text->hook, "The mechanism that rules are to match by on this machine: auto (as run takes it), lsm, kprobe, tracepoint")
      ->type_name("NAME");
  CLI::App* list_app = command("list", "The rules that are on");
  CLI::App* test_app = command("test", "What rules say of recorded events; exit code 1 where they say anything");
  test_app->add_option("--events", text->events, "Events as vfsguard writes them (JSON Lines; repeatable)")->type_name("FILE")->required();
  CLI::App* fields_app = app->add_subcommand("fields", "The fields that rules may name");
  fields_app->add_flag("--auditd", text->auditd, "Those of rules for auditd");
  app->require_subcommand(1);
  app->footer(
      "Examples:\n"
      "  vfsguard rules check rules/\n"
      "  vfsguard rules list --config /etc/vfsguard/detection.yaml\n"
      "  vfsguard rules test my-rule.yml --events /var/log/vfsguard.jsonl");
  for (const auto& [sub, run] : {std::pair(check_app, &check), std::pair(list_app, &list), std::pair(test_app, &test), std::pair(fields_app, &fields)}) {
    sub->callback([text, run] { text->chosen = run; });
  }
  return {app, [text] { return text->chosen(*text); }};
}

}  // namespace vfsguard::cli
