// SPDX-License-Identifier: Apache-2.0
// vfsguard run: the agent in the foreground, by a policy.
#include <grp.h>

#include <memory>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/options.h"
#include "control/server.h"
#include "daemon/governor.h"

namespace vfsguard::cli {

namespace {

struct RunText {
  CommonText common;
  std::string config = "/etc/vfsguard/policy.yaml";
  std::string enforce = "auto";
  std::string protected_file = policy::kProtectedFile;
  std::string control;
  std::string control_group;
  std::string pins = enforce::kPins;
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
  app->add_option("--pins", text->pins, fmt::format("Directory of bpffs where a policy with 'persist: true' stands (default: {})", enforce::kPins))
      ->type_name("DIR");
  add_common(*app, text->common);
  app->footer(
      "Examples:\n"
      "  vfsguard run --config policies/sensitive-files.yaml\n"
      "  vfsguard run --format json --output /var/log/vfsguard.jsonl\n"
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
            auto governor = daemon::Governor::open({text->config, text->protected_file, text->enforce != "off", mechanism_of(text->enforce), text->pins});
            if (!governor && governor.error().code == ENOENT) {
              return util::pass_on({governor.error().message + "; name one with --config (policies/sensitive-files.yaml is a start)", EX_NOINPUT, ENOENT});
            }
            if (!governor) {
              return util::pass_on(governor.error());
            }
            options.governor = std::move(*governor);
            if (auto done = daemon::run_pipeline(std::move(options)); !done) {
              return util::pass_on(done.error());
            }
            return 0;
          }};
}

}  // namespace vfsguard::cli
