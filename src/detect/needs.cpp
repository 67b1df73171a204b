// SPDX-License-Identifier: Apache-2.0
// What the kernel side has to tell of so that a rule can match. Always enough; a rule that leaves a path open asks for every path.
#include <algorithm>
#include <optional>
#include <ranges>

#include "detect/literals.h"
#include "detect/sigma.h"
#include "event/names.h"

namespace vfsguard::detect {

namespace {

enum class Truth : std::uint8_t { kFalse, kUnknown, kTrue };

// What a call of this name can be.
std::uint64_t operations_of_call(std::string_view name) {
  for (unsigned call = 1; call < VG_CALL_COUNT; ++call) {
    if (event::call_name(call) == name) {
      return event::call_operations(call);
    }
  }
  return 0;
}

// Of which there can be a record of this type of auditd's.
std::uint64_t operations_with_record(std::string type) {
  std::ranges::transform(type, type.begin(), fold);
  constexpr std::uint64_t kNoPath =
      event::operation_bit(VG_OP_KILL) | event::operation_bit(VG_OP_SETUID) | event::operation_bit(VG_OP_FORK) | event::operation_bit(VG_OP_EXIT);
  if (type == "execve") {
    return event::operation_bit(VG_OP_EXEC);
  }
  if (type == "sockaddr") {
    return event::operation_bit(VG_OP_CONNECT) | event::operation_bit(VG_OP_BIND);
  }
  return type == "path" ? ~kNoPath : type == "syscall" || type == "cwd" || type == "proctitle" ? ~std::uint64_t{0} : 0;
}

// Those that one record or call alone, which the test names, stands for; else all.
std::uint64_t operations_of(const Atom& atom) {
  if (atom.test == Test::kWhole && atom.field.field == Field::kRecordTypes) {
    return operations_with_record(atom.text);
  }
  return atom.test == Test::kWhole && atom.field.field == Field::kCall ? operations_of_call(atom.text) : ~std::uint64_t{0};
}

// Whether the condition can hold of such an operation, whatever else is true.
class Possible {
 public:
  Possible(const Rule& rule, unsigned operation, bool has_object) : rule_(rule), operation_(operation), has_object_(has_object) {}
  [[nodiscard]] Truth of(const Expression& e) const {
    switch (e.kind) {
      case Expression::Kind::kAtom: return test(rule_.atoms[e.number]);
      case Expression::Kind::kNot: {
        const Truth inner = of(e.children.front());
        return inner == Truth::kUnknown ? inner : inner == Truth::kTrue ? Truth::kFalse : Truth::kTrue;
      }
      case Expression::Kind::kAnd: return std::ranges::min(e.children | std::views::transform([this](const Expression& c) { return of(c); }));
      default: return std::ranges::max(e.children | std::views::transform([this](const Expression& c) { return of(c); }));
    }
  }

 private:
  [[nodiscard]] Truth test(const Atom& atom) const {
    if (is_never_known(atom.field) && atom.test != Test::kKeyword) {
      return atom.test == Test::kAbsent ? Truth::kTrue : Truth::kFalse;
    }
    if (!has_object_ && is_of_object(atom.field) && atom.test != Test::kKeyword) {
      return atom.test == Test::kAbsent ? Truth::kTrue : Truth::kFalse;
    }
    if (atom.test != Test::kWhole) {
      return Truth::kUnknown;
    }
    if (atom.field.field == Field::kOperation) {
      return atom.text == event::operation_name(operation_) ? Truth::kTrue : Truth::kFalse;
    }
    return (operations_of(atom) >> operation_ & 1) != 0 ? Truth::kUnknown : Truth::kFalse;
  }

  const Rule& rule_;
  unsigned operation_;
  bool has_object_;
};

// Every byte as itself, letters in both cases, as the rule does.
void append_glob(std::string_view text, bool cased, std::string& out) {
  for (const char c : text) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter && !cased) {
      out += {'[', static_cast<char>(c | 0x20), static_cast<char>(c & ~0x20), ']'};
    } else {
      if (c == '*' || c == '?' || c == '[' || c == ']' || c == '\\') {
        out += '\\';
      }
      out += c;
    }
  }
}

using Globs = std::optional<std::vector<std::string>>;  // none: any path

bool is_path(FieldKey key) {
  return key.field == Field::kTarget || key.field == Field::kPath || key.field == Field::kRecordName || key.field == Field::kOrigin ||
         key.field == Field::kSecondPath;
}

// A text that holds a path without surprises: no empty, '.' or '..' component, which no path that is told has.
bool is_plain(std::string_view text) {
  return text.find("//") == std::string_view::npos && text.find("/./") == std::string_view::npos && text.find("/../") == std::string_view::npos;
}

std::string glob_of(std::string_view text, bool cased) {
  std::string glob;
  append_glob(text, cased, glob);
  return glob;
}

std::optional<std::vector<std::string>> beginning(std::string_view text, bool cased) {
  if (!text.starts_with('/') || text.size() < 2 || !is_plain(text)) {
    return std::nullopt;
  }
  const std::string glob = glob_of(text, cased);
  return text.ends_with('/') ? std::vector{glob + "**"} : std::vector{glob + "*", glob + "*/**"};
}

std::optional<std::vector<std::string>> ending(std::string_view text, bool cased) {
  if (text.size() < 2 || text.ends_with('/') || !is_plain(text)) {
    return std::nullopt;
  }
  return std::vector{(text.starts_with('/') ? "/**" : "/**/*") + glob_of(text, cased)};
}

std::optional<std::vector<std::string>> holding(std::string_view text, bool cased) {
  if (text.size() < 4 || !is_plain(text)) {
    return std::nullopt;
  }
  const std::string glob = (text.starts_with('/') ? "/**" : "/**/*") + glob_of(text, cased);
  return text.ends_with('/') ? std::vector{glob + "**"} : std::vector{glob + "*", glob + "*/**"};
}

// More than the pattern where it has several wildcards: what makes an automaton multiply is not worth what it would keep out.
std::optional<std::vector<std::string>> wild(const Pattern& pattern, bool cased) {
  const auto is_wild = [](std::uint16_t piece) { return piece >= kOne; };
  const auto first = std::ranges::find_if(pattern, is_wild);
  const auto text_of = [](auto begin, auto end) {
    std::string text;
    for (; begin != end; ++begin) {
      text += static_cast<char>(*begin);
    }
    return text;
  };
  const std::string head = text_of(pattern.begin(), first);
  const auto last = std::ranges::find_if(pattern.rbegin(), pattern.rend(), is_wild).base();  // behind the last wildcard
  const std::string tail = text_of(last, pattern.end());
  if (head.empty()) {
    return tail.size() > longest_literal(pattern).size() / 2 ? ending(tail, cased) : holding(longest_literal(pattern), cased);
  }
  // By its name alone: "/proc/*/mem" in front of many directories would have to be remembered all the way up.
  const std::size_t slash = tail.rfind('/');
  if (slash != std::string::npos && slash + 3 < tail.size()) {
    return ending(tail.substr(slash), cased);
  }
  return beginning(head, cased);
}

Globs globs_of(const Atom& atom) {
  if (!is_path(atom.field) || !is_plain(atom.text) || (atom.test == Test::kWildcards && !is_plain(longest_literal(atom.pattern)))) {
    return std::nullopt;
  }
  switch (atom.test) {
    case Test::kWhole:
      if (!atom.text.starts_with('/') || (atom.text.size() > 1 && atom.text.ends_with('/'))) {
        return std::nullopt;
      }
      return std::vector{glob_of(atom.text, atom.cased)};
    case Test::kBeginning: return beginning(atom.text, atom.cased);
    case Test::kEnd: return ending(atom.text, atom.cased);
    case Test::kAnywhere: return holding(atom.text, atom.cased);
    case Test::kWildcards: return wild(atom.pattern, atom.cased);
    default: return std::nullopt;
  }
}

Globs globs_of(const Expression& e, const std::vector<Atom>& atoms) {
  switch (e.kind) {
    case Expression::Kind::kAtom: return globs_of(atoms[e.number]);
    case Expression::Kind::kNot: return std::nullopt;
    case Expression::Kind::kAnd: {
      Globs fewest;
      for (const Expression& child : e.children) {
        Globs some = globs_of(child, atoms);
        if (some && (!fewest || some->size() < fewest->size())) {
          fewest = std::move(some);
        }
      }
      return fewest;
    }
    default: {
      std::vector<std::string> all;
      for (const Expression& child : e.children) {
        const Globs some = globs_of(child, atoms);
        if (!some) {
          return std::nullopt;
        }
        all.insert(all.end(), some->begin(), some->end());
      }
      return all;
    }
  }
}

}  // namespace

namespace {

// Reads, writes and maps are too many to be followed for a rule that does not ask for them by name.
bool is_asked_for(const Rule& rule, unsigned operation) {
  constexpr std::uint64_t kMany = event::kAccesses | event::operation_bit(VG_OP_MMAP);
  return (kMany >> operation & 1) == 0 || std::ranges::any_of(rule.atoms, [&](const Atom& atom) {
           return atom.test == Test::kWhole && ((atom.field.field == Field::kOperation && atom.text == event::operation_name(operation)) ||
                                                (atom.field.field == Field::kCall && (operations_of(atom) >> operation & 1) != 0));
         });
}

}  // namespace

std::string never_there(const Atom& atom) {
  if (is_never_known(atom.field)) {
    return "nothing here tells it";
  }
  if (operations_of(atom) != 0) {
    return "";
  }
  return atom.field.field == Field::kCall ? "no call of this name is followed (docs/event-format.md has those that are)"
                                          : "of auditd's records the events here stand for SYSCALL, EXECVE, PATH, CWD, SOCKADDR and PROCTITLE";
}

Needs needs_of(const Rule& rule, const Blindness& blindness) {
  constexpr std::size_t kMostGlobs = 256;  // of one rule; more are not worth an automaton
  Needs needs;
  for (unsigned operation = 1; operation < VG_OP_COUNT; ++operation) {
    const bool has_object = (blindness.names_only >> operation & 1) == 0;
    if (((rule.source.operations & ~blindness.unseen) >> operation & 1) != 0 && is_asked_for(rule, operation) &&
        Possible(rule, operation, has_object).of(rule.condition) != Truth::kFalse) {
      needs.operations |= event::operation_bit(operation);
    }
  }
  Globs globs = globs_of(rule.condition, rule.atoms);
  if (globs && globs->size() <= kMostGlobs) {
    needs.globs = std::move(*globs);
  } else {
    needs.any_path = true;
  }
  return needs;
}

}  // namespace vfsguard::detect
