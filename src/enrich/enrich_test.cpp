// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

#include "enrich/mounts.h"
#include "enrich/processes.h"
#include "enrich/users.h"

namespace vfsguard::enrich {

namespace {

constexpr std::uint32_t kRootDevice = 8u << 20 | 1;
constexpr std::uint32_t kOverlay = 44;

event::Process process(std::uint32_t pid, std::uint64_t start, std::uint64_t exec_id, const char* exe, std::vector<event::Ancestor> ancestors) {
  event::Process p;
  p.pid = pid;
  p.start_ns = start;
  p.exec_id = exec_id;
  if (exe != nullptr) {
    p.exe = exe;
  }
  p.ancestors = std::move(ancestors);
  return p;
}

vg_event event_of(std::uint32_t pid, std::uint64_t start, std::uint64_t exec_id) {
  vg_event e{};
  e.pid = pid;
  e.start_ns = start;
  e.exec_id = exec_id;
  return e;
}

// No process of the machine that runs the tests has these numbers.
constexpr std::uint32_t kPid = 0x7f000000;

}  // namespace

TEST(Mounts, TheLongestRootThatHoldsThePathCounts) {
  Mounts mounts;
  mounts.parse(
      "23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
      "40 23 8:1 /srv/vol /mnt/with\\040blank rw - ext4 /dev/sda1 rw\n"
      "41 23 0:44 / /var/lib/containers/merged rw - overlay overlay rw\n"
      "nonsense\n");
  mounts.keep();
  EXPECT_EQ(mounts.host_path(kRootDevice, "/etc/shadow"), "/etc/shadow");
  EXPECT_EQ(mounts.host_path(kRootDevice, "/"), "/");
  EXPECT_EQ(mounts.host_path(kRootDevice, "/srv/vol/a"), "/mnt/with blank/a");
  EXPECT_EQ(mounts.host_path(kRootDevice, "/srv/volume/a"), "/srv/volume/a");
  EXPECT_EQ(mounts.host_path(kOverlay, "/etc/passwd"), "/var/lib/containers/merged/etc/passwd");
  EXPECT_EQ(mounts.host_path(kOverlay, "/"), "/var/lib/containers/merged");
  EXPECT_FALSE(mounts.host_path(99, "/a"));
}

TEST(Processes, AncestorsAreNamedWhenTheyAreGone) {
  Processes processes([] {});
  processes.add(process(kPid, 10, 5, "/usr/sbin/sshd", {}));
  processes.add(process(kPid + 1, 20, 6, "/bin/bash", {{kPid, 10, 5, nullptr}}));
  processes.remove({kPid, 10});
  // The parent forked and never executed anything: it runs what its own parent ran.
  processes.add(process(kPid + 3, 40, 7, "/bin/cat", {{kPid + 2, 30, 6, nullptr}, {kPid + 1, 20, 6, nullptr}, {kPid, 10, 5, nullptr}}));
  const auto found = processes.find(event_of(kPid + 3, 40, 7));
  ASSERT_TRUE(found);
  ASSERT_EQ(found->ancestors.size(), 3u);
  EXPECT_EQ(*found->ancestors[0].exe, "/bin/bash");
  EXPECT_EQ(*found->ancestors[1].exe, "/bin/bash");
  EXPECT_EQ(*found->ancestors[2].exe, "/usr/sbin/sshd");
}

TEST(Processes, AnAncestorsLaterProgramIsNotTakenForTheOneThatForked) {
  Processes processes([] {});
  processes.add(process(kPid, 10, 5, "/bin/bash", {}));
  processes.add(process(kPid, 10, 6, "/usr/bin/python3", {}));
  processes.add(process(kPid + 1, 20, 6, "/bin/cat", {{kPid, 10, 5, nullptr}}));
  EXPECT_EQ(*processes.find(event_of(kPid + 1, 20, 6))->ancestors[0].exe, "/bin/bash");
}

TEST(Processes, OneThatEndedIsKnownForAnotherRound) {
  Processes processes([] {});
  processes.add(process(kPid, 10, 5, "/bin/bash", {}));
  processes.remove({kPid, 10});
  EXPECT_TRUE(processes.find(event_of(kPid, 10, 5)));
  processes.end_round();
  EXPECT_TRUE(processes.find(event_of(kPid, 10, 5)));
  processes.end_round();
  EXPECT_FALSE(processes.find(event_of(kPid, 10, 5)));
}

TEST(Processes, OneThatIsDescribedAtItsEndHasItsParentsProgram) {
  Processes processes([] {});
  processes.add(process(kPid, 10, 5, "/bin/bash", {}));
  processes.add(process(kPid + 1, 20, 5, nullptr, {{kPid, 10, 5, nullptr}}));
  EXPECT_EQ(processes.find(event_of(kPid + 1, 20, 5))->exe, "/bin/bash");
}

TEST(Processes, TheTableIsBounded) {
  int asked = 0;
  Processes processes([&] { ++asked; });
  for (std::uint32_t i = 0; i < 3 * kMaxProcesses; ++i) {
    processes.add(process(kPid + i, 10, 5, "/bin/bash", {}));
  }
  EXPECT_LE(processes.size(), kMaxProcesses);
  EXPECT_EQ(asked, 2);
}

TEST(Users, NamesComeFromTheFileAndTheFirstOfSeveralCounts) {
  const std::string file = ::testing::TempDir() + "/vfsguard-passwd";
  std::ofstream(file) << "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/false\nbroken\n";
  Users users(file);
  EXPECT_EQ(users.name(0), "root");
  EXPECT_EQ(users.name(33), "web");
  EXPECT_EQ(users.name(4242), "");
  std::remove(file.c_str());
}

}  // namespace vfsguard::enrich
