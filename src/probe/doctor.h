// SPDX-License-Identifier: Apache-2.0
// A report as text for people and as JSON for programs (docs/doctor.md).
#pragma once

#include <string>

#include "probe/trials.h"

namespace vfsguard::probe {

std::string to_json(const Report& report);
std::string to_text(const Report& report, bool colour);

}  // namespace vfsguard::probe
