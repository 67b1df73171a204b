// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <simdjson.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "event/names.h"
#include "output/escape.h"
#include "output/format.h"
#include "output/sink.h"

namespace vfsguard::output {
namespace {

event::Operation sample() {
  event::Operation operation;
  vg_event& e = operation.raw;
  e.head = {sizeof e, 1, VG_RECORD_EVENT, VG_ABI_VERSION};
  e.time_ns = 1'234'567'890'123;
  e.seq = 42;
  e.start_ns = 99;
  e.ino = 7;
  e.retval = 3;
  e.flags = O_WRONLY | O_CREAT;
  e.mode = 0640;
  e.dirfd = AT_FDCWD;
  e.dev = 8u << 20 | 1;
  e.imode = S_IFREG | 0640;
  e.fmode = 2;
  e.nlink = 1;
  e.pid = e.tid = 100;
  e.ppid = 1;
  e.loginuid = 1000;
  e.session = ~0u;
  e.mnt_ns = 5;
  e.pid_ns = 6;
  e.path_flags = VG_PATH_OBJECT | VG_RAW_PRESENT | VG_HAVE_ARGS | VG_HAVE_DIRFD;
  e.operation = VG_OP_OPEN;
  e.call = VG_CALL_OPENAT;
  e.hook = VG_HOOK_LSM;
  std::strcpy(e.comm, "sh");
  std::strcpy(e.parent_comm, "init");
  std::strcpy(e.fs_type, "ext4");
  operation.path = "/tmp/a";
  operation.path_raw = "a";
  operation.cwd = "/tmp";
  auto process = std::make_shared<event::Process>();
  process->exe = "/bin/sh";
  process->arguments = {"sh", "-c", "echo 'x'"};
  process->command_line = command_line(*process->arguments);
  process->cgroup = "/";
  operation.process = process;
  return operation;
}

std::string json_of(const event::Operation& operation) {
  JsonFormatter formatter(ClockKind::kBoottime, "host");
  std::string out;
  formatter.append(operation, out);
  return out;
}

event::Operation rename_sample() {
  event::Operation operation = sample();
  vg_event& e = operation.raw;
  e.operation = VG_OP_RENAME;
  e.call = VG_CALL_RENAMEAT2;
  e.retval = 0;
  e.flags = 2;
  e.dirfd2 = 5;
  e.path2_flags = VG_PATH_OBJECT | VG_RAW_PRESENT;
  e.dst_ino = 8;
  e.dst_dev = 8u << 20 | 1;
  operation.dst_path = "/tmp/b";
  operation.dst_raw = "../b";
  return operation;
}

// `VFSGUARD_UPDATE_GOLDEN=1 ctest -R unit` writes the golden files anew.
void expect_golden(const std::string& name, const std::string& now) {
  const std::string file = VFSGUARD_GOLDEN "/" + name;
  if (getenv("VFSGUARD_UPDATE_GOLDEN") != nullptr) {
    std::ofstream(file) << now;
  }
  std::stringstream golden;
  golden << std::ifstream(file).rdbuf();
  EXPECT_EQ(now, golden.str());
}

TEST(Json, AnEventLooksAsDocumented) {
  expect_golden("open.json", json_of(sample()));
  expect_golden("rename.json", json_of(rename_sample()));
}

TEST(Json, WhatACallAsksForHasItsOwnField) {
  event::Operation operation = sample();
  vg_event& e = operation.raw;
  e.operation = VG_OP_CHOWN;
  e.call = VG_CALL_FCHOWN;
  e.path_flags = VG_PATH_OBJECT | VG_HAVE_ARGS | VG_HAVE_FD;
  e.fd = 9;
  e.value = 12;
  e.value2 = 0xffffffff;
  std::string out = json_of(operation);
  EXPECT_NE(out.find("\"fd\":9,\"new_uid\":12,"), std::string::npos) << out;
  EXPECT_EQ(out.find("new_gid"), std::string::npos) << out;
  e.operation = VG_OP_SYMLINK;
  e.call = VG_CALL_SYMLINK;
  e.path_flags = VG_PATH_OBJECT | VG_HAVE_ARGS;
  operation.dst_raw = "../target\n";
  out = json_of(operation);
  EXPECT_NE(out.find("\"target\":\"../target\\n\""), std::string::npos) << out;
  EXPECT_EQ(out.find("dst_path"), std::string::npos) << out;
  e.operation = VG_OP_MKNOD;
  e.call = VG_CALL_MKNOD;
  e.mode = S_IFBLK | 0600;
  e.value = 0x12345678;  // minor 0x12378, major 0x456
  operation.dst_raw.reset();
  out = json_of(operation);
  EXPECT_NE(out.find("\"rdev\":\"1110:74616\""), std::string::npos) << out;
}

TEST(Json, ARefusalSaysByWhichNameAndWhatWasNotKnown) {
  event::Operation operation = sample();
  vg_event& e = operation.raw;
  e.retval = -EACCES;
  e.verdict = VG_VERDICT_DENY;
  e.mechanism = VG_MECHANISM_LSM;
  operation.verdict = "deny";
  e.matched_by = VG_MATCHED_HOST_PATH;
  EXPECT_NE(json_of(operation).find("\"mechanism\":\"lsm\",\"matched_by\":\"host_path\""), std::string::npos);
  e.matched_by = VG_MATCHED_NONE;
  e.cause = VG_UNKNOWN_AMBIGUOUS_NAME;
  e.path_flags |= VG_PATH_AMBIGUOUS;
  const std::string out = json_of(operation);
  EXPECT_NE(out.find("\"cause\":\"ambiguous_name\""), std::string::npos) << out;
  EXPECT_NE(out.find("\"ambiguous\""), std::string::npos) << out;
  EXPECT_EQ(out.find("matched_by"), std::string::npos) << out;
  for (unsigned cause = VG_UNKNOWN_NONE + 1; cause < VG_UNKNOWN_COUNT; ++cause) {
    EXPECT_FALSE(event::cause_name(cause).empty()) << cause;
  }
}

TEST(Json, AnyBytesComeBackFromIt) {
  std::mt19937 rng(1);
  simdjson::dom::parser parser;
  for (int round = 0; round < 20000; ++round) {
    std::string name;
    const std::size_t n = rng() % 12;
    for (std::size_t i = 0; i < n; ++i) {
      name += static_cast<char>(1 + rng() % 255);
    }
    event::Operation operation = sample();
    operation.path = name;
    const std::string line = json_of(operation);
    ASSERT_EQ(line.find('\n'), line.size() - 1);
    for (const char c : line.substr(0, line.size() - 1)) {
      ASSERT_TRUE(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
    }
    simdjson::dom::object object;
    ASSERT_EQ(parser.parse(line).get(object), simdjson::SUCCESS) << line;
    std::string_view hex;
    std::string back;
    if (object["path_hex"].get(hex) == simdjson::SUCCESS) {
      for (std::size_t i = 0; i < hex.size(); i += 2) {
        back += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
      }
    } else {
      back = std::string_view(object["path"]);
    }
    ASSERT_EQ(back, name);
  }
}

TEST(Json, WhatAttacksTerminalsIsEscaped) {
  std::string out;
  EXPECT_TRUE(append_json("\x1b[31m\x07 \xc2\x9b \xe2\x80\xae \x7f", out));
  EXPECT_EQ(out, "\\u001b[31m\\u0007 \\u009b \\u202e \\u007f");
}

TEST(Text, NoControlCharacterGetsThrough) {
  std::string out;
  append_text("a\n\x1b[2J\xff\xe2\x80\xae\\", out);
  EXPECT_EQ(out, "a\\n\\x1b[2J\\xff\\xe2\\x80\\xae\\\\");
}

TEST(Text, AFailureShowsItsError) {
  TextFormatter formatter(ClockKind::kBoottime, false);
  event::Operation operation = sample();
  operation.raw.retval = -EACCES;
  std::string out;
  formatter.append(operation, out);
  EXPECT_NE(out.find("EACCES"), std::string::npos);
  EXPECT_EQ(out.find('\033'), std::string::npos);
}

TEST(Names, FlagsAndErrors) {
  std::string out;
  event::append_open_flags(O_RDWR | O_SYNC | O_TMPFILE | 0x40000000000, out);
  EXPECT_EQ(out, "O_RDWR|O_SYNC|O_TMPFILE|0x40000000000");
  EXPECT_EQ(event::error_name(13), "EACCES");
  EXPECT_EQ(event::error_name(512), "ERESTARTSYS");
  EXPECT_EQ(event::error_name(4000), "4000");
}

TEST(Arguments, AreJoinedAsAShellWouldTakeThem) {
  const std::string words[] = {"a", "b c", "it's", ""};
  EXPECT_EQ(join_arguments(words, words + 4), "a 'b c' 'it'\\''s' ''");
}

TEST(Sink, LinesStayWholeWhenTheDiskIsFull) {
  // /dev/full takes nothing at all.
  Sink sink({}, open("/dev/full", O_WRONLY | O_CLOEXEC), "/dev/full");
  sink.buffer() = "one\ntwo\nthree\n";
  ASSERT_TRUE(sink.flush());
  EXPECT_EQ(sink.dropped(), 3u);
  EXPECT_EQ(sink.take_trouble(), ENOSPC);
  EXPECT_EQ(sink.take_trouble(), 0);
}

class SinkFile : public testing::Test {
 protected:
  SinkFile() : directory_(std::filesystem::temp_directory_path() / ("vfsguard-sink." + std::to_string(getpid()))) {
    std::filesystem::create_directories(directory_);
  }
  ~SinkFile() override { std::filesystem::remove_all(directory_); }
  [[nodiscard]] std::string path(const char* name = "events") const { return (directory_ / name).string(); }
  static void write(Sink& sink, std::string_view text) {
    sink.buffer() += text;
    EXPECT_TRUE(sink.flush());
  }
  static std::string contents(const std::string& file) {
    std::ifstream in(file);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::filesystem::path directory_;
  static constexpr std::uint64_t kSecond = 1'000'000'000;
};

TEST_F(SinkFile, ATruncationIsNoticedWithItsSizes) {
  std::ofstream(path()) << "older\n";
  auto sink = Sink::open(path());
  ASSERT_TRUE(sink);
  write(*sink, "a line\n");
  EXPECT_FALSE(sink->look(kSecond));
  std::ofstream(path(), std::ios::app) << "of somebody else\n";
  EXPECT_FALSE(sink->look(2 * kSecond));
  ASSERT_EQ(truncate(path().c_str(), 0), 0);
  write(*sink, "next\n");
  const auto change = sink->look(3 * kSecond);
  ASSERT_TRUE(change);
  EXPECT_EQ(change->how, FileChange::How::kTruncated);
  EXPECT_EQ(change->expected_bytes, 6u + 7 + 17 + 5);
  EXPECT_EQ(change->found_bytes, 5u);
  EXPECT_TRUE(change->reopened);
  EXPECT_FALSE(sink->look(4 * kSecond));
}

TEST_F(SinkFile, WhatWasRemovedOrReplacedIsOpenedAgain) {
  auto sink = Sink::open(path());
  ASSERT_TRUE(sink);
  write(*sink, "first\n");
  std::filesystem::remove(path());
  auto change = sink->look(kSecond);
  ASSERT_TRUE(change);
  EXPECT_EQ(change->how, FileChange::How::kRemoved);
  EXPECT_EQ(change->found_bytes, 6u);
  EXPECT_TRUE(change->reopened);
  write(*sink, "second\n");
  EXPECT_EQ(contents(path()), "second\n");
  EXPECT_FALSE(sink->look(2 * kSecond));
  std::ofstream(path("other")) << "forged\n";
  std::filesystem::rename(path("other"), path());
  change = sink->look(3 * kSecond);
  ASSERT_TRUE(change);
  EXPECT_EQ(change->how, FileChange::How::kReplaced);
  write(*sink, "third\n");
  EXPECT_EQ(contents(path()), "forged\nthird\n");
}

TEST_F(SinkFile, ARotationIsNoChangeUnlessNobodyAsksToReopen) {
  auto sink = Sink::open(path());
  ASSERT_TRUE(sink);
  write(*sink, "first\n");
  EXPECT_FALSE(*sink->reopen());
  std::filesystem::rename(path(), path("events.1"));
  EXPECT_FALSE(sink->look(10 * kSecond));
  write(*sink, "late\n");
  EXPECT_TRUE(*sink->reopen());
  write(*sink, "second\n");
  EXPECT_EQ(contents(path("events.1")), "first\nlate\n");
  EXPECT_EQ(contents(path()), "second\n");
  EXPECT_FALSE(sink->look(20 * kSecond));
  std::filesystem::rename(path(), path("events.1"));
  EXPECT_FALSE(sink->look(30 * kSecond));
  EXPECT_FALSE(sink->look(34 * kSecond));
  const auto change = sink->look(35 * kSecond);
  ASSERT_TRUE(change);
  EXPECT_EQ(change->how, FileChange::How::kMoved);
  EXPECT_TRUE(std::filesystem::exists(path()));
}

TEST_F(SinkFile, ALinkOrAPipeInItsPlaceIsNotWrittenTo) {
  auto sink = Sink::open(path());
  ASSERT_TRUE(sink);
  std::filesystem::remove(path());
  std::ofstream(path("target")) << "";
  std::filesystem::create_symlink(path("target"), path());
  const auto change = sink->look(kSecond);
  ASSERT_TRUE(change);
  EXPECT_FALSE(change->reopened);
  EXPECT_NE(change->why, "");
  EXPECT_FALSE(sink->look(2 * kSecond));  // told once
  std::filesystem::remove(path());
  ASSERT_EQ(mkfifo(path().c_str(), 0600), 0);
  EXPECT_FALSE(sink->look(3 * kSecond));
  write(*sink, "kept\n");
  std::filesystem::remove(path());
  EXPECT_TRUE(sink->look(4 * kSecond)->reopened);
  EXPECT_EQ(contents(path("target")), "");
}

TEST(Sink, AClosedPipeIsAnError) {
  signal(SIGPIPE, SIG_IGN);
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  close(fds[0]);
  Sink sink(util::UniqueFd(fds[1]), fds[1], "pipe");
  sink.buffer() = "one\n";
  const auto done = sink.flush();
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, EPIPE);
}

}  // namespace
}  // namespace vfsguard::output
