// SPDX-License-Identifier: Apache-2.0
#include "enforce/description.h"

#include <random>

#include <gtest/gtest.h>

namespace vfsguard::enforce {
namespace {

Description some() {
  Description d;
  d.version = 7;
  d.version_at = 12;
  d.capacity = 256;
  d.mechanism = VG_MECHANISM_LSM;
  d.since_ns = 1'700'000'000'000'000'000u;
  d.by = "somebody";
  d.rules = {{"a", {"/a/**", std::string("/\xff\n", 3)}}, {"", {}}};
  d.set_rules = {{}, {0, 1}, {1}};
  d.translation = {0, 2};
  d.exe_sets = {{}, {"/bin/a", "/bin/*"}};
  d.forks = 1;
  d.globs = {"/a/**"};
  d.before.rules["a"] = {.stopped = 3, .kill_failed = 1};
  d.before.total.asked = 99;
  return d;
}

TEST(Description, ComesBackAsItWas) {
  const Description d = some();
  const auto back = decode(encode(d));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->version, 7u);
  EXPECT_EQ(back->version_at, 12u);
  EXPECT_EQ(back->since_ns, d.since_ns);
  EXPECT_EQ(back->by, "somebody");
  ASSERT_EQ(back->rules.size(), 2u);
  EXPECT_EQ(back->rules[0].globs, d.rules[0].globs);
  EXPECT_EQ(back->set_rules, d.set_rules);
  EXPECT_EQ(back->translation, d.translation);
  EXPECT_EQ(back->exe_sets, d.exe_sets);
  EXPECT_EQ(back->forks, 1u);
  EXPECT_EQ(back->globs, d.globs);
  EXPECT_EQ(back->before.rules.at("a").stopped, 3u);
  EXPECT_EQ(back->before.total.asked, 99u);
}

TEST(Description, OfAnotherVersionIsRefusedByName) {
  Description d = some();
  d.abi = VG_ABI_VERSION + 1;
  const auto back = decode(encode(d));
  ASSERT_FALSE(back);
  EXPECT_NE(back.error().message.find("another version"), std::string::npos);
}

TEST(Description, WhatIsCutIsRefused) {
  const auto bytes = encode(some());
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_FALSE(decode(std::span(bytes).first(n))) << n;
  }
}

// Under the sanitizers: whatever the bytes are, nothing is read beyond them and nothing grows without bound.
TEST(Description, RandomBytesDoNoHarm) {
  std::mt19937 random(20261124);
  const auto whole = encode(some());
  for (int round = 0; round < 20000; ++round) {
    auto bytes = whole;
    for (int change = 0; change < 3; ++change) {
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    }
    (void)decode(bytes);
  }
}

}  // namespace
}  // namespace vfsguard::enforce
