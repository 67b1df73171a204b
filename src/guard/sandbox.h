// SPDX-License-Identifier: Apache-2.0
// What the agent gives away once it has started: capabilities that it does not need any more, and system calls that it never makes. For good: no reload and no
// attacker gets them back.
#pragma once

#include "util/result.h"

namespace vfsguard::guard {

// What goes on being needed: loading programs (BPF, PERFMON) with addresses of kernel symbols (SYSLOG), looking at other processes (SYS_PTRACE,
// DAC_READ_SEARCH), ending them (KILL).
struct Needed {
  bool starting = false;  // and the start (SYS_ADMIN), with the right to drop more (SETPCAP)
  bool admin = false;     // and fanotify, or perf events where kernel.perf_event_paranoid asks for it (SYS_ADMIN)
  bool owners = false;    // and giving the control socket to a group (CHOWN)
};
// All others go, from the bounding set too, and no execve can bring any back. Of the calling thread, and those that it starts from then on.
util::Result<void> drop_capabilities(const Needed& needed);

// From now on only the system calls that the agent makes (docs/guard.md has the list by what it is for) are carried out, in all threads: execve, ptrace and
// the like end the process, others are refused with EPERM; memory is never both writable and executable.
util::Result<void> restrict_calls();

}  // namespace vfsguard::guard
