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

// Marks the parts that it names. Deeper than kDeepest is refused.
inline constexpr int kDeepest = 64;
std::expected<Expression, ConditionError> parse_condition(std::string_view text, std::vector<Part>& parts);

}  // namespace vfsguard::detect
