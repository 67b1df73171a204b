// SPDX-License-Identifier: Apache-2.0
// Writes whole lines to a descriptor, in batches. A full disk costs events, not the stream: what does not fit is counted and
// dropped line by line, and a line that was written in part is finished before anything else, so that every line stays whole.
#pragma once

#include <cstdint>
#include <string>

#include "util/fd.h"
#include "util/result.h"

namespace vfsguard::output {

class Sink {
 public:
  // Takes the descriptor over (of a file) or borrows it (standard output).
  Sink(util::UniqueFd owned, int fd, std::string name) : owned_(std::move(owned)), fd_(fd), name_(std::move(name)) {}

  // "-" is standard output. A file is created (0600) or appended to.
  static util::Result<Sink> open(const std::string& path);

  std::string& buffer() { return buffer_; }

  // Writes what the buffer holds. Fails only where going on makes no sense: the reader of a pipe is gone (EX_IOERR, code EPIPE).
  util::Result<void> flush();
  util::Result<void> flush_if_large() { return buffer_.size() >= kBatch ? flush() : util::Result<void>{}; }

  // Lines that could not be written, ever.
  [[nodiscard]] std::uint64_t dropped() const { return dropped_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] int fd() const { return fd_; }
  // The error that made the last flush drop something, 0 if it did not; cleared by reading.
  int take_trouble() { return std::exchange(trouble_, 0); }

 private:
  static constexpr std::size_t kBatch = std::size_t{256} * 1024;

  util::UniqueFd owned_;
  int fd_;
  std::string name_;
  std::string buffer_;
  std::string unfinished_;  // the rest of a line that was written in part
  std::uint64_t dropped_ = 0;
  int trouble_ = 0;
};

}  // namespace vfsguard::output
