// SPDX-License-Identifier: Apache-2.0
#include "policy/enforcement.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include <fmt/format.h>

namespace vfsguard::policy {
namespace {

// Decides by the tables as bpf/lib/rules.bpf.h does, section by section: what the kernel side would make of them.
class TableReader {
 public:
  explicit TableReader(const std::vector<std::byte>& tables) : tables_(tables) { std::memcpy(&head_, tables.data(), sizeof head_); }

  std::optional<std::uint32_t> decide(const std::string& path, std::uint64_t operation, std::uint32_t uid, const std::string& comm,
                                      const std::string& exe) const {
    const auto range = at<vg_range>(head_.ranges_at, match(head_.path_start, path));
    if ((range.operations & operation) == 0) {
      return std::nullopt;
    }
    const std::array<std::uint32_t, VG_WHO_SLOTS> values{uid, 0, match(head_.exe_start, exe), match(head_.comm_start, comm), 0, 0, 0, 0};
    const auto hold = [&](const vg_u32(&lists)[VG_WHO_SLOTS]) {
      for (unsigned kind = 0; kind < VG_WHO_COUNT; ++kind) {
        if (lists[kind] != 0 && !is_member(lists[kind], values[kind])) {
          return false;
        }
      }
      return true;
    };
    for (std::uint32_t i = 0; i < range.count; ++i) {
      const auto clause = at<vg_clause>(head_.clauses_at, at<vg_u32>(head_.order_at, range.first + i));
      if ((clause.operations & operation) != 0 && (clause.only_kinds == 0 || hold(clause.only)) && (clause.unless_kinds == 0 || !hold(clause.unless))) {
        return clause.rule;
      }
    }
    return std::nullopt;
  }

 private:
  template <typename T>
  T at(std::uint32_t section, std::uint32_t index) const {
    T value;
    std::memcpy(&value, &tables_.at(section + index * sizeof(T) + sizeof(T) - 1) - sizeof(T) + 1, sizeof value);
    return value;
  }
  std::uint32_t match(std::uint32_t state, const std::string& text) const {
    for (auto c = text.rbegin(); c != text.rend(); ++c) {
      const auto s = at<vg_dfa_state>(head_.states_at, state);
      const auto edge = at<vg_dfa_edge>(head_.edges_at, s.base + head_.class_of[static_cast<unsigned char>(*c)]);
      state = edge.check == state ? edge.next : s.fallback;
    }
    return at<vg_dfa_state>(head_.states_at, state).accept;
  }
  bool is_member(std::uint32_t list, std::uint32_t value) const {
    const std::uint32_t hash = VG_MEMBER_HASH(list, value);
    for (std::uint32_t i = 0; i < VG_MEMBER_PROBES; ++i) {
      const auto member = at<vg_member>(head_.members_at, (hash + i) & head_.members_mask);
      if (member.list == list && member.value == value) {
        return true;
      }
      if (member.list == 0) {
        return false;
      }
    }
    return false;
  }

  const std::vector<std::byte>& tables_;
  vg_tables head_{};
};

TEST(Enforcement, TheKernelsTablesDecideAsTheRulesDo) {
  std::mt19937 rng(20261121);
  const auto one_of = [&](const std::vector<std::string>& all) { return all[rng() % all.size()]; };
  const std::vector<std::string> globs{"/a/**", "/a/b", "/a/*", "/**/c", "/**", "/b/*/c", "/a/b/c", "/**/b/**", "/b/?", "/a/[bc]"};
  const std::vector<std::string> paths{"/a", "/b", "/a/b", "/a/c", "/a/b/c", "/b/x/c", "/b/c", "/c", "/b/b/b", "/"};
  const std::vector<std::string> exes{"/bin/cat", "/usr/bin/*", "/opt/**"};
  const std::vector<std::string> programs{"/bin/cat", "/usr/bin/vi", "/opt/x/y", "/bin/sh"};
  const std::vector<std::string> comms{"cat", "vi", "sh"};
  int decided = 0;
  for (int round = 0; round < 200; ++round) {
    std::string text = "version: 1\nrules:\n";
    for (unsigned r = 0, rules = 1 + rng() % 8; r < rules; ++r) {
      text += fmt::format("  - name: r{}\n    paths: [\"{}\", \"{}\"]\n    operations: [{}]\n    action: {}\n", r, one_of(globs), one_of(globs),
                          one_of({"open", "unlink", "open, rename"}), one_of({"deny", "kill", "audit"}));
      for (const char* key : {"only", "unless"}) {
        switch (rng() % 5) {
          case 0: text += fmt::format("    {}: {{ uid: [{}, {}] }}\n", key, rng() % 3, 1000 + rng() % 3); break;
          case 1: text += fmt::format("    {}: {{ exe: \"{}\", comm: {} }}\n", key, one_of(exes), one_of(comms)); break;
          case 2: text += fmt::format("    {}: {{ exe: [\"{}\", \"{}\"] }}\n", key, one_of(exes), one_of(exes)); break;
          default: break;
        }
      }
    }
    const auto policy = parse("p", text);
    ASSERT_TRUE(policy) << policy.error().message << "\n" << text;
    const auto compiled = compile_policy(*policy);
    const auto enforcement = compile_enforcement(*policy);
    ASSERT_TRUE(compiled && enforcement);
    const TableReader tables(enforcement->tables);
    for (int i = 0; i < 100; ++i) {
      event::Operation operation;
      operation.raw.operation = static_cast<vg_u8>(one_of({"o", "u", "r"}) == "o" ? VG_OP_OPEN : rng() % 2 == 0 ? VG_OP_UNLINK : VG_OP_RENAME);
      operation.path = one_of(paths);
      const std::string comm = one_of(comms);
      const std::string exe = one_of(programs);
      const auto uid = static_cast<std::uint32_t>(rng() % 2 == 0 ? rng() % 3 : 1000 + rng() % 3);
      ASSERT_TRUE(set_subject(operation, "uid", std::to_string(uid)));
      ASSERT_TRUE(set_subject(operation, "comm", comm));
      ASSERT_TRUE(set_subject(operation, "exe", exe));
      match_paths(*compiled, operation);
      const Rule* expected = deciding_rule(*policy, *compiled, operation);
      const auto got = tables.decide(*operation.path, event::operation_bit(operation.raw.operation), uid, comm, exe);
      ASSERT_EQ(got.has_value(), expected != nullptr) << text << *operation.path << " " << uid << " " << comm << " " << exe;
      if (expected != nullptr) {
        ++decided;
        ASSERT_EQ(policy->rules[*got].name, expected->name) << text << *operation.path << " " << uid << " " << comm << " " << exe;
      }
    }
  }
  EXPECT_GT(decided, 1000);
}

TEST(Enforcement, DirectoriesAboveLeadToWhatAGlobMatches) {
  EXPECT_EQ(directories_above("/etc/shadow"), std::vector<std::string>{"/etc"});
  EXPECT_EQ(directories_above("/home/*/.ssh/id_*"), (std::vector<std::string>{"/home", "/home/*", "/home/*/.ssh"}));
  EXPECT_EQ(directories_above("/srv/keys/**"), (std::vector<std::string>{"/srv", "/srv/keys", "/srv/keys/**"}));
  EXPECT_EQ(directories_above("/srv/**/key"), (std::vector<std::string>{"/srv", "/srv/**"}));
  EXPECT_TRUE(directories_above("/secret").empty());
}

TEST(Enforcement, ManyTreesDoNotMultiply) {
  std::string text = "version: 1\nrules:\n";
  for (int i = 0; i < 2000; ++i) {
    text += fmt::format("  - {{ name: r{}, paths: \"/srv/{}/**\", action: deny }}\n", i, i);
  }
  const auto policy = parse("p", text);
  ASSERT_TRUE(policy);
  const auto enforcement = compile_enforcement(*policy);
  ASSERT_TRUE(enforcement) << enforcement.error().message;
  EXPECT_LT(enforcement->tables.size(), std::size_t{8} << 20);
  const TableReader tables(enforcement->tables);
  EXPECT_EQ(tables.decide("/srv/1234/x/y", event::operation_bit(VG_OP_OPEN), 0, "cat", "/bin/cat"), 1234u);
  EXPECT_FALSE(tables.decide("/srv/1234", event::operation_bit(VG_OP_OPEN), 0, "cat", "/bin/cat"));
  EXPECT_FALSE(tables.decide("/srv/2000/x", event::operation_bit(VG_OP_OPEN), 0, "cat", "/bin/cat"));
}

// What the match sets of one policy become in the next: the rule of the same name, else every rule with one of its globs; nothing else.
TEST(Enforcement, MatchSetsAreTranslatedIntoTheNextPolicy) {
  const auto policy_of = [](const std::string& rules) { return *parse("p", "version: 1\nrules:\n" + rules); };
  const Policy before = policy_of(
      "  - { name: keys, paths: ['/srv/keys/**'], action: deny }\n"
      "  - { name: gone, paths: [/gone], action: deny }\n"
      "  - { name: renamed, paths: [/etc/shadow, /etc/gshadow], action: deny }\n");
  const auto old = compile_enforcement(before);
  ASSERT_TRUE(old);
  const auto set_of = [](const Enforcement& e, const std::string& path) { return e.automaton.match(e.automaton.head.path_start, path); };
  const Policy after = policy_of(
      "  - { name: first, paths: [/etc/passwd], action: kill }\n"
      "  - { name: other-name, paths: [/etc/gshadow], action: deny }\n"
      "  - { name: keys, paths: [/elsewhere], action: deny }\n");
  const Before link{before, *old};
  const auto next = compile_enforcement(after, &link);
  ASSERT_TRUE(next);
  const auto becomes = [&](const std::string& path) { return next->set_rules.at(next->translation.at(set_of(*old, path))); };
  EXPECT_EQ(becomes("/srv/keys/a"), std::vector<std::uint32_t>{2});
  EXPECT_EQ(becomes("/etc/shadow"), std::vector<std::uint32_t>{1});
  EXPECT_EQ(next->translation.at(set_of(*old, "/gone")), 0u);
  EXPECT_EQ(next->translation.at(0), 0u);
  // The tables hold the same list, for marks that the kernel sets while the change is made.
  vg_tables head;
  std::memcpy(&head, next->tables.data(), sizeof head);
  ASSERT_EQ(head.translated, next->translation.size());
  for (std::size_t i = 0; i < next->translation.size(); ++i) {
    vg_u32 set = 0;
    std::memcpy(&set, next->tables.data() + head.translate_at + i * sizeof set, sizeof set);
    EXPECT_EQ(set, next->translation[i]);
  }
}

TEST(Enforcement, APolicyThatStopsNothingCompiles) {
  const auto none = compile_enforcement(*parse("p", "version: 1\nrules: [{ name: a, paths: ['/**'] }]"));
  ASSERT_TRUE(none);
  EXPECT_EQ(none->operations, 0u);
}

}  // namespace
}  // namespace vfsguard::policy
