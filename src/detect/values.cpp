// SPDX-License-Identifier: Apache-2.0
#include "detect/values.h"

#include <arpa/inet.h>
#include <re2/re2.h>
#include <seccomp.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <memory>

#include <fmt/format.h>

#include "detect/literals.h"
#include "util/suggestion.h"

namespace vfsguard::detect {

namespace {

constexpr std::array<std::string_view, 33> kModifiers{
    "contains", "startswith", "endswith",     "all",  "re",       "i",       "m",      "s",       "ignorecase", "multiline", "dotall",
    "cidr",     "base64",     "base64offset", "wide", "utf16le",  "utf16be", "utf16",  "windash", "cased",      "exists",    "expand",
    "lt",       "lte",        "gt",           "gte",  "fieldref", "neq",     "minute", "hour",    "day",        "week",      "month"};
constexpr std::size_t kMostExpanded = 4096;  // tests of one value
constexpr std::int64_t kRegexMemory = 8 << 20;

bool is_literal(const Pattern& pattern) {
  return std::ranges::all_of(pattern, [](std::uint16_t piece) { return piece < kOne; });
}

std::string literal_of(std::span<const std::uint16_t> pattern) {
  std::string text;
  for (const std::uint16_t piece : pattern) {
    text += static_cast<char>(piece);
  }
  return text;
}

Pattern pattern_of(std::string_view text) {
  Pattern pattern;
  for (const char c : text) {
    pattern.push_back(static_cast<unsigned char>(c));
  }
  return pattern;
}

std::string base64(std::string_view bytes) {
  static constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      group = group << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      out += i + k <= bytes.size() ? kDigits[group >> (18 - 6 * k) & 63] : '=';
    }
  }
  return out;
}

// The digits that do not depend on what stands before or after, for each place that the value can have in a group of three.
std::vector<std::string> base64_at_offsets(std::string_view bytes) {
  static constexpr std::array<std::size_t, 3> kSkipped{0, 2, 3};
  static constexpr std::array<std::size_t, 3> kLeftOff{0, 3, 2};
  std::vector<std::string> all;
  for (std::size_t offset = 0; offset < 3; ++offset) {
    const std::string digits = base64(std::string(offset, ' ') + std::string(bytes));
    const std::size_t off = kLeftOff[(bytes.size() + offset) % 3];
    if (digits.size() > kSkipped[offset] + off) {
      all.push_back(digits.substr(kSkipped[offset], digits.size() - kSkipped[offset] - off));
    }
  }
  return all;
}

// UTF-8 to UTF-16; wildcards stay.
std::expected<Pattern, Why> widened(const Pattern& pattern, bool big_endian) {
  Pattern out;
  const auto unit = [&](std::uint32_t value) {
    const auto low = static_cast<std::uint16_t>(value & 0xff);
    const auto high = static_cast<std::uint16_t>(value >> 8);
    out.push_back(big_endian ? high : low);
    out.push_back(big_endian ? low : high);
  };
  for (std::size_t i = 0; i < pattern.size();) {
    if (pattern[i] >= kOne) {
      out.push_back(pattern[i++]);
      continue;
    }
    const std::uint32_t lead = pattern[i];
    const std::size_t size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    std::uint32_t code = size == 1 ? lead : lead & (0xffu >> (size + 1));
    for (std::size_t k = 1; k < size; ++k) {
      if (i + k >= pattern.size() || (pattern[i + k] & 0xffc0u) != 0x80) {
        return std::unexpected("the value is not UTF-8, so it cannot be written as UTF-16");
      }
      code = code << 6 | (pattern[i + k] & 0x3fu);
    }
    i += size;
    if (code >= 0x10000) {
      unit(0xd800 + ((code - 0x10000) >> 10));
      unit(0xdc00 + ((code - 0x10000) & 0x3ff));
    } else {
      unit(code);
    }
  }
  return out;
}

// Each '-' and '/' that begins a word, in all the ways in which Windows programs take an option's dash.
std::expected<std::vector<Pattern>, Why> dashes(const Pattern& pattern) {
  static constexpr std::array<std::string_view, 5> kDashes{"-", "/", "\xe2\x80\x93", "\xe2\x80\x94", "\xe2\x80\x95"};
  const auto is_word = [](std::uint16_t c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= 0x80 && c < kOne);
  };
  std::vector<Pattern> all{{}};
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const bool begins = (pattern[i] == '-' || pattern[i] == '/') && (i == 0 || !is_word(pattern[i - 1])) && i + 1 < pattern.size() && is_word(pattern[i + 1]);
    if (!begins) {
      for (Pattern& one : all) {
        one.push_back(pattern[i]);
      }
      continue;
    }
    if (all.size() * kDashes.size() > kMostExpanded) {
      return std::unexpected(fmt::format("windash makes more than {} values of this one", kMostExpanded));
    }
    std::vector<Pattern> more;
    for (const Pattern& one : all) {
      for (const std::string_view dash : kDashes) {
        more.push_back(one);
        for (const char c : dash) {
          more.back().push_back(static_cast<unsigned char>(c));
        }
      }
    }
    all = std::move(more);
  }
  return all;
}

std::expected<std::vector<Pattern>, Why> transformed(std::string_view transform, const Pattern& pattern) {
  if (transform == "windash") {
    return dashes(pattern);
  }
  if (transform == "base64" || transform == "base64offset") {
    if (!is_literal(pattern)) {
      return std::unexpected(fmt::format("{} takes no wildcards", transform));
    }
    const std::string text = literal_of(pattern);
    if (transform == "base64") {
      return std::vector<Pattern>{pattern_of(base64(text))};
    }
    std::vector<Pattern> all;
    for (const std::string& digits : base64_at_offsets(text)) {
      all.push_back(pattern_of(digits));
    }
    if (all.size() != 3) {
      return std::unexpected("the value is too short for base64offset");
    }
    return all;
  }
  auto wide = widened(pattern, transform == "utf16be");
  if (!wide) {
    return std::unexpected(wide.error());
  }
  if (transform == "utf16") {
    wide->insert(wide->begin(), {0xff, 0xfe});
  }
  return std::vector<Pattern>{std::move(*wide)};
}

std::optional<double> to_number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

// What is in front of, between and behind the wildcards says which test it is.
Atom classified(Pattern pattern, const Modifiers& m, std::optional<FieldKey> field) {
  Atom atom;
  atom.cased = m.cased;
  if (!field) {
    atom.test = Test::kKeyword;
    if (pattern.empty() || pattern.front() != kMany) {
      pattern.insert(pattern.begin(), kMany);
    }
    if (pattern.back() != kMany) {
      pattern.push_back(kMany);
    }
    atom.pattern = std::move(pattern);
    return atom;
  }
  atom.field = *field;
  if ((m.where == Test::kEnd || m.where == Test::kAnywhere) && (pattern.empty() || pattern.front() != kMany)) {
    pattern.insert(pattern.begin(), kMany);
  }
  if ((m.where == Test::kBeginning || m.where == Test::kAnywhere) && (pattern.empty() || pattern.back() != kMany)) {
    pattern.push_back(kMany);
  }
  const bool open_front = !pattern.empty() && pattern.front() == kMany;
  const bool open_back = pattern.size() > (open_front ? 1u : 0u) && pattern.back() == kMany;
  const Pattern inner(pattern.begin() + (open_front ? 1 : 0), pattern.end() - (open_back ? 1 : 0));
  if (!is_literal(inner)) {
    atom.test = Test::kWildcards;
    atom.pattern = std::move(pattern);
    return atom;
  }
  if (inner.empty() && open_front) {
    atom.test = Test::kPresent;
    return atom;
  }
  atom.test = open_front && open_back ? Test::kAnywhere : open_front ? Test::kEnd : open_back ? Test::kBeginning : Test::kWhole;
  const std::string text = literal_of(inner);
  atom.text = m.cased ? text : folded(text);
  if (const auto number = to_number(text); number && atom.test == Test::kWhole && is_number(*field)) {
    atom.test = Test::kEqual;
    atom.number = *number;
    atom.text.clear();
    atom.cased = false;
  }
  return atom;
}

std::expected<Atom, Why> regex(const Modifiers& m, FieldKey field, const std::string& text) {
  Atom atom{.field = field, .test = Test::kRegex, .cased = true};
  // All that RE2 keeps in the flags of a pattern; the text stands for the whole.
  atom.text = m.regex_flags.empty() ? text : fmt::format("(?{}:{})", m.regex_flags, text);
  RE2::Options options(RE2::Quiet);
  options.set_encoding(RE2::Options::EncodingLatin1);
  options.set_max_mem(kRegexMemory);
  const RE2 compiled(atom.text, options);
  if (!compiled.ok()) {
    return std::unexpected(fmt::format(
        "the regular expression cannot be taken: {}; back references and look-arounds are not among what RE2 evaluates, because their cost has no bound",
        compiled.error()));
  }
  return atom;
}

std::expected<Atom, Why> network(FieldKey field, const std::string& text) {
  const std::size_t slash = text.find('/');
  const std::string address = text.substr(0, slash);
  std::array<unsigned char, 16> bytes{};
  const bool four = inet_pton(AF_INET, address.c_str(), bytes.data()) == 1;
  const unsigned most = four ? 32 : 128;
  unsigned bits = most;
  bool good = four || inet_pton(AF_INET6, address.c_str(), bytes.data()) == 1;
  if (slash != std::string::npos) {
    const auto [end, error] = std::from_chars(text.data() + slash + 1, text.data() + text.size(), bits);
    good = good && error == std::errc{} && end == text.data() + text.size() && bits <= most;
  }
  if (!good) {
    return std::unexpected(fmt::format("'{}' is no network; write it as 10.0.0.0/8 or fd00::/8", text));
  }
  // Four bytes or sixteen, then the number of bits.
  Atom atom{.field = field, .test = Test::kNetwork, .cased = true};
  atom.text.assign(reinterpret_cast<const char*>(bytes.data()), four ? 4 : 16);
  atom.number = bits;
  return atom;
}

// %name% is each entry of that list; a value may hold several.
std::expected<std::vector<std::string>, Why> expanded(const std::string& text, const Lists& lists) {
  std::vector<std::string> all{""};
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = text.find('%', at);
    const std::size_t end = begin == std::string::npos ? begin : text.find('%', begin + 1);
    const std::string before = text.substr(at, end == std::string::npos ? end : begin - at);
    for (std::string& one : all) {
      one += before;
    }
    if (end == std::string::npos) {
      break;
    }
    const std::string name = text.substr(begin + 1, end - begin - 1);
    const auto list = lists.find(name);
    if (list == lists.end()) {
      return std::unexpected(fmt::format("there is no list '{}' for |expand; name its entries under 'lists' in the configuration of detection", name));
    }
    if (all.size() * list->second.size() > kMostExpanded) {
      return std::unexpected(fmt::format("'{}' stands for more than {} values", text, kMostExpanded));
    }
    std::vector<std::string> more;
    for (const std::string& one : all) {
      for (const std::string& entry : list->second) {
        more.push_back(one + entry);
      }
    }
    all = std::move(more);
    at = end + 1;
  }
  return all;
}

std::expected<Atom, Why> compared(const Modifiers& m, FieldKey field, const std::string& text) {
  const auto number = to_number(text);
  if (!number) {
    return std::unexpected(fmt::format("'{}' is no number to compare with", text));
  }
  if (m.part == TimePart::kNone && !is_number(field)) {
    return std::unexpected("only fields that hold numbers can be compared by lt, lte, gt and gte");
  }
  return Atom{.field = field, .test = m.compares.value_or(Test::kEqual), .part = m.part, .number = *number};
}

std::expected<Atom, Why> special(const Modifiers& m, FieldKey field, Dialect dialect, const Given& value) {
  if (m.exists) {
    if (value.kind != Given::Kind::kBoolean) {
      return std::unexpected("'exists' takes true or false");
    }
    return Atom{.field = field, .test = value.text == "true" ? Test::kPresent : Test::kAbsent};
  }
  if (m.other_field) {
    const auto other = find_field(value.text, dialect);
    if (!other) {
      return std::unexpected(fmt::format("there is no field '{}' to compare with", value.text));
    }
    return Atom{.field = field, .test = Test::kOtherField, .cased = m.cased, .other = *other, .how = m.where};
  }
  if (m.regex) {
    return regex(m, field, value.text);
  }
  if (m.network) {
    return network(field, value.text);
  }
  return compared(m, field, value.text);
}

}  // namespace

std::expected<Modifiers, Why> parse_modifiers(std::string_view text) {
  Modifiers m;
  int places = 0;
  int kinds = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('|', at), text.size());
    const std::string_view word = text.substr(at, end - at);
    at = end + 1;
    if (word == "contains" || word == "startswith" || word == "endswith") {
      m.where = word == "contains" ? Test::kAnywhere : word == "startswith" ? Test::kBeginning : Test::kEnd;
      ++places;
    } else if (word == "all") {
      m.all = true;
    } else if (word == "cased") {
      m.cased = true;
    } else if (word == "expand") {
      m.expand = true;
    } else if (word == "neq") {
      m.differs = true;
    } else if (word == "re") {
      m.regex = true;
      ++kinds;
    } else if (word == "i" || word == "ignorecase" || word == "m" || word == "multiline" || word == "s" || word == "dotall") {
      if (!m.regex) {
        return std::unexpected(fmt::format("'{}' is a flag of 're', and stands behind it", word));
      }
      m.regex_flags += word[0] == 'd' ? 's' : word[0];
    } else if (word == "cidr") {
      m.network = true;
      ++kinds;
    } else if (word == "exists") {
      m.exists = true;
      ++kinds;
    } else if (word == "fieldref") {
      m.other_field = true;
      ++kinds;
    } else if (word == "lt" || word == "lte" || word == "gt" || word == "gte") {
      m.compares = word == "lt" ? Test::kLess : word == "lte" ? Test::kLessOrEqual : word == "gt" ? Test::kGreater : Test::kGreaterOrEqual;
      ++kinds;
    } else if (word == "minute" || word == "hour" || word == "day" || word == "week" || word == "month" || word == "year") {
      m.part = word == "minute"  ? TimePart::kMinute
               : word == "hour"  ? TimePart::kHour
               : word == "day"   ? TimePart::kDay
               : word == "week"  ? TimePart::kWeek
               : word == "month" ? TimePart::kMonth
                                 : TimePart::kYear;
    } else if (word == "wide" || word == "utf16le" || word == "utf16be" || word == "utf16" || word == "base64" || word == "base64offset" || word == "windash") {
      m.transforms.push_back(word);
    } else {
      return std::unexpected(fmt::format("there is no modifier '{}'; {}", word, util::suggestion(word, kModifiers)));
    }
  }
  if (places > 1) {
    return std::unexpected("of contains, startswith and endswith one will do");
  }
  if (kinds > 1) {
    return std::unexpected("of re, cidr, exists, fieldref, lt, lte, gt and gte one will do");
  }
  const bool special = kinds > 0 || m.part != TimePart::kNone;
  if (special && !m.transforms.empty()) {
    return std::unexpected(fmt::format("'{}' makes no sense beside re, cidr, exists, fieldref, comparisons and parts of a time", m.transforms.front()));
  }
  if (places > 0 && special && !m.other_field) {
    return std::unexpected("contains, startswith and endswith make no sense beside re, cidr, exists, comparisons and parts of a time");
  }
  if (m.cased && special && !m.other_field) {
    return std::unexpected("'cased' makes no sense here: regular expressions and numbers are so already");
  }
  return m;
}

namespace {

// auditd tells calls by their numbers where nobody has looked them up.
std::expected<std::string, Why> call_name(const std::string& text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) {
    return text;
  }
  const std::unique_ptr<char, decltype([](char* name) { std::free(name); })> name(seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, number));
  if (!name) {
    return std::unexpected(fmt::format("there is no call with the number {} on x86-64", number));
  }
  return std::string(name.get());
}

}  // namespace

std::expected<std::vector<Atom>, Why> atoms_for(const Modifiers& modifiers, std::optional<FieldKey> field, Dialect dialect, const Given& value,
                                                const Lists& lists) {
  const bool special_test =
      modifiers.regex || modifiers.network || modifiers.exists || modifiers.other_field || modifiers.compares || modifiers.part != TimePart::kNone;
  if (special_test && !field && !modifiers.regex) {
    return std::unexpected("keywords take no such modifier; name a field");
  }
  if (!field && modifiers.regex) {
    return std::unexpected("keywords cannot be regular expressions here; name a field");
  }
  if (value.kind == Given::Kind::kNull) {
    if (!field || special_test || modifiers.where != Test::kWhole || !modifiers.transforms.empty()) {
      return std::unexpected("null stands alone: the field is absent");
    }
    return std::vector{Atom{.field = *field, .test = Test::kAbsent}};
  }
  std::vector<std::string> texts{value.text};
  if (modifiers.expand) {
    auto more = expanded(value.text, lists);
    if (!more) {
      return std::unexpected(more.error());
    }
    texts = std::move(*more);
  }
  std::vector<Atom> atoms;
  for (std::string& text : texts) {
    if (dialect == Dialect::kAuditd && field == FieldKey{Field::kCall} && modifiers.where == Test::kWhole && !special_test) {
      auto name = call_name(text);
      if (!name) {
        return std::unexpected(name.error());
      }
      text = std::move(*name);
    }
    if (special_test) {
      auto atom = special(modifiers, *field, dialect, {value.kind, text});
      if (!atom) {
        return std::unexpected(atom.error());
      }
      atoms.push_back(std::move(*atom));
      continue;
    }
    std::vector<Pattern> patterns{parse_pattern(text)};
    for (const std::string_view transform : modifiers.transforms) {
      std::vector<Pattern> next;
      for (const Pattern& pattern : patterns) {
        auto more = transformed(transform, pattern);
        if (!more) {
          return std::unexpected(more.error());
        }
        std::ranges::move(*more, std::back_inserter(next));
      }
      patterns = std::move(next);
    }
    for (Pattern& pattern : patterns) {
      atoms.push_back(classified(std::move(pattern), modifiers, field));
    }
  }
  return atoms;
}

}  // namespace vfsguard::detect
