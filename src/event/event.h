// SPDX-License-Identifier: Apache-2.0
// The typed event: what a raw record says, in the terms of docs/event-format.md. Strings are bytes, not text.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "abi/events.h"

namespace vfsguard::event {

// A process image, as described by the kernel side in the process's own context. Shared by the events that refer to it.
struct Process {
  std::uint32_t pid = 0;
  std::uint64_t start_ns = 0;
  std::uint64_t exec_id = 0;
  std::uint64_t cgroup_id = 0;
  std::optional<std::string> exe;
  bool exe_deleted = false;
  std::optional<std::vector<std::string>> arguments;
  bool arguments_truncated = false;
  std::optional<std::string> cgroup;
  std::string container_id;  // empty: none recognised
};

struct ProcessGone {
  std::uint32_t pid = 0;
  std::uint64_t start_ns = 0;
};

// One completed operation. `raw` holds the numbers as they came; the strings are decoded.
struct Operation {
  vg_event raw{};
  std::optional<std::string> path;      // canonical, or path_raw resolved by text (no VG_PATH_OBJECT in raw.path_flags)
  std::optional<std::string> path_raw;  // as the caller gave it
  std::optional<std::string> cwd;
  std::optional<std::string> dst_path;     // the second path: where a rename or link leads
  std::optional<std::string> dst_raw;      // as the caller gave it; for symlink the target, for attributes the name, for mount the source
  std::optional<vg_access> access;         // close: what the process did with the file
  std::shared_ptr<const Process> process;  // null: not known
  std::vector<std::string> policies;       // names of the policy rules that asked for it, in the policy's order
  std::string severity;                    // the highest among them; empty: none

  [[nodiscard]] bool has_result() const { return (raw.path_flags & VG_NO_RESULT) == 0; }
  [[nodiscard]] bool success() const { return raw.retval >= 0; }
};

// A gap in a CPU's sequence numbers: events that the kernel side could not hand over.
struct Lost {
  std::uint32_t cpu = 0;
  std::uint64_t first_seq = 0;
  std::uint64_t count = 0;
  std::uint64_t time_ns = 0;
};

}  // namespace vfsguard::event
