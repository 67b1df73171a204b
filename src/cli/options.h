// SPDX-License-Identifier: Apache-2.0
// What `trace` and `run` have in common on the command line.
#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include "daemon/pipeline.h"
#include "util/result.h"

namespace vfsguard::cli {

struct CommonText {
  std::string hook = "auto";
  std::string format;
  std::string clock = "realtime";
  std::string output = "-";
  std::string buffer = "2M";
  bool hash = false;
};

util::Result<sensor::Hook> parse_hook(const std::string& text);
void add_common(CLI::App& app, CommonText& text);
util::Result<void> apply_common(const CommonText& text, daemon::Options& options);

}  // namespace vfsguard::cli
