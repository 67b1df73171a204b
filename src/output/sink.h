// SPDX-License-Identifier: Apache-2.0
// Writes whole lines to a descriptor, in batches. A full disk costs events, not the stream: what does not fit is counted and
// dropped line by line, and a line that was written in part is finished before anything else, so that every line stays whole.
//
// Of a file it is known how large it must be at least, and which one it is: look() says when somebody else truncated, removed or replaced it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "util/fd.h"
#include "util/result.h"

namespace vfsguard::output {

// What somebody else did to the file that is written.
struct FileChange {
  enum class How {
    kTruncated,
    kRemoved,   // its last name is gone
    kReplaced,  // another file lies where it was
    kMoved,     // it has another name, and nothing came to open the file anew (reopen())
  };
  How how = How::kTruncated;
  std::uint64_t expected_bytes = 0;  // it had at least
  std::uint64_t found_bytes = 0;
  bool reopened = false;  // the path leads to the file that is written, again
  std::string why;        // not reopened
};
std::string_view change_name(FileChange::How how);

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
  // A regular file, by its path.
  [[nodiscard]] bool is_file() const { return is_file_; }
  // Compares the file with what was written, and opens the path again where it does not lead there any more. Two system calls. Who rotates files
  // renames them first and asks for reopen() then, so that a file with another name is a change only when kRotationNs have passed.
  std::optional<FileChange> look(std::uint64_t now_ns);
  // After a rotation. True: the path led to another file or to none, and is written from here on.
  util::Result<bool> reopen();
  static constexpr std::uint64_t kRotationNs = 5'000'000'000;

  // The error that made the last flush drop something, 0 if it did not; cleared by reading.
  int take_trouble() { return std::exchange(trouble_, 0); }

 private:
  static constexpr std::size_t kBatch = std::size_t{256} * 1024;

  enum class There { kSame, kOther, kNone };
  [[nodiscard]] There what_is_there() const;
  util::Result<void> open_again();
  void note_file();

  util::UniqueFd owned_;
  int fd_;
  bool is_file_ = false;
  bool by_link_ = false;        // the path was a symbolic link when it was opened first
  std::uint64_t size_ = 0;      // at least
  std::uint64_t moved_ns_ = 0;  // since when it has had another name; 0: it has not
  bool told_ = false;           // that it could not be opened again
  dev_t dev_ = 0;
  ino_t ino_ = 0;
  std::string name_;
  std::string buffer_;
  std::string unfinished_;  // the rest of a line that was written in part
  std::uint64_t dropped_ = 0;
  int trouble_ = 0;
};

}  // namespace vfsguard::output
