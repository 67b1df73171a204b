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
  std::string enforce = "auto";
};

// What carries the policy out; none where nothing is to be.
util::Result<std::optional<enforce::Enforcer>> enforcer_for(policy::Policy& policy, const std::string& how) {
  if (how == "off") {
    for (policy::Rule& rule : policy.rules) {
      rule.enforce = false;
    }
  }
  if (!policy::enforces(policy)) {
    return std::nullopt;
  }
  auto tables = policy::compile_enforcement(policy);
  if (!tables) {
    return util::pass_on(tables.error());
  }
  auto enforcer = enforce::Enforcer::open(policy, *tables);
  if (!enforcer) {
    util::Error error = enforcer.error();
    if (error.exit_code == EX_UNAVAILABLE) {
      error.message += "; --enforce off records what would have been stopped";
    }
    return util::pass_on(error);
  }
  fmt::print(stderr, "enforcing by lsm: {} of {} rules, {} KiB of tables\n", tables->clauses, policy.rules.size(), tables->tables.size() >> 10);
  return std::optional(std::move(*enforcer));
}

}  // namespace

Registered add_run(CLI::App& root) {
  auto text = std::make_shared<RunText>();
  CLI::App* app = root.add_subcommand("run", "Watch by a policy, in the foreground");
  app->add_option("--config", text->config, "Policy file (default: /etc/vfsguard/policy.yaml)")->type_name("FILE");
  app->add_option("--enforce", text->enforce, "What carries out rules that deny or kill: auto, lsm, or off to record only")
      ->check(CLI::IsMember({"auto", "lsm", "off"}));
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
            auto enforcer = enforcer_for(*policy, text->enforce);
            if (!enforcer) {
              return util::pass_on(enforcer.error());
            }
            auto compiled = policy::compile_policy(*policy);
            if (!compiled) {
              return util::pass_on(compiled.error());
            }
            options.sensor.filter.by_path = true;
            options.sensor.filter.operations = compiled->operations;
            options.sensor.filter.automaton = std::move(compiled->automaton);
            options.sensor.filter.set_operations = compiled->set_operations;
            options.enforcer = std::move(*enforcer);
            if (options.enforcer) {
              options.sensor.filter.decisions = options.enforcer->decisions();
              options.sensor.filter.worker_decisions = options.enforcer->worker_decisions();
            }
            options.policy = &*policy;
            options.compiled = &*compiled;
            fmt::print(stderr, "policy {}: {} rules\n", policy->file, policy->rules.size());
            if (auto done = daemon::run_pipeline(std::move(options)); !done) {
              return util::pass_on(done.error());
            }
            return 0;
          }};
}

}  // namespace vfsguard::cli
