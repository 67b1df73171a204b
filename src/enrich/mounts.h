// SPDX-License-Identifier: Apache-2.0
// Where a file system is mounted in the agent's own mount namespace: to tell what a process in another one did in the host's terms.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "util/fd.h"
#include "util/mountinfo.h"

namespace vfsguard::enrich {

class Mounts {
 public:
  // The path of what lies at `fs_path` of the file system `dev` (kernel-internal encoding); none where it is not mounted here.
  std::optional<std::string> host_path(std::uint32_t dev, std::string_view fs_path);

  // None where this process does not see it.
  std::optional<util::Mount> by_id(std::uint32_t id);

  void parse(std::string_view mountinfo) { mounts_ = util::parse_mountinfo(mountinfo); }
  // What was parsed stays: the agent's own table is not read.
  void keep() { kept_ = true; }

 private:
  void read_again_where_changed();

  util::UniqueFd file_;
  bool read_ = false;
  bool kept_ = false;
  std::vector<util::Mount> mounts_;
};

}  // namespace vfsguard::enrich
