// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <re2/re2.h>
#include <sys/stat.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <random>
#include <set>

#include <fmt/format.h>

#include "detect/condition.h"
#include "detect/detector.h"
#include "detect/literals.h"
#include "event/names.h"
#include "output/escape.h"
#include "policy/glob.h"
#include "util/read_file.h"

namespace vfsguard::detect {
namespace {

using TestOf = detect::Test;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// What a test says of an event; the rest is as an unprivileged cat would have it.
struct Said {
  unsigned operation = VG_OP_EXEC;
  unsigned call = VG_CALL_EXECVE;
  std::string exe = "/usr/bin/cat";
  std::vector<std::string> arguments{"cat", "/etc/shadow"};
  std::string path = "/etc/shadow";
  std::string parent = "/usr/bin/bash";
  std::int64_t retval = 0;
  std::uint64_t flags = 0;
};

event::Operation operation(const Said& said = {}) {
  event::Operation o;
  o.raw.operation = static_cast<vg_u8>(said.operation);
  o.raw.call = static_cast<vg_u8>(said.call);
  o.raw.retval = said.retval;
  o.raw.flags = said.flags;
  o.raw.pid = 4711;
  o.raw.uid = 1000;
  o.raw.time_ns = 1'000'000'000;
  o.raw.path_flags = VG_PATH_OBJECT | VG_HAVE_ARGS;
  o.path = said.path;
  o.user = "alice";
  o.cwd = "/home/alice";
  o.wall_ns = 1'700'000'000ull * 1'000'000'000u;  // 2023-11-14T22:13:20Z
  auto process = std::make_shared<event::Process>();
  process->pid = 4711;
  process->exe = said.exe;
  process->arguments = said.arguments;
  process->command_line = output::command_line(said.arguments);
  process->ancestors.push_back({1, 1, 1, std::make_shared<const std::string>(said.parent)});
  process->parent_command_line = output::command_line({"bash", "-l"});
  o.process = process;
  return o;
}

RuleSet parsed(const std::string& text, const Lists& lists = {}) {
  RuleSet set;
  parse_rules("test.yml", text, lists, set);
  return set;
}

std::string rule(const std::string& detection, const std::string& logsource = "{ category: process_creation, product: linux }") {
  return fmt::format("title: test\nlogsource: {}\ndetection:\n{}", logsource, detection);
}

// Whether a rule with this one part matches.
bool says(const std::string& part, const event::Operation& o, const Lists& lists = {}) {
  const RuleSet set = parsed(rule("  s:\n    " + part + "\n  condition: s\n"), lists);
  EXPECT_THAT(set.refused, IsEmpty()) << (set.refused.empty() ? "" : set.refused.front().message);
  if (set.rules.size() != 1) {
    return false;
  }
  Engine engine(set.rules);
  return !engine.match(o).empty();
}

std::string refusal(const std::string& text, const Lists& lists = {}) {
  const RuleSet set = parsed(text, lists);
  return set.refused.empty() ? "" : set.refused.front().message;
}

TEST(Literals, FindWhatIsThere) {
  std::mt19937 random(1);
  const auto text = [&](std::size_t most) {
    std::string out;
    for (std::size_t n = random() % (most + 1); n > 0; --n) {
      out += "aAbB/"[random() % 5];
    }
    return out;
  };
  for (int round = 0; round < 2000; ++round) {
    Literals literals;
    std::vector<std::pair<std::string, Literals::Where>> all;
    for (std::size_t n = 1 + random() % 12; n > 0; --n) {
      std::string literal = text(5);
      if (literal.empty()) {
        literal = "a";
      }
      const auto where = static_cast<Literals::Where>(random() % 4);
      literals.add(literal, where, static_cast<std::uint32_t>(all.size()));
      all.emplace_back(folded(literal), where);
    }
    literals.build();
    const std::string in = text(20);
    std::set<std::uint32_t> found;
    literals.search(in, [&](std::uint32_t id) { found.insert(id); });
    const std::string low = folded(in);
    for (std::uint32_t i = 0; i < all.size(); ++i) {
      const auto& [literal, where] = all[i];
      const bool there = where == Literals::Where::kWhole       ? low == literal
                         : where == Literals::Where::kBeginning ? low.starts_with(literal)
                         : where == Literals::Where::kEnd       ? low.ends_with(literal)
                                                                : low.find(literal) != std::string::npos;
      ASSERT_EQ(found.contains(i), there) << literal << " in " << in << " as " << static_cast<int>(where);
    }
  }
}

TEST(Pattern, EscapesAsTheSpecificationSays) {
  const auto matches_text = [](std::string_view pattern, std::string_view text) { return matches(parse_pattern(pattern), text, false); };
  EXPECT_TRUE(matches_text("C:\\Windows\\cmd.exe", "c:\\windows\\CMD.exe"));
  EXPECT_TRUE(matches_text("a\\*b", "a*b"));
  EXPECT_FALSE(matches_text("a\\*b", "axb"));
  EXPECT_TRUE(matches_text("a\\\\*", "a\\anything"));
  EXPECT_FALSE(matches_text("a\\\\*", "axanything"));
  EXPECT_TRUE(matches_text("a\\\\\\*", "a\\*"));
  EXPECT_FALSE(matches_text("a\\\\\\*", "a\\b"));
  EXPECT_TRUE(matches_text("end\\", "end\\"));
  EXPECT_TRUE(matches_text("a?c", "abc"));
  EXPECT_TRUE(matches_text("a?c",
                           "a\xc3\xa9"
                           "c"));
  EXPECT_FALSE(matches_text("a?c", "ac"));
  EXPECT_TRUE(matches_text("*a*b*c", "xxaxxbxxbxxc"));
  EXPECT_FALSE(matches_text("*a*b*c", "xxaxxbxxbxxcd"));
  EXPECT_EQ(longest_literal(parse_pattern("*ab?cde*f")), "cde");
}

// Against RE2, on random patterns and texts.
TEST(Pattern, MatchesWhatARegularExpressionDoes) {
  std::mt19937 random(2);
  for (int round = 0; round < 20000; ++round) {
    std::string pattern;
    std::string regex;
    for (std::size_t n = random() % 7; n > 0; --n) {
      const char c = "ab*?"[random() % 4];
      pattern += c;
      regex += c == '*' ? ".*" : c == '?' ? "." : std::string(1, c);
    }
    std::string text;
    for (std::size_t n = random() % 8; n > 0; --n) {
      text += "abAB"[random() % 4];
    }
    ASSERT_EQ(matches(parse_pattern(pattern), text, false), RE2::FullMatch(text, "(?i)" + regex)) << pattern << " on " << text;
  }
}

TEST(Condition, BindsAsTheSpecificationSays) {
  std::vector<Part> parts;
  for (const char* name : {"a", "b", "c", "sel_1", "sel_2", "_hidden"}) {
    parts.push_back({name, {Expression::Kind::kAtom, static_cast<std::uint32_t>(parts.size()), {}}, false});
  }
  const auto value = [&](std::string_view text, const std::set<std::uint32_t>& held) {
    const auto parsed_text = parse_condition(text, parts);
    EXPECT_TRUE(parsed_text) << (parsed_text ? "" : parsed_text.error().why);
    std::vector<bool> atoms(parts.size(), false);
    for (const std::uint32_t one : held) {
      atoms[one] = true;
    }
    return parsed_text && is_true(*parsed_text, atoms);
  };
  EXPECT_TRUE(value("a or b and c", {0}));
  EXPECT_FALSE(value("(a or b) and c", {0}));
  EXPECT_TRUE(value("not a and b", {1}));
  EXPECT_FALSE(value("not (a or b)", {1}));
  EXPECT_TRUE(value("NOT a AND b", {1}));
  EXPECT_TRUE(value("1 of sel_*", {4}));
  EXPECT_FALSE(value("all of sel_*", {4}));
  EXPECT_TRUE(value("2 of them", {0, 4}));
  EXPECT_FALSE(value("2 of them", {0, 5}));  // _hidden is not among them
  EXPECT_TRUE(value("any of them", {2}));
  EXPECT_TRUE(value("all of them", {0, 1, 2, 3, 4}));
  const auto wrong = [&](std::string_view text) {
    const auto parsed_text = parse_condition(text, parts);
    return parsed_text ? std::string("taken") : fmt::format("{}: {}", parsed_text.error().at, parsed_text.error().why);
  };
  EXPECT_THAT(wrong("a and"), HasSubstr("5: the condition ends"));
  EXPECT_THAT(wrong("a b"), HasSubstr("2: 'b' is not expected here"));
  EXPECT_THAT(wrong("sel_3"), HasSubstr("did you mean 'sel_1'"));
  EXPECT_THAT(wrong("1 of x*"), HasSubstr("no part"));
  EXPECT_THAT(wrong("3 of sel_*"), HasSubstr("can never match"));
  EXPECT_THAT(wrong("0 of sel_*"), HasSubstr("from 1 on"));
  EXPECT_THAT(wrong("a | count() > 5"), HasSubstr("correlation rule"));
  EXPECT_THAT(wrong("(a"), HasSubstr("')' is missing"));
  EXPECT_THAT(wrong(std::string(200, '(') + "a"), HasSubstr("deeper than 64"));
  std::string many = "a";
  for (int i = 0; i < 5000; ++i) {
    many += " or a";
  }
  EXPECT_TRUE(parse_condition(many, parts));
}

TEST(Values, ModifiersDoWhatTheySay) {
  const event::Operation o = operation();
  EXPECT_TRUE(says("Image: /usr/bin/cat", o));
  EXPECT_TRUE(says("Image: '/USR/bin/c?t'", o));
  EXPECT_FALSE(says("Image: /usr/bin/ca", o));
  EXPECT_TRUE(says("Image|endswith: /cat", o));
  EXPECT_TRUE(says("Image|startswith: /usr/", o));
  EXPECT_TRUE(says("CommandLine|contains: [nothing, ' /etc/']", o));
  EXPECT_FALSE(says("CommandLine|contains|all: [cat, nothing]", o));
  EXPECT_TRUE(says("CommandLine|contains|all: [CAT, shadow]", o));
  EXPECT_FALSE(says("CommandLine|contains|cased: CAT", o));
  EXPECT_TRUE(says("CommandLine|re: 'cat\\s+/etc/s[h]adow$'", o));
  EXPECT_FALSE(says("CommandLine|re: 'CAT\\s+/etc'", o));
  EXPECT_TRUE(says("CommandLine|re|i: 'CAT\\s+/etc'", o));
  EXPECT_TRUE(says("CommandLine|re: '^c.t'", o));
  EXPECT_TRUE(says("CommandLine|exists: true", o));
  EXPECT_TRUE(says("container_id|exists: false", o));
  EXPECT_TRUE(says("container_id: null", o));
  EXPECT_FALSE(says("Image: null", o));
  EXPECT_FALSE(says("container_id|neq: abc", o));
  EXPECT_TRUE(says("User|neq: [root, bob]", o));
  EXPECT_FALSE(says("User|neq: [root, alice]", o));
  EXPECT_TRUE(says("ProcessId: 4711", o));
  EXPECT_TRUE(says("ProcessId: '47*'", o));
  EXPECT_TRUE(says("ProcessId|gte: 4711", o));
  EXPECT_FALSE(says("ProcessId|lt: 4711", o));
  EXPECT_TRUE(says("User: al*", o));
  EXPECT_TRUE(says("User: '*'", o));
  EXPECT_TRUE(says("CommandLine|fieldref|contains: TargetFilename", o));
  EXPECT_FALSE(says("CommandLine|fieldref: TargetFilename", o));
  EXPECT_TRUE(says("timestamp|hour: 22", o));
  EXPECT_TRUE(says("timestamp|year|gt: 2022", o));
  EXPECT_FALSE(says("timestamp|month: 10", o));
  EXPECT_TRUE(says("ParentCommandLine|contains: -l", o));
  EXPECT_TRUE(says("Image|expand: '%readers%'", o, {{"readers", {"/bin/less", "/usr/bin/cat"}}}));
  EXPECT_TRUE(says("Image|expand|endswith: '/%readers%'", o, {{"readers", {"less", "cat"}}}));
  EXPECT_TRUE(says("Image: '%readers%'", operation({.exe = "%readers%"})));
}

TEST(Values, EncodedAsTheirWritersDo) {
  const auto with = [](std::string argument) { return operation({.arguments = {"sh", std::move(argument)}}); };
  EXPECT_TRUE(says("CommandLine|base64|contains: '/bin/sh'", with("L2Jpbi9zaA==")));
  // "foo /bin/bash", "fo /bin/bash" and "f /bin/bash": each puts it at another offset.
  for (const char* encoded : {"Zm9vIC9iaW4vYmFzaCBiYXI=", "Zm8gL2Jpbi9iYXNoIGJhcg==", "ZiAvYmluL2Jhc2ggYmFy"}) {
    EXPECT_TRUE(says("CommandLine|base64offset|contains: '/bin/bash'", with(encoded))) << encoded;
  }
  EXPECT_TRUE(says("CommandLine|wide|base64offset|contains: 'ping'", with("cABpAG4AZwA=")));
  EXPECT_TRUE(says("CommandLine|utf16be|base64|contains: 'hi'", with("AGgAaQ==")));
  EXPECT_TRUE(says("CommandLine|utf16|base64|contains: 'hi'", with("//5oAGkA")));
  EXPECT_TRUE(says("CommandLine|windash|contains: ' -f '", operation({.arguments = {"x", "/f", "y"}})));
  EXPECT_TRUE(says("CommandLine|windash|contains: ' -f '", operation({.arguments = {"x",
                                                                                    "\xe2\x80\x93"
                                                                                    "f",
                                                                                    "y"}})));
  EXPECT_TRUE(says("CommandLine|contains: \"curl a | sh\"", operation({.arguments = {"sh", "-c", "curl a | sh"}})));
}

TEST(Values, NetworksAreNetworks) {
  event::Operation o = operation({.operation = VG_OP_CONNECT, .call = VG_CALL_CONNECT});
  const auto says_of = [&](const std::string& part, const std::string& ip) {
    o.address = event::Address{ip.find(':') == std::string::npos ? 2u : 10u, ip, 4444, ""};
    const RuleSet set = parsed(rule("  s:\n    " + part + "\n  condition: s\n", "{ category: network_connection }"));
    return !Engine(set.rules).match(o).empty();
  };
  EXPECT_TRUE(says_of("DestinationIp|cidr: 10.0.0.0/8", "10.200.3.4"));
  EXPECT_FALSE(says_of("DestinationIp|cidr: 10.0.0.0/8", "11.0.0.1"));
  EXPECT_TRUE(says_of("DestinationIp|cidr: 10.0.0.0/8", "::ffff:10.1.2.3"));
  EXPECT_TRUE(says_of("DestinationIp|cidr: 192.168.12.0/23", "192.168.13.255"));
  EXPECT_FALSE(says_of("DestinationIp|cidr: 192.168.12.0/23", "192.168.14.0"));
  EXPECT_TRUE(says_of("DestinationIp|cidr: 'fe80::/10'", "fe90::1"));
  EXPECT_TRUE(says_of("DestinationPort: [80, 4444]", "1.2.3.4"));
  EXPECT_TRUE(says_of("Initiated: 'true'", "1.2.3.4"));
  EXPECT_TRUE(says_of("DestinationIsIpv6: true", "fe90::1"));
  EXPECT_FALSE(says_of("DestinationHostname|contains: example", "1.2.3.4"));
}

TEST(Rules, KeywordsAreLookedForEverywhere) {
  const auto of = [](const std::string& part) {
    const RuleSet set = parsed(rule("  s:\n" + part + "\n  condition: s\n"));
    EXPECT_THAT(set.refused, IsEmpty()) << (set.refused.empty() ? "" : set.refused.front().message);
    return set.rules.size() == 1 && !Engine(set.rules).match(operation()).empty();
  };
  EXPECT_TRUE(of("    - nothing\n    - SHADOW"));
  EXPECT_TRUE(of("    - 'cat */sha?ow'"));
  EXPECT_FALSE(of("    - nothing\n    - nobody"));
  EXPECT_TRUE(of("    '|all':\n      - shadow\n      - alice"));
  EXPECT_FALSE(of("    '|all':\n      - shadow\n      - nobody"));
  EXPECT_TRUE(of("    - nothing\n    - User: alice"));
  const RuleSet several = parsed(rule("  s: { User: bob }\n  t: { User: alice }\n  condition: [s, t]\n"));
  EXPECT_THAT(Engine(several.rules).match(operation()), ElementsAre(0));
}

TEST(Rules, EnormousListsAreTakenOrRefusedWithTheNumber) {
  std::string values;
  for (int i = 0; i < 100'000; ++i) {
    values += fmt::format("      - value-{}\n", i);
  }
  const RuleSet set = parsed(rule("  s:\n    CommandLine|contains:\n" + values + "      - shadow\n  condition: s\n"));
  ASSERT_THAT(set.refused, IsEmpty()) << set.refused.front().message;
  EXPECT_THAT(Engine(set.rules).match(operation()), ElementsAre(0));
  EXPECT_THAT(refusal(rule("  s:\n    CommandLine|contains:\n" + values + values + values + "  condition: s\n")),
              HasSubstr("more than 200000 values in one rule"));
}

TEST(Rules, AreAboutTheirLogsource) {
  const auto of = [](const std::string& logsource, const event::Operation& o) {
    const RuleSet set = parsed(rule("  s: { uid: 1000 }\n  condition: s\n", logsource));
    return !Engine(set.rules).match(o).empty();
  };
  EXPECT_TRUE(of("{ category: process_creation }", operation()));
  EXPECT_FALSE(of("{ category: process_creation }", operation({.retval = -2})));
  EXPECT_FALSE(of("{ category: file_event }", operation()));
  EXPECT_TRUE(of("{ category: file_event }", operation({.operation = VG_OP_OPEN, .call = VG_CALL_OPENAT, .retval = 3, .flags = O_WRONLY})));
  EXPECT_FALSE(of("{ category: file_event }", operation({.operation = VG_OP_OPEN, .call = VG_CALL_OPENAT, .retval = 3, .flags = O_RDONLY})));
  EXPECT_TRUE(of("{ category: file_access }", operation({.operation = VG_OP_OPEN, .call = VG_CALL_OPENAT, .retval = -13, .flags = O_RDONLY})));
  EXPECT_TRUE(of("{ category: file_delete }", operation({.operation = VG_OP_UNLINK, .call = VG_CALL_UNLINK})));
  EXPECT_TRUE(of("{ product: linux, service: vfsguard }", operation({.operation = VG_OP_UNLINK, .call = VG_CALL_UNLINK, .retval = -1})));
  event::Operation renamed = operation({.operation = VG_OP_RENAME, .call = VG_CALL_RENAME, .path = "/a"});
  renamed.dst_path = "/b";
  const RuleSet both = parsed(rule("  s: { SourceFilename: /a, TargetFilename: /b }\n  condition: s\n", "{ category: file_rename }"));
  EXPECT_THAT(Engine(both.rules).match(renamed), ElementsAre(0));
}

TEST(Rules, OfAuditdReadOurEvents) {
  const auto of = [](const std::string& part, const event::Operation& o) {
    const RuleSet set = parsed(rule("  s:\n    " + part + "\n  condition: s\n", "{ product: linux, service: auditd }"));
    EXPECT_THAT(set.refused, IsEmpty()) << (set.refused.empty() ? "" : set.refused.front().message);
    return set.rules.size() == 1 && !Engine(set.rules).match(o).empty();
  };
  EXPECT_TRUE(of("type: EXECVE\n    a0: cat\n    a1|contains: shadow", operation()));
  EXPECT_FALSE(of("type: EXECVE\n    a0: shadow", operation()));
  EXPECT_TRUE(of("type: PROCTITLE\n    proctitle|endswith: ' /etc/shadow'", operation({.operation = VG_OP_CHMOD, .call = VG_CALL_CHMOD})));
  EXPECT_TRUE(of("syscall: 90", operation({.operation = VG_OP_CHMOD, .call = VG_CALL_CHMOD})));
  EXPECT_TRUE(of("type: SYSCALL\n    syscall: execve\n    success: 'yes'\n    exe|endswith: /cat", operation()));
  EXPECT_TRUE(of("type: PATH\n    name: /etc/shadow\n    nametype: DELETE", operation({.operation = VG_OP_UNLINK, .call = VG_CALL_UNLINK})));
  EXPECT_THAT(refusal(rule("  s: { key: x }\n  condition: s\n", "{ service: auditd }")), HasSubstr("there is no field 'key'"));
}

TEST(Rules, WhatCannotBeEvaluatedIsRefusedWithItsPlace) {
  EXPECT_THAT(refusal("title: [\n"), HasSubstr("test.yml:2:1: not YAML"));
  EXPECT_THAT(refusal("- a\n"), HasSubstr("no Sigma rule"));
  EXPECT_THAT(refusal("title: x\nlogsource: { product: windows }\ndetection: { s: { a: b }, condition: s }\n"), HasSubstr("not of 'windows'"));
  EXPECT_THAT(refusal("title: x\nlogsource: { product: linux, service: sshd }\ndetection: { s: [a], condition: s }\n"),
              HasSubstr("the log of 'sshd' is not read"));
  EXPECT_THAT(refusal(rule("  s: { Imagee: x }\n  condition: s\n")), HasSubstr("test.yml:4:8: rule 'test': there is no field 'Imagee'; did you mean 'Image'?"));
  EXPECT_THAT(refusal(rule("  s: { targetfilename: x }\n  condition: s\n")), HasSubstr("did you mean 'TargetFilename'?"));
  EXPECT_THAT(refusal(rule("  s: { Image|endwith: x }\n  condition: s\n")), HasSubstr("there is no modifier 'endwith'; did you mean 'endswith'?"));
  EXPECT_THAT(refusal(rule("  s: { Image|re: '(a+)\\1' }\n  condition: s\n")), HasSubstr("cannot be taken"));
  EXPECT_THAT(refusal(rule("  s: { Image|re: '((((a{1,100}){1,100}){1,100}){1,100})' }\n  condition: s\n")), HasSubstr("cannot be taken"));
  EXPECT_THAT(refusal(rule("  s: { DestinationIp|cidr: 10.0.0.0/33 }\n  condition: s\n")), HasSubstr("no network"));
  EXPECT_THAT(refusal(rule("  s: { Image|gt: 5 }\n  condition: s\n")), HasSubstr("only fields that hold numbers"));
  EXPECT_THAT(refusal(rule("  s: { Image|expand: '%nothing%' }\n  condition: s\n")), HasSubstr("there is no list 'nothing'"));
  EXPECT_THAT(refusal(rule("  s: { Image: [] }\n  condition: s\n")), HasSubstr("is empty, so it could never match"));
  EXPECT_THAT(refusal(rule("  s: { Image: x }\n")), HasSubstr("'condition' is missing"));
  EXPECT_THAT(refusal(rule("  s: { Image: x }\n  condition: s and t\n")), HasSubstr("test.yml:5:20: rule 'test': condition: there is no 't'"));
  EXPECT_THAT(refusal(rule("  s: { Image: x }\n  timeframe: 5m\n  condition: s\n")), HasSubstr("correlation rule with a timespan"));
  EXPECT_THAT(refusal("title: x\nlevel: urgent\n"), HasSubstr("no level 'urgent'"));
  EXPECT_THAT(refusal("title: x\ncorrelation: { type: event_count, rules: [a], timespan: 5x, condition: { gte: 1 } }\n"), HasSubstr("'5x' is no timespan"));
  EXPECT_THAT(refusal("title: x\ncorrelation: { type: event_count, rules: [a], timespan: 5m, condition: { lt: 3 } }\n"), HasSubstr("name a lower bound"));
  EXPECT_THAT(refusal("title: x\ncorrelation: { type: event_cout, rules: [a], timespan: 5m }\n"), HasSubstr("did you mean 'event_count'?"));
  EXPECT_THAT(refusal("title: x\ncorrelation: { type: value_count, rules: [a], timespan: 5m, condition: { gte: 3 } }\n"), HasSubstr("needs the 'field'"));
}

TEST(Rules, OneFileHoldsSeveral) {
  const RuleSet set = parsed(
      "action: global\ntitle: both\nlogsource: { category: process_creation, product: linux }\nlevel: high\ntags: [attack.execution]\n"
      "---\nname: one\ndetection: { s: { Image|endswith: /cat }, condition: s }\n"
      "---\nname: two\nlevel: low\ndetection: { s: { Image|endswith: /less }, condition: s }\n"
      "---\nname: broken\ndetection: { s: { Nothing: x }, condition: s }\n"
      "---\ntitle: not that one\nfilter: { rules: [one], s: { User: alice }, condition: not s }\nlogsource: { category: process_creation }\n");
  ASSERT_EQ(set.rules.size(), 2u);
  EXPECT_EQ(set.rules[0].head.severity, Severity::kHigh);
  EXPECT_EQ(set.rules[1].head.severity, Severity::kLow);
  EXPECT_EQ(set.refused.size(), 1u);
  ASSERT_EQ(set.filters.size(), 1u);
  EXPECT_THAT(Engine(set.rules).match(operation()), ElementsAre(0));
  EXPECT_THAT(Engine(set.rules, set.filters).match(operation()), IsEmpty());
}

// What an index, triggers and caches come to, against trying every test of every rule.
TEST(Engine, AgreesWithTryingEverything) {
  std::mt19937 random(3);
  const auto pick = [&](auto&& list) { return list[random() % std::size(list)]; };
  static const std::vector<std::string> kFields{"Image", "CommandLine", "TargetFilename", "User", "ParentImage", "ancestors", "comm"};
  static const std::vector<std::string> kTexts{"/a", "a", "ab", "b/", "/", "aB", "/a/b", "x", "a*b", "*b", "a?", "b\\*"};
  static const std::vector<std::string> kModifiers{"",    "",      "|contains", "|startswith",  "|endswith", "|cased", "|contains|cased",
                                                   "|re", "|re|i", "|neq",      "|contains|all"};
  const auto text = [&] {
    std::string out;
    for (std::size_t n = random() % 6; n > 0; --n) {
      out += "aAbB/*"[random() % 6];
    }
    return out;
  };
  std::uint64_t matched = 0;
  for (int round = 0; round < 150; ++round) {
    std::string yaml;
    for (int r = 0; r < 30; ++r) {
      yaml += fmt::format("---\ntitle: r{}\nlogsource: {{ category: {} }}\ndetection:\n", r, random() % 3 == 0 ? "file_access" : "process_creation");
      for (const char* part : {"p", "q", "r"}) {
        yaml += fmt::format("  {}:\n", part);
        std::set<std::string> used;
        for (std::size_t n = 1 + random() % 2; n > 0; --n) {
          const std::string field = pick(kFields);
          const std::string modifier = pick(kModifiers);
          if (!used.insert(field + modifier).second) {
            continue;
          }
          yaml += fmt::format("    {}{}:\n", field, modifier);
          for (std::size_t v = 1 + random() % 2; v > 0; --v) {
            const std::string value = modifier.starts_with("|re") ? pick(std::vector<std::string>{"a.b", "^/a", "ab+$", "a|b", "/a/b"}) : pick(kTexts);
            yaml += fmt::format("      - '{}'\n", value);
          }
        }
      }
      yaml += fmt::format("  condition: {}\n",
                          pick(std::vector<std::string>{"p", "p and q", "p or q", "p and not q", "not p", "1 of them", "2 of them", "all of them and not r"}));
    }
    const RuleSet set = parsed(yaml);
    ASSERT_THAT(set.refused, IsEmpty()) << set.refused.front().message;
    Engine engine(set.rules);
    std::vector<event::Operation> events;
    for (int i = 0; i < 20; ++i) {
      event::Operation o = operation({.operation = random() % 3 == 0 ? unsigned{VG_OP_OPEN} : unsigned{VG_OP_EXEC},
                                      .exe = text(),
                                      .arguments = {text(), text()},
                                      .path = text(),
                                      .parent = text()});
      std::string(text()).copy(o.raw.comm, sizeof o.raw.comm - 1);
      if (!events.empty() && random() % 2 == 0) {
        o.process = events[random() % events.size()].process;  // from the cache
      }
      events.push_back(std::move(o));
    }
    for (const event::Operation& o : events) {
      std::vector<std::uint32_t> expected;
      for (std::uint32_t r = 0; r < set.rules.size(); ++r) {
        const Rule& rule_of = set.rules[r];
        if ((rule_of.source.operations >> o.raw.operation & 1) == 0) {
          continue;
        }
        const auto atom_holds = [&](const Atom& atom) {
          std::string buffer;
          Values values;
          read_field(o, atom.field, buffer, values);
          if (atom.test == TestOf::kPresent) {
            return values.count > 0;
          }
          for (std::size_t i = 0; i < values.count; ++i) {
            const std::string given(values.texts[i]);
            const std::string in = atom.cased ? given : folded(given);
            if (atom.test == TestOf::kRegex       ? RE2::PartialMatch(given, atom.text)
                : atom.test == TestOf::kWildcards ? matches(atom.pattern, given, atom.cased)
                : atom.test == TestOf::kWhole     ? in == atom.text
                : atom.test == TestOf::kBeginning ? in.starts_with(atom.text)
                : atom.test == TestOf::kEnd       ? in.ends_with(atom.text)
                                                  : in.find(atom.text) != std::string::npos) {
              return true;
            }
          }
          return false;
        };
        const std::function<bool(const Expression&)> eval = [&](const Expression& e) -> bool {
          if (e.kind == Expression::Kind::kAtom) {
            return atom_holds(rule_of.atoms[e.number]);
          }
          std::uint32_t n = 0;
          for (const Expression& child : e.children) {
            n += eval(child) ? 1 : 0;
          }
          return e.kind == Expression::Kind::kNot   ? n == 0
                 : e.kind == Expression::Kind::kAnd ? n == e.children.size()
                 : e.kind == Expression::Kind::kOr  ? n > 0
                                                    : n >= e.number;
        };
        if (eval(rule_of.condition)) {
          expected.push_back(r);
        }
      }
      const auto found = engine.match(o);
      ASSERT_EQ(std::vector<std::uint32_t>(found.begin(), found.end()), expected) << yaml;
      matched += expected.size();
    }
  }
  EXPECT_GT(matched, 1000u);
}

TEST(Needs, SayWhereAndWhat) {
  const auto needs = [](const std::string& detection, const std::string& logsource) {
    const RuleSet set = parsed(rule(detection, logsource));
    EXPECT_THAT(set.refused, IsEmpty());
    return needs_of(set.rules.front());
  };
  const Needs cron = needs("  s: { TargetFilename|startswith: [/etc/cron.d/, /var/x] }\n  condition: s\n", "{ category: file_event }");
  EXPECT_FALSE(cron.any_path);
  EXPECT_THAT(cron.globs, ElementsAre("/[eE][tT][cC]/[cC][rR][oO][nN].[dD]/**", "/[vV][aA][rR]/[xX]*", "/[vV][aA][rR]/[xX]*/**"));
  EXPECT_TRUE(needs("  s: { TargetFilename|re: cron }\n  condition: s\n", "{ category: file_event }").any_path);
  EXPECT_TRUE(needs("  s: { TargetFilename: /a }\n  t: { User: x }\n  condition: s or t\n", "{ category: file_event }").any_path);
  EXPECT_FALSE(needs("  s: { TargetFilename: /a }\n  t: { User: x }\n  condition: s and not t\n", "{ category: file_event }").any_path);
  EXPECT_EQ(needs("  s: { operation: [ptrace, bpf] }\n  condition: s\n", "{ service: vfsguard }").operations,
            event::operation_bit(VG_OP_PTRACE) | event::operation_bit(VG_OP_BPF));
  EXPECT_EQ(needs("  s: { type: EXECVE }\n  condition: s\n", "{ service: auditd }").operations, event::operation_bit(VG_OP_EXEC));
  EXPECT_EQ(needs("  s: { path: /a }\n  condition: s\n", "{ service: vfsguard }").operations & event::kAccesses, 0u);
  EXPECT_EQ(needs("  s: { path: /a, operation: [read, close] }\n  condition: s\n", "{ service: vfsguard }").operations,
            event::operation_bit(VG_OP_READ) | event::operation_bit(VG_OP_CLOSE));
  EXPECT_EQ(needs("  s: { DestinationHostname: x }\n  condition: s\n", "{ category: network_connection }").operations, 0u);
}

TEST(Needs, OfAuditdGoByRecordsAndCalls) {
  const auto of = [](const std::string& parts) {
    const RuleSet set = parsed(rule("  s: { " + parts + " }\n  condition: s\n", "{ product: linux, service: auditd }"));
    EXPECT_THAT(set.refused, IsEmpty()) << set.refused.front().message;
    return event::operation_names(needs_of(set.rules.front()).operations);
  };
  EXPECT_EQ(of("type: EXECVE, a0: id"), "exec");
  EXPECT_EQ(of("type: SOCKADDR"), "connect, bind");
  EXPECT_EQ(of("type: USER_AUTH, exe: /usr/sbin/sshd"), "");
  EXPECT_EQ(of("type|cased: SYSCALL, syscall: [chroot, init_module]"), "chroot");
  EXPECT_EQ(of("syscall: 59"), "exec");
  EXPECT_EQ(of("SYSCALL: '257'"), "open, create");
  EXPECT_EQ(of("syscall: init_module"), "");
  EXPECT_EQ(of("syscall: sendfile, name: /x"), "read, write");
  EXPECT_EQ(of("syscall: socketcall"), "connect, bind");
  EXPECT_THAT(of("type: PATH, name: /x"), testing::Not(HasSubstr("fork")));
  EXPECT_THAT(refusal(rule("  s: { syscall: 9999 }\n  condition: s\n", "{ service: auditd }")), HasSubstr("there is no call with the number 9999 on x86-64"));
  const RuleSet set = parsed(rule("  s: { type: USER_AUTH }\n  condition: s\n", "{ service: auditd }"));
  EXPECT_THAT(never_there(set.rules.front().atoms.front()), HasSubstr("SYSCALL, EXECVE, PATH, CWD, SOCKADDR and PROCTITLE"));
}

TEST(Needs, GoByWhatTheMechanismTells) {
  const auto needs = [](const std::string& detection, const Blindness& blindness) {
    const RuleSet set = parsed(rule(detection, "{ service: vfsguard }"));
    EXPECT_THAT(set.refused, IsEmpty());
    return needs_of(set.rules.front(), blindness).operations;
  };
  constexpr std::uint64_t kRename = event::operation_bit(VG_OP_RENAME);
  constexpr std::uint64_t kBoth = kRename | event::operation_bit(VG_OP_CHMOD);
  const std::string of_object = "  s: { operation: [rename, chmod], file_type: directory }\n  condition: s\n";
  EXPECT_EQ(needs(of_object, {}), kBoth);
  EXPECT_EQ(needs(of_object, {.unseen = 0, .names_only = kRename}), kBoth & ~kRename);
  EXPECT_EQ(needs(of_object, {.unseen = kRename, .names_only = 0}), kBoth & ~kRename);
  EXPECT_EQ(needs("  s: { operation: [rename, chmod] }\n  t: { file_type: directory }\n  condition: s and not t\n", {.unseen = 0, .names_only = kBoth}), kBoth);
  EXPECT_EQ(needs("  s: { operation: rename, ino|exists: false }\n  condition: s\n", {.unseen = 0, .names_only = kBoth}), kRename);
  EXPECT_EQ(needs("  s: { operation: rename, ino|exists: true }\n  condition: s\n", {.unseen = 0, .names_only = kBoth}), 0u);
}

TEST(Needs, AreEnough) {
  std::mt19937 random(4);
  std::uint64_t placed = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string pattern;
    for (std::size_t n = 1 + random() % 9; n > 0; --n) {
      pattern += "aab//*?"[random() % 7];
    }
    const RuleSet set = parsed(rule(fmt::format("  s: {{ TargetFilename: '{}' }}\n  condition: s\n", pattern), "{ category: file_access }"));
    const Needs needs = needs_of(set.rules.front());
    if (needs.any_path) {
      continue;
    }
    std::vector<policy::Glob> globs;
    for (const std::string& glob : needs.globs) {
      auto made = policy::parse_glob(glob);
      ASSERT_TRUE(made) << glob << " of " << pattern << ": " << made.error().message;
      globs.push_back(std::move(*made));
    }
    for (int i = 0; i < 120; ++i) {
      std::string path;
      for (std::size_t n = 1 + random() % 4; n > 0; --n) {
        path += '/';
        for (std::size_t k = 1 + random() % 2; k > 0; --k) {
          path += "abA"[random() % 3];
        }
      }
      if (!matches(parse_pattern(pattern), path, false)) {
        continue;
      }
      ++placed;
      ASSERT_TRUE(std::ranges::any_of(globs, [&](const policy::Glob& glob) { return policy::reference_match(glob, path); })) << path << " by " << pattern;
    }
  }
  EXPECT_GT(placed, 2000u);
}

// The public rules, where they are at hand: those for Linux, or a checkout of the whole collection (github.com/SigmaHQ/sigma). All of the three
// categories for Linux are taken, and every other is, or is refused with place and reason.
TEST(Rules, OfThePublicCollectionLoad) {
  const char* place = std::getenv("VFSGUARD_SIGMA");
  if (place == nullptr) {
    GTEST_SKIP() << "VFSGUARD_SIGMA names no directory with SigmaHQ rules";
  }
  RuleSet set;
  ASSERT_TRUE(load_rules(place, {}, set));
  for (const util::Error& error : set.refused) {
    std::string file;
    ASSERT_TRUE(RE2::FullMatch(error.message, R"((.+\.ya?ml):\d+:\d+: .{12,})", &file)) << error.message;
    const auto text = util::read_text(file, 1 << 20);
    ASSERT_TRUE(text) << file;
    const bool must_load = RE2::PartialMatch(*text, R"(\n\s+product:\s*linux\b)") &&
                           RE2::PartialMatch(*text, R"(\n\s+category:\s*(process_creation|file_event|network_connection)\b)");
    EXPECT_FALSE(must_load) << error.message;
  }
  EXPECT_GE(set.rules.size(), 135u);
  std::cout << set.rules.size() << " public rules are taken, " << set.refused.size() << " refused with a reason\n";
  Engine engine(set.rules);
  EXPECT_THAT(engine.match(operation({.exe = "/usr/bin/base64", .arguments = {"base64", "-d", "x"}})).size(), testing::Ge(1u));
  EXPECT_THAT(engine.match(operation({.exe = "/usr/bin/true", .arguments = {"true"}})), IsEmpty());
}

// Of every log source that Sigma's taxonomy and the public collection name, in every shape that a detection takes there: taken, or refused with place
// and reason.
TEST(Rules, OfEveryPublishedKindAreTakenOrRefusedWithAReason) {
  std::vector<std::string> sources;
  for (const char* category :
       {"process_creation",   "image_load",        "registry_set",        "registry_event",       "registry_add",       "registry_delete",
        "file_event",         "file_delete",       "file_rename",         "file_access",          "file_change",        "file_executable_detected",
        "network_connection", "dns_query",         "driver_load",         "create_remote_thread", "create_stream_hash", "pipe_created",
        "process_access",     "process_tampering", "process_termination", "raw_access_thread",    "ps_classic_start",   "ps_module",
        "ps_script",          "wmi_event",         "sysmon_error",        "sysmon_status"}) {
    for (const char* product : {"windows", "linux", "macos"}) {
      sources.push_back(fmt::format("{{ category: {}, product: {} }}", category, product));
    }
  }
  for (const char* category : {"webserver", "proxy", "firewall", "dns", "antivirus", "database", "application"}) {
    sources.push_back(fmt::format("{{ category: {} }}", category));
  }
  const std::pair<const char*, std::vector<const char*>> services[] = {
      {"windows",
       {"security", "system", "application", "powershell", "sysmon", "windefend", "taskscheduler", "dns-server", "ntlm", "bits-client",
        "msexchange-management"}},
      {"linux", {"auditd", "auth", "syslog", "sshd", "sudo", "cron", "clamav", "modsecurity", "guacamole", "vsftpd"}},
      {"macos", {"unified"}},
      {"aws", {"cloudtrail"}},
      {"azure", {"activitylogs", "auditlogs", "signinlogs", "riskdetection", "pim"}},
      {"gcp", {"gcp.audit", "google_workspace.admin"}},
      {"m365", {"audit", "threat_management", "exchange"}},
      {"okta", {"okta"}},
      {"github", {"audit"}},
      {"bitbucket", {"audit"}},
      {"kubernetes", {"audit", "application"}},
      {"zeek", {"http", "dns", "smb_files", "dce_rpc", "kerberos", "x509", "rdp"}},
      {"cisco", {"aaa", "bgp", "ldp", "duo"}},
      {"fortios", {"sslvpnd", "event"}},
      {"paloalto", {"globalprotect"}},
      {"huawei", {"bgp"}},
      {"juniper", {"bgp"}},
      {"django", {"application"}},
      {"python", {"application"}},
      {"spring", {"application"}},
      {"nodejs", {"application"}},
      {"jvm", {"application"}},
      {"apache", {"error"}},
      {"nginx", {"error"}}};
  for (const auto& [product, names] : services) {
    for (const char* service : names) {
      sources.push_back(fmt::format("{{ product: {}, service: {} }}", product, service));
    }
  }
  sources.insert(sources.end(), {"{ product: linux }", "{ definition: 'needs a policy', product: windows, service: security }", "{}", "[linux]", "linux"});
  const char* const shapes[] = {
      R"(  selection:
    Image|endswith:
      - '/nc'
      - '\nc.exe'
    CommandLine|contains|all:
      - ' -e '
      - 'sh'
  condition: selection
)",
      R"(  selection_img:
    - Image|endswith: '\cmd.exe'
    - OriginalFileName: 'Cmd.Exe'
  selection_cli:
    CommandLine|windash|contains: ' -c '
  filter_main_a:
    ParentImage: 'C:\Windows\explorer.exe'
  filter_optional_b:
    ParentImage|startswith: '/opt/'
  condition: all of selection_* and not 1 of filter_main_* and not 1 of filter_optional_*
)",
      R"(  keywords:
    - 'segfault at'
    - '*attempt to access*'
  condition: keywords
)",
      R"(  keywords:
    '|all':
      - 'Remove-Item'
      - 'HKLM'
  condition: keywords
)",
      R"(  selection:
    EventID: 4688
    NewProcessName|re|i: '.*\\temp\\[a-z]{8}\.exe$'
  condition: selection
)",
      R"(  selection:
    c-uri|contains: '../../'
    sc-status:
      - 200
      - 302
  condition: selection
)",
      R"(  selection:
    DestinationIp|cidr:
      - '10.0.0.0/8'
      - 'fe80::/10'
    DestinationPort|gte: 1024
  condition: not selection
)",
      R"(  selection:
    ScriptBlockText|base64offset|contains: 'IEX'
    Payload|wide|base64offset|contains: 'http'
  condition: selection
)",
      R"(  selection:
    eventSource: 'ec2.amazonaws.com'
    eventName: 'StopLogging'
    requestParameters.name|exists: true
  condition: selection
)",
      R"(  selection:
    type: 'SYSCALL'
    syscall: 'execve'
    a0|contains: 'chattr'
    exe: null
    key: ''
  condition: selection
)",
      R"(  selection:
    User|expand: '%admins%'
    Image|fieldref: ParentImage
    LogonType|neq: 3
  condition: selection
)",
      R"(  selection:
    TargetFilename|cased|startswith: '/Users/'
    Hashes|contains: 'IMPHASH=0'
    Initiated: 'true'
  condition: selection or (selection and not selection)
)",
      R"(  selection:
    EventID: 4625
  timeframe: 5m
  condition: selection | count(TargetUserName) by SourceNetworkAddress > 10
)",
      R"(  a:
    EventID: 1
  b:
    EventID: 2
  condition: a | near b
)",
      R"(  selection:
    field|minute: 5
    other|hour|gte: 22
  condition: selection
)",
      R"(  selection:
    - EventID: 1
      Channel: System
    - 'a keyword among maps'
  condition: 1 of them
)",
      R"(  selection: []
  condition: selection
)",
      R"(  condition: selection
)",
      R"(  selection: { x: 1 }
)",
      R"(  selection:
    verb: create
    objectRef.resource: pods/exec
    responseStatus.code|lt: 400
  filter: { user.username|startswith: 'system:' }
  condition:
    - selection and not filter
    - filter
)"};
  std::size_t taken = 0;
  std::map<std::string, std::size_t> reasons;
  for (const std::string& source : sources) {
    for (const char* shape : shapes) {
      const std::string text =
          "title: test\nid: 8c1f3e0a-4f0b-4d8e-9c4e-000000000001\nstatus: experimental\nauthor: nobody\ntags: [attack.t1059, cve.2026-1]\nlogsource: " +
          source + "\ndetection:\n" + shape + "falsepositives: [unknown]\nlevel: high\n";
      const RuleSet set = parsed(text, {{"admins", {"root", "adm"}}});
      ASSERT_EQ(set.rules.size() + set.refused.size(), 1u) << text;
      if (set.refused.empty()) {
        ++taken;
        Engine engine(set.rules);
        (void)engine.match(operation({.exe = "/usr/bin/nc", .arguments = {"nc", "-e", "sh"}}));
        continue;
      }
      const std::string& message = set.refused.front().message;
      ASSERT_TRUE(RE2::FullMatch(message, R"(test\.yml:\d+:\d+: .{12,})")) << message;
      std::string reason = message.substr(message.find(": ") + 2);
      ++reasons[reason.substr(0, 60)];
    }
  }
  EXPECT_GT(sources.size(), 130u);
  EXPECT_GT(taken, 30u);
  EXPECT_GT(reasons.size(), 10u);
}

// Correlations, with names for fields.
class Correlations : public testing::Test {
 protected:
  void open(const std::string& yaml, Correlator::Options options = {}) {
    set_ = parsed(
        "title: a\nname: a\nlogsource: { category: file_event }\ndetection: { s: { uid: 1 }, condition: s }\n---\n"
        "title: b\nname: b\nlogsource: { category: file_event }\ndetection: { s: { uid: 1 }, condition: s }\n---\n"
        "title: c\nname: c\nlogsource: { category: file_event }\ndetection: { s: { uid: 1 }, condition: s }\n---\n" +
        yaml);
    ASSERT_THAT(set_.refused, IsEmpty()) << set_.refused.front().message;
    auto made = Correlator::open(set_.rules, set_.correlations, options);
    ASSERT_TRUE(made) << made.error().message;
    correlator_.emplace(std::move(*made));
  }
  // Seconds; returns the correlations that fired.
  std::vector<std::uint32_t> note(std::uint32_t rule_at, double seconds, const std::map<std::string, std::string>& fields = {}) {
    fired_.clear();
    correlator_->advance(ns(seconds), fired_);
    correlator_->note(
        rule_at, ns(seconds), 1, 0,
        [&](std::string_view name) -> std::optional<std::string> {
          const auto it = fields.find(std::string(name));
          return it == fields.end() ? std::nullopt : std::optional(it->second);
        },
        fired_);
    return who_fired();
  }
  std::vector<std::uint32_t> advance(double seconds) {
    fired_.clear();
    correlator_->advance(ns(seconds), fired_);
    return who_fired();
  }
  std::vector<std::uint32_t> who_fired() const {
    std::vector<std::uint32_t> all;
    for (const Fired& one : fired_) {
      all.push_back(one.correlation);
    }
    return all;
  }
  static std::uint64_t ns(double seconds) { return static_cast<std::uint64_t>((1000 + seconds) * 1e9); }
  // One match of each of a million users, a millisecond apart; how many correlations fired.
  std::uint64_t note_a_million() {
    std::uint64_t fired = 0;
    for (int i = 0; i < 1'000'000; ++i) {
      fired += note(0, i * 0.001, {{"User", std::to_string(i)}}).size();
    }
    return fired;
  }
  RuleSet set_;
  std::optional<Correlator> correlator_;
  std::vector<Fired> fired_;
};

TEST_F(Correlations, CountEventsOfAGroup) {
  open("title: c\ncorrelation: { type: event_count, rules: [a], group-by: [User], timespan: 10s, condition: { gte: 3 } }\n");
  EXPECT_THAT(note(0, 0, {{"User", "x"}}), IsEmpty());
  EXPECT_THAT(note(0, 1, {{"User", "y"}}), IsEmpty());
  EXPECT_THAT(note(0, 9, {{"User", "x"}}), IsEmpty());
  EXPECT_THAT(note(0, 10.5, {{"User", "x"}}), IsEmpty());  // the first is too old
  EXPECT_THAT(note(0, 11, {{"User", "x"}}), ElementsAre(0));
  ASSERT_EQ(fired_.front().events.size(), 3u);
  EXPECT_EQ(fired_.front().group.front().second, "x");
  EXPECT_EQ(fired_.front().value, 3);
  EXPECT_THAT(note(0, 12, {{"User", "x"}}), IsEmpty());  // it has begun anew
  EXPECT_THAT(note(0, 12, {}), IsEmpty());
  EXPECT_EQ(correlator_->counters().incomplete, 1u);
  EXPECT_TRUE(correlator_->takes(0));
  EXPECT_FALSE(correlator_->takes(1));
}

TEST_F(Correlations, TakeWhatComesLateWithinTheBound) {
  open("title: c\ncorrelation: { type: event_count, rules: [a], timespan: 10s, condition: { gte: 3 } }\n", {.late_ns = 2'000'000'000});
  EXPECT_THAT(note(0, 0), IsEmpty());
  EXPECT_THAT(note(0, 10), IsEmpty());
  EXPECT_THAT(note(0, 8.5), ElementsAre(0));  // completes the window that ends at 10
  open("title: c\ncorrelation: { type: event_count, rules: [a], timespan: 10s, condition: { gte: 3 } }\n", {.late_ns = 2'000'000'000});
  EXPECT_THAT(note(0, 0), IsEmpty());
  EXPECT_THAT(note(0, 10), IsEmpty());
  EXPECT_THAT(note(0, 3), IsEmpty());
  EXPECT_EQ(correlator_->counters().late, 1u);
  // The clock was set back: the second one says so.
  EXPECT_THAT(note(0, 3.5), IsEmpty());
  EXPECT_EQ(correlator_->counters().clock_steps, 1u);
  EXPECT_THAT(note(0, 4), IsEmpty());
  EXPECT_THAT(note(0, 4.5), ElementsAre(0));
}

TEST_F(Correlations, CountManyInParts) {
  open("title: c\ncorrelation: { type: event_count, rules: [a], timespan: 16s, condition: { gte: 100 } }\n");
  for (int i = 0; i < 99; ++i) {
    EXPECT_THAT(note(0, 0.1 * i), IsEmpty()) << i;
  }
  EXPECT_THAT(note(0, 10), ElementsAre(0));
  EXPECT_EQ(fired_.front().value, 100);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_THAT(note(0, 20 + i), IsEmpty()) << i;  // one a second never comes to a hundred in sixteen
  }
}

TEST_F(Correlations, CountValues) {
  open("title: c\ncorrelation: { type: value_count, rules: [a], group-by: [User], timespan: 1m, condition: { field: TargetFilename, gt: 2 } }\n");
  EXPECT_THAT(note(0, 0, {{"User", "x"}, {"TargetFilename", "1"}}), IsEmpty());
  EXPECT_THAT(note(0, 1, {{"User", "x"}, {"TargetFilename", "1"}}), IsEmpty());
  EXPECT_THAT(note(0, 2, {{"User", "x"}, {"TargetFilename", "2"}}), IsEmpty());
  EXPECT_THAT(note(0, 62, {{"User", "x"}, {"TargetFilename", "3"}}), IsEmpty());
  EXPECT_THAT(note(0, 63, {{"User", "x"}, {"TargetFilename", "4"}}), IsEmpty());
  EXPECT_THAT(note(0, 64, {{"User", "x"}, {"TargetFilename", "5"}}), ElementsAre(0));
}

TEST_F(Correlations, SumAverageAndPercentile) {
  open(
      "title: s\ncorrelation: { type: value_sum, rules: [a], timespan: 1m, condition: { field: bytes, gte: 100 } }\n---\n"
      "title: v\ncorrelation: { type: value_avg, rules: [a], timespan: 1m, condition: { field: bytes, gt: 50 } }\n---\n"
      "title: p\ncorrelation: { type: value_percentile, rules: [a], timespan: 1m, condition: { field: bytes, percentile: 90, gte: 60 } }\n");
  EXPECT_THAT(note(0, 0, {{"bytes", "40"}}), IsEmpty());
  EXPECT_THAT(note(0, 1, {{"bytes", "50"}}), IsEmpty());
  EXPECT_THAT(note(0, 2, {{"bytes", "61"}}), ElementsAre(0, 1, 2));
  EXPECT_THAT(note(0, 3, {{"bytes", "no number"}}), IsEmpty());
  EXPECT_EQ(correlator_->counters().incomplete, 3u);
}

TEST_F(Correlations, OfSeveralRulesInAnyOrderOrTheirs) {
  open(
      "title: t\ncorrelation: { type: temporal, rules: [a, b], group-by: [who], timespan: 10s, aliases: { who: { a: User, b: ParentUser } } }\n---\n"
      "title: o\ncorrelation: { type: temporal_ordered, rules: [a, b], timespan: 10s }\n");
  EXPECT_THAT(note(1, 0, {{"ParentUser", "x"}}), IsEmpty());
  EXPECT_THAT(note(0, 1, {{"User", "x"}}), ElementsAre(0));
  EXPECT_THAT(note(1, 2, {{"ParentUser", "y"}}), ElementsAre(1));
  EXPECT_THAT(note(0, 20, {{"User", "x"}}), IsEmpty());
  EXPECT_THAT(note(1, 31, {{"ParentUser", "x"}}), IsEmpty());  // too late
}

TEST_F(Correlations, Chain) {
  open(
      "title: k\nname: k\ncorrelation: { type: event_count, rules: [a], group-by: [User], timespan: 10s, condition: { gte: 2 } }\n---\n"
      "title: d\ncorrelation: { type: temporal_ordered, rules: [k, b], group-by: [User], timespan: 1m }\n");
  EXPECT_THAT(note(0, 0, {{"User", "x"}}), IsEmpty());
  EXPECT_THAT(note(0, 1, {{"User", "x"}}), ElementsAre(0));
  EXPECT_THAT(note(1, 5, {{"User", "y"}}), IsEmpty());
  EXPECT_THAT(note(1, 6, {{"User", "x"}}), ElementsAre(1));
  EXPECT_TRUE(correlator_->takes(3));
  const auto refused = [](const std::string& yaml) {
    RuleSet set = parsed(yaml);
    auto made = Correlator::open(set.rules, set.correlations, {});
    return made ? std::string("taken") : made.error().message;
  };
  EXPECT_THAT(refused("title: x\nname: x\ncorrelation: { type: temporal, rules: [y], timespan: 1m }\n---\n"
                      "title: y\nname: y\ncorrelation: { type: temporal, rules: [x], timespan: 1m }\n"),
              HasSubstr("it refers to itself through others"));
  EXPECT_THAT(refused("title: x\ncorrelation: { type: temporal, rules: [nowhere], timespan: 1m }\n"),
              HasSubstr("there is no rule with the id or name 'nowhere'"));
}

TEST_F(Correlations, OfAConditionOverTheirNames) {
  open(
      "title: t\ncorrelation: { type: temporal, rules: [a, b, c], group-by: [User], timespan: 10s, condition: a and (b or c) }\n---\n"
      "title: u\ncorrelation: { type: temporal, rules: [a, b, c], timespan: 10s, condition: 2 of them }\n");
  EXPECT_THAT(note(1, 0, {{"User", "x"}}), IsEmpty());
  EXPECT_THAT(note(2, 1, {{"User", "y"}}), ElementsAre(1));
  EXPECT_THAT(note(0, 2, {{"User", "y"}}), ElementsAre(0));  // c and a, of y
  EXPECT_EQ(fired_.front().value, 2);
  ASSERT_EQ(fired_.front().events.size(), 2u);
  EXPECT_EQ(fired_.front().events.front().node, 2u);
  EXPECT_FALSE(fired_.front().over);
  EXPECT_THAT(note(0, 9, {{"User", "x"}}), ElementsAre(0));
  EXPECT_THAT(note(0, 20, {{"User", "x"}}), IsEmpty());
  EXPECT_THAT(note(2, 31, {{"User", "x"}}), IsEmpty());  // too late
  EXPECT_FALSE(correlator_->waits());
}

TEST_F(Correlations, OfWhatDoesNotFollow) {
  const std::string yaml =
      "title: t\nname: t\ncorrelation: { type: temporal, rules: [a, b], group-by: [User], timespan: 10s, condition: a and not b }\n---\n"
      "title: u\ncorrelation: { type: event_count, rules: [t], group-by: [User], timespan: 1m, condition: { gte: 2 } }\n";
  open(yaml, {.late_ns = 2'000'000'000});
  EXPECT_THAT(note(1, 0, {{"User", "x"}}), IsEmpty());  // before the time began
  EXPECT_THAT(note(0, 1, {{"User", "x"}}), IsEmpty());
  EXPECT_THAT(note(0, 5, {{"User", "y"}}), IsEmpty());
  EXPECT_TRUE(correlator_->waits());
  EXPECT_THAT(note(1, 14, {{"User", "y"}}), ElementsAre(0));  // x's time was over at 11, and 2 s later nothing can come into it
  EXPECT_TRUE(fired_.front().over);
  EXPECT_THAT(fired_.front().group, ElementsAre(std::pair<std::string, std::string>("User", "x")));
  EXPECT_EQ(fired_.front().first_ns, ns(1));
  EXPECT_EQ(fired_.front().last_ns, ns(11));
  EXPECT_EQ(fired_.front().events.size(), 1u);
  EXPECT_THAT(advance(17.5), IsEmpty());  // b followed for y
  EXPECT_FALSE(correlator_->waits());
  // A second one of x: the correlation of correlations counts them.
  EXPECT_THAT(note(0, 20, {{"User", "x"}}), IsEmpty());
  EXPECT_THAT(note(0, 26, {{"User", "x"}}), IsEmpty());  // within the first one's time
  EXPECT_THAT(advance(32), IsEmpty());                   // what is late may still come
  EXPECT_THAT(advance(32.1), ElementsAre(1, 0));
  EXPECT_EQ(fired_.back().events.size(), 2u);
  EXPECT_THAT(advance(100), IsEmpty());  // it has begun anew
  // One that came late ends it; a time that failed leaves the next one's beginning.
  open(yaml, {.late_ns = 2'000'000'000});
  EXPECT_THAT(note(0, 0, {{"User", "x"}}), IsEmpty());
  EXPECT_THAT(note(0, 9.5, {{"User", "x"}}), IsEmpty());
  EXPECT_THAT(note(0, 11, {{"User", "z"}}), IsEmpty());
  EXPECT_THAT(note(1, 9, {{"User", "x"}}), IsEmpty());
  EXPECT_THAT(advance(20), IsEmpty());
  EXPECT_THAT(advance(23), ElementsAre(0));  // from 9.5 on, x
  EXPECT_EQ(fired_.front().first_ns, ns(9.5));
  EXPECT_THAT(advance(24), ElementsAre(0));  // z
  EXPECT_EQ(correlator_->groups(), 2u);      // of t's count
}

// Against looking through everything that has happened, for each time that begins; with what comes late.
TEST_F(Correlations, OfConditionsAgreeWithTryingEverything) {
  const std::vector<std::pair<std::string, std::function<bool(bool, bool, bool)>>> conditions = {
      {"a and not b", [](bool a, bool b, bool) { return a && !b; }},
      {"(a or c) and not b", [](bool a, bool b, bool c) { return (a || c) && !b; }},
      {"a and b and not c", [](bool a, bool b, bool c) { return a && b && !c; }},
      {"2 of them and not c", [](bool a, bool b, bool c) { return a + b + c >= 2 && !c; }},
      {"a and not (b and not c)", [](bool a, bool b, bool c) { return a && !(b && !c); }}};
  const std::vector<std::set<std::uint32_t>> begins = {{0}, {0, 2}, {0, 1}, {0, 1, 2}, {0, 2}};
  std::mt19937_64 random(3);
  std::size_t all = 0;
  for (std::size_t kind = 0; kind < conditions.size(); ++kind) {
    for (int round = 0; round < 20; ++round) {
      open("title: t\ncorrelation: { type: temporal, rules: [a, b, c], timespan: 10s, condition: " + conditions[kind].first + " }\n",
           {.late_ns = 2'000'000'000});
      struct One {
        double at;
        std::uint32_t rule;
      };
      std::vector<One> matches;
      double now = 0;
      for (int i = 0; i < 200; ++i) {
        now += static_cast<double>(random() % 8000) / 1000;
        matches.push_back({now + static_cast<double>(i) * 1e-6, static_cast<std::uint32_t>(random() % 3)});
      }
      std::vector<One> arriving = matches;
      for (std::size_t i = 1; i < arriving.size(); ++i) {
        if (arriving[i].at - arriving[i - 1].at < 1.9 && random() % 2 == 0) {
          std::swap(arriving[i], arriving[i - 1]);
          ++i;
        }
      }
      std::vector<std::uint64_t> found;
      const auto take = [&] {
        for (const Fired& one : fired_) {
          found.push_back(one.first_ns);
        }
      };
      for (const One& one : arriving) {
        note(one.rule, one.at);
        take();
      }
      advance(now + 100);
      take();
      std::vector<std::uint64_t> expected;
      double free_from = -1;
      for (const One& first : matches) {
        if (!begins[kind].contains(first.rule) || first.at <= free_from) {
          continue;
        }
        bool seen[3] = {false, false, false};
        for (const One& other : matches) {
          if (other.at >= first.at && ns(other.at) <= ns(first.at) + 10'000'000'000u) {
            seen[other.rule] = true;
          }
        }
        if (conditions[kind].second(seen[0], seen[1], seen[2])) {
          expected.push_back(ns(first.at));
          free_from = first.at + 10;
        }
      }
      ASSERT_EQ(found, expected) << conditions[kind].first << ", round " << round;
      ASSERT_EQ(correlator_->counters().late, 0u);
      all += found.size();
    }
  }
  EXPECT_GT(all, 500u);
}

TEST_F(Correlations, OfManyMatchesOfOneRuleKeepTheOthers) {
  open(
      "title: t\ncorrelation: { type: temporal, rules: [a, b, c], timespan: 1h }\n---\n"
      "title: o\ncorrelation: { type: temporal_ordered, rules: [a, b, c], timespan: 1h }\n");
  EXPECT_THAT(note(0, 0), IsEmpty());
  for (int i = 0; i < 5000; ++i) {
    EXPECT_THAT(note(1, 1 + 0.1 * i), IsEmpty());
  }
  EXPECT_EQ(correlator_->counters().left_out, 0u);
  EXPECT_THAT(note(2, 600), ElementsAre(0, 1));
}

TEST_F(Correlations, SumAndRankMoreValuesThanTheyKeep) {
  open(
      "title: s\ncorrelation: { type: value_sum, rules: [a], timespan: 100s, condition: { field: bytes, gte: 1000000 } }\n---\n"
      "title: v\ncorrelation: { type: value_avg, rules: [a], timespan: 100s, condition: { field: bytes, gt: 100.01 } }\n");
  // A thousand a second of a hundred each: ten seconds until the sum is a million.
  int fired_at = 0;
  for (int i = 0; i < 12'000 && fired_at == 0; ++i) {
    fired_at = note(0, 0.001 * i, {{"bytes", "100"}}).empty() ? 0 : i + 1;
  }
  EXPECT_EQ(fired_at, 10'000);
  // As slowly that its time never holds so much: what is too old goes.
  open("title: s\ncorrelation: { type: value_sum, rules: [a], timespan: 100s, condition: { field: bytes, gte: 1000000 } }\n");
  for (int i = 0; i < 30'000; ++i) {
    ASSERT_THAT(note(0, 0.0101 * i, {{"bytes", "100"}}), IsEmpty()) << i;
  }
  // Values from 0 to 999 in any order: a tenth lies above 900, and half above 500; 8 of each part of the time stand for all.
  const auto ranked = [&](const char* type, const char* condition, const char* first) {
    open(fmt::format("title: p\ncorrelation: {{ type: {}, rules: [a], timespan: 100s, condition: {{ field: bytes, {} }} }}\n", type, condition));
    std::mt19937_64 random(5);
    std::size_t fired = 0;
    for (int i = 0; i < 20'000; ++i) {
      // Of few values any may be the one; it begins with as many that are not.
      fired += note(0, 0.01 * i, {{"bytes", i < 500 ? first : std::to_string(random() % 1000)}}).size();
    }
    EXPECT_EQ(correlator_->counters().left_out, 0u);
    return fired;
  };
  EXPECT_EQ(ranked("value_percentile", "percentile: 90, gte: 920", "0"), 0u);
  EXPECT_GT(ranked("value_percentile", "percentile: 90, gte: 890", "0"), 0u);
  EXPECT_EQ(ranked("value_percentile", "percentile: 90, lt: 880", "999"), 0u);
  EXPECT_GT(ranked("value_percentile", "percentile: 90, lt: 910", "999"), 0u);
  EXPECT_EQ(ranked("value_median", "gte: 530", "0"), 0u);
  EXPECT_GT(ranked("value_median", "gte: 490", "0"), 0u);
}

TEST_F(Correlations, MedianAndOtherThan) {
  open(
      "title: m\ncorrelation: { type: value_median, rules: [a], timespan: 1m, condition: { field: bytes, eq: 15 } }\n---\n"
      "title: n\ncorrelation: { type: value_sum, rules: [b], timespan: 1m, condition: { field: bytes, neq: 0 } }\n---\n"
      "title: f\ncorrelation: { type: value_count, rules: [c], timespan: 1m, condition: { field: [DestinationIp, DestinationPort], gte: 3 } }\n");
  EXPECT_THAT(note(0, 0, {{"bytes", "10"}}), IsEmpty());
  EXPECT_THAT(note(0, 1, {{"bytes", "20"}}), ElementsAre(0));  // the mean of the two in the middle
  EXPECT_THAT(note(0, 2, {{"bytes", "1"}}), IsEmpty());
  EXPECT_THAT(note(0, 3, {{"bytes", "99"}}), IsEmpty());
  EXPECT_THAT(note(0, 4, {{"bytes", "15"}}), ElementsAre(0));
  EXPECT_THAT(note(1, 0, {{"bytes", "0"}}), IsEmpty());
  EXPECT_THAT(note(1, 1, {{"bytes", "3"}}), ElementsAre(1));
  EXPECT_THAT(note(2, 0, {{"DestinationIp", "10.0.0.1"}, {"DestinationPort", "1"}}), IsEmpty());
  EXPECT_THAT(note(2, 1, {{"DestinationIp", "10.0.0.1"}, {"DestinationPort", "2"}}), IsEmpty());
  EXPECT_THAT(note(2, 2, {{"DestinationIp", "10.0.0.1"}, {"DestinationPort", "1"}}), IsEmpty());
  EXPECT_THAT(note(2, 3, {{"DestinationIp", "10.0.0.2"}, {"DestinationPort", "2"}}), ElementsAre(2));
}

// Against sorting what lies in the window.
TEST_F(Correlations, RanksAgreeWithSorting) {
  std::mt19937_64 random(17);
  const std::pair<const char*, std::function<bool(double, double)>> tests[] = {{"gte", std::greater_equal<>()}, {"gt", std::greater<>()},
                                                                               {"lte", std::less_equal<>()},    {"lt", std::less<>()},
                                                                               {"eq", std::equal_to<>()},       {"neq", std::not_equal_to<>()}};
  std::size_t all = 0;
  for (int round = 0; round < 600; ++round) {
    const auto& [word, holds] = tests[round % 6];
    const bool is_median = random() % 2 == 0;
    const auto percentile = static_cast<double>(random() % 101);
    const double bound = static_cast<double>(random() % 24) / 2;
    open(fmt::format("title: r\ncorrelation: {{ type: {}, rules: [a], timespan: 10s, condition: {{ field: bytes, percentile: {}, {}: {} }} }}\n",
                     is_median ? "value_median" : "value_percentile", percentile, word, bound));
    std::vector<std::pair<int, double>> kept;
    for (int second = 0; second < 30; ++second) {
      const auto value = static_cast<double>(random() % 12);
      kept.emplace_back(second, value);
      std::vector<double> window;
      for (const auto& [at, one] : kept) {
        if (at >= second - 10) {
          window.push_back(one);
        }
      }
      std::ranges::sort(window);
      const std::size_t n = window.size();
      const double expected = is_median ? (window[(n - 1) / 2] + window[n / 2]) / 2
                                        : window[std::max<std::size_t>(static_cast<std::size_t>(std::ceil(percentile / 100 * static_cast<double>(n))), 1) - 1];
      const bool fires = holds(expected, bound);
      ASSERT_EQ(note(0, second, {{"bytes", fmt::format("{}", value)}}).size(), fires ? 1u : 0u) << round << ", second " << second;
      if (fires) {
        ASSERT_EQ(fired_.front().value, expected) << round;
        kept.clear();
        ++all;
      }
    }
  }
  EXPECT_GT(all, 2000u);
}

TEST(Rules, CorrelationsThatCannotBeAreRefused) {
  const auto of = [](const std::string& keys) { return refusal("title: x\ncorrelation:\n  timespan: 1m\n" + keys); };
  EXPECT_THAT(of("  type: temporal\n  rules: [a, b]\n  condition: a and x\n"),
              HasSubstr("test.yml:6:20: rule 'x': condition: there is no 'x' in 'rules'; known: a, b"));
  EXPECT_THAT(of("  type: temporal\n  rules: [a, b]\n  condition: not a\n"), HasSubstr("6:14: rule 'x': the condition is true where nothing has happened"));
  EXPECT_THAT(of("  type: temporal_ordered\n  rules: [a, b]\n  condition: a and b\n"), HasSubstr("their order is that of 'rules'"));
  EXPECT_THAT(of("  type: event_count\n  rules: [a, b]\n  condition: a and b\n"),
              HasSubstr("is for correlations of type temporal; event_count takes a mapping"));
  EXPECT_THAT(of("  type: temporal\n  rules: [a, b, a]\n"), HasSubstr("'rules' names 'a' twice"));
  EXPECT_THAT(of("  type: temporal\n  rules: [a, b]\n  condition: { gte: 3 }\n"), HasSubstr("6:14: rule 'x': temporal comes to 2 at most here, so this can"));
  EXPECT_THAT(of("  type: value_count\n  rules: [a]\n  condition: { field: User, gt: 1000 }\n"), HasSubstr("value_count comes to 1000 at most here"));
  EXPECT_THAT(of("  type: event_count\n  rules: [a]\n  condition: { gte: 5, lt: 5 }\n"), HasSubstr("no number is within these bounds"));
  EXPECT_THAT(of("  type: event_count\n  rules: [a]\n  condition: { eq: 2.5 }\n"), HasSubstr("no number is within these bounds"));
  EXPECT_THAT(of("  type: event_count\n  rules: [a]\n  condition: { neq: 5 }\n"), HasSubstr("name a lower bound too"));
  EXPECT_THAT(of("  type: value_avg\n  rules: [a]\n  condition: { field: bytes, gt: 2, lt: 2.5 }\n"), IsEmpty());
  EXPECT_THAT(of("  type: value_sum\n  rules: [a]\n  condition: { field: [bytes, offset], gt: 2 }\n"), HasSubstr("value_sum is about one field"));
  EXPECT_THAT(of("  type: value_count\n  rules: [a]\n  condition: { field: [User, exe], eq: 1000 }\n"), IsEmpty());
}

TEST_F(Correlations, CountManyInAFewDozenBytesAKey) {
  open("title: c\ncorrelation: { type: event_count, rules: [a], group-by: [User], timespan: 1h, condition: { gte: 100 } }\n", {.memory = 64u << 20});
  EXPECT_EQ(note_a_million(), 0u);
  EXPECT_EQ(correlator_->groups(), 1'000'000u);
  EXPECT_EQ(correlator_->counters().evicted, 0u);
  EXPECT_LE(correlator_->bytes(), 60'000'000u);
  for (int i = 1; i < 99; ++i) {
    ASSERT_THAT(note(0, 1000 + i, {{"User", "7"}}), IsEmpty()) << i;
  }
  EXPECT_THAT(note(0, 1200, {{"User", "7"}}), ElementsAre(0));
  EXPECT_EQ(fired_.front().value, 100);
  ASSERT_EQ(fired_.front().events.size(), Correlator::kTold);
  EXPECT_EQ(fired_.front().events.back().time_ns, 2'200'000'000'000u);
  EXPECT_EQ(fired_.front().events.front().time_ns, 2'084'000'000'000u);  // of the last sixteen
  EXPECT_EQ(correlator_->groups(), 999'999u);
  // What was touched longest ago goes first, and is counted.
  open("title: c\ncorrelation: { type: event_count, rules: [a], group-by: [User], timespan: 1h, condition: { gte: 100 } }\n", {.memory = 8u << 20});
  EXPECT_EQ(note_a_million(), 0u);
  EXPECT_LE(correlator_->bytes(), 8u << 20);
  EXPECT_GT(correlator_->groups(), 100'000u);
  EXPECT_EQ(correlator_->counters().evicted + correlator_->groups(), 1'000'000u);
  for (int i = 1; i < 99; ++i) {
    ASSERT_THAT(note(0, 1000 + i, {{"User", "999999"}}), IsEmpty()) << i;
  }
  EXPECT_THAT(note(0, 1200, {{"User", "999999"}}), ElementsAre(0));
}

// Against counting each key by itself, with keys that share places of the index, erasures, and times that go back.
TEST(Rates, AgreeWithCountingEachAlone) {
  std::mt19937_64 random(11);
  for (const double most : {40.0, 300.0, 70'000.0}) {
    constexpr std::uint64_t kWidth = 10;
    Rates rates(kWidth, most);
    struct Alone {
      std::uint64_t newest = 0;
      std::map<std::uint64_t, std::uint64_t> parts;
      std::uint64_t touched = 0;
    };
    std::map<std::uint64_t, Alone> model;
    std::uint64_t now = 1'000'000;
    for (std::uint64_t step = 1; step <= 200'000; ++step) {
      now += random() % 8;
      const std::uint64_t key = random() % 500;
      const std::uint64_t time = now - random() % 200;
      const std::uint32_t slot = rates.touch({.high = key % 7, .low = key}, time);
      rates.count(slot, time);
      Alone& alone = model.try_emplace(key, Alone{.newest = time / kWidth, .parts = {}, .touched = 0}).first->second;
      alone.touched = step;
      alone.newest = std::max(alone.newest, time / kWidth);
      if (time / kWidth + Rates::kBuckets > alone.newest) {
        ++alone.parts[time / kWidth];
      }
      std::erase_if(alone.parts, [&](const auto& part) { return part.first + Rates::kBuckets <= alone.newest; });
      std::uint64_t sum = 0;
      for (const auto& [number, count] : alone.parts) {
        sum += count;
      }
      ASSERT_EQ(rates.total(slot), sum) << step;
      ASSERT_EQ(rates.newest_ns(slot, now), alone.newest * kWidth);
      if (random() % 4 == 0) {
        const std::uint32_t gone = random() % 2 == 0 ? slot : rates.oldest();
        const auto longest = std::ranges::min_element(model, {}, [](const auto& one) { return one.second.touched; });
        if (gone == slot) {
          model.erase(key);
        } else {
          model.erase(longest);
        }
        rates.erase(gone);
      }
      ASSERT_EQ(rates.size(), model.size());
    }
    EXPECT_GT(model.size(), 50u);
  }
  // A part that is full stays so.
  Rates full(1'000, 40);
  const std::uint32_t slot = full.touch({1, 2}, 5);
  for (int i = 0; i < 1000; ++i) {
    full.count(slot, 5);
  }
  EXPECT_EQ(full.total(slot), 255u);
}

TEST_F(Correlations, StayWithinTheirMemory) {
  open("title: c\ncorrelation: { type: event_count, rules: [a], group-by: [User], timespan: 1h, condition: { gte: 3 } }\n", {.memory = 8u << 20});
  EXPECT_EQ(note_a_million(), 0u);
  EXPECT_LE(correlator_->bytes(), 8u << 20);
  EXPECT_EQ(correlator_->counters().evicted + correlator_->groups(), 1'000'000u);
  EXPECT_GT(correlator_->groups(), 20'000u);
  // The last are still there.
  EXPECT_THAT(note(0, 1001, {{"User", "999999"}}), IsEmpty());
  EXPECT_THAT(note(0, 1002, {{"User", "999999"}}), ElementsAre(0));
}

TEST(Config, SaysWhatIsWrong) {
  const auto wrong = [](const std::string& text) {
    const auto config = parse_config("d.yaml", text);
    return config ? std::string("taken") : config.error().message;
  };
  EXPECT_THAT(wrong("rules: [x]\n"), HasSubstr("d.yaml:1:1: begin the file with 'version: 1'"));
  EXPECT_THAT(wrong("version: 1\nrule: [x]\n"), HasSubstr("d.yaml:2:1: the configuration has no key 'rule'; did you mean 'rules'?"));
  EXPECT_THAT(wrong("version: 1\nseverity: { x: urgent }\n"), HasSubstr("d.yaml:2:16: there is no severity 'urgent'"));
  EXPECT_THAT(wrong("version: 1\nthrottle: { alerts: 5 }\n"), HasSubstr("such as { alerts: 10, per: 1m }"));
  EXPECT_THAT(wrong("version: 1\nlimits: { memory: 5 }\n"), HasSubstr("write it as 512KiB or 16MiB"));
  EXPECT_EQ(wrong("version: 1\nrules: [x]\nlists: { a: [b] }\nthrottle: { alerts: 5, per: 1m, by: [User] }\nlimits: { memory: 1MiB, late: 500ms }\n"), "taken");
}

}  // namespace
}  // namespace vfsguard::detect
