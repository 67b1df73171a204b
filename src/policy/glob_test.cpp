// SPDX-License-Identifier: Apache-2.0
#include "policy/glob.h"

#include <gtest/gtest.h>

namespace vfsguard::policy {
namespace {

bool matches(std::string_view glob, std::string_view path) {
  const auto parsed = parse_glob(glob);
  EXPECT_TRUE(parsed) << glob;
  return parsed && reference_match(*parsed, path);
}

std::string error(std::string_view glob) {
  const auto parsed = parse_glob(glob);
  return parsed ? "accepted" : parsed.error().message;
}

TEST(Glob, LiteralMatchesItselfAlone) {
  EXPECT_TRUE(matches("/etc/shadow", "/etc/shadow"));
  EXPECT_FALSE(matches("/etc/shadow", "/etc/shadow-"));
  EXPECT_FALSE(matches("/etc/shadow", "/x/etc/shadow"));
}

TEST(Glob, StarStaysWithinAComponentAndTakesDotFiles) {
  EXPECT_TRUE(matches("/home/*/.ssh/id_*", "/home/a b/.ssh/id_"));
  EXPECT_TRUE(matches("/home/*", "/home/.hidden"));
  EXPECT_FALSE(matches("/home/*", "/home/a/b"));
}

TEST(Glob, DoubleStarSpansDirectories) {
  EXPECT_TRUE(matches("/srv/**", "/srv/a"));
  EXPECT_TRUE(matches("/srv/**", "/srv/a/b/c"));
  EXPECT_FALSE(matches("/srv/**", "/srv"));
  EXPECT_FALSE(matches("/srv/**", "/srvx"));
  EXPECT_TRUE(matches("/**/x", "/x"));
  EXPECT_TRUE(matches("/**/x", "/a/b/x"));
  EXPECT_FALSE(matches("/**/x", "/a/bx"));
  EXPECT_TRUE(matches("/a/**/**/b", "/a/b"));
  EXPECT_TRUE(matches("/**", "/"));
  EXPECT_TRUE(matches("/**", "/a/b"));
}

TEST(Glob, SetsAndEscapes) {
  EXPECT_TRUE(matches("/[a-c]x", "/bx"));
  EXPECT_FALSE(matches("/[!a-c]x", "/bx"));
  EXPECT_TRUE(matches("/[^a-c]x", "/dx"));
  EXPECT_TRUE(matches("/[]x]", "/]"));
  EXPECT_TRUE(matches("/[a-]", "/-"));
  EXPECT_FALSE(matches("/[!a]", "//"));
  EXPECT_TRUE(matches("/\\*", "/*"));
  EXPECT_FALSE(matches("/\\*", "/a"));
  EXPECT_TRUE(matches("/?", "/\xff"));
  EXPECT_FALSE(matches("/a?", "/a"));
}

TEST(Glob, ErrorsNameTheColumnAndTheMend) {
  EXPECT_EQ(error("etc"), "glob 'etc', column 1: not absolute; write '/**/etc' for any place, or '/etc'");
  EXPECT_NE(error("/a//b").find("column 4"), std::string::npos);
  EXPECT_NE(error("/a/").find("'/**'"), std::string::npos);
  EXPECT_NE(error("/a/../b").find("column 4"), std::string::npos);
  EXPECT_NE(error("/[a").find("never closed"), std::string::npos);
  EXPECT_NE(error("/[c-a]").find("backwards"), std::string::npos);
  EXPECT_NE(error("/a**").find("stand alone"), std::string::npos);
  EXPECT_NE(error("/a\\").find("escapes nothing"), std::string::npos);
  EXPECT_NE(error("").find("empty"), std::string::npos);
  EXPECT_NE(error(std::string_view("/a\0b", 4)).find("NUL"), std::string::npos);
}

}  // namespace
}  // namespace vfsguard::policy
