// SPDX-License-Identifier: Apache-2.0
// Any bytes as a condition: parsed, or refused at a place within it.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "detect/condition.h"

using namespace vfsguard::detect;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::vector<Part> parts;
  for (const char* name : {"selection", "selection_a", "filter", "_x", "a"}) {
    parts.push_back({name, {Expression::Kind::kAtom, 0, {}}, false});
  }
  const auto parsed = parse_condition(text, parts);
  if (!parsed && parsed.error().at > size) {
    __builtin_trap();
  }
  return 0;
}
