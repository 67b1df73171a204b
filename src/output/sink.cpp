// SPDX-License-Identifier: Apache-2.0
#include "output/sink.h"

#include <fcntl.h>
#include <poll.h>

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
  return Sink(std::move(fd), raw, path);
}

util::Result<void> Sink::flush() {
  int error = 0;
  if (!unfinished_.empty()) {
    unfinished_.erase(0, write_all(fd_, unfinished_, error));
  }
  std::size_t done = 0;
  if (unfinished_.empty()) {
    done = write_all(fd_, buffer_, error);
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
