// SPDX-License-Identifier: Apache-2.0
// What rules of detection cannot be told of on this kernel by a sensor's mechanism.
#pragma once

#include "detect/sigma.h"
#include "event/names.h"
#include "sensor/sensor.h"

namespace vfsguard::daemon {

inline detect::Blindness blindness_of(const sensor::Sensor& sensor) {
  detect::Blindness blindness{.unseen = 0, .names_only = sensor.names_only()};
  for (const sensor::Unserved& missing : sensor.unserved(~std::uint64_t{0})) {
    (missing.unseen ? blindness.unseen : blindness.names_only) |= event::operation_bit(missing.operation);
  }
  return blindness;
}

}  // namespace vfsguard::daemon
