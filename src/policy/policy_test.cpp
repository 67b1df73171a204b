// SPDX-License-Identifier: Apache-2.0
#include "policy/policy.h"

#include <gtest/gtest.h>

#include <cstring>

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

TEST(Policy, JsonIsReadToo) { EXPECT_TRUE(parse("p", R"({"version": 1, "rules": [{"name": "a", "paths": ["/etc/**"], "action": "audit"}]})")); }

TEST(Policy, TheShippedOneIsValid) {
  const auto policy = load(VFSGUARD_POLICIES "/sensitive-files.yaml");
  ASSERT_TRUE(policy) << policy.error().message;
  ASSERT_TRUE(compile_policy(*policy));
}

}  // namespace
}  // namespace vfsguard::policy
