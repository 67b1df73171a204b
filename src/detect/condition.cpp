// SPDX-License-Identifier: Apache-2.0
#include "detect/condition.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "util/suggestion.h"

namespace vfsguard::detect {

namespace {

struct Token {
  std::string_view text;  // empty: the end
  std::size_t at = 0;
};

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '*' || c == '?' || c == '.';
}

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) { return (x | 0x20) == (y | 0x20); });
}

class Parser {
 public:
  Parser(std::string_view text, std::vector<Part>& parts, std::string_view where) : text_(text), parts_(parts), where_(where) { advance(); }

  std::expected<Expression, ConditionError> whole() {
    auto expression = either(0);
    if (expression && !token_.text.empty()) {
      if (token_.text == "|") {
        return wrong("'|' begins an aggregation, which Sigma has dropped; write a correlation rule of type event_count or value_count");
      }
      return wrong(fmt::format("'{}' is not expected here; between two parts stands 'and' or 'or'", token_.text));
    }
    return expression;
  }

 private:
  using Parsed = std::expected<Expression, ConditionError>;

  std::unexpected<ConditionError> wrong(std::string why) const { return std::unexpected(ConditionError{std::move(why), token_.at}); }

  void advance() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) {
      ++at_;
    }
    token_.at = at_;
    const std::size_t begin = at_;
    if (at_ < text_.size() && !is_word(text_[at_])) {
      ++at_;
    } else {
      while (at_ < text_.size() && is_word(text_[at_])) {
        ++at_;
      }
    }
    token_.text = text_.substr(begin, at_ - begin);
  }
  [[nodiscard]] bool is(std::string_view word) const { return equal_ignoring_case(token_.text, word); }

  Parsed either(int depth) {
    return chain(depth, "or", Expression::Kind::kOr, [this](int d) { return both(d); });
  }
  Parsed both(int depth) {
    return chain(depth, "and", Expression::Kind::kAnd, [this](int d) { return negated(d); });
  }

  template <typename Next>
  Parsed chain(int depth, std::string_view word, Expression::Kind kind, Next next) {
    auto first = next(depth);
    if (!first || !is(word)) {
      return first;
    }
    Expression all{kind, 0, {}};
    all.children.push_back(std::move(*first));
    while (is(word)) {
      advance();
      auto more = next(depth);
      if (!more) {
        return more;
      }
      all.children.push_back(std::move(*more));
    }
    return all;
  }

  Parsed negated(int depth) {
    if (depth >= kDeepest) {
      return wrong(fmt::format("deeper than {} levels", kDeepest));
    }
    if (is("not")) {
      advance();
      auto inner = negated(depth + 1);
      if (!inner) {
        return inner;
      }
      Expression out{Expression::Kind::kNot, 0, {}};
      out.children.push_back(std::move(*inner));
      return out;
    }
    if (token_.text == "(") {
      advance();
      auto inner = either(depth + 1);
      if (!inner) {
        return inner;
      }
      if (token_.text != ")") {
        return wrong(token_.text.empty() ? "a ')' is missing at the end" : fmt::format("')' is expected, not '{}'", token_.text));
      }
      advance();
      return inner;
    }
    return named();
  }

  Parsed named() {
    if (token_.text.empty()) {
      return wrong("the condition ends where the name of a part is expected");
    }
    const Token first = token_;
    if (!is_word(first.text[0]) || is("and") || is("or") || is("of")) {
      return wrong(fmt::format("'{}' stands where the name of a part is expected", first.text));
    }
    advance();
    if (!is("of")) {
      return part(first);
    }
    advance();
    return several(first);
  }

  Parsed part(const Token& name) {
    const auto known = std::ranges::find(parts_, name.text, &Part::name);
    if (known == parts_.end()) {
      std::vector<std::string_view> names;
      for (const Part& one : parts_) {
        names.push_back(one.name);
      }
      return std::unexpected(ConditionError{fmt::format("there is no '{}' in '{}'; {}", name.text, where_, util::suggestion(name.text, names)), name.at});
    }
    known->used = true;
    return known->expression;
  }

  // `1 of selection_*`, `all of them`.
  Parsed several(const Token& how_many) {
    std::uint32_t number = 0;
    const bool all = equal_ignoring_case(how_many.text, "all");
    const bool any = equal_ignoring_case(how_many.text, "any");
    const auto [end, error] = std::from_chars(how_many.text.data(), how_many.text.data() + how_many.text.size(), number);
    if (!all && !any && (error != std::errc{} || end != how_many.text.data() + how_many.text.size() || number == 0)) {
      return std::unexpected(ConditionError{fmt::format("'{} of': write a number from 1 on, 'all' or 'any'", how_many.text), how_many.at});
    }
    if (token_.text.empty() || !is_word(token_.text[0])) {
      return wrong("after 'of' stands 'them', or a pattern of names such as selection_*");
    }
    const Token pattern = token_;
    const bool them = is("them");
    advance();
    Expression out{Expression::Kind::kOr, 0, {}};
    for (Part& one : parts_) {
      // "them" leaves out what begins with '_'.
      if (them ? !one.name.starts_with('_') : matches(parse_pattern(pattern.text), one.name, true)) {
        one.used = true;
        out.children.push_back(one.expression);
      }
    }
    if (out.children.empty()) {
      return std::unexpected(ConditionError{fmt::format("no part of '{}' is called like '{}'", where_, pattern.text), pattern.at});
    }
    if (all) {
      out.kind = Expression::Kind::kAnd;
    } else if (!any && number > 1) {
      if (number > out.children.size()) {
        return std::unexpected(ConditionError{fmt::format("{} of {} parts can never match", number, out.children.size()), how_many.at});
      }
      out.kind = Expression::Kind::kAtLeast;
      out.number = number;
    }
    return out;
  }

  std::string_view text_;
  std::vector<Part>& parts_;
  std::string_view where_;
  std::size_t at_ = 0;
  Token token_;
};

}  // namespace

std::expected<Expression, ConditionError> parse_condition(std::string_view text, std::vector<Part>& parts, std::string_view where) {
  return Parser(text, parts, where).whole();
}

bool is_true(const Expression& condition, const std::vector<bool>& atoms) {
  const auto holds = [&](const Expression& child) { return is_true(child, atoms); };
  switch (condition.kind) {
    case Expression::Kind::kAtom: return atoms[condition.number];
    case Expression::Kind::kNot: return !holds(condition.children.front());
    case Expression::Kind::kAnd: return std::ranges::all_of(condition.children, holds);
    case Expression::Kind::kOr: return std::ranges::any_of(condition.children, holds);
    case Expression::Kind::kAtLeast: return std::ranges::count_if(condition.children, holds) >= condition.number;
  }
  return false;
}

namespace {

bool mark(const Expression& condition, bool negated, std::vector<bool>& asserted) {
  if (condition.kind == Expression::Kind::kAtom) {
    asserted[condition.number] = asserted[condition.number] || !negated;
    return negated;
  }
  const bool below = negated != (condition.kind == Expression::Kind::kNot);
  bool any = false;
  for (const Expression& child : condition.children) {
    any = mark(child, below, asserted) || any;
  }
  return any;
}

}  // namespace

bool mark_asserted(const Expression& condition, std::vector<bool>& asserted) { return mark(condition, false, asserted); }

}  // namespace vfsguard::detect
