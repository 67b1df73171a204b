// SPDX-License-Identifier: Apache-2.0
#include "policy/automaton.h"

#include <gtest/gtest.h>

#include <random>

#include "policy/policy.h"

namespace vfsguard::policy {
namespace {

// Sanitized builds look for other things, ten times slower.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kRounds = 50;
#else
constexpr int kRounds = 1500;
#endif

Automaton build(const std::vector<std::string>& globs) {
  PatternSet set;
  for (const std::string& text : globs) {
    set.globs.push_back(*parse_glob(text));
  }
  // The answer names every glob that matches.
  set.resolve = [](std::span<const std::uint32_t> matched) {
    std::uint32_t bits = 0;
    for (const std::uint32_t i : matched) {
      bits |= 1u << i;
    }
    return bits;
  };
  return *compile(set, {{}, [](auto) { return 1u; }});
}

std::string random_path(std::mt19937& rng, const char* alphabet, std::size_t size) {
  std::string path;
  const int components = 1 + static_cast<int>(rng() % 5);
  for (int i = 0; i < components; ++i) {
    path += '/';
    const std::size_t n = 1 + rng() % 4;
    for (std::size_t j = 0; j < n; ++j) {
      path += alphabet[rng() % size];
    }
  }
  return path;
}

std::string random_glob(std::mt19937& rng) {
  static const char* kPieces[] = {"*", "**", "?", "a*", "*b", "[ab]*", "[!a]", "ab", "a", "*a*b*", "??", "b[a-c]", "\\*"};
  std::string glob;
  const int components = 1 + static_cast<int>(rng() % 4);
  for (int i = 0; i < components; ++i) {
    glob += std::string("/") + kPieces[rng() % std::size(kPieces)];
  }
  return glob;
}

TEST(Automaton, AgreesWithTheDefinitionOnRandomGlobsAndPaths) {
  std::mt19937 rng(20261121);
  long compared = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<std::string> globs;
    const std::size_t n = 1 + rng() % 6;
    for (std::size_t i = 0; i < n; ++i) {
      globs.push_back(random_glob(rng));
    }
    const Automaton a = build(globs);
    for (int p = 0; p < 700; ++p) {
      const std::string path = random_path(rng, "abc*\xff", 5);
      const std::uint32_t bits = a.match(a.head.path_start, path);
      for (std::size_t i = 0; i < n; ++i) {
        ASSERT_EQ((bits >> i & 1) != 0, reference_match(*parse_glob(globs[i]), path)) << globs[i] << " on " << path;
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, kRounds * 1000L);
}

TEST(Automaton, GlobsThatMultiplyAreRefusedWithTheNumber) {
  PatternSet set;
  set.globs.push_back(*parse_glob("/" + std::string(40, '?') + "a*"));
  set.globs.push_back(*parse_glob("/a" + std::string(40, '?') + "*"));
  set.resolve = [](auto) { return 1u; };
  const auto a = compile(set, {{}, [](auto) { return 1u; }});
  ASSERT_FALSE(a);
  EXPECT_EQ(a.error().exit_code, EX_CONFIG);
  EXPECT_NE(a.error().message.find("automaton states"), std::string::npos);
}

// The kernel side stops at the first component after which a state says that the answer stays.
TEST(Automaton, AFinalStateNeverChangesItsAnswer) {
  std::mt19937 rng(7);
  long stopped = 0;
  for (int round = 0; round < 300; ++round) {
    const Automaton a = build({random_glob(rng), random_glob(rng), random_glob(rng)});
    for (int p = 0; p < 300; ++p) {
      const std::string path = random_path(rng, "abc", 3);
      const std::uint32_t whole = a.match(a.head.path_start, path);
      std::uint32_t state = a.head.path_start;
      for (std::size_t i = path.size(); i-- > 0;) {
        state = a.step(state, static_cast<unsigned char>(path[i]));
        if (path[i] == '/' && a.states[state].flags != 0) {
          ASSERT_EQ(a.states[state].accept, whole) << path << " cut at " << i;
          stopped += i > 0 ? 1 : 0;
          break;
        }
      }
    }
  }
  EXPECT_GT(stopped, 1000);
}

TEST(Automaton, RulesOutMostPathsByTheirLastComponent) {
  const Automaton a = build({"/etc/shadow", "/home/*/.ssh/id_*"});
  std::uint32_t state = a.head.path_start;
  for (const char c : std::string("txt.eton/")) {
    state = a.step(state, static_cast<unsigned char>(c));
  }
  EXPECT_NE(a.states[state].flags & VG_STATE_DEAD, 0u);
}

TEST(Automaton, ExecutablesHaveTheirOwnStart) {
  PatternSet exes;
  exes.globs.push_back(*parse_glob("/usr/bin/*"));
  exes.resolve = [](auto) { return 1u; };
  const Automaton a = *compile({{}, [](auto) { return 1u; }}, exes);
  EXPECT_EQ(a.match(a.head.exe_start, "/usr/bin/cat"), 1u);
  EXPECT_EQ(a.match(a.head.exe_start, "/usr/sbin/cat"), 0u);
  EXPECT_EQ(a.match(a.head.path_start, "/usr/bin/cat"), 0u);
}

TEST(Automaton, TenThousandPathsCompile) {
  PatternSet set;
  for (int i = 0; i < 10000; ++i) {
    set.globs.push_back(*parse_glob("/srv/tenant-" + std::to_string(i) + "/keys/*.pem"));
  }
  set.resolve = [](std::span<const std::uint32_t> g) { return g.front() + 1; };
  const auto a = compile(set, {{}, [](auto) { return 1u; }});
  ASSERT_TRUE(a);
  EXPECT_EQ(a->match(a->head.path_start, "/srv/tenant-4711/keys/x.pem"), 4712u);
  EXPECT_EQ(a->match(a->head.path_start, "/srv/tenant-4711/keys/x.pem2"), 0u);
}

// What is watched beside the rules: the rules are found exactly, and no operation is missed.
TEST(Automaton, WatchedGlobsLeaveTheRulesAsTheyAre) {
  std::mt19937 rng(11);
  const auto glob_text = [&] {
    static constexpr const char* kParts[] = {"a", "b", "*", "a*", "**"};
    std::string text;
    for (std::size_t n = 1 + rng() % 4; n > 0; --n) {
      const char* part = kParts[rng() % 5];
      if (text.ends_with("/**") && std::string_view(part) == "**") {
        part = "b";
      }
      text += std::string("/") + part;
    }
    return text;
  };
  for (int round = 0; round < kRounds; ++round) {
    Policy policy;
    for (std::size_t n = rng() % 4; n > 0; --n) {
      Rule& rule = policy.rules.emplace_back();
      rule.paths.push_back(*parse_glob(glob_text()));
      rule.operations = std::uint64_t{1} << (1 + rng() % 5);
    }
    Watched watched;
    for (std::size_t n = 1 + rng() % 6; n > 0; --n) {
      watched.places.push_back({*parse_glob((rng() % 2 == 0 ? "/**" : "") + glob_text()), std::uint64_t{1} << (1 + rng() % 5)});
    }
    const auto compiled = compile_policy(policy, &watched);
    ASSERT_TRUE(compiled) << compiled.error().message;
    for (int i = 0; i < 60; ++i) {
      const std::string path = random_path(rng, "ab", 2);
      const std::uint32_t set = compiled->automaton.match(compiled->automaton.head.path_start, path);
      std::vector<std::uint32_t> rules;
      std::uint64_t needed = 0;
      for (std::uint32_t r = 0; r < policy.rules.size(); ++r) {
        if (reference_match(policy.rules[r].paths.front(), path)) {
          rules.push_back(r);
          needed |= policy.rules[r].operations;
        }
      }
      bool any = !rules.empty();
      for (const Watched::Place& place : watched.places) {
        if (reference_match(place.glob, path)) {
          needed |= place.operations;
          any = true;
        }
      }
      ASSERT_EQ(compiled->set_rules[set], rules) << path;
      ASSERT_EQ(needed & ~compiled->set_operations[set], 0u) << path;
      ASSERT_EQ(set != 0, any) << path;
    }
  }
}

}  // namespace
}  // namespace vfsguard::policy
