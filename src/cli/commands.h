// SPDX-License-Identifier: Apache-2.0
// One file per command. Each adds its subcommand to the parser and returns what to run when it was chosen.
#pragma once

#include <functional>
#include <vector>

#include <CLI/CLI.hpp>

#include "util/result.h"

namespace vfsguard::cli {

// The value is the process's exit code.
using Command = std::function<util::Result<int>()>;

struct Registered {
  CLI::App* app;
  Command run;
};

Registered add_trace(CLI::App& root);
Registered add_run(CLI::App& root);
Registered add_doctor(CLI::App& root);
Registered add_policy(CLI::App& root);
Registered add_rules(CLI::App& root);
// Those that speak to the running agent.
std::vector<Registered> add_agent(CLI::App& root);

}  // namespace vfsguard::cli
