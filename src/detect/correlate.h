// SPDX-License-Identifier: Apache-2.0
// Sigma's correlations: what several matches of rules, within a time and of one group, amount to.
//
// Time is the events' own. Matches may arrive late, up to Options::late_ns behind the newest; what comes later than that is counted and takes no part.
// A clock that was set back is recognised by two such in a row, and begins anew. State is bounded by Options::memory: what was touched longest ago goes
// first, and is counted. Windows of up to kExact matches keep each of them; larger ones are moving counts (detect/rates.h), so that they span between 15/16 of
// the timespan and the whole, and know of what they counted what is among the last kNoted matches. A correlation that has fired begins anew for its group.
//
// A condition with `not` in it is decided when its time is over: the time begins with a match of a rule that it asserts, lasts for the timespan, and nothing
// that is late can come into it any more. It takes advance() to get there.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "detect/rates.h"
#include "detect/sigma.h"

namespace vfsguard::detect {

// A match that took part.
struct Contribution {
  std::uint64_t time_ns = 0;
  std::uint64_t seq = 0;
  std::uint32_t cpu = 0;
  std::uint32_t node = 0;  // the rule, or rules.size() + the correlation
};

using GroupValues = std::vector<std::pair<std::string, std::string>>;  // field or alias, value
// none: the group has no such field.
std::optional<std::string> value_in(const GroupValues& group, std::string_view name);

struct Fired {
  std::uint32_t correlation = 0;
  GroupValues group;
  double value = 0;  // the count, the sum, ...: what the bounds are about
  std::uint64_t first_ns = 0;
  std::uint64_t last_ns = 0;
  std::vector<Contribution> events;  // the last of them, at most Correlator::kTold
  bool over = false;                 // its time was over: no match completed it
};

// Whether it fires when its time is over: no event completes it.
bool fires_late(const Correlation& correlation);

class Correlator {
 public:
  static constexpr std::size_t kExact = 32;
  static constexpr std::size_t kTold = 16;
  static constexpr std::size_t kNoted = 4096;    // matches that moving counts remember, all together
  static constexpr std::size_t kSamples = 1024;  // entries that a group keeps, at most
  static constexpr std::size_t kFew = 64;        // ... where the last match of each rule says all

  struct Options {
    std::size_t memory = 16u << 20;
    std::uint64_t late_ns = 5'000'000'000;
  };
  struct Counters {
    std::uint64_t late = 0;
    std::uint64_t evicted = 0;  // groups that had to go while they were still in time
    std::uint64_t clock_steps = 0;
    std::uint64_t incomplete = 0;  // matches without a field that the group or the value needs
    std::uint64_t left_out = 0;    // matches that had to go from groups that were full
  };

  // Refuses references to what is not there, circles and aliases that name nothing (file:line).
  static util::Result<Correlator> open(const std::vector<Rule>& rules, std::vector<Correlation> correlations, Options options);

  // What a match says in a field, as text; none: it has no such field.
  using Field = std::function<std::optional<std::string>(std::string_view name)>;
  // Decides what has waited for its time to be over; due before note() of a later time. Appends what fired, through any number of levels.
  void advance(std::uint64_t now_ns, std::vector<Fired>& fired);
  // Whether there is any such.
  [[nodiscard]] bool waits() const { return !due_.empty(); }
  // A rule has matched. Appends what that made fire, likewise.
  void note(std::uint32_t rule, std::uint64_t time_ns, std::uint64_t seq, std::uint32_t cpu, const Field& field, std::vector<Fired>& fired);

  // Whether a correlation is about it, and so it gives no alert of its own.
  [[nodiscard]] bool takes(std::uint32_t node) const { return node < quiet_.size() && quiet_[node]; }
  [[nodiscard]] const std::vector<Correlation>& correlations() const { return correlations_; }
  [[nodiscard]] const Counters& counters() const { return counters_; }
  [[nodiscard]] std::size_t groups() const;
  [[nodiscard]] std::size_t bytes() const;

 private:
  struct Key {
    std::uint64_t high = 0;
    std::uint64_t low = 0;
    std::uint32_t correlation = 0;
    auto operator<=>(const Key&) const = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& key) const { return key.high ^ key.correlation; }
  };
  struct Entry {
    Contribution from;
    double value = 0;          // of value_sum and its like: the sum of all that it stands for, or one of them
    std::uint64_t number = 1;  // of value_count: what stands for the value; else how many matches it stands for
  };
  // Of a group that waits for its time to be over.
  struct Waiting {
    std::uint64_t due_ns = 0;
    GroupValues values;
  };
  // Of one group.
  struct Group {
    Key key;
    std::uint64_t newest_ns = 0;
    std::vector<Entry> entries;  // by time
    std::unique_ptr<Waiting> waiting;
  };
  using Groups = std::list<Group>;  // touched last first
  // What a moving count counted.
  struct Noted {
    Contribution from;
    std::uint32_t slot = 0;
    std::uint32_t before = 0;  // the last one of the same slot, as Rates::mark()
  };
  struct Use {
    std::uint32_t correlation = 0;
    std::uint32_t place = 0;  // among its rules
  };

  Correlator() = default;
  util::Result<void> resolve(const std::vector<Rule>& rules);
  void note_at(std::uint32_t node, const Contribution& from, const Field& field, std::vector<Fired>& fired, int depth);
  std::optional<std::string> value_of(const Correlation& c, std::uint32_t place, const std::string& name, const Field& field) const;
  Group& group_of(const Key& key, std::uint64_t time_ns);
  bool keeps_up(std::uint64_t time_ns);
  bool read_values(const Correlation& c, std::uint32_t place, const Field& field, Entry& entry) const;
  void add(Group& group, const Entry& entry);
  void make_place(Group& group);
  bool condense(const Correlation& c, std::vector<Entry>& entries) const;
  void drop(Groups::iterator group);
  // The ways to keep a group: what fired, once it has.
  std::optional<Fired> note_exactly(const Key& key, const Entry& entry);
  void note_waiting(const Key& key, const Entry& entry, const GroupValues& values);
  std::optional<Fired> note_rate(const Key& key, const Contribution& from);
  void remember(Rates& rates, std::uint32_t slot, const Contribution& from);
  std::optional<Fired> decide(Group& group);
  void wait(Group& group);
  // Tells of it the correlations that are about it, and then the caller.
  void fire(Fired one, const Contribution& from, std::vector<Fired>& fired, int depth);
  [[nodiscard]] Fired fired_of(const Group& group, double value, std::uint64_t begin_ns, std::uint64_t end_ns) const;
  [[nodiscard]] const Noted* noted(std::uint32_t mark, std::uint32_t slot) const;
  [[nodiscard]] std::optional<double> reached(const Correlation& c, const Group& group, std::uint64_t end_ns) const;
  [[nodiscard]] std::size_t size_of(const Group& group) const;
  void make_room(std::uint64_t now_ns);

  std::vector<Correlation> correlations_;
  std::vector<std::vector<std::uint32_t>> nodes_;  // per correlation: those that it refers to
  std::vector<std::vector<Use>> uses_;             // per node
  std::vector<bool> quiet_;
  std::vector<bool> late_;                   // per correlation: there is a `not` in its condition
  std::vector<std::vector<bool>> asserted_;  // per correlation with a condition: the places that its time may begin with
  std::uint32_t rules_ = 0;
  Options options_;
  Groups groups_;
  std::unordered_map<Key, Groups::iterator, KeyHash> by_key_;
  std::set<std::pair<std::uint64_t, Key>> due_;  // those that wait, by when their next time is over
  std::vector<std::optional<Rates>> rates_;      // per correlation: of those that are moving counts
  std::vector<Noted> noted_;                     // a ring of kNoted, once there is one
  std::uint32_t noted_so_far_ = 0;
  std::size_t bytes_ = 0;  // of groups_
  std::uint64_t newest_ns_ = 0;
  std::uint64_t behind_ns_ = 0;  // the last one that came too late
  Counters counters_;
};

}  // namespace vfsguard::detect
