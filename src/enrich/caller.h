// SPDX-License-Identifier: Apache-2.0
// Who a thread is, by procfs: for decisions that are made here while it waits.
#pragma once

#include <sys/types.h>

#include "event/event.h"

namespace vfsguard::enrich {

// Its ids, name, executable, ancestors and control group into `operation`; returns its process's id, 0 where that cannot all be read. An executable whose path
// leads to another file in this process's own mount namespace is told as none: who can mount can name anything.
pid_t describe_caller(pid_t tid, event::Operation& operation);

}  // namespace vfsguard::enrich
