// SPDX-License-Identifier: Apache-2.0
// Waiting for the programs that run now: what they may still look at must stand until they are done.
#pragma once

#include "util/fd.h"
#include "util/result.h"

namespace vfsguard::sensor {

// The kernel waits so after each change of a map of maps (kernel/bpf/syscall.c, maybe_wait_bpf_programs), for every program that does not sleep;
// membarrier(2) would do the same, but not with one CPU, and not with nohz_full.
class Grace {
 public:
  static util::Result<Grace> open();
  // Returns when every program that was running has ended; some ten milliseconds. One thread at a time.
  util::Result<void> wait() const;

 private:
  Grace(util::UniqueFd outer, util::UniqueFd inner) : outer_(std::move(outer)), inner_(std::move(inner)) {}
  util::UniqueFd outer_;
  util::UniqueFd inner_;
};

}  // namespace vfsguard::sensor
