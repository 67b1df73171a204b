// SPDX-License-Identifier: Apache-2.0
// What is not to change while the agent runs, as names and values: looked at again and again, and compared.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace vfsguard::guard {

// "executable /usr/sbin/vfsguard" -> "8:1 1234 sha256:...": whatever tells one state from another, in words for people.
using Facts = std::map<std::string, std::string>;

inline constexpr const char* kAbsent = "absent";

// Of the program that runs: the file that was executed, whatever lies at its path by now (with its fs-verity digest, where the file system has one); the
// file at that path; and each executable map of this process, with how much of it is not as in its file (pages that were written to, as a debugger's
// breakpoints are, belong to the process alone).
void add_executable(Facts& facts);
// The path that this program was started by, and the SHA-256 of what runs. Empty: it cannot be read.
std::string executable_path();
std::string executable_digest();
// fs-verity's digest of what runs, as "sha256:..."; empty: its file system has none.
std::string executable_verity();

// Each file's SHA-256, or why it cannot be read. `role`: "policy", "rules".
void add_files(Facts& facts, const std::string& role, const std::vector<std::string>& files);

struct Difference {
  std::string what;
  std::string expected;
  std::string found;
  bool upgrade = false;   // another file lies where the program's was, and what runs is what was started
  bool restored = false;  // it is as it was, again
};

class Integrity {
 public:
  // From now on this is how it must be; of `kinds` (the first words of names) what was expected before is forgotten. Empty: of all.
  void expect(const Facts& facts, const std::vector<std::string>& kinds = {});
  // What is not as expected. Each difference is told once, until it becomes another one, or is none any more.
  std::vector<Difference> compare(const Facts& found);
  // Differences that were found and stand; upgrades are not among them.
  [[nodiscard]] std::vector<std::string> standing() const;
  [[nodiscard]] std::size_t size() const { return expected_.size(); }

 private:
  [[nodiscard]] bool is_upgrade(const std::string& what, const Facts& found) const;

  Facts expected_;
  std::map<std::string, std::string> told_;  // what differs: as it was found
  std::vector<std::string> upgrades_;        // of these
};

}  // namespace vfsguard::guard
