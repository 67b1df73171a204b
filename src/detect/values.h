// SPDX-License-Identifier: Apache-2.0
// `field|modifier|modifier: values` to tests: the modifiers of Sigma's specification, in the order in which they stand.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "detect/sigma.h"
#include "detect/sigma_parse.h"

namespace vfsguard::detect {

// A value as YAML has it.
struct Given {
  enum class Kind : std::uint8_t { kNull, kText, kNumber, kBoolean };
  Kind kind = Kind::kText;
  std::string text;
};

struct Modifiers {
  std::vector<std::string_view> transforms;  // wide, base64, ..., as they stand
  Test where = Test::kWhole;
  bool all = false;
  bool cased = false;
  bool expand = false;
  bool regex = false;
  std::string regex_flags;  // of i, m, s
  bool network = false;
  bool exists = false;
  bool other_field = false;
  bool differs = false;  // neq
  std::optional<Test> compares;
  TimePart part = TimePart::kNone;
};

// An error's text; the caller knows the place.
using Why = std::string;
std::expected<Modifiers, Why> parse_modifiers(std::string_view text);

// The tests that one value stands for, any of which will do. `field` is not looked at for keywords.
std::expected<std::vector<Atom>, Why> atoms_for(const Modifiers& modifiers, std::optional<FieldKey> field, Dialect dialect, const Given& value,
                                                const Lists& lists);

}  // namespace vfsguard::detect
