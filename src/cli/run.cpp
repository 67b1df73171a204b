// SPDX-License-Identifier: Apache-2.0
// vfsguard run: the agent in the foreground, by a policy.
#include <grp.h>
#include <unistd.h>

#include <memory>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/options.h"
#include "control/server.h"
#include "daemon/governor.h"
#include "daemon/sentinel.h"
#include "guard/life.h"

namespace vfsguard::cli {

namespace {

struct RunText {
  CommonText common;
  std::optional<std::string> config;
  std::string enforce = "auto";
  std::string protected_file = policy::kProtectedFile;
  std::string control;
  std::string control_group;
  std::string pins = enforce::kPins;
  std::string detection;
  std::vector<std::string> rules;
  bool keep_going = false;
  std::string state = guard::kStateFile;
  std::string sandbox = "on";
};

enforce::Mechanism mechanism_of(const std::string& name) {
  return name == "lsm"        ? enforce::Mechanism::kLsm
         : name == "override" ? enforce::Mechanism::kOverride
         : name == "signal"   ? enforce::Mechanism::kSignal
         : name == "fanotify" ? enforce::Mechanism::kFanotify
                              : enforce::Mechanism::kAuto;
}

util::Result<std::optional<daemon::ControlSocket>> control_of(const RunText& text) {
  if (text.control == "off") {
    return std::nullopt;
  }
  daemon::ControlSocket socket{text.control.empty() ? control::kDefaultSocket : text.control, std::nullopt, !text.control.empty()};
  if (!text.control_group.empty()) {
    const group* entry = getgrnam(text.control_group.c_str());
    if (entry == nullptr) {
      return util::fail(EX_NOUSER, fmt::format("--control-group '{}': there is no such group", text.control_group));
    }
    socket.group = entry->gr_gid;
    socket.required = true;
  }
  return socket;
}

constexpr const char* kPolicy = "/etc/vfsguard/policy.yaml";
constexpr const char* kDetection = "/etc/vfsguard/detection.yaml";

daemon::PolicySource source_of(const RunText& text) {
  daemon::PolicySource source{.config = text.config.value_or(kPolicy),
                              .protected_file = text.protected_file,
                              .enforce = text.enforce != "off",
                              .mechanism = mechanism_of(text.enforce),
                              .detection = text.detection,
                              .rules = text.rules,
                              .keep_going = text.keep_going,
                              .pins = text.pins};
  // What is done to the agent itself is seen whatever the policy asks for.
  constexpr std::uint64_t kToTheAgent = event::operation_bit(VG_OP_PTRACE) | event::operation_bit(VG_OP_BPF);
  source.always.operations = kToTheAgent | event::operation_bit(VG_OP_OPEN);
  source.always.anywhere = kToTheAgent;
  for (const char* place : {"/proc/{}/mem", "/proc/{}/task/*/mem"}) {
    source.always.places.push_back({policy::parse_glob(fmt::format(fmt::runtime(place), getpid())).value(), event::operation_bit(VG_OP_OPEN)});
  }
  source.before_loading = [](const policy::Policy& policy) { return daemon::Sentinel::look_around(policy.guard); };
  if (source.detection.empty() && access(kDetection, F_OK) == 0) {
    source.detection = kDetection;
  }
  // Detection needs no policy.
  if (!text.config && (!source.detection.empty() || !source.rules.empty()) && access(source.config.c_str(), F_OK) != 0) {
    source.config.clear();
  }
  return source;
}

}  // namespace

Registered add_run(CLI::App& root) {
  auto text = std::make_shared<RunText>();
  CLI::App* app = root.add_subcommand("run", "Watch by a policy, in the foreground");
  app->add_option("--config", text->config, "Policy file or directory (default: /etc/vfsguard/policy.yaml)")->type_name("PATH");
  app->add_option("--enforce", text->enforce,
                  "What carries out rules that deny or kill: auto (the strongest that works), lsm, override, signal, fanotify, or off to record only")
      ->check(CLI::IsMember({"auto", "lsm", "override", "signal", "fanotify", "off"}));
  app->add_option("--protected", text->protected_file, fmt::format("Where vfsguard protect keeps its files (default: {})", policy::kProtectedFile))
      ->type_name("FILE");
  app->add_option("--control", text->control, fmt::format("Socket for status, reload and protect, or off (default: {})", control::kDefaultSocket))
      ->type_name("PATH");
  app->add_option("--control-group", text->control_group, "Group that may use that socket, beside root")->type_name("NAME");
  app->add_option("--state", text->state, fmt::format("File by which the next agent knows how this one ended, or off (default: {})", guard::kStateFile))
      ->type_name("FILE");
  app->add_option("--sandbox", text->sandbox, "on (the default) or off: give away capabilities and system calls that are not needed after the start")
      ->check(CLI::IsMember({"on", "off"}));
  app->add_option("--detection", text->detection, "Configuration of detection (docs/rules.md); default: /etc/vfsguard/detection.yaml where that is there")
      ->type_name("FILE");
  app->add_option("--rules", text->rules, "Files or directories of Sigma rules, beside those that the configuration names (repeatable)")->type_name("PATH");
  app->add_flag("--keep-going", text->keep_going, "Leave out rules of detection that are refused");
  app->add_option("--pins", text->pins, fmt::format("Directory of bpffs where a policy with 'persist: true' stands (default: {})", enforce::kPins))
      ->type_name("DIR");
  add_common(*app, text->common);
  app->footer(
      "Examples:\n"
      "  vfsguard run --config policies/sensitive-files.yaml\n"
      "  vfsguard run --format json --output /var/log/vfsguard.jsonl\n"
      "  vfsguard run --rules rules/                             detection alone\n"
      "SIGHUP reads the policy again; if that cannot be done, the one in force stays.");
  return {app, [text]() -> util::Result<int> {
            daemon::Options options;
            if (auto ok = apply_common(text->common, options); !ok) {
              return util::pass_on(ok.error());
            }
            auto control = control_of(*text);
            if (!control) {
              return util::pass_on(control.error());
            }
            options.control = std::move(*control);
            options.agent = true;
            options.sandbox = text->sandbox == "on";
            options.state_file = text->state == "off" ? "" : text->state;
            auto source = source_of(*text);
            auto governor = daemon::Governor::open(std::move(source));
            if (!governor && governor.error().code == ENOENT) {
              return util::pass_on({governor.error().message + "; name one with --config (policies/sensitive-files.yaml is a start)", EX_NOINPUT, ENOENT});
            }
            if (!governor) {
              return util::pass_on(governor.error());
            }
            options.governor = std::move(*governor);
            return daemon::run_pipeline(std::move(options));
          }};
}

}  // namespace vfsguard::cli
