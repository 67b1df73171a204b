// SPDX-License-Identifier: Apache-2.0
// Any bytes as a file of recorded events.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "detect/fields.h"
#include "output/recorded.h"

using namespace vfsguard;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  output::Recorded recorded;
  const auto counts = recorded.read_text("p", std::string_view(reinterpret_cast<const char*>(data), size), [](event::Operation& operation) {
    for (const detect::Dialect dialect : {detect::Dialect::kSigma, detect::Dialect::kAuditd}) {
      for (const std::string_view name : detect::field_names(dialect)) {
        std::string buffer;
        detect::Values values;
        detect::read_field(operation, *detect::find_field(name, dialect), buffer, values);
      }
    }
  });
  if (!counts && counts.error().message.find("p") == std::string::npos) {
    __builtin_trap();
  }
  return 0;
}
