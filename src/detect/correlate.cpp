// SPDX-License-Identifier: Apache-2.0
#include "detect/correlate.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "detect/condition.h"
#include "util/suggestion.h"

namespace vfsguard::detect {

namespace {

constexpr int kDeepestChain = 16;
// What a group that is full is condensed to: so many parts of its time, and in each so many of its values.
constexpr std::uint64_t kSumParts = 256;
constexpr std::uint64_t kSampleParts = 64;
constexpr std::uint64_t kSamplesOfPart = 8;
static_assert(kMostValues < Correlator::kSamples, "a group keeps each value that a value_count may ask for");

bool is_temporal(Correlation::Kind kind) { return kind == Correlation::Kind::kTemporal || kind == Correlation::Kind::kTemporalOrdered; }

bool holds(const Correlation::Bound& bound, double value) {
  switch (bound.test) {
    case Test::kGreater: return value > bound.value;
    case Test::kLess: return value < bound.value;
    case Test::kLessOrEqual: return value <= bound.value;
    case Test::kEqual: return (value == bound.value) != bound.differs;
    default: return value >= bound.value;
  }
}

bool all_hold(const Correlation& c, double value) {
  return std::ranges::all_of(c.bounds, [&](const Correlation::Bound& bound) { return holds(bound, value); });
}

bool is_sample(Correlation::Kind kind) { return kind == Correlation::Kind::kValuePercentile || kind == Correlation::Kind::kValueMedian; }

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

// Whether a count of up to `most` can be.
bool is_enough(const Correlation& c, double most) {
  return std::ranges::all_of(c.bounds, [&](const Correlation::Bound& bound) {
    return bound.differs || bound.test == Test::kLess || bound.test == Test::kLessOrEqual ||
           (bound.test == Test::kGreater ? most > bound.value : most >= bound.value);
  });
}

// A value and how many have it.
using Weighed = std::pair<double, std::uint64_t>;

// The value that `rank` of all, from 1 on, have at most. In time linear in their number; changes their order.
double ranked(std::span<Weighed> values, std::uint64_t rank) {
  while (values.size() > 1) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::ranges::nth_element(values, middle, {}, &Weighed::first);
    std::uint64_t below = 0;
    for (auto it = values.begin(); it != middle; ++it) {
      below += it->second;
    }
    if (rank <= below) {
      values = values.first(values.size() / 2);
    } else if (rank <= below + middle->second) {
      return middle->first;
    } else {
      rank -= below + middle->second;
      values = values.subspan(values.size() / 2 + 1);
    }
  }
  return values.empty() ? 0 : values.front().first;
}

// Whether the bounds can hold of a value between those of two ranks, without looking for them: in one pass a bound.
bool may_hold(const Correlation& c, std::span<const Weighed> values, std::uint64_t low, std::uint64_t high) {
  return std::ranges::all_of(c.bounds, [&](const Correlation::Bound& bound) {
    std::uint64_t below = 0;
    std::uint64_t equal = 0;
    for (const auto& [value, count] : values) {
      below += value < bound.value ? count : 0;
      equal += value == bound.value ? count : 0;
    }
    switch (bound.test) {
      case Test::kGreater: return below + equal < high;
      case Test::kLess: return below >= low;
      case Test::kLessOrEqual: return below + equal >= low;
      case Test::kEqual: return bound.differs || (below < high && below + equal >= low);
      default: return below < high;
    }
  });
}

util::Error wrong(const Correlation& c, std::string_view why) {
  return {fmt::format("{}:{}:1: correlation '{}': {}", c.head.file, c.head.line, c.head.title, why), EX_CONFIG, 0};
}

}  // namespace

std::optional<std::string> value_in(const GroupValues& group, std::string_view name) {
  const auto known = std::ranges::find(group, name, &GroupValues::value_type::first);
  return known == group.end() ? std::nullopt : std::optional(known->second);
}

bool fires_late(const Correlation& correlation) {
  std::vector<bool> asserted(correlation.rules.size(), false);
  return correlation.condition && mark_asserted(*correlation.condition, asserted);
}

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
    auto& asserted = asserted_.emplace_back(one.rules.size(), false);
    late_.push_back(one.condition && mark_asserted(*one.condition, asserted));
    for (const std::string& reference : one.rules) {
      std::uint32_t node = 0;
      while (node < nodes && !(node < rules_ ? rules[node].head : correlations_[node - rules_].head).is(reference)) {
        ++node;
      }
      if (node == nodes) {
        return util::pass_on(wrong(one, fmt::format("there is no rule with the id or name '{}'; {}", reference, util::suggestion(reference, names))));
      }
      if (std::ranges::find(refers, node) != refers.end()) {
        return util::pass_on(wrong(one, fmt::format("'{}' is a rule that it names already", reference)));
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
  due_.clear();
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
  std::size_t size = sizeof(Group) + 16 + sizeof(Key) + 40 + group.entries.capacity() * sizeof(Entry);
  if (group.waiting) {
    size += sizeof(Waiting) + sizeof(decltype(due_)::value_type) + 32;
    for (const auto& [name, value] : group.waiting->values) {
      size += sizeof(GroupValues::value_type) + name.size() + value.size();
    }
  }
  return size;
}

void Correlator::drop(Groups::iterator group) {
  bytes_ -= std::min(bytes_, size_of(*group));
  if (group->waiting) {
    due_.erase({group->waiting->due_ns, group->key});
  }
  by_key_.erase(group->key);
  groups_.erase(group);
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
      drop(std::prev(groups_.end()));
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

// Entries of one part of the time become few: with their sum, or values that stand for as many others each. Returns whether that made them fewer.
bool Correlator::condense(const Correlation& c, std::vector<Entry>& entries) const {
  const std::uint64_t parts = is_sample(c.kind) ? kSampleParts : kSumParts;
  const std::uint64_t of_part = is_sample(c.kind) ? kSamplesOfPart : 1;
  const std::uint64_t width = std::max<std::uint64_t>((c.timespan_ns + options_.late_ns) / parts, 1);
  std::vector<Entry> fewer;
  for (auto begin = entries.begin(); begin != entries.end();) {
    const std::uint64_t part = begin->from.time_ns / width;
    const auto end = std::find_if(begin, entries.end(), [&](const Entry& e) { return e.from.time_ns / width != part; });
    if (static_cast<std::uint64_t>(end - begin) <= of_part) {
      fewer.insert(fewer.end(), begin, end);
      begin = end;
      continue;
    }
    const Contribution first = begin->from;
    std::uint64_t left = 0;
    for (auto it = begin; it != end; ++it) {
      left += it->number;
    }
    std::sort(begin, end, [](const Entry& a, const Entry& b) { return a.value < b.value; });
    for (std::uint64_t of = of_part; of > 0 && begin != end; --of) {
      // The next of as many shares as are left. What stands for it is one of its values, by a place that differs from part to part, so that together they
      // rank as all would.
      const std::uint64_t share = std::max<std::uint64_t>(left / of, 1);
      const std::uint64_t place = 1 + ((part * kSamplesOfPart + of) * 0x9e3779b97f4a7c15u >> 32) * share / (std::uint64_t{1} << 32);
      Entry one{first, 0, 0};
      double sum = 0;
      bool stands = false;
      for (; begin != end && (one.number < share || of == 1); ++begin) {
        one.number += begin->number;
        sum += begin->value;
        if (!stands && one.number >= place) {
          one.value = begin->value;
          stands = true;
        }
      }
      if (!is_sample(c.kind)) {
        one.value = sum;
      }
      left -= std::min(left, one.number);
      fewer.push_back(one);
    }
  }
  const bool became = fewer.size() < entries.size();
  entries = std::move(fewer);
  return became;
}

// At least one entry less: those that are missed least.
void Correlator::make_place(Group& group) {
  const Correlation& c = correlations_[group.key.correlation];
  auto& all = group.entries;
  auto least = all.end();
  switch (c.kind) {
    case Correlation::Kind::kValueSum:
    case Correlation::Kind::kValueAverage:
    case Correlation::Kind::kValuePercentile:
    case Correlation::Kind::kValueMedian:
      if (condense(c, all)) {
        return;
      }
      break;
    case Correlation::Kind::kTemporal:
      // The rule matched again later; unless a time may begin with each.
      if (!late_[group.key.correlation]) {
        const auto again = [&](auto at) { return std::any_of(std::next(at), all.end(), [&](const Entry& later) { return later.from.node == at->from.node; }); };
        for (least = all.begin(); least != all.end() && !again(least); ++least) {
        }
      }
      break;
    case Correlation::Kind::kTemporalOrdered:
      // The rule matched again before another did.
      least = std::ranges::adjacent_find(all, {}, [](const Entry& e) { return e.from.node; });
      break;
    default: break;
  }
  if (least == all.end()) {
    least = all.begin();
    ++counters_.left_out;
  }
  all.erase(least);
}

// Keeps the entries in order of time and drops what no window can reach any more.
void Correlator::add(Group& group, const Entry& entry) {
  const Correlation& c = correlations_[group.key.correlation];
  group.newest_ns = std::max(group.newest_ns, entry.from.time_ns);
  auto& all = group.entries;
  const std::uint64_t horizon = group.newest_ns - std::min(group.newest_ns, c.timespan_ns + options_.late_ns);
  std::erase_if(all, [&](const Entry& old) { return old.from.time_ns < horizon; });
  if (c.kind == Correlation::Kind::kValueCount) {
    // One entry a value: when it was seen last.
    std::erase_if(all, [&](const Entry& old) { return old.number == entry.number && old.from.time_ns <= entry.from.time_ns; });
  }
  const bool says_all = c.kind == Correlation::Kind::kTemporal && !late_[group.key.correlation];
  if (all.size() >= (says_all ? std::max(kFew, 2 * c.rules.size()) : kSamples)) {
    make_place(group);
  }
  const auto at = std::ranges::upper_bound(all, entry.from.time_ns, {}, [](const Entry& e) { return e.from.time_ns; });
  all.insert(at, entry);
}

// What the window that ends at `end_ns` comes to; none: the bounds, or the condition, do not hold of it.
std::optional<double> Correlator::reached(const Correlation& c, const Group& group, std::uint64_t end_ns) const {
  const std::uint64_t begin_ns = end_ns - std::min(end_ns, c.timespan_ns);
  if (c.kind == Correlation::Kind::kTemporalOrdered) {
    // From the last rule back: the latest of each that is not after the one behind it.
    double value = 0;
    std::uint64_t before = end_ns;
    for (std::size_t place = c.rules.size(); place > 0; --place) {
      const auto it =
          std::find_if(group.entries.rbegin(), group.entries.rend(), [&](const Entry& e) { return e.from.node == place - 1 && e.from.time_ns <= before; });
      if (it == group.entries.rend() || it->from.time_ns < begin_ns) {
        break;
      }
      before = it->from.time_ns;
      ++value;
    }
    return all_hold(c, value) ? std::optional(value) : std::nullopt;
  }
  const auto time_of = [](const Entry& e) { return e.from.time_ns; };
  const auto first = std::ranges::lower_bound(group.entries, begin_ns, {}, time_of);
  const std::span<const Entry> window(first, std::ranges::upper_bound(first, group.entries.end(), end_ns, {}, time_of));
  double value = 0;
  switch (c.kind) {
    case Correlation::Kind::kTemporal: {
      std::vector<bool> seen(c.rules.size(), false);
      for (const Entry& entry : window) {
        seen[entry.from.node] = true;
      }
      value = static_cast<double>(std::ranges::count(seen, true));
      if (c.condition) {
        return is_true(*c.condition, seen) ? std::optional(value) : std::nullopt;
      }
      break;
    }
    case Correlation::Kind::kValueCount: {
      if (!is_enough(c, static_cast<double>(window.size()))) {
        return std::nullopt;
      }
      // One that came late may be there with a later one of its value.
      std::vector<std::uint64_t> numbers;
      std::ranges::transform(window, std::back_inserter(numbers), &Entry::number);
      std::ranges::sort(numbers);
      value = static_cast<double>(std::ranges::unique(numbers).begin() - numbers.begin());
      break;
    }
    case Correlation::Kind::kEventCount: value = static_cast<double>(window.size()); break;
    case Correlation::Kind::kValuePercentile:
    case Correlation::Kind::kValueMedian: {
      std::vector<Weighed> values;
      values.reserve(window.size());
      std::uint64_t all = 0;
      for (const Entry& entry : window) {
        values.emplace_back(entry.value, entry.number);
        all += entry.number;
      }
      // Nearest rank; of a median the mean of the two in the middle.
      const bool is_median = c.kind == Correlation::Kind::kValueMedian;
      const auto nearest = static_cast<std::uint64_t>(std::ceil(c.percentile / 100.0 * static_cast<double>(all)));
      const std::uint64_t low = is_median ? (all + 1) / 2 : std::max<std::uint64_t>(nearest, 1);
      const std::uint64_t high = is_median ? all / 2 + 1 : low;
      if (!may_hold(c, values, low, high)) {
        return std::nullopt;
      }
      value = ranked(values, low);
      value = high != low ? (value + ranked(values, high)) / 2 : value;
      break;
    }
    case Correlation::Kind::kValueSum:
    case Correlation::Kind::kValueAverage: {
      std::uint64_t all = 0;
      for (const Entry& entry : window) {
        value += entry.value;
        all += entry.number;
      }
      value /= c.kind == Correlation::Kind::kValueAverage ? static_cast<double>(all) : 1;
      break;
    }
    default: break;
  }
  return all_hold(c, value) ? std::optional(value) : std::nullopt;
}

Fired Correlator::fired_of(const Group& group, double value, std::uint64_t begin_ns, std::uint64_t end_ns) const {
  const std::uint32_t correlation = group.key.correlation;
  Fired one{.correlation = correlation, .group = {}, .value = value, .first_ns = end_ns, .last_ns = end_ns, .events = {}};
  for (const Entry& e : group.entries) {
    if (e.from.time_ns < begin_ns || e.from.time_ns > end_ns) {
      continue;
    }
    Contribution told = e.from;
    if (is_temporal(correlations_[correlation].kind)) {
      told.node = nodes_[correlation][e.from.node];
    }
    one.events.push_back(told);
  }
  if (!one.events.empty()) {
    one.first_ns = one.events.front().time_ns;
  }
  if (one.events.size() > kTold) {
    one.events.erase(one.events.begin(), one.events.end() - static_cast<std::ptrdiff_t>(kTold));
  }
  return one;
}

std::optional<Fired> Correlator::note_exactly(const Key& key, const Entry& entry) {
  const Correlation& c = correlations_[key.correlation];
  const std::uint64_t time_ns = entry.from.time_ns;
  Group& group = group_of(key, time_ns);
  const std::size_t before = size_of(group);
  add(group, entry);
  bytes_ += size_of(group) - before;
  // A late one may complete any window that it lies in.
  std::optional<double> value = reached(c, group, time_ns);
  std::uint64_t end = time_ns;
  for (std::size_t i = 0; !value && i < group.entries.size(); ++i) {
    const std::uint64_t other = group.entries[i].from.time_ns;
    if (other > time_ns && other - time_ns <= c.timespan_ns) {
      value = reached(c, group, other);
      end = other;
    }
  }
  if (!value) {
    return std::nullopt;
  }
  Fired one = fired_of(group, *value, end - std::min(end, c.timespan_ns), end);
  drop(groups_.begin());  // it begins anew
  return one;
}

// When the first time that has begun is over, and nothing can come into it any more.
void Correlator::wait(Group& group) {
  due_.erase({group.waiting->due_ns, group.key});
  const auto first = std::ranges::find_if(group.entries, [&](const Entry& e) { return asserted_[group.key.correlation][e.from.node]; });
  if (first == group.entries.end()) {
    group.waiting->due_ns = 0;
    return;
  }
  group.waiting->due_ns = first->from.time_ns + correlations_[group.key.correlation].timespan_ns + options_.late_ns;
  due_.insert({group.waiting->due_ns, group.key});
}

void Correlator::note_waiting(const Key& key, const Entry& entry, const GroupValues& values) {
  Group& group = group_of(key, entry.from.time_ns);
  const std::size_t before = size_of(group);
  if (!group.waiting) {
    group.waiting = std::make_unique<Waiting>(Waiting{0, values});
  }
  add(group, entry);
  wait(group);
  bytes_ += size_of(group) - before;
}

// One time that is over.
std::optional<Fired> Correlator::decide(Group& group) {
  const Correlation& c = correlations_[group.key.correlation];
  const std::uint64_t end = group.waiting->due_ns - options_.late_ns;
  const std::uint64_t begin = end - c.timespan_ns;
  std::optional<Fired> fired;
  if (const auto value = reached(c, group, end)) {
    fired = fired_of(group, *value, begin, end);
    fired->group = group.waiting->values;
    fired->over = true;
  }
  // What fired begins anew; else the next time may have begun with the next match.
  std::erase_if(group.entries, [&](const Entry& e) { return e.from.time_ns <= (fired ? end : begin); });
  wait(group);
  return fired;
}

void Correlator::advance(std::uint64_t now_ns, std::vector<Fired>& fired) {
  while (!due_.empty() && due_.begin()->first < now_ns) {
    const auto at = by_key_.find(due_.begin()->second)->second;
    const std::size_t before = size_of(*at);
    auto one = decide(*at);
    bytes_ += size_of(*at) - before;
    if (at->entries.empty()) {
      drop(at);
    }
    if (one) {
      const Contribution last = one->events.back();
      fire(std::move(*one), last, fired, 0);
    }
  }
}

std::optional<Fired> Correlator::note_rate(const Key& key, const Contribution& from) {
  const Correlation& c = correlations_[key.correlation];
  Rates& rates = *rates_[key.correlation];
  const std::uint32_t slot = rates.touch({key.high, key.low}, from.time_ns);
  rates.count(slot, from.time_ns);
  remember(rates, slot, from);
  const auto value = static_cast<double>(rates.total(slot));
  if (!all_hold(c, value)) {
    return std::nullopt;
  }
  Fired one{.correlation = key.correlation, .group = {}, .value = value, .first_ns = from.time_ns, .last_ns = from.time_ns, .events = {}};
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

// `from`: of the match that completed it, or when its time was over.
void Correlator::fire(Fired one, const Contribution& from, std::vector<Fired>& fired, int depth) {
  const std::uint32_t self = rules_ + one.correlation;
  if (!uses_[self].empty()) {
    note_at(self, {one.last_ns, from.seq, from.cpu, self}, [&one](std::string_view name) { return value_in(one.group, name); }, fired, depth + 1);
  }
  fired.push_back(std::move(one));
}

// The values of its fields, once all are there: false otherwise.
bool Correlator::read_values(const Correlation& c, std::uint32_t place, const Field& field, Entry& entry) const {
  Hash hash;
  for (const std::string& name : c.fields) {
    const auto value = value_of(c, place, name, field);
    if (!value) {
      return false;
    }
    if (c.kind == Correlation::Kind::kValueCount) {
      hash.add(*value);
      continue;
    }
    const auto [end, error] = std::from_chars(value->data(), value->data() + value->size(), entry.value);
    if (error != std::errc{} || end != value->data() + value->size()) {
      return false;
    }
  }
  entry.number = c.kind == Correlation::Kind::kValueCount ? hash.high : 1;
  return true;
}

void Correlator::note_at(std::uint32_t node, const Contribution& from, const Field& field, std::vector<Fired>& fired, int depth) {
  if (depth > kDeepestChain) {
    return;
  }
  for (const Use& use : uses_[node]) {
    const Correlation& c = correlations_[use.correlation];
    GroupValues values;
    Hash hash;
    for (const std::string& name : c.group_by) {
      auto value = value_of(c, use.place, name, field);
      if (!value) {
        break;
      }
      hash.add(*value);
      values.emplace_back(name, std::move(*value));
    }
    Entry entry{from, 0, 1};
    if (values.size() < c.group_by.size() || !read_values(c, use.place, field, entry)) {
      ++counters_.incomplete;
      continue;
    }
    if (is_temporal(c.kind)) {
      entry.from.node = use.place;
    }
    const Key key{hash.high, hash.low, use.correlation};
    std::optional<Fired> one;
    if (late_[use.correlation]) {
      note_waiting(key, entry, values);
    } else {
      one = rates_[use.correlation] ? note_rate(key, from) : note_exactly(key, entry);
    }
    if (one) {
      one->group = std::move(values);
      fire(std::move(*one), from, fired, depth);
    } else {
      make_room(newest_ns_);
    }
  }
}

}  // namespace vfsguard::detect
