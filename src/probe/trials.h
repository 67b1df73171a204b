// SPDX-License-Identifier: Apache-2.0
// What this kernel can do, by doing it: every trial loads, attaches and sees its program act on a canary (a child of this process, a
// file in a private directory), and takes everything down again. Nothing else on the system is touched.
#pragma once

#include <string>
#include <vector>

namespace vfsguard::probe {

struct Outcome {
  bool works = false;
  std::string reason;                // empty where it works; else the kernel's own words as far as it has any
  std::string mend;                  // what to do about it; empty where there is nothing
  std::vector<std::string> without;  // of a mechanism that works: the operations that it cannot follow here, each with what is missing
};

struct Check {
  std::string name;
  Outcome outcome;
  std::string detail;  // a fact worth knowing where it works
};

struct Report {
  std::string kernel;
  Outcome observe_lsm, observe_kprobe, observe_tracepoint;
  Outcome enforce_lsm, enforce_override, enforce_signal, enforce_fanotify;
  std::vector<Check> checks;

  [[nodiscard]] bool can_observe() const { return observe_lsm.works || observe_kprobe.works || observe_tracepoint.works; }
};

// Takes a second or two. Needs root to say much.
Report examine();

}  // namespace vfsguard::probe
