// SPDX-License-Identifier: Apache-2.0
// Kprobes through tracefs (Documentation/trace/kprobetrace.rst): unlike those made by perf_event_open they take a `maxactive`, so that
// many calls can be blocked at once, and the kernel tells their misses in kprobe_profile. Removed when the object is destroyed;
// those that a killed agent left behind are removed by the next one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "util/fd.h"
#include "util/result.h"

namespace vfsguard::sensor {

struct KprobeSpec {
  std::string symbol;
  bool returns = false;
  std::uint64_t cookie = 0;
};

class KprobeEvents {
 public:
  KprobeEvents() = default;
  KprobeEvents(KprobeEvents&& other) noexcept = default;
  KprobeEvents& operator=(KprobeEvents&&) = delete;
  ~KprobeEvents();

  // Fails with code ENOENT where the kernel has no such symbol. Creates the probe and opens a perf event on it, ready for a program. The descriptor belongs to
  // the caller.
  util::Result<util::UniqueFd> add(const KprobeSpec& spec);
  // Misses of all probes of this object so far.
  [[nodiscard]] std::uint64_t misses() const;
  void clear();
  // They stay: links to them are pinned.
  void forget() { names_.clear(); }
  // Removes probes of agents that no longer run; the first add does, and probes that are still held stay.
  static void remove_stale();

  // False only where the kernel surely lacks them: the perf event source is there exactly when kprobe events are built in.
  static bool built_in();
  // Where tracefs is mounted; fails with the mend.
  static util::Result<std::string> tracefs();

 private:
  std::vector<std::string> names_;
};

}  // namespace vfsguard::sensor
