// SPDX-License-Identifier: Apache-2.0
#include "guard/kernel_state.h"

#include <gtest/gtest.h>

#include <map>

namespace vfsguard::guard {
namespace {

using Key = std::uint32_t;
using Value = std::uint64_t;

class FakeMap final : public MapEntries {
 public:
  [[nodiscard]] util::Result<Bytes> read() const override {
    Bytes all;
    for (auto it = entries.rbegin(); it != entries.rend(); ++it) {
      for (const auto part : {bytes_of(it->first), bytes_of(it->second)}) {
        all.insert(all.end(), part.begin(), part.end());
      }
    }
    return all;
  }
  util::Result<void> put(std::span<const std::byte> key, std::span<const std::byte> value) override {
    if (refuses) {
      return util::fail(1, "refused");
    }
    std::memcpy(&entries[key_of(key)], value.data(), sizeof(Value));
    return {};
  }
  util::Result<void> remove(std::span<const std::byte> key) override {
    entries.erase(key_of(key));
    return {};
  }
  static Key key_of(std::span<const std::byte> key) {
    Key k = 0;
    std::memcpy(&k, key.data(), sizeof k);
    return k;
  }

  std::map<Key, Value> entries;
  bool refuses = false;
};

Entries known(const std::map<Key, Value>& entries) {
  Entries all(sizeof(Key), sizeof(Value));
  for (const auto& [key, value] : entries) {
    all.set(bytes_of(key), bytes_of(value));
  }
  return all;
}

TEST(KernelState, WritesWordsBack) {
  std::uint64_t operations = 6;
  volatile std::uint32_t version = 3;
  KernelState state;
  state.add_word("enforce/.bss", "enforce/decided_operations", operations, 6);
  state.add_word("enforce/.data", "enforce/policy_version", version, 3);
  EXPECT_TRUE(state.check(KernelState::Depth::kWords).empty());
  operations = 0;
  const auto changes = state.check(KernelState::Depth::kWords);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].map, "enforce/.bss");
  EXPECT_EQ(changes[0].what, "word enforce/decided_operations");
  EXPECT_EQ(changes[0].expected, "6");
  EXPECT_EQ(changes[0].found, "0");
  EXPECT_TRUE(changes[0].restored);
  EXPECT_EQ(operations, 6u);
  EXPECT_TRUE(state.check(KernelState::Depth::kWords).empty());
}

TEST(KernelState, SaysHowMuchOfAnArrayChanged) {
  std::uint32_t uids[64] = {1, 2, 3};
  const std::array<std::uint32_t, 64> right{1, 2, 3};
  KernelState state;
  state.add_memory("guard/.bss", "guard/exempt_uids", uids, std::as_bytes(std::span(right)));
  uids[2] = 0x0101;
  const auto changes = state.check(KernelState::Depth::kWords);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].expected, "256 bytes");
  EXPECT_EQ(changes[0].found, "2 of them changed");
  EXPECT_EQ(uids[2], 3u);
}

TEST(KernelState, CountersOnlyGrow) {
  std::uint32_t generation = 5;
  std::uint32_t seen = 0;
  KernelState state;
  state.add_counter("enforce/.data", "enforce/generation", generation, seen);
  EXPECT_TRUE(state.check(KernelState::Depth::kWords).empty());
  generation = 9;
  EXPECT_TRUE(state.check(KernelState::Depth::kWords).empty());
  generation = 2;
  const auto changes = state.check(KernelState::Depth::kWords);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_TRUE(changes[0].restored);
  EXPECT_EQ(generation, 10u);  // a value that nothing was remembered under
  EXPECT_TRUE(state.check(KernelState::Depth::kWords).empty());
}

TEST(KernelState, ContentsAreComparedOnlyInFull) {
  std::string there = "right";
  bool restores = true;
  KernelState state;
  state.add_contents("enforce/tables", "tables enforce",
                     {.expected = "right",
                      .digest = [&] { return there; },
                      .restore = [&]() -> util::Result<void> {
                        if (!restores) {
                          return util::fail(1, "frozen");
                        }
                        there = "right";
                        return {};
                      }});
  there = "wrong";
  EXPECT_TRUE(state.check(KernelState::Depth::kWords).empty());
  auto changes = state.check(KernelState::Depth::kAll);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_TRUE(changes[0].restored);
  there = "wrong";
  restores = false;
  changes = state.check(KernelState::Depth::kAll);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_FALSE(changes[0].restored);
  EXPECT_EQ(changes[0].why, "frozen");
}

TEST(KernelState, EntriesOfUserSpaceAloneAreExact) {
  FakeMap map;
  map.entries = {{1, 10}, {2, 20}, {300, 30}};
  Entries right = known(map.entries);
  EXPECT_EQ(right.size(), 3u);
  EXPECT_FALSE(right.compare(map, {})->any());
  map.entries = {{2, 21}, {300, 30}, {4, 40}};
  const auto found = right.compare(map, {});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->gone, 1u);
  EXPECT_EQ(found->changed, 1u);
  EXPECT_EQ(found->added, 1u);
  EXPECT_TRUE(found->restored);
  EXPECT_EQ(map.entries, (std::map<Key, Value>{{1, 10}, {2, 20}, {300, 30}}));
  EXPECT_FALSE(right.compare(map, {})->any());
}

TEST(KernelState, EntriesThatProgramsAddAreTakenOverAndComeBack) {
  FakeMap map;
  map.entries = {{1, 10}, {2, 0}};
  Entries right = known(map.entries);
  const auto may_change = [](const std::byte* before, const std::byte* now) {
    Value was = 0;
    std::memcpy(&was, before, sizeof was);
    return now != nullptr && was == 0;
  };
  map.entries = {{1, 10}, {2, 22}, {3, 33}};
  EXPECT_FALSE(right.compare(map, may_change)->any());
  EXPECT_EQ(right.size(), 3u);
  map.entries.clear();
  const auto found = right.compare(map, may_change);
  EXPECT_EQ(found->gone, 3u);
  EXPECT_EQ(map.entries, (std::map<Key, Value>{{1, 10}, {2, 22}, {3, 33}}));
  map.entries[1] = 11;
  EXPECT_EQ(right.compare(map, may_change)->changed, 1u);
  EXPECT_EQ(map.entries[1], 10u);
}

TEST(KernelState, AnEntryThatCannotBeWrittenBackIsExpectedAllTheSame) {
  FakeMap map;
  map.entries = {{1, 10}};
  Entries right = known(map.entries);
  map.entries.clear();
  map.refuses = true;
  KernelState state;
  state.add_entries("enforce/homes", right, map);
  auto changes = state.check(KernelState::Depth::kAll);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].what, "entries enforce/homes");
  EXPECT_EQ(changes[0].expected, "1 entries");
  EXPECT_EQ(changes[0].found, "1 gone, 0 changed, 0 added");
  EXPECT_FALSE(changes[0].restored);
  map.refuses = false;
  changes = state.check(KernelState::Depth::kAll);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_TRUE(changes[0].restored);
}

TEST(Followups, ComeSoonAndThenEachSecondWhileSomebodyMayWrite) {
  constexpr std::uint64_t kMs = 1'000'000;
  Followups next;
  EXPECT_EQ(next.due_ns(), 0u);
  next.begin(1000 * kMs);
  EXPECT_EQ(next.due_ns(), 1000 * kMs);
  next.done(1000 * kMs, false);
  EXPECT_EQ(next.due_ns(), 1050 * kMs);
  next.done(1020 * kMs, false);  // one that was due for another reason
  EXPECT_EQ(next.due_ns(), 1050 * kMs);
  next.done(1050 * kMs, true);
  EXPECT_EQ(next.due_ns(), 1550 * kMs);
  next.done(1550 * kMs, true);
  EXPECT_EQ(next.due_ns(), 2550 * kMs);
  next.done(2550 * kMs, true);
  EXPECT_EQ(next.due_ns(), 3550 * kMs);
  next.done(3550 * kMs, false);
  EXPECT_EQ(next.due_ns(), 0u);
}

TEST(Followups, AreNotMadeMoreOftenThanTwentyTimesASecond) {
  constexpr std::uint64_t kMs = 1'000'000;
  Followups next;
  int checks = 0;
  for (std::uint64_t now = 1000 * kMs; now < 2000 * kMs; now += kMs) {
    next.begin(now);
    if (next.due_ns() <= now) {
      next.done(now, true);
      ++checks;
    }
  }
  EXPECT_LE(checks, 21);
  EXPECT_GE(checks, 10);
}

}  // namespace
}  // namespace vfsguard::guard
