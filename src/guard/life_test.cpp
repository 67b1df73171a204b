// SPDX-License-Identifier: Apache-2.0
#include "guard/life.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "util/sha256.h"

namespace vfsguard::guard {
namespace {

class Life : public testing::Test {
 protected:
  Life() : directory_(std::filesystem::temp_directory_path() / ("vfsguard-life." + std::to_string(getpid()))) {
    std::filesystem::create_directories(directory_);
  }
  ~Life() override { std::filesystem::remove_all(directory_); }
  std::string file(const char* name) { return (directory_ / name).string(); }
  std::filesystem::path directory_;
};

TEST_F(Life, TheNextOneKnowsHowTheLastOneEnded) {
  const std::string path = file("new/state");
  {
    auto first = State::open(path);
    ASSERT_TRUE(first) << first.error().message;
    EXPECT_FALSE(first->last());
    EXPECT_EQ(State::open(path).error().exit_code, EX_TEMPFAIL);
    first->beat();
  }
  {
    auto second = State::open(path);
    ASSERT_TRUE(second);
    ASSERT_TRUE(second->last());
    EXPECT_FALSE(second->last()->ended);
    EXPECT_EQ(second->last()->pid, static_cast<std::uint32_t>(getpid()));
    EXPECT_GE(second->last()->seen_ns, second->last()->started_ns);
    EXPECT_FALSE(second->last()->boot_id.empty());
    second->end();
  }
  auto third = State::open(path);
  ASSERT_TRUE(third);
  EXPECT_TRUE(third->last()->ended);
}

TEST_F(Life, AFileThatIsNotUnderstoodIsAsNone) {
  for (const char* text : {"", "something else\n", "vfsguard-state 1\nstate ended\n", "vfsguard-state 1\npid x\nend\n", "vfsguard-state 2\nend\n"}) {
    std::ofstream(file("state")) << text;
    auto state = State::open(file("state"));
    ASSERT_TRUE(state);
    EXPECT_FALSE(state->last()) << text;
    std::filesystem::remove(file("state"));
  }
}

TEST_F(Life, ADigestIsOfPathsAndContents) {
  std::ofstream(file("a")) << "abc";
  std::ofstream(file("b")) << "abc";
  EXPECT_EQ(*util::sha256_of_file(file("a")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");  // FIPS 180-2, B.1
  const std::string both = digest_of({file("a"), file("b")});
  EXPECT_EQ(both, digest_of({file("b"), file("a"), file("a")}));
  EXPECT_NE(both, digest_of({file("a")}));
  std::ofstream(file("b")) << "abd";
  EXPECT_NE(both, digest_of({file("a"), file("b")}));
  EXPECT_NE(digest_of({file("none")}), digest_of({}));
}

TEST_F(Life, AClockThatIsNotSetTakesNoStep) {
  ClockWatch watch;
  EXPECT_GE(watch.fd(), 0);
  EXPECT_LT(std::abs(watch.take_step()), 50'000'000);
}

constexpr std::uint64_t kSecond = 1'000'000'000;

Clocks at(std::uint64_t monotonic, std::uint64_t boottime, std::uint64_t cpu) { return {monotonic * kSecond, boottime * kSecond, cpu * kSecond}; }

TEST(PauseWatch, SaysForHowLongItDidNotRun) {
  PauseWatch watch;
  EXPECT_FALSE(watch.look(at(100, 100, 1), 0));
  EXPECT_FALSE(watch.look(at(101, 101, 1), kSecond));
  EXPECT_FALSE(watch.look(at(103, 103, 1), kSecond));  // so late may a busy machine be
  const auto pause = watch.look(at(113, 113, 1), kSecond);
  ASSERT_TRUE(pause);
  EXPECT_EQ(pause->up_to_ns, 10 * kSecond);
  EXPECT_EQ(pause->suspended_ns, 0u);
  EXPECT_EQ(pause->since_ns, 103 * kSecond);
  EXPECT_FALSE(watch.look(at(114, 114, 1), kSecond));
}

TEST(PauseWatch, WorkAndWaitingAndAMachineThatSleepsAreNone) {
  PauseWatch watch;
  EXPECT_FALSE(watch.look(at(100, 100, 1), 0));
  EXPECT_FALSE(watch.look(at(160, 160, 1), 60 * kSecond));
  EXPECT_FALSE(watch.look(at(170, 170, 11), 0));
  EXPECT_FALSE(watch.look(at(171, 4000, 11), kSecond));  // suspended for an hour
  const auto both = watch.look(at(181, 4110, 11), kSecond);
  ASSERT_TRUE(both);
  EXPECT_EQ(both->up_to_ns, 10 * kSecond);
  EXPECT_EQ(both->suspended_ns, 100 * kSecond);
  watch.excuse(at(300, 5000, 11));
  EXPECT_FALSE(watch.look(at(301, 5001, 11), kSecond));
}

}  // namespace
}  // namespace vfsguard::guard
