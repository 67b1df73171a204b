// SPDX-License-Identifier: Apache-2.0
#include "policy/secrets.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace vfsguard::policy {
namespace {

class Secrets : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "vfsguard-secrets.XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
    file_ = directory_ + "/state/protected.yaml";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string directory_;
  std::string file_;
};

TEST_F(Secrets, ComeBackAsTheyWereWritten) {
  const std::vector<Secret> secrets{
      {{"/etc/app.key"}, 1, false, {}},
      {{"/srv/a \"quoted\" \\*name\ttab", "/srv/\u00fcml\u00e4ut/**"}, 3, true, {{"uid", {"0", "33"}}, {"exe", {"/usr/sbin/app d"}}}},
  };
  ASSERT_TRUE(write_secrets(file_, secrets));
  struct stat status{};
  ASSERT_EQ(stat(file_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0600u);
  const auto read = read_secrets(file_);
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(read->size(), secrets.size());
  for (std::size_t i = 0; i < secrets.size(); ++i) {
    EXPECT_EQ((*read)[i].paths, secrets[i].paths);
    EXPECT_EQ((*read)[i].level, secrets[i].level);
    EXPECT_EQ((*read)[i].degraded, secrets[i].degraded);
    EXPECT_EQ((*read)[i].unless, secrets[i].unless);
  }
  ASSERT_TRUE(write_secrets(file_, {}));
  EXPECT_FALSE(std::filesystem::exists(file_));
  EXPECT_TRUE(read_secrets(file_)->empty());
}

TEST_F(Secrets, AFileThatIsSomethingElseIsRefused) {
  std::filesystem::create_directory(directory_ + "/state");
  for (const char* text : {"version: 1\nrules: [{ name: a, paths: [/a] }]\n", "version: 1\nmode: observe\nsecrets: [{ path: /a }]\n",
                           "version: 1\nsecrets: [{ path: /a, severity: low }]\n", "version: 1\nsecrets: [{ pathz: /a }]\n", "{", ""}) {
    std::ofstream(file_) << text;
    const auto read = read_secrets(file_);
    ASSERT_FALSE(read) << text;
    EXPECT_NE(read.error().message.find("protected.yaml:"), std::string::npos) << read.error().message;
  }
}

TEST_F(Secrets, AreCheckedWithoutAPlace) {
  EXPECT_TRUE(check_secret({{"/a/**"}, 2, false, {{"uid", {"0"}}}}));
  const auto wrong = check_secret({{"/a"}, 1, false, {{"uidd", {"0"}}}});
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().message.find("protect"), std::string::npos) << wrong.error().message;
  EXPECT_NE(wrong.error().message.find("did you mean 'uid'"), std::string::npos) << wrong.error().message;
  EXPECT_FALSE(check_secret({{"relative"}, 1, false, {}}));
  EXPECT_FALSE(check_secret({{"/a"}, 0, false, {}}));
  // A key cannot bring YAML of its own along.
  EXPECT_FALSE(check_secret({{"/a"}, 1, false, {{"uid: [0] }\n    mode", {"observe"}}}}));
  EXPECT_FALSE(check_secret({{"/a"}, 1, false, {{"uid: [0], gid", {"0"}}}}));
}

TEST_F(Secrets, ConditionsAreReadFromOneWord) {
  const auto conditions = parse_conditions("uid=0,exe=/usr/bin/a,uid=33");
  ASSERT_TRUE(conditions);
  const decltype(Secret::unless) wanted{{"uid", {"0", "33"}}, {"exe", {"/usr/bin/a"}}};
  EXPECT_EQ(*conditions, wanted);
  for (const char* text : {"", "uid", "=0", "uid=", "uid=0,", ",uid=0"}) {
    EXPECT_FALSE(parse_conditions(text)) << text;
  }
}

TEST_F(Secrets, ComeBeforeThePolicyAndTakeThePlaceOfItsOwn) {
  const Policy policy = *parse("p", "version: 1\nsecrets: [{ path: /a, level: 1 }, { path: /b }]\nrules: [{ name: r, paths: [/c] }]\n");
  const auto whole = with_secrets(policy, file_, {{{"/a"}, 2, false, {}}});
  ASSERT_TRUE(whole);
  std::vector<std::string> names;
  for (const Rule& rule : whole->rules) {
    names.push_back(rule.name);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"secret /a", "secret /a (allowed)", "secret /b", "secret /b (allowed)", "r"}));
  EXPECT_EQ(whole->rules.front().action, Action::kKill);
}

}  // namespace
}  // namespace vfsguard::policy
