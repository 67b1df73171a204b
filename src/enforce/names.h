// SPDX-License-Identifier: Apache-2.0
// Where on this machine's file systems a policy's paths lie.
#pragma once

#include <sys/stat.h>

#include <functional>
#include <set>
#include <string>

#include "policy/policy.h"

namespace vfsguard::enforce {

// The directory that every path which the glob matches lies in, or the path itself.
std::string fixed_part(const std::string& glob);

// Regular files with several names, below what rules that enforce are about, whether or not the names match; globs in `known` are left out. False: there are
// more entries than are looked at (kMaxLooked).
inline constexpr std::size_t kMaxLooked = 500'000;
bool for_each_linked_file(const policy::Policy& policy, const std::set<std::string>& known,
                          const std::function<void(const std::string& path, const struct stat& status)>& each);

// What is weaker then.
std::string not_all_looked_at();

}  // namespace vfsguard::enforce
