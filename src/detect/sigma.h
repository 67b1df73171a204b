// SPDX-License-Identifier: Apache-2.0
// A Sigma rule in checked form: what its YAML says, with every value resolved to one test of one field. Between the files (sigma_parse.h) and the
// engine that evaluates many rules at once (engine.h). Follows the Sigma specification 2.1 (github.com/SigmaHQ/sigma-specification).
//
// Texts are bytes; case is ignored for A to Z, as Sigma asks, unless a rule says `cased`. '?' stands for one UTF-8 character, or for one byte of
// what is none.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "detect/fields.h"
#include "util/result.h"

namespace vfsguard::detect {

// A text with wildcards: bytes, kOne, kMany.
using Pattern = std::vector<std::uint16_t>;
inline constexpr std::uint16_t kOne = 256;
inline constexpr std::uint16_t kMany = 257;

// As the specification's chapter on escaping says: \* \? and \\ before them; any other backslash is itself.
Pattern parse_pattern(std::string_view text);
bool matches(std::span<const std::uint16_t> pattern, std::string_view text, bool cased);
// The longest run of bytes that a text must hold to match; empty: there is none.
std::string longest_literal(std::span<const std::uint16_t> pattern);

enum class Test : std::uint8_t {
  kWhole,
  kBeginning,
  kEnd,
  kAnywhere,
  kWildcards,
  kRegex,
  kNetwork,
  kEqual,  // of numbers
  kLess,
  kLessOrEqual,
  kGreater,
  kGreaterOrEqual,
  kPresent,
  kAbsent,
  kOtherField,
  kKeyword,  // wildcards, in any of searched_by_keywords()
};

// Of a time, in UTC.
enum class TimePart : std::uint8_t { kNone, kMinute, kHour, kDay, kWeek, kMonth, kYear };

// One test of one field.
struct Atom {
  FieldKey field;
  Test test = Test::kWhole;
  bool cased = false;
  TimePart part = TimePart::kNone;
  std::string text;  // what is compared with, A to Z folded unless cased; a regular expression; a network
  Pattern pattern;   // kWildcards, kKeyword
  double number = 0;
  FieldKey other;           // kOtherField
  Test how = Test::kWhole;  // ... and how it is to stand in the first
  bool operator==(const Atom&) const = default;
};

struct Expression {
  enum class Kind : std::uint8_t { kAtom, kAnd, kOr, kNot, kAtLeast };
  Kind kind = Kind::kAnd;
  std::uint32_t number = 0;  // kAtom: which; kAtLeast: how many
  std::vector<Expression> children;
};

enum class Severity : std::uint8_t { kInfo, kLow, kMedium, kHigh, kCritical };
std::string_view severity_name(Severity severity);
std::optional<Severity> severity_from_name(std::string_view name);  // Sigma's too: "informational"

// The events that a rule is about.
struct Source {
  std::string category;
  std::string product;
  std::string service;
  std::uint64_t operations = 0;  // bit per VG_OP_*
  bool succeeded = false;        // only what succeeded
  bool writing = false;          // of opens only those that write, create or truncate
  bool networked = false;        // only what has an internet address
  Dialect dialect = Dialect::kSigma;
};

// What stands in the head of every document.
struct Head {
  std::string file;
  int line = 0;
  std::string title;
  std::string id;
  std::string name;  // by which others refer to it
  std::string status;
  std::string description;
  std::string author;
  std::string license;
  std::vector<std::string> tags;
  std::vector<std::string> references;
  std::vector<std::string> falsepositives;
  Severity severity = Severity::kInfo;
  std::string message;  // ours: what an alert says, with %FIELD% filled in; empty: the title

  // As reports and alerts call it: its name, else its title.
  [[nodiscard]] const std::string& label() const { return name.empty() ? title : name; }
  // Whether somebody who writes `reference` means this: its id or name.
  [[nodiscard]] bool is(std::string_view reference) const { return !reference.empty() && (reference == id || reference == name); }
};

struct Rule {
  Head head;
  Source source;
  std::vector<Atom> atoms;
  Expression condition;
  std::vector<std::string> unused;  // parts that no condition names
};

// A further condition of the rules that it is about: `not selection`, as a rule.
struct Filter {
  Head head;
  Source source;
  std::vector<std::string> rules;  // ids or names; empty: all of its logsource
  std::vector<Atom> atoms;
  Expression condition;
};

struct Correlation {
  enum class Kind : std::uint8_t { kEventCount, kValueCount, kTemporal, kTemporalOrdered, kValueSum, kValueAverage, kValuePercentile, kValueMedian };
  Head head;
  int column = 0;
  Kind kind = Kind::kEventCount;
  std::vector<std::string> rules;  // ids or names, of rules or other correlations
  std::vector<std::string> group_by;
  std::map<std::string, std::map<std::string, std::string>> aliases;  // alias -> rule -> field
  std::uint64_t timespan_ns = 0;
  // kTemporal*: by default all; the number of different rules that must have matched otherwise.
  struct Bound {
    Test test = Test::kGreaterOrEqual;  // or kEqual, kLess, ...
    double value = 0;
    bool differs = false;  // not kEqual
  };
  std::vector<Bound> bounds;
  // kTemporal: which of its rules must have matched and which must not, instead of bounds; an atom's number is a place in `rules`. False of none.
  std::optional<Expression> condition;
  std::vector<std::string> unused;  // rules that the condition does not name
  std::vector<std::string> fields;  // kValue*: one; of kValueCount several, whose values are counted together
  double percentile = 50;           // kValuePercentile
  bool generates = false;           // alerts of the rules that it refers to are told too
};
std::string_view kind_name(Correlation::Kind kind);
inline constexpr std::size_t kMostValues = 1000;  // that a value_count may ask for

// Everything that was read.
struct RuleSet {
  std::vector<Rule> rules;
  std::vector<Filter> filters;
  std::vector<Correlation> correlations;
  std::vector<util::Error> refused;  // documents that cannot be evaluated, and why; by file:line:column
};

// Which operations the kernel side has to tell of, and where, so that a rule can match.
struct Needs {
  std::uint64_t operations = 0;
  bool any_path = false;           // else the paths below
  std::vector<std::string> globs;  // policy/glob.h
};
// What the mechanism that records cannot tell of, on the machine at hand.
struct Blindness {
  std::uint64_t unseen = 0;      // operations
  std::uint64_t names_only = 0;  // operations of which it knows the caller's names, not the objects
};
Needs needs_of(const Rule& rule, const Blindness& blindness = {});
// Why no event ever has what the test asks for; empty: one may.
std::string never_there(const Atom& atom);

}  // namespace vfsguard::detect
