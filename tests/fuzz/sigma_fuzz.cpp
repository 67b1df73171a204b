// SPDX-License-Identifier: Apache-2.0
// Any bytes as a file of Sigma rules: read and evaluated, or refused with a place, never more.
#include <cstddef>
#include <cstdint>
#include <string>

#include "detect/correlate.h"
#include "detect/engine.h"
#include "detect/sigma_parse.h"
#include "output/escape.h"

using namespace vfsguard;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  detect::RuleSet set;
  detect::parse_rules("p", std::string(reinterpret_cast<const char*>(data), size), {{"list", {"a", "b*"}}}, set);
  detect::refuse_duplicates(set);
  for (const util::Error& error : set.refused) {
    if (!error.message.starts_with("p:")) {
      __builtin_trap();
    }
  }
  event::Operation operation;
  operation.raw.operation = VG_OP_EXEC;
  operation.raw.call = VG_CALL_EXECVE;
  operation.path = "/usr/bin/cat";
  auto process = std::make_shared<event::Process>();
  process->exe = "/usr/bin/cat";
  process->command_line = output::command_line({"cat", "a b", "/etc/shadow"});
  operation.process = process;
  detect::Engine engine(set.rules, set.filters);
  (void)engine.match(operation);
  (void)engine.match(operation);
  for (const detect::Rule& rule : set.rules) {
    (void)detect::needs_of(rule);
  }
  if (auto correlator = detect::Correlator::open(set.rules, set.correlations, {})) {
    std::vector<detect::Fired> fired;
    for (std::uint32_t rule = 0; rule < set.rules.size() && rule < 8; ++rule) {
      for (std::uint64_t i = 0; i < 40; ++i) {
        correlator->advance(i * 1'000'000'000, fired);
        correlator->note(rule, i * 1'000'000'000, i, 0, [](std::string_view) { return std::optional<std::string>("1"); }, fired);
      }
    }
    correlator->advance(~std::uint64_t{0}, fired);
    if (correlator->waits()) {
      __builtin_trap();
    }
  }
  return 0;
}
