// SPDX-License-Identifier: Apache-2.0
#include "guard/integrity.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "util/fd.h"

namespace vfsguard::guard {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(Integrity, TellsEachDifferenceOnceAndItsEnd) {
  Integrity integrity;
  integrity.expect({{"policy /a", "1"}, {"rules /b", "2"}});
  EXPECT_THAT(integrity.compare({{"policy /a", "1"}, {"rules /b", "2"}}), IsEmpty());
  auto found = integrity.compare({{"policy /a", "3"}, {"rules /b", "2"}, {"memory /x", "new"}});
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].what, "policy /a");
  EXPECT_EQ(found[0].expected, "1");
  EXPECT_EQ(found[0].found, "3");
  EXPECT_EQ(found[1].expected, kAbsent);
  EXPECT_THAT(integrity.standing(), ElementsAre("memory /x", "policy /a"));
  EXPECT_THAT(integrity.compare({{"policy /a", "3"}, {"rules /b", "2"}, {"memory /x", "new"}}), IsEmpty());
  found = integrity.compare({{"policy /a", "4"}, {"memory /x", "new"}});
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[1].found, kAbsent);
  // A reload: what is expected of files is new, what was found elsewhere stands.
  integrity.expect({{"policy /a", "4"}}, {"policy", "rules"});
  found = integrity.compare({{"policy /a", "4"}, {"memory /x", "new"}});
  EXPECT_THAT(found, IsEmpty());
  EXPECT_THAT(integrity.standing(), ElementsAre("memory /x"));
  found = integrity.compare({{"policy /a", "4"}});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_TRUE(found[0].restored);
  EXPECT_THAT(integrity.standing(), IsEmpty());
  found = integrity.compare({{"policy /a", "x"}});
  EXPECT_EQ(found.size(), 1u);
  found = integrity.compare({{"policy /a", "4"}});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_TRUE(found[0].restored);
}

TEST(Integrity, KnowsAnUpgrade) {
  Integrity integrity;
  integrity.expect({{"executable (running)", "sha256:a"}, {"executable /bin/x", "8:1 7 sha256:a"}});
  auto found = integrity.compare({{"executable (running)", "sha256:a"}, {"executable /bin/x", "8:1 9 sha256:b"}});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_TRUE(found[0].upgrade);
  EXPECT_THAT(integrity.standing(), IsEmpty());
  // The same file with other contents is none, nor is what runs.
  integrity.expect({{"executable (running)", "sha256:a"}, {"executable /bin/x", "8:1 7 sha256:a"}});
  found = integrity.compare({{"executable (running)", "sha256:b"}, {"executable /bin/x", "8:1 7 sha256:b"}});
  ASSERT_EQ(found.size(), 2u);
  EXPECT_FALSE(found[0].upgrade || found[1].upgrade);
  EXPECT_EQ(integrity.standing().size(), 2u);
}

TEST(Integrity, SeesFilesThatChangeOrVanish) {
  const std::string file = std::filesystem::temp_directory_path() / ("vfsguard-integrity-" + std::to_string(getpid()));
  std::ofstream(file) << "abc";
  Facts facts;
  add_files(facts, "policy", {file, file + "-none"});
  EXPECT_EQ(facts.at("policy " + file), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");  // FIPS 180-2, B.1
  EXPECT_EQ(facts.at("policy " + file + "-none"), kAbsent);
  std::filesystem::remove(file);
  add_files(facts, "policy", {file, "/"});
  EXPECT_EQ(facts.at("policy " + file), kAbsent);
  EXPECT_THAT(facts.at("policy /"), HasSubstr("cannot be read"));
}

// As a breakpoint does, and as code that somebody put there does.
TEST(Integrity, SeesWhatWasWrittenIntoExecutableMemory) {
  Facts before;
  add_executable(before);
  Integrity integrity;
  integrity.expect(before);
  Facts now;
  add_executable(now);
  EXPECT_THAT(integrity.compare(now), IsEmpty());

  const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* const code = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  std::memset(code, 0xc3, page);
  mprotect(code, page, PROT_READ | PROT_EXEC);
  now.clear();
  add_executable(now);
  auto found = integrity.compare(now);
  munmap(code, page);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].what, "memory (no file)");

  // A function of this program, written over with itself.
  const auto text = reinterpret_cast<std::uintptr_t>(&add_files) & ~(page - 1);
  const util::UniqueFd memory(open("/proc/self/mem", O_RDWR | O_CLOEXEC));  // as a debugger would
  char byte = 0;
  ASSERT_EQ(pread(memory.get(), &byte, 1, static_cast<off_t>(text)), 1);
  ASSERT_EQ(pwrite(memory.get(), &byte, 1, static_cast<off_t>(text)), 1);
  now.clear();
  add_executable(now);
  found = integrity.compare(now);
  ASSERT_FALSE(found.empty());
  EXPECT_TRUE(std::ranges::any_of(found, [](const Difference& d) { return d.what.starts_with("memory /") && d.found == "4 KiB of it changed"; }));
}

}  // namespace
}  // namespace vfsguard::guard
