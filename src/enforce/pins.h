// SPDX-License-Identifier: Apache-2.0
// Enforcement that stands by itself: links and maps pinned in a directory of bpffs, from which they stay in force without any process, and from which
// the next agent goes on (docs/control.md).
//
//   DIRECTORY/N/link-*             what refuses
//   DIRECTORY/N/protected_inodes, ...        its maps
//   DIRECTORY/N/who_enforces       the program by which another process becomes the agent
//   DIRECTORY/N/about-VERSION      a description of the policy of that version, in a map; put there before the version is in force
//
// A set without a description was not finished when its agent died: it is in force, and can only be taken away. One agent at a time has the directory
// (flock on it). The directory belongs to root (0700), and what lies in it is as trusted as root is.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "enforce/description.h"
#include "enforce/enforcer.h"
#include "policy/enforcement.h"
#include "policy/policy.h"
#include "util/fd.h"
#include "util/result.h"

namespace vfsguard::enforce {

inline constexpr const char* kPins = "/sys/fs/bpf/vfsguard";
inline constexpr std::string_view kAbout = "about-";

// A set of pins that is in force.
struct Standing {
  std::string directory;
  Description description;
  util::UniqueFd protected_inodes;
  util::UniqueFd mount_points;
  util::UniqueFd refusals;
  util::UniqueFd worker_refusals;
  util::UniqueFd ancestries;
  policy::Policy policy;       // names and globs of its rules, for policy::Before
  policy::Enforcement tables;  // likewise

  [[nodiscard]] Heritage heritage() const;
  // As they are now: it goes on deciding until something else is asked first.
  [[nodiscard]] Counts counts() const;
};

class Pins {
 public:
  // The directory, for this process alone as long as the object lives; `make`: also where it is not there. None: it is not there.
  // EX_TEMPFAIL: another agent has it. EX_UNAVAILABLE: no bpffs.
  static util::Result<std::optional<Pins>> take(const std::string& directory, bool make);

  // Whoever enforces from here lets this process pass from now on.
  void become_agent() const;
  // The newest set that is whole. None: there is none, or (`notes`) none that can be gone on with.
  [[nodiscard]] std::unique_ptr<Standing> standing(std::vector<std::string>& notes) const;
  // A place for another set.
  [[nodiscard]] std::string next() const;
  // Takes away all sets but one; returns how many went.
  std::size_t drop_all_but(const std::string& kept) const;

 private:
  Pins(std::string directory, util::UniqueFd fd) : directory_(std::move(directory)), fd_(std::move(fd)) {}
  [[nodiscard]] std::vector<unsigned> sets() const;  // ascending

  std::string directory_;
  util::UniqueFd fd_;
};

// Takes a set of pins away; what was attached by it ends once nobody else holds it.
void remove_set(const std::string& directory);

}  // namespace vfsguard::enforce
