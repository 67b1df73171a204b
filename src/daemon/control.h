// SPDX-License-Identifier: Apache-2.0
// What may be asked of the running agent over its socket (docs/control.md): the requests, read and answered.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "daemon/governor.h"
#include "util/result.h"

namespace vfsguard::daemon {

// What the agent lends to a request.
struct Agent {
  Governor& governor;
  std::function<Governor::Recorder()> recorder;
  std::function<void(std::string_view what, const util::Result<void>& done)> changed;  // told of protect and unprotect, and how they ended
  std::function<util::Result<void>()> reload;
  std::function<std::string()> status;  // the members of the status object that the pipeline knows, each followed by a comma
};

// The reply, one line of JSON: {"ok":true,...}, or {"ok":false,"error":...,"exit_code":...}. Whatever the request holds.
std::string answer(std::string_view request, const Agent& agent);

}  // namespace vfsguard::daemon
