// SPDX-License-Identifier: Apache-2.0
#include "detect/sigma_parse.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <set>
#include <unordered_map>

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include "detect/condition.h"
#include "detect/values.h"
#include "event/names.h"
#include "util/read_file.h"
#include "util/suggestion.h"

namespace vfsguard::detect {

namespace {

constexpr std::size_t kMaxBytes = 16u << 20;  // of a file
constexpr const char* kListsFile = "lists.yml";
constexpr std::size_t kMaxTests = 200'000;       // of a rule
constexpr std::size_t kMaxDocuments = 10'000;    // of a file
constexpr std::size_t kMaxPadding = 200u << 20;  // empty lines before all documents of a file together
constexpr std::array<std::string_view, 5> kSeverities{"info", "low", "medium", "high", "critical"};
constexpr std::array<std::string_view, 8> kKinds{"event_count", "value_count", "temporal",         "temporal_ordered",
                                                 "value_sum",   "value_avg",   "value_percentile", "value_median"};
constexpr double kMostEvents = 1e9;  // that an event_count may ask for

// YAML below a document is read to this depth: identifier, list, map, list of values.
struct Place {
  int line = 0;
  int column = 0;
};

struct Refused {
  Place place;
  std::string why;
};

Place place_of(const YAML::Node& node) {
  const YAML::Mark mark = node.Mark();
  return {mark.line + 1, mark.column + 1};
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; });
  return out;
}

// One document.
class Reader {
 public:
  Reader(const std::string& file, const Lists& lists, Place begins) : file_(file), lists_(lists), begins_(begins) {}

  void read(const YAML::Node& root, RuleSet& into) {
    title_ = root["title"] && root["title"].IsScalar() ? root["title"].Scalar() : "";
    try {
      if (root["correlation"]) {
        into.correlations.push_back(correlation(root));
      } else if (root["filter"]) {
        into.filters.push_back(filter(root));
      } else {
        for (Rule& rule : rules(root)) {
          into.rules.push_back(std::move(rule));
        }
      }
    } catch (const Refused& refused) {
      into.refused.push_back(error(refused));
    }
  }

 private:
  // Thrown and caught within a document: every step of the way could refuse it.
  [[noreturn]] void refuse(const YAML::Node& node, std::string why) const { throw Refused{node.Mark().is_null() ? begins_ : place_of(node), std::move(why)}; }

  [[nodiscard]] util::Error error(const Refused& refused) const {
    const std::string title = title_.empty() ? "" : fmt::format("rule '{}': ", title_);
    return {fmt::format("{}:{}:{}: {}{}", file_, refused.place.line, refused.place.column, title, refused.why), EX_CONFIG, 0};
  }

  std::string text(const YAML::Node& node, std::string_view what) const {
    if (!node.IsScalar()) {
      refuse(node, fmt::format("'{}' is one line of text", what));
    }
    return node.Scalar();
  }

  std::string optional_text(const YAML::Node& root, const char* key) const {
    const YAML::Node node = root[key];
    return node && !node.IsNull() ? text(node, key) : "";
  }

  std::vector<std::string> texts(const YAML::Node& root, const char* key) const {
    std::vector<std::string> all;
    const YAML::Node node = root[key];
    if (!node || node.IsNull()) {
      return all;
    }
    if (node.IsScalar()) {
      all.push_back(node.Scalar());
      return all;
    }
    if (!node.IsSequence()) {
      refuse(node, fmt::format("'{}' is a list", key));
    }
    for (const YAML::Node& one : node) {
      all.push_back(text(one, key));
    }
    return all;
  }

  Head head(const YAML::Node& root) const {
    Head h;
    h.file = file_;
    h.line = begins_.line;
    h.title = optional_text(root, "title");
    if (h.title.empty()) {
      refuse(root, "'title' is missing");
    }
    h.id = optional_text(root, "id");
    h.name = optional_text(root, "name");
    h.status = optional_text(root, "status");
    h.description = optional_text(root, "description");
    h.author = optional_text(root, "author");
    h.license = optional_text(root, "license");
    h.tags = texts(root, "tags");
    h.references = texts(root, "references");
    h.falsepositives = texts(root, "falsepositives");
    h.message = optional_text(root, "message");
    if (const YAML::Node level = root["level"]) {
      const std::string word = text(level, "level");
      const auto severity = severity_from_name(word);
      if (!severity) {
        refuse(level, fmt::format("there is no level '{}'; {}", word, util::suggestion(word, kSeverities)));
      }
      h.severity = *severity;
    } else {
      h.severity = Severity::kMedium;
    }
    return h;
  }

  Source source(const YAML::Node& root) const {
    const YAML::Node node = root["logsource"];
    if (!node || !node.IsMap()) {
      refuse(node ? node : root, "'logsource' is missing: a mapping of category, product, service");
    }
    auto found = source_of(optional_text(node, "category"), optional_text(node, "product"), optional_text(node, "service"));
    if (!found) {
      refuse(node, found.error().message);
    }
    return std::move(*found);
  }

  static Given given(const YAML::Node& node) {
    if (node.IsNull()) {
      return {Given::Kind::kNull, ""};
    }
    const std::string& text = node.Scalar();
    if (node.Tag() == "!") {
      return {Given::Kind::kText, text};  // in quotes
    }
    const std::string word = lower(text);
    if (word == "true" || word == "false") {
      return {Given::Kind::kBoolean, word};
    }
    double number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return {error == std::errc{} && end == text.data() + text.size() ? Given::Kind::kNumber : Given::Kind::kText, text};
  }

  Expression atom(Atom one, std::vector<Atom>& atoms, const YAML::Node& at) const {
    if (atoms.size() >= kMaxTests) {
      refuse(at, fmt::format("more than {} values in one rule", kMaxTests));
    }
    atoms.push_back(std::move(one));
    return {Expression::Kind::kAtom, static_cast<std::uint32_t>(atoms.size() - 1), {}};
  }

  static Expression joined(Expression::Kind kind, std::vector<Expression> parts) {
    if (parts.size() == 1 && kind != Expression::Kind::kNot) {
      return std::move(parts.front());
    }
    return {kind, 0, std::move(parts)};
  }

  // The values of one field, or of none (keywords).
  Expression values(const YAML::Node& key, const std::string& name, const YAML::Node& node, const Source& from, std::vector<Atom>& atoms) const {
    const std::size_t bar = std::min(name.find('|'), name.size());
    const std::string_view field_text = std::string_view(name).substr(0, bar);
    const auto modifiers = parse_modifiers(bar < name.size() ? std::string_view(name).substr(bar + 1) : std::string_view());
    if (!modifiers) {
      refuse(key, modifiers.error());
    }
    std::optional<FieldKey> field;
    if (!field_text.empty()) {
      field = find_field(field_text, from.dialect);
      if (!field) {
        refuse(key, unknown_field(field_text, from.dialect));
      }
    }
    std::vector<YAML::Node> items;
    if (node.IsSequence()) {
      for (const YAML::Node& item : node) {
        items.push_back(item);
      }
      if (items.empty()) {
        refuse(key, fmt::format("the list of '{}' is empty, so it could never match", name));
      }
    } else {
      items.push_back(node);
    }
    std::vector<Expression> parts;
    for (const YAML::Node& item : items) {
      if (!item.IsScalar() && !item.IsNull()) {
        refuse(item, fmt::format("a value of '{}' is a text, a number or null", name));
      }
      auto tests = atoms_for(*modifiers, field, from.dialect, given(item), lists_);
      if (!tests) {
        refuse(item.Mark().is_null() ? key : item, fmt::format("'{}': {}", name, tests.error()));
      }
      std::vector<Expression> any;
      for (Atom& test : *tests) {
        any.push_back(atom(std::move(test), atoms, item));
      }
      if (any.empty()) {
        refuse(item, fmt::format("'{}' stands for no value at all: the list is empty", name));
      }
      parts.push_back(joined(Expression::Kind::kOr, std::move(any)));
    }
    Expression all = joined(modifiers->all ? Expression::Kind::kAnd : Expression::Kind::kOr, std::move(parts));
    if (!modifiers->differs) {
      return all;
    }
    if (!field) {
      refuse(key, "keywords take no 'neq'");
    }
    // Another value than these; what is absent has none.
    Expression differs{Expression::Kind::kAnd, 0, {}};
    differs.children.push_back(atom({.field = *field, .test = Test::kPresent}, atoms, key));
    differs.children.push_back({Expression::Kind::kNot, 0, {}});
    differs.children.back().children.push_back(std::move(all));
    return differs;
  }

  static std::string unknown_field(std::string_view name, Dialect dialect) {
    std::vector<std::string_view> known = field_names(dialect);
    for (const std::string_view one : known) {
      if (lower(one) == lower(name)) {
        return fmt::format("there is no field '{}'; did you mean '{}'?", name, one);
      }
    }
    std::string near = util::suggestion(name, known);
    if (near.starts_with("known:")) {
      near = fmt::format("vfsguard rules fields lists those that our events have{}", dialect == Dialect::kAuditd ? " (--auditd)" : "");
    }
    return fmt::format("there is no field '{}'; {}", name, near);
  }

  Expression map(const YAML::Node& node, const Source& from, std::vector<Atom>& atoms) const {
    std::vector<Expression> all;
    std::set<std::string> seen;
    for (const auto& entry : node) {
      const std::string name = text(entry.first, "a field");
      if (!seen.insert(name).second) {
        refuse(entry.first, fmt::format("'{}' stands here twice", name));
      }
      all.push_back(values(entry.first, name, entry.second, from, atoms));
    }
    if (all.empty()) {
      refuse(node, "the mapping is empty");
    }
    return joined(Expression::Kind::kAnd, std::move(all));
  }

  Expression identifier(const YAML::Node& key, const YAML::Node& node, const Source& from, std::vector<Atom>& atoms) const {
    if (node.IsMap()) {
      return map(node, from, atoms);
    }
    if (node.IsScalar()) {
      return values(key, "", node, from, atoms);
    }
    if (!node.IsSequence() || node.size() == 0) {
      refuse(key, fmt::format("'{}' is a mapping of fields, or a list of mappings or of keywords", key.Scalar()));
    }
    std::vector<Expression> any;
    for (const YAML::Node& item : node) {
      if (item.IsMap()) {
        any.push_back(map(item, from, atoms));
      } else if (item.IsScalar() || item.IsNull()) {
        any.push_back(values(key, "", item, from, atoms));
      } else {
        refuse(item, "a list of lists is no detection");
      }
    }
    return joined(Expression::Kind::kOr, std::move(any));
  }

  std::vector<Part> parts(const YAML::Node& detection, const Source& from, std::vector<Atom>& atoms, std::initializer_list<std::string_view> reserved) const {
    std::vector<Part> all;
    for (const auto& entry : detection) {
      const std::string name = text(entry.first, "a part of 'detection'");
      if (std::ranges::find(reserved, name) != reserved.end()) {
        continue;
      }
      if (name == "timeframe") {
        refuse(entry.first, "'timeframe' belongs to aggregations, which Sigma has dropped; write a correlation rule with a timespan");
      }
      if (std::ranges::find(all, name, &Part::name) != all.end()) {
        refuse(entry.first, fmt::format("'{}' stands here twice", name));
      }
      all.push_back({name, identifier(entry.first, entry.second, from, atoms), false});
    }
    return all;
  }

  // `where`: the key that names its parts.
  Expression condition(const YAML::Node& node, std::vector<Part>& all, std::string_view where = "detection") const {
    auto parsed = parse_condition(text(node, "condition"), all, where);
    if (!parsed) {
      Place place = place_of(node);
      // Within one plain line the column can be told.
      if (node.Scalar().find('\n') == std::string::npos) {
        place.column += static_cast<int>(parsed.error().at) + (node.Tag() == "!" ? 1 : 0);
      }
      throw Refused{place, fmt::format("condition: {}", parsed.error().why)};
    }
    return std::move(*parsed);
  }

  static std::vector<std::string> unused_of(const std::vector<Part>& parts) {
    std::vector<std::string> names;
    for (const Part& part : parts) {
      if (!part.used) {
        names.push_back(part.name);
      }
    }
    return names;
  }

  std::vector<Rule> rules(const YAML::Node& root) const {
    Rule rule;
    rule.head = head(root);
    rule.source = source(root);
    const YAML::Node detection = root["detection"];
    if (!detection || !detection.IsMap()) {
      refuse(detection ? detection : root, "'detection' is missing: a mapping with a 'condition'");
    }
    auto all = parts(detection, rule.source, rule.atoms, {"condition"});
    const YAML::Node node = detection["condition"];
    if (!node) {
      refuse(detection, "'condition' is missing; with one part it is the name of that part");
    }
    std::vector<YAML::Node> conditions;
    if (node.IsSequence() && node.size() > 0) {
      for (const YAML::Node& one : node) {
        conditions.push_back(one);
      }
    } else {
      conditions.push_back(node);
    }
    // Several conditions are alternatives.
    std::vector<Expression> any;
    for (const YAML::Node& one : conditions) {
      any.push_back(condition(one, all));
    }
    rule.condition = joined(Expression::Kind::kOr, std::move(any));
    rule.unused = unused_of(all);
    std::vector<Rule> one;
    one.push_back(std::move(rule));
    return one;
  }

  Filter filter(const YAML::Node& root) const {
    Filter f;
    f.head = head(root);
    f.source = source(root);
    const YAML::Node node = root["filter"];
    if (!node.IsMap()) {
      refuse(node, "'filter' is a mapping with 'rules' and a 'condition'");
    }
    if (const YAML::Node about = node["rules"]; about && !(about.IsScalar() && about.Scalar() == "any")) {
      f.rules = texts(node, "rules");
    }
    auto all = parts(node, f.source, f.atoms, {"condition", "rules"});
    if (!node["condition"]) {
      refuse(node, "'condition' is missing");
    }
    f.condition = condition(node["condition"], all);
    return f;
  }

  std::uint64_t timespan(const YAML::Node& node) const {
    const std::string word = text(node, "timespan");
    std::uint64_t count = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), count);
    static constexpr std::array<std::pair<char, std::uint64_t>, 5> kUnits{{{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 604800}}};
    const auto unit = std::ranges::find(kUnits, end < word.data() + word.size() ? *end : '\0', &std::pair<char, std::uint64_t>::first);
    if (error != std::errc{} || count == 0 || unit == kUnits.end() || end + 1 != word.data() + word.size() || count > std::uint64_t{366} * 86400) {
      refuse(node, fmt::format("'{}' is no timespan; write a number and s, m, h, d or w, such as 5m", word));
    }
    return count * unit->second * 1'000'000'000u;
  }

  void bounds(const YAML::Node& node, Correlation& c) const {
    static constexpr std::array<std::pair<std::string_view, Test>, 6> kTests{{{"gte", Test::kGreaterOrEqual},
                                                                              {"gt", Test::kGreater},
                                                                              {"lte", Test::kLessOrEqual},
                                                                              {"lt", Test::kLess},
                                                                              {"eq", Test::kEqual},
                                                                              {"neq", Test::kEqual}}};
    static constexpr std::array<std::string_view, 8> kKeys{"gte", "gt", "lte", "lt", "eq", "neq", "field", "percentile"};
    for (const auto& entry : node) {
      const std::string key = text(entry.first, "condition");
      if (key == "field") {
        c.fields = texts(node, "field");
        continue;
      }
      double value = 0;
      const std::string digits = text(entry.second, key);
      const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
      if (error != std::errc{} || end != digits.data() + digits.size()) {
        refuse(entry.second, fmt::format("'{}' takes a number", key));
      }
      const auto test = std::ranges::find(kTests, key, &std::pair<std::string_view, Test>::first);
      if (test != kTests.end()) {
        c.bounds.push_back({test->second, value, key == "neq"});
      } else if (key == "percentile" && value >= 0 && value <= 100) {
        c.percentile = value;
      } else {
        refuse(entry.first,
               key == "percentile" ? "'percentile' is from 0 to 100" : fmt::format("a condition has no '{}'; {}", key, util::suggestion(key, kKeys)));
      }
    }
  }

  Correlation correlation(const YAML::Node& root) const {
    Correlation c;
    c.head = head(root);
    const YAML::Node node = root["correlation"];
    if (!node.IsMap()) {
      refuse(node, "'correlation' is a mapping with 'type', 'rules' and 'timespan'");
    }
    static constexpr std::array<std::string_view, 7> kKeys{"type", "rules", "group-by", "timespan", "aliases", "condition", "generate"};
    for (const auto& entry : node) {
      if (const std::string key = text(entry.first, "correlation"); std::ranges::find(kKeys, key) == kKeys.end()) {
        refuse(entry.first, fmt::format("a correlation has no '{}'; {}", key, util::suggestion(key, kKeys)));
      }
    }
    const YAML::Node type = node["type"];
    const std::string word = type ? text(type, "type") : "";
    const auto kind = std::ranges::find(kKinds, word);
    if (kind == kKinds.end()) {
      refuse(type ? type : node, fmt::format("there is no correlation of type '{}'; {}", word, util::suggestion(word, kKinds)));
    }
    c.kind = static_cast<Correlation::Kind>(kind - kKinds.begin());
    c.rules = texts(node, "rules");
    if (c.rules.empty()) {
      refuse(node, "'rules' is missing: ids or names of the rules that it is about");
    }
    c.group_by = texts(node, "group-by");
    if (!node["timespan"]) {
      refuse(node, "'timespan' is missing");
    }
    c.timespan_ns = timespan(node["timespan"]);
    if (const YAML::Node aliases = node["aliases"]) {
      if (!aliases.IsMap()) {
        refuse(aliases, "'aliases' maps a name to the field of each rule");
      }
      for (const auto& alias : aliases) {
        if (!alias.second.IsMap()) {
          refuse(alias.second, "an alias maps rules to their fields");
        }
        for (const auto& entry : alias.second) {
          c.aliases[text(alias.first, "alias")][text(entry.first, "a rule")] = text(entry.second, "a field");
        }
      }
    }
    if (const YAML::Node generate = node["generate"]) {
      c.generates = text(generate, "generate") == "true";
    } else if (const YAML::Node outside = root["generate"]) {
      c.generates = text(outside, "generate") == "true";
    }
    finish(node, c);
    return c;
  }

  // `a and not (b or c)`: names of its rules.
  void temporal_condition(const YAML::Node& node, Correlation& c) const {
    if (c.kind != Correlation::Kind::kTemporal) {
      refuse(node, c.kind == Correlation::Kind::kTemporalOrdered
                       ? "temporal_ordered takes no condition over its rules' names: their order is that of 'rules'; temporal takes one"
                       : fmt::format("a condition over the rules' names is for correlations of type temporal; {} takes a mapping such as {{ gte: 10 }}",
                                     kind_name(c.kind)));
    }
    std::vector<Part> places;
    for (const std::string& rule : c.rules) {
      places.push_back({rule, {Expression::Kind::kAtom, static_cast<std::uint32_t>(places.size()), {}}, false});
    }
    c.condition = condition(node, places, "rules");
    if (is_true(*c.condition, std::vector<bool>(c.rules.size(), false))) {
      refuse(node, "the condition is true where nothing has happened; name a rule that must have matched, such as 'a and not b'");
    }
    c.unused = unused_of(places);
  }

  // Refuses bounds that no number is within. `most`: what is counted at most; infinite where the number need not be whole.
  void possible(const YAML::Node& node, const Correlation& c, double most) const {
    const bool whole = std::isfinite(most);
    double least = -std::numeric_limits<double>::infinity();
    double greatest = most;
    for (const Correlation::Bound& bound : c.bounds) {
      const double value = bound.value;
      if (bound.differs) {
        continue;
      }
      switch (bound.test) {
        case Test::kGreater: least = std::max(least, whole ? std::floor(value) + 1 : std::nextafter(value, HUGE_VAL)); break;
        case Test::kLess: greatest = std::min(greatest, whole ? std::ceil(value) - 1 : std::nextafter(value, -HUGE_VAL)); break;
        case Test::kLessOrEqual: greatest = std::min(greatest, value); break;
        case Test::kEqual: greatest = std::min(greatest, value); [[fallthrough]];
        default: least = std::max(least, value);
      }
    }
    if (whole && least > most) {
      refuse(node, fmt::format("{} comes to {:.0f} at most here, so this can never match", kind_name(c.kind), most));
    }
    if (whole ? std::ceil(least) > std::floor(greatest) : least > greatest) {
      refuse(node, "no number is within these bounds, so this can never match");
    }
  }

  void finish(const YAML::Node& node, Correlation& c) const {
    const bool temporal = c.kind == Correlation::Kind::kTemporal || c.kind == Correlation::Kind::kTemporalOrdered;
    const YAML::Node conditions = node["condition"];
    for (std::size_t i = 0; i < c.rules.size(); ++i) {
      if (std::ranges::find(std::span(c.rules).first(i), c.rules[i]) != std::span(c.rules).first(i).end()) {
        refuse(node["rules"], fmt::format("'rules' names '{}' twice", c.rules[i]));
      }
    }
    if (conditions && conditions.IsScalar()) {
      return temporal_condition(conditions, c);
    }
    if (conditions && !conditions.IsMap()) {
      refuse(conditions, "'condition' is a mapping such as { gte: 10 }");
    }
    if (conditions) {
      bounds(conditions, c);
    }
    if (c.bounds.empty() && !temporal) {
      refuse(conditions ? conditions : node, "'condition' is missing: how many, such as { gte: 10 }");
    }
    if (c.bounds.empty()) {
      c.bounds.push_back({Test::kGreaterOrEqual, static_cast<double>(c.rules.size())});
    }
    if (c.kind == Correlation::Kind::kTemporalOrdered && c.bounds.front().value != static_cast<double>(c.rules.size())) {
      refuse(conditions, "temporal_ordered asks for all of its rules, in their order");
    }
    const bool valued = !temporal && c.kind != Correlation::Kind::kEventCount;
    if (valued && c.fields.empty()) {
      refuse(conditions, fmt::format("{} needs the 'field' whose values it is about", kind_name(c.kind)));
    }
    if (!valued && !c.fields.empty()) {
      refuse(conditions, fmt::format("{} is about no field; value_count is", kind_name(c.kind)));
    }
    if (c.fields.size() > 1 && c.kind != Correlation::Kind::kValueCount) {
      refuse(conditions["field"], fmt::format("{} is about one field; value_count takes several", kind_name(c.kind)));
    }
    const bool counts = temporal || c.kind == Correlation::Kind::kEventCount || c.kind == Correlation::Kind::kValueCount;
    const bool exceeds =
        std::ranges::any_of(c.bounds, [](const Correlation::Bound& b) { return b.test != Test::kLess && b.test != Test::kLessOrEqual && !b.differs; });
    if (counts && !exceeds) {
      refuse(conditions, "this is true of what has just begun; name a lower bound too");
    }
    possible(conditions ? conditions : node, c,
             temporal                                   ? static_cast<double>(c.rules.size())
             : c.kind == Correlation::Kind::kValueCount ? static_cast<double>(kMostValues)
             : c.kind == Correlation::Kind::kEventCount ? kMostEvents
                                                        : HUGE_VAL);
  }

  const std::string& file_;
  const Lists& lists_;
  Place begins_;
  std::string title_;
};

// What `action: global` gave all documents behind it, where they do not say it themselves.
YAML::Node merged(const YAML::Node& base, const YAML::Node& own) {
  if (!base.IsMap()) {
    return own;
  }
  YAML::Node out(YAML::NodeType::Map);
  for (const auto& entry : base) {
    out[entry.first] = entry.second;
  }
  for (const auto& entry : own) {
    const YAML::Node before = out[entry.first.Scalar()];
    if (before && before.IsMap() && entry.second.IsMap()) {
      YAML::Node both(YAML::NodeType::Map);
      for (const auto& one : before) {
        both[one.first] = one.second;
      }
      for (const auto& one : entry.second) {
        both[one.first.Scalar()] = one.second;
      }
      out[entry.first.Scalar()] = both;
    } else {
      out[entry.first.Scalar()] = entry.second;
    }
  }
  return out;
}

bool is_map_of_scalars(const YAML::Node& node) {
  return std::all_of(node.begin(), node.end(), [](const auto& entry) { return entry.first.IsScalar(); });
}

struct Document {
  std::size_t line = 0;  // that it begins in, from 0
  std::string_view text;
};

// The documents of a file. A line that begins with "---" begins one, and "..." ends one, wherever it stands. (YAML::LoadAll does not end on some broken
// files.)
std::vector<Document> documents_of(std::string_view text) {
  std::vector<Document> all;
  Document document;
  std::size_t begin = 0;
  std::size_t line = 0;
  const auto finish = [&](std::size_t end, std::size_t next) {
    document.text = text.substr(begin, end - begin);
    if (document.text.find_first_not_of(" \t\r\n") != std::string_view::npos) {
      all.push_back(document);
    }
    document.line = line + (next > end ? 1 : 0);
    begin = next;
  };
  for (std::size_t at = 0; at < text.size(); ++line) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view one = text.substr(at, end - at);
    const auto is_marker = [&](std::string_view marker) {
      return one.starts_with(marker) && (one.size() == 3 || one[3] == ' ' || one[3] == '\t' || one[3] == '\r');
    };
    if (is_marker("---")) {
      finish(at, at);
    } else if (is_marker("...")) {
      finish(at, std::min(end + 1, text.size()));
    }
    at = end + 1;
  }
  finish(text.size(), text.size());
  return all;
}

util::Error at(const std::string& file, Place place, std::string_view why) {
  return {fmt::format("{}:{}:{}: {}", file, place.line, place.column, why), EX_CONFIG, 0};
}

// `global`: what `action: global` said.
void read_document(const std::string& file, const YAML::Node& document, const Lists& lists, YAML::Node& global, RuleSet& into) {
  if (!document.IsDefined() || document.IsNull()) {
    return;
  }
  const Place begins = place_of(document);
  if (!document.IsMap() || !is_map_of_scalars(document)) {
    into.refused.push_back(at(file, begins, "no Sigma rule: a document is a mapping that begins with 'title'"));
    return;
  }
  const std::string action = document["action"] && document["action"].IsScalar() ? document["action"].Scalar() : "";
  if (action == "global") {
    global.reset(document);
  } else if (action == "reset") {
    global.reset();
  } else if (!action.empty()) {
    into.refused.push_back(at(file, place_of(document["action"]), fmt::format("there is no action '{}'; known: global, reset", action)));
  } else {
    Reader(file, lists, begins).read(merged(global, document), into);
  }
}

}  // namespace

std::string_view severity_name(Severity severity) { return kSeverities[static_cast<std::size_t>(severity)]; }

std::optional<Severity> severity_from_name(std::string_view name) {
  const auto known = std::ranges::find(kSeverities, name == "informational" ? "info" : name);
  return known == kSeverities.end() ? std::nullopt : std::optional(static_cast<Severity>(known - kSeverities.begin()));
}

std::string_view kind_name(Correlation::Kind kind) { return kKinds[static_cast<std::size_t>(kind)]; }

void parse_rules(const std::string& file, const std::string& text, const Lists& lists, RuleSet& into) {
  if (text.size() > kMaxBytes) {
    into.refused.push_back(at(file, {1, 1}, fmt::format("the file is larger than {} MiB", kMaxBytes >> 20)));
    return;
  }
  if (text.find('\0') != std::string::npos) {
    into.refused.push_back(at(file, {1, 1}, "there is a NUL byte in the file; it is no text"));
    return;
  }
  const std::vector<Document> documents = documents_of(text);
  if (documents.size() > kMaxDocuments || (documents.size() > 1 && documents.size() * documents.back().line > kMaxPadding)) {
    into.refused.push_back(at(file, {1, 1}, fmt::format("{} documents in one file are too many; split it", documents.size())));
    return;
  }
  YAML::Node global;
  for (const Document& document : documents) {
    try {
      // Behind as many empty lines as stand before it, so that places are those in the file.
      read_document(file, YAML::Load(std::string(document.line, '\n') + std::string(document.text)), lists, global, into);
    } catch (const YAML::Exception& e) {
      into.refused.push_back(at(file, {e.mark.line + 1, e.mark.column + 1}, fmt::format("not YAML: {}", e.msg)));
    }
  }
}

util::Result<void> load_lists(const std::string& path, Lists& into) {
  std::error_code error;
  std::filesystem::path directory = std::filesystem::absolute(path, error);
  int upwards = 0;
  if (!std::filesystem::is_directory(directory, error)) {
    directory = directory.parent_path();
    upwards = 2;
  }
  std::filesystem::path file = directory / kListsFile;
  for (; upwards > 0 && !std::filesystem::exists(file, error); --upwards) {
    directory = directory.parent_path();
    file = directory / kListsFile;
  }
  if (!std::filesystem::exists(file, error)) {
    return {};
  }
  const auto wrong = [&](const YAML::Node& node, std::string_view why) { return util::pass_on(at(file.string(), place_of(node), why)); };
  try {
    const YAML::Node root = YAML::LoadFile(file.string());
    const YAML::Node lists = root.IsMap() ? root["lists"] : YAML::Node();
    if (!lists || !lists.IsMap()) {
      return wrong(root, "the file holds no mapping 'lists'");
    }
    for (const auto& entry : lists) {
      if (!entry.first.IsScalar() || !entry.second.IsSequence()) {
        return wrong(entry.first, "a list has a name and values, as in 'shells: [bash, dash]'");
      }
      std::vector<std::string> values;
      for (const YAML::Node& value : entry.second) {
        if (!value.IsScalar()) {
          return wrong(value, "a value of a list is a text");
        }
        values.push_back(value.Scalar());
      }
      into.try_emplace(entry.first.Scalar(), std::move(values));
    }
  } catch (const YAML::Exception& e) {
    return util::pass_on(at(file.string(), {e.mark.line + 1, e.mark.column + 1}, fmt::format("not YAML: {}", e.msg)));
  }
  return {};
}

util::Result<void> load_rules(const std::string& path, const Lists& lists, RuleSet& into) {
  std::error_code error;
  std::vector<std::filesystem::path> files;
  if (std::filesystem::is_directory(path, error)) {
    for (std::filesystem::recursive_directory_iterator it(path, error), end; it != end; it.increment(error)) {
      if (error) {
        return util::fail_errno(EX_NOINPUT, fmt::format("cannot read the rules {}", path), error.value());
      }
      const std::string extension = it->path().extension();
      if ((extension == ".yml" || extension == ".yaml") && it->path().filename() != kListsFile && it->is_regular_file(error)) {
        files.push_back(it->path());
      }
    }
    if (files.empty()) {
      return util::fail(EX_NOINPUT, fmt::format("cannot read the rules {}: the directory holds no .yml or .yaml file", path));
    }
    std::ranges::sort(files);
  } else {
    files.emplace_back(path);
  }
  for (const std::filesystem::path& file : files) {
    auto text = util::read_text(file.string(), kMaxBytes);
    if (!text) {
      return util::fail_errno(EX_NOINPUT, fmt::format("cannot read the rules {}", file.string()));
    }
    parse_rules(file.string(), *text, lists, into);
  }
  return {};
}

void refuse_duplicates(RuleSet& rules) {
  std::unordered_map<std::string, std::string> known;  // id or name -> where
  const auto is_new = [&](const Head& head) {
    const std::string here = fmt::format("{}:{}", head.file, head.line);
    for (const std::string* word : {&head.id, &head.name}) {
      if (word->empty()) {
        continue;
      }
      const auto [it, added] = known.try_emplace(*word, here);
      if (!added && it->second != here) {
        rules.refused.push_back({fmt::format("{}:1: rule '{}': '{}' names the rule in {} already", here, head.title, *word, it->second), EX_CONFIG, 0});
        return false;
      }
    }
    return true;
  };
  std::erase_if(rules.rules, [&](const Rule& rule) { return !is_new(rule.head); });
  std::erase_if(rules.correlations, [&](const Correlation& c) { return !is_new(c.head); });
  std::erase_if(rules.filters, [&](const Filter& f) { return !is_new(f.head); });
}

util::Result<Source> source_of(const std::string& category, const std::string& product, const std::string& service) {
  const auto bit = event::operation_bit;
  constexpr std::uint64_t kAll = ~std::uint64_t{0};
  Source s{.category = category, .product = product, .service = service};
  if (!product.empty() && product != "linux") {
    return util::fail(EX_CONFIG, fmt::format("the events are those of Linux, not of '{}'", product));
  }
  if (category.empty()) {
    if (service == "auditd") {
      s.dialect = Dialect::kAuditd;
      s.operations = kAll;
      return s;
    }
    if (service == "vfsguard") {
      s.operations = kAll;
      return s;
    }
    return util::fail(
        EX_CONFIG, service.empty()
                       ? "a logsource needs a category (process_creation, file_event, ...) or a service (auditd, vfsguard)"
                       : fmt::format("the log of '{}' is not read; what is known is what programs do (categories process_creation, file_event, ...)", service));
  }
  if (!service.empty() && service != "vfsguard") {
    return util::fail(EX_CONFIG, fmt::format("the log of '{}' is not read; a category stands by itself", service));
  }
  struct Known {
    std::string_view name;
    std::uint64_t operations;
    bool succeeded;
    bool writing;
  };
  const Known known[] = {
      {"process_creation", bit(VG_OP_EXEC), true, false},
      {"file_event", bit(VG_OP_CREATE) | bit(VG_OP_OPEN) | bit(VG_OP_RENAME) | bit(VG_OP_LINK) | bit(VG_OP_SYMLINK) | bit(VG_OP_MKNOD) | bit(VG_OP_TRUNCATE),
       true, true},
      {"file_access", bit(VG_OP_OPEN) | bit(VG_OP_CREATE), false, false},
      {"file_delete", bit(VG_OP_UNLINK) | bit(VG_OP_RMDIR), true, false},
      {"file_rename", bit(VG_OP_RENAME), true, false},
      {"file_change",
       bit(VG_OP_CHMOD) | bit(VG_OP_CHOWN) | bit(VG_OP_UTIMES) | bit(VG_OP_SETXATTR) | bit(VG_OP_REMOVEXATTR) | bit(VG_OP_TRUNCATE) | bit(VG_OP_IOCTL), true,
       false},
      {"network_connection", bit(VG_OP_CONNECT), false, false},
  };
  for (const Known& one : known) {
    if (one.name == category) {
      s.operations = one.operations;
      s.succeeded = one.succeeded;
      s.writing = one.writing;
      s.networked = one.operations == bit(VG_OP_CONNECT);
      return s;
    }
  }
  std::vector<std::string_view> names;
  for (const Known& one : known) {
    names.push_back(one.name);
  }
  return util::fail(EX_CONFIG, fmt::format("no events of category '{}' are seen here; {}", category, util::suggestion(category, names)));
}

}  // namespace vfsguard::detect
