// SPDX-License-Identifier: Apache-2.0
#include "detect/correlate.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "util/suggestion.h"

namespace vfsguard::detect {

namespace {

constexpr int kDeepestChain = 16;

bool is_temporal(Correlation::Kind kind) { return kind == Correlation::Kind::kTemporal || kind == Correlation::Kind::kTemporalOrdered; }

bool holds(const Correlation::Bound& bound, double value) {
  switch (bound.test) {
    case Test::kGreater: return value > bound.value;
    case Test::kLess: return value < bound.value;
    case Test::kLessOrEqual: return value <= bound.value;
    case Test::kEqual: return value == bound.value;
    default: return value >= bound.value;
  }
}

bool all_hold(const Correlation& c, double value) {
  return std::ranges::all_of(c.bounds, [&](const Correlation::Bound& bound) { return holds(bound, value); });
}

// How many matches may have to be kept to tell.
double most_needed(const Correlation& c) {
  double most = 1;
  for (const Correlation::Bound& bound : c.bounds) {
    most = std::max(most, bound.value + (bound.test == Test::kGreater || bound.test == Test::kLessOrEqual ? 1 : 0));
  }
  return most;
}

bool is_rate(const Correlation& c) { return c.kind == Correlation::Kind::kEventCount && most_needed(c) > static_cast<double>(Correlator::kExact); }

// FNV-1a, twice with different beginnings: 128 bits stand for the texts.
struct Hash {
  std::uint64_t high = 0xcbf29ce484222325u;
  std::uint64_t low = 0x84222325cbf29ce4u;
  void add(std::string_view text) {
    for (const char c : text) {
      byte(static_cast<unsigned char>(c));
    }
    byte(0);
  }
  void byte(unsigned char c) {
    high = (high ^ c) * 0x100000001b3u;
    low = (low ^ (c + 0x5bu)) * 0x9e3779b97f4a7c15u;
    low ^= low >> 29;
  }
};

util::Error wrong(const Correlation& c, std::string_view why) {
  return {fmt::format("{}:{}:1: correlation '{}': {}", c.head.file, c.head.line, c.head.title, why), EX_CONFIG, 0};
}

}  // namespace

util::Result<Correlator> Correlator::open(const std::vector<Rule>& rules, std::vector<Correlation> correlations, Options options) {
  Correlator made;
  made.correlations_ = std::move(correlations);
  made.options_ = options;
  if (auto ok = made.resolve(rules); !ok) {
    return util::pass_on(ok.error());
  }
  return made;
}

util::Result<void> Correlator::resolve(const std::vector<Rule>& rules) {
  rules_ = static_cast<std::uint32_t>(rules.size());
  const std::size_t nodes = rules.size() + correlations_.size();
  uses_.resize(nodes);
  quiet_.assign(nodes, false);
  std::vector<bool> told(nodes, false);
  std::vector<std::string_view> names;
  for (const Rule& rule : rules) {
    names.push_back(rule.head.label());
  }
  for (std::uint32_t c = 0; c < correlations_.size(); ++c) {
    const Correlation& one = correlations_[c];
    auto& rates = rates_.emplace_back();
    if (is_rate(one)) {
      rates.emplace(one.timespan_ns / Rates::kBuckets, most_needed(one));
    }
    auto& refers = nodes_.emplace_back();
    for (const std::string& reference : one.rules) {
      std::uint32_t node = 0;
      while (node < nodes && !(node < rules_ ? rules[node].head : correlations_[node - rules_].head).is(reference)) {
        ++node;
      }
      if (node == nodes) {
        return util::pass_on(wrong(one, fmt::format("there is no rule with the id or name '{}'; {}", reference, util::suggestion(reference, names))));
      }
      uses_[node].push_back({c, static_cast<std::uint32_t>(refers.size())});
      refers.push_back(node);
      quiet_[node] = true;
      told[node] = told[node] || one.generates;
    }
    for (const auto& [alias, fields] : one.aliases) {
      for (const auto& [rule, field] : fields) {
        if (std::ranges::find(one.rules, rule) == one.rules.end()) {
          return util::pass_on(wrong(one, fmt::format("alias '{}' names '{}', which is not among its rules", alias, rule)));
        }
      }
    }
  }
  for (std::size_t node = 0; node < nodes; ++node) {
    quiet_[node] = quiet_[node] && !told[node];
  }
  // Circles: follow the references down.
  std::vector<int> state(correlations_.size(), 0);  // 1: on the way, 2: done
  std::function<bool(std::uint32_t, int)> round = [&](std::uint32_t c, int depth) {
    if (state[c] == 1 || depth > kDeepestChain) {
      return true;
    }
    if (state[c] == 2) {
      return false;
    }
    state[c] = 1;
    const bool found = std::ranges::any_of(nodes_[c], [&](std::uint32_t node) { return node >= rules_ && round(node - rules_, depth + 1); });
    state[c] = 2;
    return found;
  };
  for (std::uint32_t c = 0; c < correlations_.size(); ++c) {
    if (round(c, 0)) {
      return util::pass_on(wrong(correlations_[c], fmt::format("it refers to itself through others, or through more than {} of them", kDeepestChain)));
    }
  }
  return {};
}

void Correlator::note(std::uint32_t rule, std::uint64_t time_ns, std::uint64_t seq, std::uint32_t cpu, const Field& field, std::vector<Fired>& fired) {
  if (rule >= uses_.size() || uses_[rule].empty() || !keeps_up(time_ns)) {
    return;
  }
  note_at(rule, {time_ns, seq, cpu, rule}, field, fired, 0);
}

// False: too late to take part.
bool Correlator::keeps_up(std::uint64_t time_ns) {
  if (time_ns + options_.late_ns >= newest_ns_) {
    newest_ns_ = std::max(newest_ns_, time_ns);
    behind_ns_ = 0;
    return true;
  }
  const bool again = behind_ns_ != 0 && time_ns + options_.late_ns >= behind_ns_;
  behind_ns_ = time_ns;
  if (!again) {
    ++counters_.late;
    return false;
  }
  // The second in a row, and they agree: it is the clock.
  ++counters_.clock_steps;
  newest_ns_ = time_ns;
  behind_ns_ = 0;
  groups_.clear();
  by_key_.clear();
  for (std::optional<Rates>& rates : rates_) {
    if (rates) {
      rates->clear();
    }
  }
  bytes_ = 0;
  return true;
}

std::optional<std::string> Correlator::value_of(const Correlation& c, std::uint32_t place, const std::string& name, const Field& field) const {
  const auto alias = c.aliases.find(name);
  if (alias == c.aliases.end()) {
    return field(name);
  }
  const auto of_rule = alias->second.find(c.rules[place]);
  return of_rule == alias->second.end() ? std::nullopt : field(of_rule->second);
}

std::size_t Correlator::size_of(const Group& group) const {
  // A list node, a hash node and its bucket, and what the vectors hold.
  return sizeof(Group) + 16 + sizeof(Key) + 40 + group.entries.capacity() * sizeof(Entry);
}

Correlator::Group& Correlator::group_of(const Key& key, std::uint64_t time_ns) {
  const auto known = by_key_.find(key);
  if (known != by_key_.end()) {
    groups_.splice(groups_.begin(), groups_, known->second);
    return groups_.front();
  }
  groups_.emplace_front();
  groups_.front().key = key;
  groups_.front().newest_ns = time_ns;
  by_key_.emplace(key, groups_.begin());
  bytes_ += size_of(groups_.front());
  return groups_.front();
}

std::size_t Correlator::groups() const {
  std::size_t sum = by_key_.size();
  for (const std::optional<Rates>& rates : rates_) {
    sum += rates ? rates->size() : 0;
  }
  return sum;
}

std::size_t Correlator::bytes() const {
  std::size_t sum = bytes_;
  for (const std::optional<Rates>& rates : rates_) {
    sum += rates ? rates->bytes() : 0;
  }
  return sum;
}

// What no match can reach any more goes, and what was touched longest ago as long as there is too much; never the last one.
void Correlator::make_room(std::uint64_t now_ns) {
  const auto over = [&](std::uint64_t newest_ns, std::uint32_t correlation) {
    return newest_ns + correlations_[correlation].timespan_ns + options_.late_ns < now_ns;
  };
  for (std::size_t left = groups(); left > 1; --left) {
    const bool full = bytes() > options_.memory;
    std::uint64_t oldest_ns = ~std::uint64_t{0};
    std::optional<std::uint32_t> of_rates;
    bool goes = false;
    if (!groups_.empty()) {
      oldest_ns = groups_.back().newest_ns;
      goes = over(oldest_ns, groups_.back().key.correlation);
    }
    for (std::uint32_t c = 0; !goes && c < rates_.size(); ++c) {
      if (!rates_[c] || rates_[c]->oldest() == Rates::kNone) {
        continue;
      }
      const std::uint64_t newest_ns = rates_[c]->newest_ns(rates_[c]->oldest(), now_ns);
      goes = over(newest_ns + correlations_[c].timespan_ns / Rates::kBuckets, c);
      if (goes || newest_ns < oldest_ns) {
        oldest_ns = newest_ns;
        of_rates = c;
      }
    }
    if (!goes && !full) {
      return;
    }
    counters_.evicted += goes ? 0 : 1;
    if (of_rates) {
      rates_[*of_rates]->erase(rates_[*of_rates]->oldest());
    } else {
      const Group& oldest = groups_.back();
      bytes_ -= std::min(bytes_, size_of(oldest));
      by_key_.erase(oldest.key);
      groups_.pop_back();
    }
  }
}

// Marks are numbers from 1 on; a match that more than kNoted others followed is not known any more.
const Correlator::Noted* Correlator::noted(std::uint32_t mark, std::uint32_t slot) const {
  if (mark == 0 || noted_so_far_ - mark >= kNoted) {
    return nullptr;
  }
  const Noted& one = noted_[mark % kNoted];
  return one.slot == slot ? &one : nullptr;
}

void Correlator::remember(Rates& rates, std::uint32_t slot, const Contribution& from) {
  noted_.resize(kNoted);
  noted_so_far_ += noted_so_far_ == ~0u ? 2 : 1;
  noted_[noted_so_far_ % kNoted] = {from, slot, std::exchange(rates.mark(slot), noted_so_far_)};
}

// Keeps the entries in order of time and drops what no window can reach any more.
void Correlator::add(const Correlation& c, Group& group, Entry entry) {
  group.newest_ns = std::max(group.newest_ns, entry.from.time_ns);
  auto& all = group.entries;
  const std::uint64_t horizon = group.newest_ns - std::min(group.newest_ns, c.timespan_ns + options_.late_ns);
  std::erase_if(all, [&](const Entry& old) { return old.from.time_ns < horizon; });
  if (c.kind == Correlation::Kind::kValueCount) {
    // One entry a value: when it was seen last.
    std::erase_if(all, [&](const Entry& old) { return old.hash == entry.hash && old.from.time_ns <= entry.from.time_ns; });
  }
  if (all.size() >= kSamples) {
    all.erase(all.begin());
    ++counters_.samples_left_out;
  }
  const auto at = std::ranges::upper_bound(all, entry.from.time_ns, {}, [](const Entry& e) { return e.from.time_ns; });
  all.insert(at, entry);
}

// What the window that ends at `end` comes to; none: the bounds do not hold of it.
std::optional<double> Correlator::reached(const Correlation& c, const std::vector<std::uint32_t>& nodes, const Group& group, std::uint64_t end) const {
  const std::uint64_t begin = end - std::min(end, c.timespan_ns);
  std::vector<double> values;
  double value = 0;
  if (c.kind == Correlation::Kind::kTemporalOrdered) {
    // From the last rule back: the latest of each that is not after the one behind it.
    std::uint64_t before = end;
    for (std::size_t place = nodes.size(); place > 0; --place) {
      const auto it =
          std::find_if(group.entries.rbegin(), group.entries.rend(), [&](const Entry& e) { return e.from.node == place - 1 && e.from.time_ns <= before; });
      if (it == group.entries.rend() || it->from.time_ns < begin) {
        break;
      }
      before = it->from.time_ns;
      ++value;
    }
  } else {
    std::vector<bool> seen(nodes.size(), false);
    std::vector<std::uint64_t> hashes;
    for (const Entry& entry : group.entries) {
      if (entry.from.time_ns < begin || entry.from.time_ns > end) {
        continue;
      }
      switch (c.kind) {
        case Correlation::Kind::kTemporal:
          value += seen[entry.from.node] ? 0 : 1;
          seen[entry.from.node] = true;
          break;
        case Correlation::Kind::kValueCount:
          if (std::ranges::find(hashes, entry.hash) == hashes.end()) {
            hashes.push_back(entry.hash);
            ++value;
          }
          break;
        case Correlation::Kind::kEventCount: ++value; break;
        default: values.push_back(entry.value);
      }
    }
  }
  if (!values.empty()) {
    if (c.kind == Correlation::Kind::kValuePercentile) {
      // Nearest rank.
      std::ranges::sort(values);
      const auto rank = static_cast<std::size_t>(std::ceil(c.percentile / 100.0 * static_cast<double>(values.size())));
      value = values[std::min(rank > 0 ? rank - 1 : 0, values.size() - 1)];
    } else {
      for (const double one : values) {
        value += one;
      }
      if (c.kind == Correlation::Kind::kValueAverage) {
        value /= static_cast<double>(values.size());
      }
    }
  }
  return all_hold(c, value) ? std::optional(value) : std::nullopt;
}

std::optional<Fired> Correlator::note_exactly(const Use& use, const Key& key, const Entry& entry) {
  const Correlation& c = correlations_[use.correlation];
  const std::uint64_t time_ns = entry.from.time_ns;
  Group& group = group_of(key, time_ns);
  const std::size_t before = size_of(group);
  add(c, group, entry);
  bytes_ += size_of(group) - before;
  // A late one may complete any window that it lies in.
  std::optional<double> value = reached(c, nodes_[use.correlation], group, time_ns);
  std::uint64_t end = time_ns;
  for (std::size_t i = 0; !value && i < group.entries.size(); ++i) {
    const std::uint64_t other = group.entries[i].from.time_ns;
    if (other > time_ns && other - time_ns <= c.timespan_ns) {
      value = reached(c, nodes_[use.correlation], group, other);
      end = other;
    }
  }
  if (!value) {
    return std::nullopt;
  }
  Fired one{.correlation = use.correlation, .group = {}, .value = *value, .first_ns = end, .last_ns = end, .events = {}};
  const std::uint64_t begin = end - std::min(end, c.timespan_ns);
  for (const Entry& e : group.entries) {
    if (e.from.time_ns < begin || e.from.time_ns > end) {
      continue;
    }
    Contribution told = e.from;
    if (is_temporal(c.kind)) {
      told.node = nodes_[use.correlation][e.from.node];
    }
    one.events.push_back(told);
  }
  if (!one.events.empty()) {
    one.first_ns = one.events.front().time_ns;
  }
  if (one.events.size() > kTold) {
    one.events.erase(one.events.begin(), one.events.end() - static_cast<std::ptrdiff_t>(kTold));
  }
  // It begins anew.
  bytes_ -= std::min(bytes_, size_of(group));
  by_key_.erase(group.key);
  groups_.pop_front();
  return one;
}

std::optional<Fired> Correlator::note_rate(const Use& use, const Key& key, const Contribution& from) {
  const Correlation& c = correlations_[use.correlation];
  Rates& rates = *rates_[use.correlation];
  const std::uint32_t slot = rates.touch({key.high, key.low}, from.time_ns);
  rates.count(slot, from.time_ns);
  remember(rates, slot, from);
  const auto value = static_cast<double>(rates.total(slot));
  if (!all_hold(c, value)) {
    return std::nullopt;
  }
  Fired one{.correlation = use.correlation, .group = {}, .value = value, .first_ns = from.time_ns, .last_ns = from.time_ns, .events = {}};
  for (const Noted* last = noted(rates.mark(slot), slot); last != nullptr && one.events.size() < kTold; last = noted(last->before, slot)) {
    if (last->from.time_ns + c.timespan_ns >= from.time_ns) {
      one.events.push_back(last->from);
    }
  }
  std::ranges::sort(one.events, {}, &Contribution::time_ns);
  one.first_ns = one.events.front().time_ns;
  one.last_ns = one.events.back().time_ns;
  rates.erase(slot);
  return one;
}

void Correlator::note_at(std::uint32_t node, const Contribution& from, const Field& field, std::vector<Fired>& fired, int depth) {
  if (depth > kDeepestChain) {
    return;
  }
  for (const Use& use : uses_[node]) {
    const Correlation& c = correlations_[use.correlation];
    std::vector<std::pair<std::string, std::string>> group_values;
    Hash hash;
    bool complete = true;
    for (const std::string& name : c.group_by) {
      auto value = value_of(c, use.place, name, field);
      if (!value) {
        complete = false;
        break;
      }
      hash.add(*value);
      group_values.emplace_back(name, std::move(*value));
    }
    Entry entry{from, 0, 0};
    if (complete && !c.field.empty()) {
      const auto value = value_of(c, use.place, c.field, field);
      complete = value.has_value();
      if (value && c.kind == Correlation::Kind::kValueCount) {
        Hash of_value;
        of_value.add(*value);
        entry.hash = of_value.high;
      } else if (value) {
        const auto [end, error] = std::from_chars(value->data(), value->data() + value->size(), entry.value);
        complete = error == std::errc{} && end == value->data() + value->size();
      }
    }
    if (!complete) {
      ++counters_.incomplete;
      continue;
    }
    if (is_temporal(c.kind)) {
      entry.from.node = use.place;
    }
    const Key key{hash.high, hash.low, use.correlation};
    auto one = rates_[use.correlation] ? note_rate(use, key, from) : note_exactly(use, key, entry);
    if (one) {
      one->group = std::move(group_values);
      const std::uint32_t self = rules_ + use.correlation;
      if (!uses_[self].empty()) {
        const auto of_group = [&one](std::string_view name) -> std::optional<std::string> {
          const auto known = std::ranges::find(one->group, name, &std::pair<std::string, std::string>::first);
          return known == one->group.end() ? std::nullopt : std::optional(known->second);
        };
        note_at(self, {one->last_ns, from.seq, from.cpu, self}, of_group, fired, depth + 1);
      }
      fired.push_back(std::move(*one));
    } else {
      make_room(newest_ns_);
    }
  }
}

}  // namespace vfsguard::detect
