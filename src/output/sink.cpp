// SPDX-License-Identifier: Apache-2.0
#include "output/sink.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include <algorithm>

#include <fmt/format.h>

namespace vfsguard::output {

namespace {

// Writes as much as possible; returns how much, and why it stopped in `error` (0: all written).
std::size_t write_all(int fd, std::string_view data, int& error) {
  std::size_t done = 0;
  error = 0;
  while (done < data.size()) {
    const ssize_t n = write(fd, data.data() + done, data.size() - done);
    if (n > 0) {
      done += static_cast<std::size_t>(n);
      continue;
    }
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      pollfd p{fd, POLLOUT, 0};
      poll(&p, 1, 1000);
      continue;
    }
    error = n < 0 ? errno : EIO;
    break;
  }
  return done;
}

}  // namespace

util::Result<Sink> Sink::open(const std::string& path) {
  if (path.empty() || path == "-") {
    return Sink({}, STDOUT_FILENO, "standard output");
  }
  util::UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600));
  if (!fd) {
    return util::fail_errno(EX_CANTCREAT, fmt::format("cannot write to {}", path));
  }
  const int raw = fd.get();
  Sink sink(std::move(fd), raw, path);
  struct stat link{};
  sink.by_link_ = lstat(path.c_str(), &link) == 0 && S_ISLNK(link.st_mode);
  sink.note_file();
  return sink;
}

std::string_view change_name(FileChange::How how) {
  switch (how) {
    case FileChange::How::kTruncated: return "truncated";
    case FileChange::How::kRemoved: return "removed";
    case FileChange::How::kReplaced: return "replaced";
    case FileChange::How::kMoved: return "moved";
  }
  return "";
}

void Sink::note_file() {
  struct stat status{};
  is_file_ = fstat(fd_, &status) == 0 && S_ISREG(status.st_mode);
  size_ = is_file_ ? static_cast<std::uint64_t>(status.st_size) : 0;
  dev_ = status.st_dev;
  ino_ = status.st_ino;
  moved_ns_ = 0;
  told_ = false;
}

Sink::There Sink::what_is_there() const {
  struct stat there{};
  if (stat(name_.c_str(), &there) != 0) {
    return There::kNone;
  }
  return there.st_dev == dev_ && there.st_ino == ino_ ? There::kSame : There::kOther;
}

// A link, a pipe or a device in its place is not written to: whoever put it there may want just that.
util::Result<void> Sink::open_again() {
  util::UniqueFd fd(::open(name_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (by_link_ ? 0 : O_NOFOLLOW), 0600));
  if (!fd) {
    return util::fail_errno(EX_CANTCREAT, fmt::format("cannot open {} again", name_));
  }
  struct stat status{};
  if (fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return util::fail(EX_CANTCREAT, fmt::format("{} is no regular file any more", name_));
  }
  owned_ = std::move(fd);
  fd_ = owned_.get();
  unfinished_.clear();
  note_file();
  return {};
}

util::Result<bool> Sink::reopen() {
  if (!is_file_ || what_is_there() == There::kSame) {
    return false;
  }
  if (auto done = open_again(); !done) {
    return util::pass_on(done.error());
  }
  return true;
}

std::optional<FileChange> Sink::look(std::uint64_t now_ns) {
  struct stat ours{};
  if (!is_file_ || fstat(fd_, &ours) != 0) {
    return std::nullopt;
  }
  FileChange change{.expected_bytes = size_, .found_bytes = static_cast<std::uint64_t>(ours.st_size)};
  size_ = change.found_bytes;  // others may have appended
  const There there = what_is_there();
  if (there == There::kSame) {
    moved_ns_ = 0;
    if (change.found_bytes >= change.expected_bytes) {
      return std::nullopt;
    }
    change.reopened = true;  // what is appended goes to the end, wherever that is
    return change;
  }
  if (ours.st_nlink > 0) {
    moved_ns_ = moved_ns_ == 0 ? now_ns : moved_ns_;
    if (now_ns - moved_ns_ < kRotationNs) {
      return std::nullopt;
    }
  }
  change.how = there == There::kOther ? FileChange::How::kReplaced : ours.st_nlink > 0 ? FileChange::How::kMoved : FileChange::How::kRemoved;
  const bool told = told_;
  if (auto done = open_again(); !done) {
    change.why = done.error().message;
    told_ = true;
    return told ? std::nullopt : std::optional(std::move(change));
  }
  change.reopened = true;
  return change;
}

util::Result<void> Sink::flush() {
  int error = 0;
  if (!unfinished_.empty()) {
    const std::size_t finished = write_all(fd_, unfinished_, error);
    size_ += finished;
    unfinished_.erase(0, finished);
  }
  std::size_t done = 0;
  if (unfinished_.empty()) {
    done = write_all(fd_, buffer_, error);
    size_ += done;
  }
  if (error == EPIPE) {
    return util::fail_errno(EX_IOERR, fmt::format("cannot write to {}", name_), EPIPE);
  }
  if (error != 0) {
    trouble_ = error;
    // Finish the line that was cut, drop the whole ones behind it.
    const std::string_view rest = std::string_view(buffer_).substr(done);
    std::size_t keep = 0;
    if (done > 0 && buffer_[done - 1] != '\n') {
      keep = rest.find('\n') + 1;
      unfinished_.assign(rest.substr(0, keep));
    }
    dropped_ += static_cast<std::uint64_t>(std::ranges::count(rest.substr(keep), '\n'));
  }
  buffer_.clear();
  return {};
}

}  // namespace vfsguard::output
