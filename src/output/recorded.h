// SPDX-License-Identifier: Apache-2.0
// Events back from what was written of them (JSON Lines, docs/event-format.md): the same Operation, for everything that rules and policies look at.
// What only formatters need (namespaces of devices, times of sessions) stays out.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "event/event.h"
#include "util/result.h"

namespace vfsguard::output {

// One thread.
class Recorded {
 public:
  struct Counts {
    std::uint64_t operations = 0;
    std::uint64_t others = 0;  // losses, alerts: records that are no operation
    std::size_t cut = 0;       // bytes at the end that are no whole line
  };
  // All operations of a file in their order; one process image is one Process, as it is live. EX_NOINPUT: it cannot be read; EX_DATAERR: a line is no
  // event, with its number.
  util::Result<Counts> read(const std::string& file, const std::function<void(event::Operation&)>& each);
  // The same of text that is called `name` in messages.
  util::Result<Counts> read_text(const std::string& name, std::string_view text, const std::function<void(event::Operation&)>& each);

 private:
  std::unordered_map<std::string, std::shared_ptr<const event::Process>> processes_;
  std::unordered_map<std::string, std::string> users_;  // lent to operations
  friend class RecordedReader;
};

}  // namespace vfsguard::output
