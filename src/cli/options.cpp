// SPDX-License-Identifier: Apache-2.0
#include "cli/options.h"

#include <bit>
#include <charconv>

#include <fmt/format.h>

#include "event/names.h"

namespace vfsguard::cli {

void add_common(CLI::App& app, CommonText& text) {
  app.add_option("--hook", text.hook, "Mechanism: auto (the strongest that works), lsm, kprobe, tracepoint")->type_name("NAME");
  app.add_option("--format", text.format, "text or json; default: text on a terminal, json elsewhere")->type_name("FORMAT");
  app.add_option("--output", text.output, "Append to this file instead of standard output")->type_name("FILE");
  app.add_option("--clock", text.clock, "Time stamps: realtime, or boottime (the kernel's own)")->type_name("CLOCK");
  app.add_flag("--hash", text.hash, "Add the SHA-256 of each process's executable (exe_sha256), computed beside the event path");
  app.add_option("--buffer", text.buffer, "Size of the ring between kernel and agent, a power of two (2M)")->type_name("SIZE");
}

util::Result<sensor::Hook> parse_hook(const std::string& text) {
  if (text == "auto") {
    return sensor::Hook::kAuto;
  }
  for (const auto hook : {sensor::Hook::kLsm, sensor::Hook::kKprobe, sensor::Hook::kTracepoint}) {
    if (text == event::hook_name(static_cast<unsigned>(hook))) {
      return hook;
    }
  }
  return util::fail(EX_USAGE, fmt::format("--hook '{}': write auto, lsm, kprobe or tracepoint", text));
}

util::Result<void> apply_common(const CommonText& text, daemon::Options& options) {
  const auto hook = parse_hook(text.hook);
  if (!hook) {
    return util::pass_on(hook.error());
  }
  options.sensor.hook = *hook;
  if (text.format == "json") {
    options.format = output::FormatKind::kJson;
  } else if (text.format == "text") {
    options.format = output::FormatKind::kText;
  } else if (!text.format.empty()) {
    return util::fail(EX_USAGE, fmt::format("--format '{}': write text or json", text.format));
  }
  if (text.clock == "boottime") {
    options.clock = output::ClockKind::kBoottime;
  } else if (text.clock != "realtime") {
    return util::fail(EX_USAGE, fmt::format("--clock '{}': write realtime or boottime", text.clock));
  }
  options.output = text.output;
  options.hash = text.hash;

  std::uint64_t size = 0;
  const char* end = text.buffer.data() + text.buffer.size();
  const auto [rest, error] = std::from_chars(text.buffer.data(), end, size);
  const std::string unit(rest, end);
  if (unit == "K" || unit == "k") {
    size <<= 10;
  } else if (unit == "M" || unit == "m") {
    size <<= 20;
  } else if (!unit.empty()) {
    size = 0;
  }
  if (error != std::errc{} || !std::has_single_bit(size) || size < 4096 || size > (1u << 30)) {
    return util::fail(EX_USAGE, fmt::format("--buffer '{}': write a power of two from 4K to 1024M", text.buffer));
  }
  options.sensor.ring_bytes = static_cast<std::uint32_t>(size);
  return {};
}

}  // namespace vfsguard::cli
