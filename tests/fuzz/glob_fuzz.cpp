// SPDX-License-Identifier: Apache-2.0
// Any bytes as a set of globs and a path: parsed or refused, and the automaton agrees with the definition.
#include <cstddef>
#include <cstdint>
#include <string>

#include "policy/automaton.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vfsguard::policy;
  const std::string text(reinterpret_cast<const char*>(data), std::min<std::size_t>(size, 120));
  PatternSet set;
  std::string path = "/";
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    path = line;
    if (set.globs.size() < 4) {
      if (auto glob = parse_glob(line)) {
        set.globs.push_back(*glob);
      }
    }
  }
  // The definition backtracks: keep it from taking for ever.
  std::size_t stars = 0;
  for (const Glob& glob : set.globs) {
    for (const GlobToken& token : glob.tokens) {
      stars += token.kind != GlobToken::Kind::kOne ? 1 : 0;
    }
  }
  if (set.globs.empty() || stars > 8) {
    return 0;
  }
  set.resolve = [](auto matched) {
    std::uint32_t bits = 0;
    for (const auto i : matched) {
      bits |= 1u << i;
    }
    return bits;
  };
  const auto a = compile(set, {{}, [](auto) { return 1u; }});
  if (!a) {
    return 0;
  }
  const std::uint32_t bits = a->match(a->head.path_start, path);
  for (std::size_t i = 0; i < set.globs.size(); ++i) {
    if (((bits >> i) & 1) != (reference_match(set.globs[i], path) ? 1u : 0u)) {
      __builtin_trap();
    }
  }
  return 0;
}
