// SPDX-License-Identifier: Apache-2.0
#include "detect/detector.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "event/names.h"
#include "util/memory.h"
#include "util/suggestion.h"

namespace vfsguard::detect {

namespace {

constexpr std::size_t kMostWindows = 65536;

bool is_meant(const Head& head, const std::string& word) {
  if (word.starts_with("tag:")) {
    return std::ranges::find(head.tags, word.substr(4)) != head.tags.end();
  }
  return head.is(word) || word == head.title;
}

bool is_on(const Config& config, const Head& head) {
  const auto meant = [&](const std::string& word) { return is_meant(head, word); };
  return (config.enable.empty() || std::ranges::any_of(config.enable, meant)) && std::ranges::none_of(config.disable, meant);
}

void adjust(const Config& config, Head& head) {
  for (const auto& [word, severity] : config.severities) {
    if (is_meant(head, word)) {
      head.severity = severity;
    }
  }
}

}  // namespace

std::optional<std::string> field_text(const event::Operation& operation, std::string_view name, Dialect dialect) {
  auto key = find_field(name, dialect);
  if (!key && dialect != Dialect::kSigma) {
    key = find_field(name, Dialect::kSigma);
  }
  if (!key) {
    return std::nullopt;
  }
  std::string buffer;
  Values values;
  read_field(operation, *key, buffer, values);
  if (values.count == 0) {
    return std::nullopt;
  }
  return is_number(*key) ? std::to_string(values.number) : std::string(values.texts[0]);
}

std::string fill_message(std::string_view message, const Correlator::Field& field) {
  std::string out;
  for (std::size_t at = 0; at < message.size();) {
    const std::size_t begin = message.find('%', at);
    const std::size_t end = begin == std::string_view::npos ? begin : message.find('%', begin + 1);
    out += message.substr(at, end == std::string_view::npos ? end : begin - at);
    if (end == std::string_view::npos) {
      break;
    }
    const std::string_view name = message.substr(begin + 1, end - begin - 1);
    out += name.empty() ? "%" : field(name).value_or("-");
    at = end + 1;
  }
  return out;
}

Detector::Detector(std::vector<Rule> rules, std::vector<Filter> filters, Correlator correlator, const Config& config)
    : rules_(std::move(rules)), filters_(std::move(filters)), engine_(rules_, filters_), correlator_(std::move(correlator)), config_(config) {
  counts_.resize(rules_.size() + correlator_.correlations().size());
  for (std::size_t node = 0; node < counts_.size(); ++node) {
    Throttle throttle = config.throttle;
    for (const auto& [word, own] : config.throttles) {
      if (is_meant(head(node), word)) {
        throttle = own;
      }
    }
    throttles_.push_back(std::move(throttle));
    Response& response = responses_.emplace_back();
    for (const auto& [word, own] : config.responses) {
      if (is_meant(head(node), word)) {
        response = own;
        responds_ = true;
      }
    }
  }
  needs_ = find_needs();
}

void Detector::respond(std::uint32_t node, const event::Operation& operation) {
  const Response& response = responses_[node];
  if (!response.any()) {
    return;
  }
  const std::string exe = operation.process && operation.process->exe ? *operation.process->exe : "";
  const bool spared =
      std::ranges::any_of(config_.spared, [&](const std::string& word) { return exe == word || (!word.starts_with('/') && exe.ends_with("/" + word)); });
  // What the policy has refused already needs no further refusal.
  const bool refused = operation.raw.verdict != VG_VERDICT_NONE;
  actions_.push_back({node,
                      {response.kill && !spared, response.deny && !refused},
                      operation.raw.pid,
                      operation.raw.start_ns,
                      exe,
                      field_text(operation, "TargetFilename", Dialect::kSigma).value_or(""),
                      operation.raw.time_ns});
}

namespace {

// What the configuration names and is not there.
void refuse_unknown(const Config& config, const Lists& lists, RuleSet& set) {
  std::vector<const Head*> heads;
  const auto add = [&](const auto& all) {
    for (const auto& one : all) {
      heads.push_back(&one.head);
    }
  };
  add(set.rules);
  add(set.correlations);
  add(set.filters);
  std::vector<std::string_view> names;
  std::ranges::transform(heads, std::back_inserter(names), [](const Head* head) { return std::string_view(head->label()); });
  for (const Mention& m : config.mentions) {
    std::string why;
    if (m.key == "lists") {
      if (!lists.contains(m.word)) {
        std::vector<std::string_view> known;
        std::ranges::transform(lists, std::back_inserter(known), [](const auto& list) { return std::string_view(list.first); });
        why = fmt::format("there is no list '{}' to add to; {}", m.word, util::suggestion(m.word, known));
      }
    } else if (!m.word.starts_with("tag:") && std::ranges::none_of(heads, [&](const Head* head) { return is_meant(*head, m.word); })) {
      std::string near = util::suggestion(m.word, names);
      why = fmt::format("'{}' names '{}', which is no rule's name, id or title; {}", m.key, m.word,
                        near.starts_with("known:") ? "vfsguard rules list lists them" : near);
    } else if (m.key == "response" && std::ranges::any_of(set.correlations, [&](const Correlation& c) { return is_meant(c.head, m.word) && fires_late(c); })) {
      why = fmt::format("'{}' fires when its time is over: no event completes it, so there is no process to kill and no object to refuse", m.word);
    }
    if (!why.empty()) {
      set.refused.push_back({fmt::format("{}:{}:{}: {}", config.file, m.line, m.column, why), EX_CONFIG, 0});
    }
  }
}

}  // namespace

util::Result<std::unique_ptr<Detector>> Detector::open(const Config& config, const Options& options) {
  RuleSet set;
  std::vector<std::string> paths = config.rules;
  paths.insert(paths.end(), options.rules.begin(), options.rules.end());
  Lists lists = config.lists;
  for (const std::string& path : paths) {
    if (auto ok = load_lists(path, lists); !ok) {
      return util::pass_on(ok.error());
    }
  }
  const Lists before = lists;
  for (const auto& [name, values] : config.more) {
    auto& list = lists[name];
    list.insert(list.end(), values.begin(), values.end());
  }
  for (const std::string& path : paths) {
    if (auto ok = load_rules(path, lists, set); !ok) {
      return util::pass_on(ok.error());
    }
  }
  refuse_duplicates(set);
  refuse_unknown(config, before, set);
  std::erase_if(set.rules, [&](const Rule& rule) { return !is_on(config, rule.head); });
  std::erase_if(set.correlations, [&](const Correlation& c) { return !is_on(config, c.head); });
  std::erase_if(set.filters, [&](const Filter& f) { return !is_on(config, f.head); });
  for (Rule& rule : set.rules) {
    adjust(config, rule.head);
  }
  for (Correlation& c : set.correlations) {
    adjust(config, c.head);
  }
  auto correlator = Correlator::open(set.rules, set.correlations, config.limits);
  // One that refers to what is not there goes, and what refers to it: until the rest holds together.
  while (!correlator && options.keep_going && !set.correlations.empty()) {
    const std::string prefix = correlator.error().message;
    const auto wrong =
        std::ranges::find_if(set.correlations, [&](const Correlation& c) { return prefix.starts_with(fmt::format("{}:{}:", c.head.file, c.head.line)); });
    set.refused.push_back(correlator.error());
    set.correlations.erase(wrong != set.correlations.end() ? wrong : set.correlations.begin());
    correlator = Correlator::open(set.rules, set.correlations, config.limits);
  }
  if (!correlator) {
    set.refused.push_back(correlator.error());
  }
  if (!correlator || (!set.refused.empty() && !options.keep_going)) {
    std::string all;
    for (const util::Error& error : set.refused) {
      all += (all.empty() ? "" : "\n") + error.message;
    }
    return util::fail(EX_CONFIG, all);
  }
  auto detector = std::unique_ptr<Detector>(new Detector(std::move(set.rules), std::move(set.filters), std::move(*correlator), config));
  detector->refused_ = std::move(set.refused);
  return detector;
}

// What was held back is told when its time is over.
void Detector::close(const Window& window, std::vector<event::Alert>& alerts) const {
  if (window.held_back == 0) {
    return;
  }
  const Head& h = head(window.node);
  event::Alert& alert = alerts.emplace_back();
  alert.kind = event::Alert::Kind::kHeldBack;
  alert.rule = h.label();
  alert.severity = severity_name(h.severity);
  alert.value = static_cast<double>(window.held_back);
  alert.time_ns = window.last_ns;
  alert.first_ns = window.first_ns;
  alert.last_ns = window.last_ns;
  alert.message = fmt::format("{} more alerts of this rule were held back by its throttle", window.held_back);
}

bool Detector::passes(std::uint32_t node, std::uint64_t now, const Correlator::Field& field, std::vector<event::Alert>& alerts) {
  const Throttle* throttle = throttle_of(node);
  if (throttle == nullptr) {
    return true;
  }
  std::string key = std::to_string(node);
  for (const std::string& name : throttle->by) {
    key += '\0';
    key += field(name).value_or("");
  }
  if (windows_.size() >= kMostWindows && !windows_.contains(key)) {
    for (const auto& [unused, window] : windows_) {
      close(window, alerts);
    }
    windows_.clear();
  }
  Window& window = windows_[key];
  if (window.told == 0 || now >= window.begins_ns + throttle->per_ns || now + throttle->per_ns < window.begins_ns) {
    close(window, alerts);
    window = {node, now, 1, 0, 0, 0, now + throttle->per_ns};
    return true;
  }
  if (window.told < throttle->alerts) {
    ++window.told;
    return true;
  }
  window.first_ns = window.held_back == 0 ? now : window.first_ns;
  window.last_ns = now;
  ++window.held_back;
  return false;
}

bool Detector::expire(std::uint64_t now_ns, bool caught_up, std::vector<event::Alert>& alerts) {
  if (caught_up) {
    decide_late(now_ns, alerts);
  }
  bool left = correlator_.waits();
  for (auto it = windows_.begin(); it != windows_.end();) {
    if (it->second.ends_ns < now_ns) {
      close(it->second, alerts);
      it = windows_.erase(it);
      continue;
    }
    left = left || it->second.held_back > 0;
    ++it;
  }
  return left;
}

void Detector::finish(std::vector<event::Alert>& alerts) {
  for (const auto& [key, window] : windows_) {
    close(window, alerts);
  }
  windows_.clear();
}

void Detector::decide_late(std::uint64_t now_ns, std::vector<event::Alert>& alerts) {
  if (!correlator_.waits()) {
    return;
  }
  fired_.clear();
  correlator_.advance(now_ns, fired_);
  for (const Fired& one : fired_) {
    tell(one, nullptr, alerts);
  }
}

void Detector::tell(const Fired& fired, const event::Operation* last, std::vector<event::Alert>& alerts) {
  const auto node = static_cast<std::uint32_t>(rules_.size()) + fired.correlation;
  const Correlation& c = correlator_.correlations()[fired.correlation];
  Count& count = counts_[node];
  ++count.matched;
  if (correlator_.takes(node)) {
    ++count.taken;
    return;
  }
  const Correlator::Field field = [&](std::string_view name) {
    auto value = value_in(fired.group, name);
    return value || last == nullptr ? value : field_text(*last, name, Dialect::kSigma);
  };
  if (last != nullptr) {
    respond(node, *last);
  }
  const std::uint64_t time_ns = last != nullptr ? last->raw.time_ns : fired.last_ns;
  if (!passes(node, time_ns, field, alerts)) {
    ++count.held_back;
    return;
  }
  ++count.told;
  event::Alert& alert = alerts.emplace_back();
  alert.rule = c.head.label();
  alert.severity = severity_name(c.head.severity);
  alert.tags = c.head.tags;
  alert.type = kind_name(c.kind);
  alert.group = fired.group;
  alert.value = fired.value;
  alert.time_ns = time_ns;
  alert.first_ns = fired.first_ns;
  alert.last_ns = fired.last_ns;
  for (const Contribution& from : fired.events) {
    alert.events.push_back({head(from.node).label(), from.time_ns, from.seq, from.cpu});
  }
  alert.message = fill_message(c.head.message.empty() ? c.head.title : c.head.message, [&](std::string_view name) -> std::optional<std::string> {
    return name == "count" ? std::optional(fmt::format("{}", fired.value)) : field(name);
  });
}

void Detector::look(event::Operation& operation, std::vector<event::Alert>& alerts) {
  operation.detected.reset();
  ++looked_at_;
  decide_late(operation.raw.time_ns, alerts);
  const auto matched = engine_.match(operation);
  if (matched.empty()) {
    return;
  }
  const Rule* first = nullptr;
  for (const std::uint32_t place : matched) {
    const Rule& rule = rules_[place];
    Count& count = counts_[place];
    ++count.matched;
    fired_.clear();
    correlator_.note(
        place, operation.raw.time_ns, operation.raw.seq, operation.raw.head.cpu,
        [&](std::string_view name) { return field_text(operation, name, rule.source.dialect); }, fired_);
    for (const Fired& one : fired_) {
      tell(one, one.over ? nullptr : &operation, alerts);
    }
    if (correlator_.takes(place)) {
      ++count.taken;
      continue;
    }
    respond(place, operation);
    const auto field = [&](std::string_view name) { return field_text(operation, name, Dialect::kSigma); };
    if (!passes(place, operation.raw.time_ns, field, alerts)) {
      ++count.held_back;
      continue;
    }
    ++count.told;
    event::Detected& detected = operation.detected ? *operation.detected : operation.detected.emplace();
    const bool leads = first == nullptr || rule.head.severity > first->head.severity;
    first = leads ? &rule : first;
    detected.rules.insert(leads ? detected.rules.begin() : detected.rules.end(), rule.head.label());
    for (const std::string& tag : rule.head.tags) {
      if (std::ranges::find(detected.tags, tag) == detected.tags.end()) {
        detected.tags.push_back(tag);
      }
    }
  }
  if (first != nullptr) {
    operation.detected->severity = severity_name(first->head.severity);
    operation.detected->message = fill_message(first->head.message.empty() ? first->head.title : first->head.message,
                                               [&](std::string_view name) { return field_text(operation, name, first->source.dialect); });
  }
}

AllNeeds Detector::find_needs() const {
  AllNeeds all;
  std::map<std::string, std::uint64_t> places;
  bool any_open = false;
  for (const Rule& rule : rules_) {
    const Needs needs = needs_of(rule);
    if (!needs.any_path) {
      all.operations |= needs.operations;
      for (const std::string& glob : needs.globs) {
        places[glob] |= needs.operations;
      }
      continue;
    }
    // Of reads, writes and maps every one of the machine would be too many: they are followed where rules name paths.
    const std::uint64_t anywhere = needs.operations & ~(event::kAccesses | event::operation_bit(VG_OP_MMAP));
    all.operations |= anywhere;
    all.anywhere |= anywhere;
    any_open = any_open || ((anywhere & event::operation_bit(VG_OP_OPEN)) != 0 && !rule.source.writing);
  }
  all.opens_that_write = (all.anywhere & event::operation_bit(VG_OP_OPEN)) != 0 && !any_open;
  for (auto& [glob, operations] : places) {
    all.places.push_back({glob, operations});
  }
  return all;
}

void Detector::forget_conditions() {
  for (Rule& rule : rules_) {
    util::free_memory_of(rule.atoms);
    rule.condition = {};
  }
}

bool Detector::wants_digests() const {
  return std::ranges::any_of(rules_, [](const Rule& rule) {
    return std::ranges::any_of(rule.atoms, [](const Atom& atom) { return atom.field.field == Field::kHashes || atom.field.field == Field::kExeHash; });
  });
}

std::vector<std::string> Detector::files() const {
  std::vector<std::string> all;
  for (std::size_t node = 0; node < counts_.size(); ++node) {
    all.push_back(head(node).file);
  }
  for (const Filter& filter : filters_) {
    all.push_back(filter.head.file);
  }
  if (!config_.file.empty()) {
    all.push_back(config_.file);
  }
  return all;
}

namespace {

// What a mechanism keeps from a rule that could match elsewhere.
std::string lacking(const Rule& rule, const Blindness& blindness, std::string_view mechanism) {
  const std::uint64_t wanted = needs_of(rule).operations;
  if ((wanted & ~blindness.unseen) == 0) {
    return fmt::format("hook={} does not see '{}' here", mechanism, event::operation_names(wanted));
  }
  const auto field = std::ranges::find_if(rule.atoms, [](const Atom& atom) { return is_of_object(atom.field); });
  return fmt::format("hook={} tells only the names of '{}', not {}", mechanism, event::operation_names(wanted & ~blindness.unseen),
                     field != rule.atoms.end() ? field_name(field->field, rule.source.dialect) : "the object");
}

}  // namespace

std::vector<std::string> Detector::never_match(const Blindness& blindness) const {
  std::vector<std::string> names;
  for (const Rule& rule : rules_) {
    if (needs_of(rule).operations != 0 && needs_of(rule, blindness).operations == 0) {
      names.push_back(rule.head.label());
    }
  }
  return names;
}

std::vector<std::string> Detector::review(const Blindness& blindness, std::string_view mechanism) const {
  std::vector<std::string> notes;
  const auto known = [&](const std::string& word) {
    for (std::size_t node = 0; node < counts_.size(); ++node) {
      if (is_meant(head(node), word)) {
        return true;
      }
    }
    return std::ranges::any_of(filters_, [&](const Filter& f) { return is_meant(f.head, word); });
  };
  for (const Filter& filter : filters_) {
    for (const std::string& word : filter.rules) {
      if (!known(word)) {
        notes.push_back(
            fmt::format("{}:{}:1: filter '{}' is about '{}', which is no rule that is on", filter.head.file, filter.head.line, filter.head.title, word));
      }
    }
  }
  for (const Rule& rule : rules_) {
    for (const std::string& part : rule.unused) {
      notes.push_back(fmt::format("{}:{}:1: rule '{}': no condition names '{}'", rule.head.file, rule.head.line, rule.head.title, part));
    }
    const Needs needs = needs_of(rule);
    const std::string where = fmt::format("{}:{}:1: rule '{}'", rule.head.file, rule.head.line, rule.head.title);
    if (needs.operations == 0) {
      const auto unknown = std::ranges::find_if(rule.atoms, [](const Atom& atom) { return !never_there(atom).empty(); });
      notes.push_back(unknown != rule.atoms.end() ? fmt::format("{} can never match for its {}{}: {}", where, field_name(unknown->field, rule.source.dialect),
                                                                unknown->text.empty() ? "" : fmt::format(" '{}'", unknown->text), never_there(*unknown))
                                                  : fmt::format("{} can never match: no operation of its logsource is what it asks for", where));
    } else if (needs_of(rule, blindness).operations == 0) {
      notes.push_back(fmt::format("{} can never match on this machine: {}", where, lacking(rule, blindness, mechanism)));
    }
    if (const std::uint64_t many = needs.operations & (event::kAccesses | event::operation_bit(VG_OP_MMAP)); needs.any_path && many != 0) {
      notes.push_back(fmt::format("{} is not told of '{}': these are followed only where a rule names paths", where, event::operation_names(many)));
    }
  }
  for (const Correlation& c : correlator_.correlations()) {
    for (const std::string& rule : c.unused) {
      notes.push_back(fmt::format("{}:{}:1: correlation '{}': its condition does not name '{}'", c.head.file, c.head.line, c.head.title, rule));
    }
  }
  return notes;
}

}  // namespace vfsguard::detect
