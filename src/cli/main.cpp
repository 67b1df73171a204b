// SPDX-License-Identifier: Apache-2.0
// The only place where an Error becomes a line and an exit code.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <expected>
#include <iterator>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "cli/commands.h"
#include "version.h"

namespace vfsguard::cli {

namespace {

// What the command line asks for, or the exit code where that is said already. Nothing of what read it is kept: an agent runs for long.
std::expected<Command, int> read_command_line(int argc, char** argv) {
  CLI::App app("vfsguard tells who opened which file and whether they succeeded.", "vfsguard");
  app.set_version_flag("--version", "vfsguard " VFSGUARD_VERSION);
  app.require_subcommand(1);
  app.set_help_all_flag("--help-all", "Help of every command");
  app.footer(
      "Examples:\n"
      "  vfsguard doctor                         what works on this kernel\n"
      "  vfsguard trace --path '/etc/**'         what happens below /etc, now\n"
      "  vfsguard run --config policy.yaml       watch by a policy\n"
      "  vfsguard protect /srv/keys --level 2    make files secret in the running agent\n"
      "Events go to standard output, everything else to standard error. Most commands need root.");
  std::vector<Registered> commands{add_trace(app), add_run(app), add_doctor(app), add_policy(app), add_rules(app)};
  std::ranges::move(add_agent(app), std::back_inserter(commands));
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& e) {
    return std::unexpected(app.exit(e));
  } catch (const CLI::CallForAllHelp& e) {
    return std::unexpected(app.exit(e));
  } catch (const CLI::CallForVersion& e) {
    return std::unexpected(app.exit(e));
  } catch (const CLI::ParseError& e) {
    std::vector<std::string> names;
    std::ranges::transform(commands, std::back_inserter(names), [](const Registered& c) { return c.app->get_name(); });
    std::string where = "vfsguard";
    std::string why = e.what();
    if (argc > 1 && argv[1][0] != '-' && std::ranges::none_of(commands, [&](const Registered& c) { return c.app->get_name() == argv[1]; })) {
      why = fmt::format("there is no command '{}'; the commands are {}", argv[1], fmt::join(names, ", "));
    } else if (argc == 1) {
      why = fmt::format("a command is missing: {}", fmt::join(names, ", "));
    }
    for (const Registered& command : commands) {
      if (command.app->parsed() || (argc > 1 && command.app->get_name() == argv[1])) {
        where += " " + command.app->get_name();
        break;
      }
    }
    fmt::print(stderr, "vfsguard: {}; see {} --help\n", why, where);
    return std::unexpected(EX_USAGE);
  }
  const auto chosen = std::ranges::find_if(commands, [](const Registered& c) { return c.app->parsed(); });
  return chosen == commands.end() ? std::expected<Command, int>(std::unexpected(EX_SOFTWARE)) : chosen->run;
}

int main_checked(int argc, char** argv) {
  const auto command = read_command_line(argc, argv);
  if (!command) {
    return command.error();
  }
  auto done = (*command)();
  if (!done) {
    fmt::print(stderr, "vfsguard: {}\n", done.error().message);
    return done.error().exit_code;
  }
  return *done;
}

}  // namespace

}  // namespace vfsguard::cli

int main(int argc, char** argv) {
  try {
    return vfsguard::cli::main_checked(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "vfsguard: unexpected: %s\n", e.what());
    return EX_SOFTWARE;
  }
}
