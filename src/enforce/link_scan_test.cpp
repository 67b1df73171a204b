// SPDX-License-Identifier: Apache-2.0
#include "enforce/link_scan.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "util/fd.h"

namespace vfsguard::enforce {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::UnorderedElementsAre;

constexpr int kSkip = 77;

// What a child says: 0 and nothing, kSkip and why, or 1 and what is wrong. A child, because it
// changes what belongs to a process: its limits, its user, its mounts.
struct Said {
  int code = 0;
  std::string text;
};

Said in_child(const std::function<Said()>& what) {
  int ends[2];
  if (pipe(ends) != 0) {
    return {1, "pipe"};
  }
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    const Said said = what();
    (void)!write(ends[1], said.text.data(), said.text.size());
    _exit(said.code);
  }
  close(ends[1]);
  Said said;
  char buffer[4096];
  for (ssize_t n = 0; (n = read(ends[0], buffer, sizeof buffer)) > 0;) {
    said.text.append(buffer, static_cast<std::size_t>(n));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  said.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
  return said;
}

#define EXPECT_CHILD(said)                                       \
  if (const Said s = (said); s.code == kSkip) {                  \
    GTEST_SKIP() << s.text;                                      \
  } else {                                                       \
    EXPECT_EQ(s.code, 0) << s.text << " (or ended by a signal)"; \
  }

class LinkScan : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = fs::temp_directory_path() / "link-scan-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = fs::canonical(name);
    fs::permissions(root_, fs::perms(0755));
  }
  // remove_all() has a descriptor for each level.
  void TearDown() override { (void)!std::system(("rm -rf " + root_).c_str()); }

  void file(const std::string& name) const { std::ofstream(root_ + "/" + name) << name; }
  void directory(const std::string& name) const { fs::create_directories(root_ + "/" + name); }
  void link(const std::string& from, const std::string& to) const { ASSERT_EQ(::link((root_ + "/" + from).c_str(), (root_ + "/" + to).c_str()), 0); }
  // A chain of directories with these names, and in the last one two names of a file.
  void deep(int levels, const std::string& name) const {
    int at = open(root_.c_str(), O_PATH | O_CLOEXEC);
    for (int i = 0; i < levels; ++i) {
      ASSERT_EQ(mkdirat(at, name.c_str(), 0755), 0);
      const int next = openat(at, name.c_str(), O_PATH | O_CLOEXEC);
      close(at);
      at = next;
    }
    close(openat(at, "a", O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    ASSERT_EQ(linkat(at, "a", at, "b", 0), 0);
    close(at);
  }

  // The names found, without the directory's own.
  std::vector<std::string> found(const std::vector<std::string>& starts, const ScanOptions& options = {}) {
    std::vector<std::string> names;
    report_ = scan(starts, [&](const Found& f) { names.emplace_back(f.path.substr(root_.size() + 1)); }, options);
    return names;
  }
  std::vector<std::string> found(const ScanOptions& options = {}) { return found({root_}, options); }

  std::string root_;
  ScanReport report_;
};

TEST_F(LinkScan, FindsEveryTypeByAnInodeThatIsOpen) {
  directory("d");
  file("d/file");
  file("d/single");
  ASSERT_EQ(mkfifo((root_ + "/d/fifo").c_str(), 0600), 0);
  ASSERT_EQ(symlink("file", (root_ + "/d/symlink").c_str()), 0);
  const int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  fmt::format_to_n(address.sun_path, sizeof address.sun_path - 1, "{}/d/socket", root_);
  ASSERT_EQ(bind(server, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  close(server);
  std::vector<std::string> types{"file", "fifo", "symlink", "socket"};
  if (mknod((root_ + "/d/device").c_str(), S_IFCHR | 0600, 0) == 0) {
    types.emplace_back("device");
  }
  std::vector<std::string> wanted;
  for (const std::string& type : types) {
    ASSERT_EQ(linkat(AT_FDCWD, (root_ + "/d/" + type).c_str(), AT_FDCWD, (root_ + "/other-" + type).c_str(), 0), 0);
    wanted.push_back("d/" + type);
  }
  std::vector<std::string> names;
  const ScanReport report = scan({root_ + "/d"}, [&](const Found& f) {
    struct stat status{};
    ASSERT_EQ(fstat(f.fd, &status), 0);
    EXPECT_EQ(status.st_ino, f.ino);
    EXPECT_EQ(status.st_dev, f.dev);
    EXPECT_EQ(status.st_mode, f.mode);
    EXPECT_EQ(f.nlink, 2u);
    EXPECT_EQ(f.start, root_ + "/d");
    names.emplace_back(f.path.substr(root_.size() + 1));
  });
  EXPECT_THAT(names, testing::UnorderedElementsAreArray(wanted));
  EXPECT_EQ(report.linked, wanted.size());
  EXPECT_EQ(report.entries, wanted.size() + 2);
  EXPECT_THAT(describe(report), IsEmpty());
}

TEST_F(LinkScan, StartsAreFilesToo) {
  file("a");
  link("a", "b");
  EXPECT_THAT(found({root_ + "/a"}), ElementsAre("a"));
  EXPECT_THAT(found({root_ + "/missing", root_ + "/a/missing"}), IsEmpty());
  EXPECT_THAT(describe(report_), IsEmpty());
}

TEST_F(LinkScan, NestedStartsAreWalkedOnce) {
  directory("a/b");
  directory("a-b");
  file("a/b/x");
  link("a/b/x", "a-b/x");
  EXPECT_THAT(found({root_ + "/a", root_ + "/a-b", root_ + "/a/b", root_ + "/a/b/x"}), UnorderedElementsAre("a/b/x", "a-b/x"));
}

TEST_F(LinkScan, DeepTreesNeedFewDescriptors) {
  deep(3000, "d");
  file("last");
  link("last", "last2");
  EXPECT_CHILD(in_child([&]() -> Said {
    const rlimit few{128, 128};
    setrlimit(RLIMIT_NOFILE, &few);
    std::vector<std::string> names = found();
    if (names.size() != 4 || !describe(report_).empty() || report_.directories != 3001) {
      return {1, fmt::format("{} names, {} directories, {} unread", names.size(), report_.directories, report_.unread_total)};
    }
    return {};
  }));
}

TEST_F(LinkScan, BranchesAreReadOnTheWayBack) {
  std::string path = "d";
  for (int i = 0; i < 40; ++i) {
    directory(path + "/z");
    directory(path + "/a");
    file(path + "/z/x");
    file(path + "/a/x");
    link(path + "/z/x", path + "/z/y");
    link(path + "/a/x", path + "/a/y");
    path += "/d";
  }
  ScanOptions options;
  options.max_open = 3;
  EXPECT_THAT(found(options), SizeIs(160));
  EXPECT_THAT(describe(report_), IsEmpty());
}

// The limit leaves room for none but the directories in use.
TEST_F(LinkScan, DescriptorsThatRunOutAreGivenBack) {
  deep(100, "d");
  EXPECT_CHILD(in_child([&]() -> Said {
    const int next = dup(0);
    const rlimit few{static_cast<rlim_t>(next) + 8, static_cast<rlim_t>(next) + 8};
    close(next);
    setrlimit(RLIMIT_NOFILE, &few);
    const std::size_t names = found().size();
    return names == 2 && describe(report_).empty() ? Said{} : Said{1, fmt::format("{} names, {} unread", names, report_.unread_total)};
  }));
}

TEST_F(LinkScan, DescriptorsThatAreMissingAreReported) {
  directory("d");
  EXPECT_CHILD(in_child([&]() -> Said {
    const int next = dup(0);
    const rlimit few{static_cast<rlim_t>(next), static_cast<rlim_t>(next)};
    close(next);
    setrlimit(RLIMIT_NOFILE, &few);
    found();
    return report_.unread_total == 1 && report_.unread[0].code == EMFILE ? Said{} : Said{1, "silent"};
  }));
}

TEST_F(LinkScan, LongPathsAreWholeAndShortenedInReports) {
  deep(20, std::string(255, 'n'));
  file("z");
  const std::vector<std::string> names = found();
  ASSERT_THAT(names, SizeIs(2));
  EXPECT_EQ(names[0].size(), 20u * 256 + 1);
  LinkedFiles linked;
  scan({root_}, [&](const Found& f) { linked.add(f); });
  ASSERT_THAT(linked.describe(), SizeIs(1));
  EXPECT_THAT(linked.describe()[0], HasSubstr("1 file below " + root_ + " has other hard links"));
  EXPECT_THAT(linked.describe()[0], HasSubstr("[...]"));
  EXPECT_LT(linked.describe()[0].size(), 4400u);
  std::string start = root_;
  for (int i = 0; i < 20; ++i) {
    start += "/" + std::string(255, 'n');
  }
  EXPECT_THAT(found({start}), SizeIs(2));  // longer than a system call takes
}

TEST_F(LinkScan, SymbolicLinksAreNotFollowed) {
  directory("d");
  directory("real/sub");
  file("real/sub/x");
  link("real/sub/x", "outside");
  ASSERT_EQ(symlink("..", (root_ + "/d/up").c_str()), 0);
  ASSERT_EQ(symlink("self", (root_ + "/d/self").c_str()), 0);
  ASSERT_EQ(symlink("real", (root_ + "/alias").c_str()), 0);
  EXPECT_THAT(found({root_ + "/d"}), IsEmpty());
  EXPECT_THAT(describe(report_), IsEmpty());
  EXPECT_THAT(found({root_ + "/alias", root_ + "/alias/sub"}), IsEmpty());
  EXPECT_THAT(describe(report_),
              ElementsAre(HasSubstr("/alias is a symbolic link or lies below one"), HasSubstr("/alias/sub is a symbolic link or lies below one")));
}

TEST_F(LinkScan, UnreadableDirectoriesAreNamed) {
  directory("d/closed/inner");
  directory("d/listed");
  directory("d/open");
  for (const char* name : {"d/closed/inner/x", "d/listed/x", "d/open/x"}) {
    file(name);
    link(name, std::string(name) + "2");
  }
  EXPECT_CHILD(in_child([&]() -> Said {
    chmod((root_ + "/d/closed").c_str(), 0711);
    chmod((root_ + "/d/listed").c_str(), 0744);
    if (getuid() == 0) {
      if (setgid(65534) != 0 || setuid(65534) != 0) {
        return {kSkip, "cannot become somebody else"};
      }
    } else {
      chmod((root_ + "/d/closed").c_str(), 0111);
      chmod((root_ + "/d/listed").c_str(), 0444);
    }
    // What cannot be reached from above is started from.
    const std::vector<std::string> names = found({root_ + "/d", root_ + "/d/closed/inner", root_ + "/d/closed/inner/x"});
    const std::vector<std::string> notes = describe(report_);
    if (names.size() != 4 || report_.unread_total != 2 || notes.size() != 2) {
      return {1, fmt::format("{} names, {} unread", names.size(), report_.unread_total)};
    }
    for (const std::string& note : notes) {
      if (!note.starts_with("cannot scan " + root_ + "/d/") || note.find("(Permission denied): files there are protected by") == std::string::npos) {
        return {1, note};
      }
    }
    return {};
  }));
  chmod((root_ + "/d/closed").c_str(), 0755);
  chmod((root_ + "/d/listed").c_str(), 0755);
}

TEST_F(LinkScan, WhatVanishesIsNoError) {
  directory("d/a/inner");
  directory("d/b/inner");
  for (const char* name : {"d/x", "d/a/x", "d/b/x"}) {
    file(name);
    link(name, std::string(name) + "2");
  }
  // Whichever of a and b is read first takes itself away, with what is below it and the other one.
  int calls = 0;
  report_ = scan({root_ + "/d"}, [&](const Found& f) {
    ++calls;
    if (f.path.find("/d/x") == std::string_view::npos) {
      fs::remove_all(root_ + "/d/a");
      fs::remove_all(root_ + "/d/b");
    }
  });
  EXPECT_GE(calls, 3);
  EXPECT_GE(report_.vanished, 2u);
  EXPECT_THAT(describe(report_), IsEmpty());
}

TEST_F(LinkScan, WhatIsMovedAwayIsLeftByTheNamesThatLedThere) {
  directory("elsewhere");
  std::string path = "d";
  for (int i = 0; i < 12; ++i) {
    directory(path + "/z");
    file(path + "/z/x");
    link(path + "/z/x", path + "/z/y");
    path += "/d";
  }
  directory(path);
  file(path + "/x");
  link(path + "/x", path + "/y");
  // From the very bottom a level in the middle is moved out; what lies above it is found again.
  bool moved = false;
  ScanOptions options;
  options.max_open = 3;
  std::set<std::string> names;
  report_ = scan(
      {root_ + "/d"},
      [&](const Found& f) {
        names.emplace(f.path);
        if (!moved && f.path == root_ + "/" + path + "/x") {
          moved = true;
          fs::rename(root_ + "/d/d/d/d/d/d", root_ + "/elsewhere/d");
        }
      },
      options);
  EXPECT_TRUE(moved);
  EXPECT_EQ(names.size() + 2 * report_.unread_total, 2u * 13) << "either found or reported";
  for (const char* above : {"/d/z/x", "/d/d/z/x", "/d/d/d/d/d/z/x"}) {
    EXPECT_TRUE(names.contains(root_ + above)) << above;
  }
}

TEST_F(LinkScan, MountsAreCrossedAndPseudoFileSystemsAreNot) {
  directory("d/tmp");
  directory("d/proc");
  directory("d/bind");
  directory("source");
  file("source/x");
  link("source/x", "source/y");
  EXPECT_CHILD(in_child([&]() -> Said {
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("none", (root_ + "/d/tmp").c_str(), "tmpfs", 0, nullptr) != 0) {
      return {kSkip, "cannot mount"};
    }
    file("d/tmp/x");
    (void)!::link((root_ + "/d/tmp/x").c_str(), (root_ + "/d/tmp/y").c_str());
    mount((root_ + "/source").c_str(), (root_ + "/d/bind").c_str(), nullptr, MS_BIND, nullptr);
    const bool proc = mount("none", (root_ + "/d/proc").c_str(), "proc", 0, nullptr) == 0;
    const std::size_t names = found({root_ + "/d"}).size();
    if (names != 4 || report_.unread_total != 0 || !describe(report_).empty()) {
      return {1, fmt::format("{} names, {} unread", names, report_.unread_total)};
    }
    if (proc && (report_.skipped.size() != 1 || report_.skipped[0].path != root_ + "/d/proc" || report_.skipped[0].type != "proc" || report_.entries > 20)) {
      return {1, "proc was not skipped"};
    }
    return {};
  }));
}

// A server that never answers, and an automounter that must not be asked.
TEST_F(LinkScan, ServersAreNotWaitedFor) {
  directory("d/fuse");
  directory("d/auto");
  file("d/x");
  link("d/x", "d/y");
  EXPECT_CHILD(in_child([&]() -> Said {
    const int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fuse < 0 || unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("silent", (root_ + "/d/fuse").c_str(), "fuse", 0, fmt::format("fd={},rootmode=40000,user_id=0,group_id=0", fuse).c_str()) != 0) {
      return {kSkip, "cannot mount FUSE"};
    }
    // The automounter's own process group is never kept waiting, so it is another one here.
    int ends[2];
    (void)!pipe(ends);
    const pid_t other = fork();
    if (other == 0) {
      pause();
      _exit(0);
    }
    setpgid(other, other);
    const bool automounter =
        mount("auto", (root_ + "/d/auto").c_str(), "autofs", 0, fmt::format("fd={},pgrp={},minproto=5,maxproto=5,direct", ends[1], other).c_str()) == 0;
    const std::size_t names = found({root_ + "/d", root_ + "/d/auto/below", root_ + "/d/fuse/below"}).size();
    const std::size_t alone = found({root_ + "/d/auto/below", root_ + "/d/fuse/below"}).size();
    kill(other, SIGKILL);
    const std::vector<std::string> notes = describe(report_);
    umount2((root_ + "/d/auto").c_str(), MNT_DETACH);
    umount2((root_ + "/d/fuse").c_str(), MNT_DETACH);
    if (names != 2 || alone != 0 || report_.skipped.size() != 1u + automounter || report_.unread_total != 0 || notes.size() != 1 ||
        !notes[0].starts_with(root_ + "/d/fuse was not scanned")) {
      return {1, fmt::format("{} and {} names, {} skipped, {} notes", names, alone, report_.skipped.size(), notes.size())};
    }
    return {};
  }));
}

// A mount in a file system that is skipped is walked nevertheless.
TEST_F(LinkScan, MountsBelowSkippedOnesAreWalked) {
  directory("d");
  EXPECT_CHILD(in_child([&]() -> Said {
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("none", (root_ + "/d").c_str(), "proc", 0, nullptr) != 0 || mount("none", (root_ + "/d/sys").c_str(), "tmpfs", 0, nullptr) != 0) {
      return {kSkip, "cannot mount"};
    }
    directory("d/sys/sub");
    file("d/sys/sub/x");
    (void)!::link((root_ + "/d/sys/sub/x").c_str(), (root_ + "/d/sys/sub/y").c_str());
    const std::size_t below = found({root_, root_ + "/d/sys/sub"}).size();
    const std::size_t alone = found({root_ + "/d/sys/sub"}).size();
    return below == 2 && alone == 2 ? Said{} : Said{1, fmt::format("{} {}", below, alone)};
  }));
}

TEST_F(LinkScan, EndsAtItsDeadlineAndSaysSo) {
  directory("d");
  ScanOptions options;
  options.deadline = std::chrono::steady_clock::now();
  EXPECT_THAT(found({root_ + "/d"}, options), IsEmpty());
  EXPECT_TRUE(report_.gave_up);
  EXPECT_THAT(describe(report_), ElementsAre(HasSubstr("ended early at " + root_ + "/d, after 0 names, because")));
}

TEST_F(LinkScan, EndsWhenToldTo) {
  std::atomic<bool> stop = false;
  directory("d");
  file("d/x");
  link("d/x", "d/y");
  ScanOptions options;
  options.stop = &stop;
  int calls = 0;
  std::thread thread([&] {
    report_ = scan(
        {root_},
        [&](const Found&) {
          ++calls;
          stop = true;
        },
        options);
  });
  thread.join();
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(report_.gave_up);
  EXPECT_THAT(describe(report_), ElementsAre(HasSubstr("it was told to stop")));
}

TEST_F(LinkScan, ScansAgainWhileNamesChange) {
  file("x");
  link("x", "y");
  std::uint64_t changes = 0;
  int calls = 0;
  const auto passes = [&](int until) {
    changes = calls = 0;
    return scan_until_stable({root_}, [&] { return changes; }, [&](const Found&) { changes += ++calls <= until ? 1 : 0; });
  };
  EXPECT_EQ(passes(0).passes, 1u);
  const ScanReport once = passes(2);
  EXPECT_EQ(once.passes, 2u);
  EXPECT_TRUE(once.stable);
  EXPECT_EQ(once.linked, 2u);
  EXPECT_THAT(describe(once), IsEmpty());
  const ScanReport never = passes(100);
  EXPECT_EQ(never.passes, 3u);
  EXPECT_FALSE(never.stable);
  EXPECT_THAT(describe(never), ElementsAre(HasSubstr("during each of 3 scans")));
}

TEST_F(LinkScan, ManyUnreadPathsAreCounted) {
  ScanReport report;
  report.unread = {{"/a\n", EIO, "Input/output error"}, {"/b", EIO, "Input/output error"}, {"/c", EIO, "Input/output error"}};
  report.unread_total = 12;
  EXPECT_THAT(describe(report), ElementsAre(HasSubstr("/a\\n for"), HasSubstr("/b"), HasSubstr("/c"), "the same is true of 9 more paths"));
}

TEST_F(LinkScan, WhatIsLinkedIsCountedByFile) {
  directory("d");
  for (const char* name : {"a", "b", "c", "e"}) {
    file(std::string("d/") + name);
    link(std::string("d/") + name, std::string("d/") + name + "2");
  }
  LinkedFiles linked;
  scan({root_ + "/d"}, [&](const Found& f) { linked.add(f); });
  ASSERT_THAT(linked.describe(), SizeIs(1));
  EXPECT_THAT(linked.describe()[0], HasSubstr("4 files below " + root_ + "/d have other hard links: every name of them is protected ("));
  EXPECT_THAT(linked.describe()[0], HasSubstr(", ...)"));
  LinkedFiles one;
  scan({root_ + "/d/a"}, [&](const Found& f) { one.add(f); });
  EXPECT_THAT(one.describe(), ElementsAre(root_ + "/d/a has other hard links: every name of it is protected"));
}

TEST(LinkedFiles, AreCountedUpToABound) {
  LinkedFiles linked;
  for (ino_t ino = 0; ino < 70'000; ++ino) {
    linked.add({.dev = 1, .ino = ino, .path = "/d/x", .start = "/d"});
  }
  EXPECT_THAT(linked.describe(), ElementsAre(HasSubstr("more than 65536 files below /d have")));
}

TEST(ScanStarts, AreTheFixedPartsOfRulesThatStopSomething) {
  EXPECT_EQ(fixed_part("/etc/app/**"), "/etc/app");
  EXPECT_EQ(fixed_part("/etc/app/*.key"), "/etc/app");
  EXPECT_EQ(fixed_part("/etc/ap?/x"), "/etc");
  EXPECT_EQ(fixed_part("/etc/shadow"), "/etc/shadow");
  EXPECT_EQ(fixed_part("/**"), "/");
  const auto policy = policy::parse("p.yaml", R"(
version: 1
rules:
  - { name: a, paths: ["/srv/b/**", "/srv/a", "/srv/a/**"], operations: open, action: deny }
  - { name: b, paths: /srv/seen, operations: open, action: deny }
  - { name: c, paths: /srv/told, operations: open }
  - { name: d, paths: /srv/observed, operations: open, action: deny, mode: observe }
)");
  ASSERT_TRUE(policy) << policy.error().message;
  EXPECT_THAT(scan_starts(*policy, {"/srv/seen"}), ElementsAre("/srv/a", "/srv/b"));
}

}  // namespace
}  // namespace vfsguard::enforce
