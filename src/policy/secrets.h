// SPDX-License-Identifier: Apache-2.0
// The secret files that `vfsguard protect` adds to the running agent's policy: a policy file of its own (docs/control.md), which holds nothing but
// `secrets`, is read at start and on reload, and comes before the rest of the policy.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "policy/policy.h"
#include "util/result.h"

namespace vfsguard::policy {

inline constexpr const char* kProtectedFile = "/var/lib/vfsguard/protected.yaml";

struct Secret {
  std::vector<std::string> paths;  // globs; the first names it
  std::uint32_t level = 1;         // 1: EACCES; 2 and above: killed
  bool degraded = false;           // also where the kernel cannot hold it exactly (Rule::degraded)
  // Who may: conditions as in a policy's `unless`; none given: root.
  std::vector<std::pair<std::string, std::vector<std::string>>> unless;
};

// None where there is no such file.
util::Result<std::vector<Secret>> read_secrets(const std::string& file);
// The text of such a file; there is at least one.
std::string secrets_text(const std::vector<Secret>& secrets);
// Whole or not at all, and on the disk when this returns. Makes the directory where it is missing.
util::Result<void> write_secrets(const std::string& file, const std::vector<Secret>& secrets);
// As a policy would be refused: an unknown condition, a bad glob, a level that is none. Without a place: it stands in no file.
util::Result<void> check_secret(const Secret& secret);

// "uid=0,exe=/usr/sbin/sshd,uid=1000".
util::Result<std::vector<std::pair<std::string, std::vector<std::string>>>> parse_conditions(const std::string& text);

// What the agent goes by: the policy after the protected files, if there are any, whose rules take the place of those of the same name.
util::Result<Policy> with_secrets(Policy policy, const std::string& protected_file, const std::vector<Secret>& secrets);

}  // namespace vfsguard::policy
