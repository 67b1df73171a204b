// SPDX-License-Identifier: Apache-2.0
// vfsguard run: the agent in the foreground, by a policy.
#include <memory>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/options.h"
#include "policy/policy.h"

namespace vfsguard::cli {

namespace {

struct RunText {
  CommonText common;
  std::string config = "/etc/vfsguard/policy.yaml";
};

}  // namespace

Registered add_run(CLI::App& root) {
  auto text = std::make_shared<RunText>();
  CLI::App* app = root.add_subcommand("run", "Watch by a policy, in the foreground");
  app->add_option("--config", text->config, "Policy file (default: /etc/vfsguard/policy.yaml)")->type_name("FILE");
  add_common(*app, text->common);
  app->footer(
      "Examples:\n"
      "  vfsguard run --config policies/sensitive-files.yaml\n"
      "  vfsguard run --format json --output /var/log/vfsguard.jsonl");
  return {app, [text]() -> util::Result<int> {
            daemon::Options options;
            if (auto ok = apply_common(text->common, options); !ok) {
              return util::pass_on(ok.error());
            }
            auto policy = policy::load(text->config);
            if (!policy && policy.error().code == ENOENT) {
              return util::pass_on({policy.error().message + "; name one with --config (policies/sensitive-files.yaml is a start)", EX_NOINPUT, ENOENT});
            }
            if (!policy) {
              return util::pass_on(policy.error());
            }
            auto compiled = policy::compile_policy(*policy);
            if (!compiled) {
              return util::pass_on(compiled.error());
            }
            options.sensor.filter.by_path = true;
            options.sensor.filter.operations = compiled->operations;
            options.sensor.filter.automaton = std::move(compiled->automaton);
            options.sensor.filter.set_operations = compiled->set_operations;
            options.policy = &*policy;
            options.compiled = &*compiled;
            fmt::print(stderr, "policy {}: {} rules\n", policy->file, policy->rules.size());
            if (auto done = daemon::run_pipeline(std::move(options)); !done) {
              return util::pass_on(done.error());
            }
            return 0;
          }};
}

Registered add_policy(CLI::App& root) {
  auto file = std::make_shared<std::string>();
  CLI::App* app = root.add_subcommand("policy", "Check policy files");
  CLI::App* check = app->add_subcommand("check", "Read a policy, compile it, and say what it would cost");
  check->add_option("FILE", *file, "Policy file")->required();
  app->require_subcommand(1);
  return {app, [file]() -> util::Result<int> {
            auto policy = policy::load(*file);
            if (!policy) {
              return util::pass_on(policy.error());
            }
            auto compiled = policy::compile_policy(*policy);
            if (!compiled) {
              return util::pass_on(compiled.error());
            }
            fmt::print("{}: {} rules, {} automaton states, {} KiB in the kernel\n", *file, policy->rules.size(), compiled->automaton.states.size(),
                       (compiled->automaton.bytes() + 1023) / 1024);
            return 0;
          }};
}

}  // namespace vfsguard::cli
