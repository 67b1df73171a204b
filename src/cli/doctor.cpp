// SPDX-License-Identifier: Apache-2.0
// vfsguard doctor: what works on this kernel, by trying it.
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "cli/commands.h"
#include "probe/doctor.h"

namespace vfsguard::cli {

Registered add_doctor(CLI::App& root) {
  auto json = std::make_shared<bool>(false);
  CLI::App* app = root.add_subcommand("doctor", "Try every mechanism here, and say what works, what does not, and why");
  app->add_flag("--json", *json, "One JSON object instead of text");
  app->footer("Exit code 1 where nothing can observe file access. Run as root.");
  return {app, [json]() -> util::Result<int> {
            const probe::Report report = probe::examine();
            const std::string text = *json ? probe::to_json(report) : probe::to_text(report, isatty(STDOUT_FILENO) != 0);
            if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
              return util::fail_errno(EX_IOERR, "cannot write to standard output");
            }
            return report.can_observe() ? 0 : 1;
          }};
}

}  // namespace vfsguard::cli
