// SPDX-License-Identifier: Apache-2.0
#include "policy/policy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string_view>

#include "util/suggestion.h"

namespace vfsguard::policy {
namespace {

event::Operation operation_on(const Compiled& compiled, std::string_view path, std::uint32_t uid, const char* comm = "cat") {
  event::Operation operation;
  operation.raw.match = compiled.automaton.match(compiled.automaton.head.path_start, path);
  operation.raw.operation = VG_OP_OPEN;
  operation.raw.uid = uid;
  std::strcpy(operation.raw.comm, comm);
  return operation;
}

TEST(Policy, RulesApplyByPathOperationAndSubject) {
  const auto policy = parse("p", R"(
version: 1
rules:
  - name: keys
    paths: ["/srv/keys/**"]
    unless: { uid: [0, 7], comm: backup }
    severity: high
  - { name: all, paths: "/srv/**", operations: open, severity: low }
  - { name: execs, paths: "/srv/**", operations: [exec] }
)");
  ASSERT_TRUE(policy) << policy.error().message;
  const auto compiled = compile_policy(*policy);
  ASSERT_TRUE(compiled);
  auto names = [&](std::string_view path, std::uint32_t uid, const char* comm = "cat") {
    auto operation = operation_on(*compiled, path, uid, comm);
    attribute(*policy, *compiled, operation);
    return operation.policies;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(names("/srv/keys/a", 1000), (Names{"keys", "all"}));
  EXPECT_EQ(names("/srv/keys/a", 0), (Names{"keys", "all"})) << "all conditions of 'unless' must hold";
  EXPECT_EQ(names("/srv/keys/a", 7, "backup"), (Names{"all"}));
  EXPECT_EQ(names("/srv/x", 1000), (Names{"all"}));
  EXPECT_EQ(names("/etc/x", 1000), (Names{}));
}

TEST(Policy, TheHighestSeverityCounts) {
  const auto policy = parse("p", "version: 1\nrules:\n  - {name: a, paths: /a, severity: low}\n  - {name: b, paths: /a, severity: critical}\n");
  ASSERT_TRUE(policy);
  const auto compiled = compile_policy(*policy);
  auto operation = operation_on(*compiled, "/a", 0);
  ASSERT_TRUE(attribute(*policy, *compiled, operation));
  EXPECT_EQ(operation.severity, "critical");
}

TEST(Policy, TheFirstRuleThatAppliesDecides) {
  const auto policy = parse("p", R"(
version: 1
mode: observe
rules:
  - { name: recorded, paths: "/srv/**", operations: open }
  - { name: backup-may-not, paths: "/srv/keys/**", operations: open, only: { exe: /usr/bin/backup }, action: kill, signal: SIGTERM }
  - { name: keys, paths: "/srv/keys/**", operations: open, unless: { uid: 0 }, action: deny, errno: EPERM, mode: enforce }
  - { name: by-parent, paths: "/srv/**", operations: open, only: { ancestor: /usr/sbin/sshd }, action: deny }
)");
  ASSERT_TRUE(policy) << policy.error().message;
  const auto compiled = compile_policy(*policy);
  ASSERT_TRUE(compiled);
  const auto decided = [&](std::string path, std::initializer_list<std::pair<const char*, const char*>> as) {
    event::Operation operation;
    operation.raw.operation = VG_OP_OPEN;
    operation.path = std::move(path);
    for (const auto& [key, value] : as) {
      EXPECT_TRUE(set_subject(operation, key, value));
    }
    match_paths(*compiled, operation);
    const Rule* rule = deciding_rule(*policy, *compiled, operation);
    event::Operation attributed = operation;
    attribute(*policy, *compiled, attributed);
    EXPECT_EQ(attributed.verdict, rule == nullptr ? std::string_view{} : action_name(rule->action));
    EXPECT_EQ(attributed.policies.empty() ? "" : attributed.policies.front(), rule != nullptr ? rule->name : "recorded");
    return rule == nullptr ? std::string("none") : rule->name;
  };
  EXPECT_EQ(decided("/srv/keys/a", {{"uid", "1000"}}), "keys");
  EXPECT_EQ(decided("/srv/keys/a", {{"uid", "0"}}), "none");
  EXPECT_EQ(decided("/srv/keys/a", {{"uid", "0"}, {"exe", "/usr/bin/backup"}}), "backup-may-not");
  EXPECT_EQ(decided("/srv/x", {{"uid", "1000"}}), "none");
  EXPECT_EQ(decided("/srv/x", {{"ancestor", "/bin/bash"}, {"ancestor", "/usr/sbin/sshd"}}), "by-parent");
  EXPECT_EQ(policy->rules[1].signal, SIGTERM);
  const auto reads = parse("p", "version: 1\nrules:\n  - {name: a, paths: /a, operations: read, action: deny}\n");
  event::Operation close;
  close.raw.operation = VG_OP_CLOSE;
  EXPECT_TRUE(reads->rules[0].asks_for(close));
  EXPECT_FALSE(reads->rules[0].stops(close)) << "the sums of a session are told, there is nothing to stop";
  EXPECT_EQ(policy->rules[2].error, EPERM);
  EXPECT_TRUE(enforces(*policy));
}

TEST(Policy, WhatWasRefusedBecauseItIsNotKnownIsNoRulesMatch) {
  const auto policy = parse("p", "version: 1\nrules:\n  - { name: keys, paths: /srv/keys/**, operations: open, action: kill }\n");
  ASSERT_TRUE(policy) << policy.error().message;
  const auto compiled = compile_policy(*policy);
  ASSERT_TRUE(compiled);
  event::Operation operation;
  operation.raw.operation = VG_OP_OPEN;
  operation.raw.verdict = VG_VERDICT_DENY;
  operation.raw.cause = VG_UNKNOWN_DISCONNECTED;
  operation.raw.rule = ~0u;
  EXPECT_TRUE(attribute(*policy, *compiled, operation));
  EXPECT_EQ(operation.verdict, "deny");
  EXPECT_EQ(operation.severity, "high");
  EXPECT_TRUE(operation.policies.empty());
}

TEST(Policy, ASecretIsStoppedByItsLevelAndRecordedForWhoMay) {
  const auto policy = parse("p",
                            "version: 1\nsecrets:\n"
                            "  - { path: /etc/shadow }\n"
                            "  - { path: /srv/keys/**, level: 2, unless: { uid: [0, 33] } }\n"
                            "rules:\n  - { name: all, paths: /srv/**, operations: open }\n");
  ASSERT_TRUE(policy) << policy.error().message;
  const auto compiled = compile_policy(*policy);
  ASSERT_TRUE(compiled);
  const auto told = [&](const std::string& path, const std::string& uid) {
    event::Operation operation;
    operation.raw.operation = VG_OP_OPEN;
    operation.path = path;
    EXPECT_TRUE(set_subject(operation, "uid", uid));
    match_paths(*compiled, operation);
    attribute(*policy, *compiled, operation);
    return std::string(operation.verdict) + " " + (operation.policies.empty() ? "" : operation.policies.front());
  };
  EXPECT_EQ(told("/etc/shadow", "1000"), "deny secret /etc/shadow");
  EXPECT_EQ(told("/etc/shadow", "0"), " secret /etc/shadow (allowed)");
  EXPECT_EQ(told("/srv/keys/a", "1000"), "kill secret /srv/keys/**");
  EXPECT_EQ(told("/srv/keys/a", "33"), " secret /srv/keys/** (allowed)");
  EXPECT_EQ(told("/srv/other", "1000"), " all");
  const auto refused = [](const std::string& secret) { return parse("p", "version: 1\nsecrets:\n  - " + secret + "\n").error().message; };
  EXPECT_EQ(refused("{ path: /a, level: 0 }"), "p:3:24: 'level' is 1 (the caller gets EACCES) or more (the caller is killed)");
  EXPECT_NE(refused("{ path: a }").find("p:3:13: "), std::string::npos);
  EXPECT_NE(refused("{ paths: /a }").find("did you mean 'path'?"), std::string::npos);
  EXPECT_NE(refused("{ path: /a }\n  - { path: /a }").find("stands in line 3 already"), std::string::npos);
}

TEST(Policy, ReviewFindsWhatIsWorthASecondLook) {
  const auto notes = [](const std::string& rules) {
    const auto policy = parse("p", "version: 1\nrules:\n" + rules);
    EXPECT_TRUE(policy) << policy.error().message;
    std::string all;
    for (const std::string& note : review(*policy, *compile_policy(*policy))) {
      all += note + "\n";
    }
    return all;
  };
  EXPECT_EQ(notes("  - {name: a, paths: '/srv/**', operations: open, action: deny, unless: {uid: 0}}\n"), "");
  EXPECT_NE(notes("  - {name: a, paths: '/srv/**', action: deny}\n  - {name: b, paths: /srv/keys, action: kill}\n")
                .find("p:4: rule 'b' never decides: 'a' (p:3) comes first"),
            std::string::npos);
  EXPECT_NE(notes("  - {name: a, paths: /srv/keys, action: kill}\n  - {name: b, paths: '/srv/**', action: deny}\n").find("p:4: rule 'b' overlaps 'a' (p:3)"),
            std::string::npos);
  EXPECT_NE(notes("  - {name: a, paths: '/etc/**', action: deny}\n").find("keeps root from /etc/passwd"), std::string::npos);
  EXPECT_NE(notes("  - {name: a, paths: '/x', only: {comm: cat}}\n").find("any process can set"), std::string::npos);
}

TEST(Policy, JsonIsReadToo) { EXPECT_TRUE(parse("p", R"({"version": 1, "rules": [{"name": "a", "paths": ["/etc/**"], "action": "audit"}]})")); }

TEST(Policy, TheShippedOneIsValid) {
  const auto policy = load(VFSGUARD_POLICIES "/sensitive-files.yaml");
  ASSERT_TRUE(policy) << policy.error().message;
  ASSERT_TRUE(compile_policy(*policy));
}

TEST(Suggestion, IsOfAWordThatIsMostlyTheSame) {
  constexpr std::string_view kKnown[] = {"audit", "deny", "kill", "ses", "operations"};
  EXPECT_EQ(util::suggestion("dney", kKnown), "did you mean 'deny'?");
  EXPECT_EQ(util::suggestion("auditt", kKnown), "did you mean 'audit'?");
  EXPECT_EQ(util::suggestion("opertaion", kKnown), "did you mean 'operations'?");
  EXPECT_EQ(util::suggestion("key", kKnown), "known: audit, deny, kill, ses, operations");
  EXPECT_EQ(util::suggestion("", kKnown), "known: audit, deny, kill, ses, operations");
  EXPECT_EQ(util::suggestion("forbid", kKnown), "known: audit, deny, kill, ses, operations");
}

}  // namespace
}  // namespace vfsguard::policy
