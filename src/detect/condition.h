// SPDX-License-Identifier: Apache-2.0
// The condition of a Sigma rule: `selection and not 1 of filter_*`. Not binds closest, then and, then or.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "detect/sigma.h"

namespace vfsguard::detect {

// A search identifier of the rule's `detection`.
struct Part {
  std::string name;
  Expression expression;
  bool used = false;
};

struct ConditionError {
  std::string why;
  std::size_t at = 0;  // byte of the condition
};

// Marks the parts that it names; `where` they stand, for errors. Deeper than kDeepest is refused.
inline constexpr int kDeepest = 64;
std::expected<Expression, ConditionError> parse_condition(std::string_view text, std::vector<Part>& parts, std::string_view where = "detection");

// What a condition comes to where these atoms hold and no others; one for each atom's number.
bool is_true(const Expression& condition, const std::vector<bool>& atoms);
// Sets the atoms that stand below an even number of `not`: those that can make it true. Returns whether others stand below an odd number, so that one
// more atom can make it false.
bool mark_asserted(const Expression& condition, std::vector<bool>& asserted);

}  // namespace vfsguard::detect
