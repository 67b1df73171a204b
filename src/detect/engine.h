// SPDX-License-Identifier: Apache-2.0
// Many Sigma rules against one event after the other.
//
// The rules are not tried one by one. What they compare one field with is one index (literals.h): the whole, beginnings, ends and parts of texts in one
// pass over the field, numbers in one look-up. Each rule names tests of which at least one must hold before it can match at all, the rarest that its
// condition leaves; only rules of which one held are evaluated, so an event's cost grows with what it holds and hardly with the number of rules. What a
// process image says (its executable, its command line) is looked at once and remembered. Nothing is allocated for an event that matches nothing.
//
// One thread uses an Engine. It keeps no event.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "detect/fields.h"
#include "detect/literals.h"
#include "detect/sigma.h"

namespace re2 {
class RE2;
}

namespace vfsguard::detect {

class Engine {
 public:
  // Filters become part of the rules' conditions.
  explicit Engine(const std::vector<Rule>& rules, const std::vector<Filter>& filters = {});
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;
  ~Engine();

  // The places of the rules that match, ascending; until the next call. The operation's user, paths and wall_ns are those that it is told with.
  std::span<const std::uint32_t> match(const event::Operation& operation);

  [[nodiscard]] std::size_t tests() const { return tests_.size(); }
  // Roughly, of the indexes and tables.
  [[nodiscard]] std::size_t bytes() const;
  // How many rules were evaluated, of all events: what the index could not rule out.
  [[nodiscard]] std::uint64_t evaluated() const { return evaluated_; }

 private:
  static constexpr std::uint32_t kNone = ~0u;

  struct TestState {
    Atom atom;
    std::uint32_t slot = 0;
    std::uint32_t other_slot = kNone;
    bool indexed = false;   // true only where the index found it
    bool verified = false;  // ... and then looked at
    bool gated = false;     // not to hold where the index found nothing; else to be looked at
    std::unique_ptr<re2::RE2> regex;
    std::vector<std::uint32_t> triggers;  // rules that it makes worth a look, as index into triggered_
  };
  struct Slot {
    FieldKey key;
    bool of_process = false;
    std::uint64_t sources = 0;  // that look at it
    Literals literals;
    std::unordered_map<std::int64_t, std::vector<std::uint32_t>> numbers;  // tests
    Values values;
    std::string buffer;
    std::uint64_t read_in = 0;  // epoch
    bool indexed = false;
  };
  struct Node {
    Expression::Kind kind = Expression::Kind::kAnd;
    std::uint32_t number = 0;
    std::uint32_t first = 0;
    std::uint32_t count = 0;
  };
  struct Compiled {
    std::uint32_t root = 0;
    std::uint64_t source = 0;  // its bit
  };
  // The events of one kind.
  struct Kind {
    std::uint64_t operations = 0;
    bool succeeded = false;
    bool writing = false;
    bool networked = false;
    bool operator==(const Kind&) const = default;
  };
  // What is found in a process image's own fields.
  struct Image {
    std::weak_ptr<const event::Process> owner;
    const event::Process* key = nullptr;
    bool digested = false;
    std::vector<std::uint32_t> hits;
  };

  std::uint32_t test_of(const Atom& atom, std::uint64_t sources);
  std::uint32_t slot_of(FieldKey key, std::uint64_t sources);
  std::uint32_t compile(const Expression& expression, const std::vector<std::uint32_t>& tests);
  void index();
  [[nodiscard]] double find_trigger(std::uint32_t node, std::vector<std::uint32_t>& tests) const;
  [[nodiscard]] std::uint64_t sources_of(const event::Operation& operation) const;
  void search_slot(Slot& slot, std::vector<std::uint32_t>& hits);
  const std::vector<std::uint32_t>& image_hits(const event::Operation& operation);
  void take(std::uint32_t hit);
  const Values& values_of(std::uint32_t slot);
  bool holds(std::uint32_t test);
  bool look(const TestState& test);
  bool evaluate(std::uint32_t node);

  std::vector<TestState> tests_;
  std::unordered_multimap<std::size_t, std::uint32_t> known_;  // hash of an atom -> test; while it is built
  std::vector<Slot> slots_;
  std::vector<Kind> kinds_;
  std::vector<std::uint64_t> kinds_of_operation_;
  std::vector<Node> nodes_;
  std::vector<std::uint32_t> children_;
  std::vector<Compiled> rules_;
  std::vector<std::uint32_t> always_;  // rules that no test could rule out

  // Of the event at hand.
  const event::Operation* operation_ = nullptr;
  std::uint64_t epoch_ = 0;
  std::uint64_t sources_ = 0;
  std::vector<std::uint64_t> true_in_;   // per test: the epoch in which it held
  std::vector<std::uint64_t> known_in_;  // per test: the epoch in which it was looked at
  std::vector<std::uint64_t> due_in_;    // per rule
  std::vector<std::uint32_t> due_;
  std::vector<std::uint32_t> found_;
  std::vector<std::uint32_t> hits_;
  std::vector<Image> images_;
  std::uint64_t evaluated_ = 0;
  bool process_slots_ = false;
};

}  // namespace vfsguard::detect
