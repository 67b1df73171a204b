// SPDX-License-Identifier: Apache-2.0
// The one place where the rooms are wired together: sensor -> event -> enrich -> policy -> output. One thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "daemon/governor.h"
#include "output/format.h"
#include "sensor/sensor.h"
#include "util/result.h"

namespace vfsguard::daemon {

// By which the running agent can be asked and told (control/server.h).
struct ControlSocket {
  std::string path;
  std::optional<gid_t> group;  // that may, beside root
  bool required = false;       // else an agent that cannot have it runs without
};

struct Options {
  sensor::Options sensor;
  std::optional<output::FormatKind> format;  // none: text on a terminal, JSON Lines elsewhere
  output::ClockKind clock = output::ClockKind::kRealtime;
  std::string output = "-";
  std::optional<std::chrono::milliseconds> duration;
  std::chrono::milliseconds aggregate{0};  // write events that are alike as one, after this time; 0: each by itself
  bool hash = false;                       // SHA-256 of executables
  std::uint64_t count = 0;                 // stop after so many events; 0: never
  // With a policy, only events that one of its rules asks for are written, and name the rule; it is carried out from the ready line to the
  // summary, and SIGHUP reads it again.
  std::optional<Governor> governor;
  std::optional<ControlSocket> control;
  bool agent = false;      // it is one that stays: its own life is told, too
  bool sandbox = false;    // give away what is not needed after the start (guard/sandbox.h)
  std::string state_file;  // guard::State; empty: none
};

// Runs until SIGINT, SIGTERM, the duration or the count; prints the ready line and the summary on standard error. Returns the exit code.
util::Result<int> run_pipeline(Options options);

}  // namespace vfsguard::daemon
