// SPDX-License-Identifier: Apache-2.0
// What an agent whose enforcement outlives it leaves word of, for the one that goes on with it (pins.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "abi/control.h"
#include "enforce/enforcer.h"
#include "util/result.h"

namespace vfsguard::enforce {

// What an agent leaves word of. Its format is this program's own: `abi` is looked at first, and another one is not read on.
struct Description {
  std::uint32_t abi = VG_ABI_VERSION;
  std::uint32_t version = 0;
  std::uint32_t version_at = 0;  // of the word that says which version decides, in the map `data`
  std::uint32_t capacity = 0;    // of the map `rule_counts`, for one version
  std::uint32_t mechanism = 0;
  std::uint64_t since_ns = 0;  // CLOCK_REALTIME
  std::string by;
  struct Rule {
    std::string name;
    std::vector<std::string> globs;
  };
  std::vector<Rule> rules;
  std::vector<std::vector<std::uint32_t>> set_rules;
  std::vector<std::uint32_t> translation;
  std::vector<std::vector<std::string>> exe_sets;
  std::uint32_t forks = 0;         // they are noted
  std::vector<std::string> globs;  // whose files were looked at for other names
  Counts before;                   // what earlier versions did
};
std::vector<std::byte> encode(const Description& description);
// Fails on bytes that are no such description, whatever they are.
util::Result<Description> decode(std::span<const std::byte> bytes);

}  // namespace vfsguard::enforce
