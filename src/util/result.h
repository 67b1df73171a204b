// SPDX-License-Identifier: Apache-2.0
// Errors are values. An Error names what failed and, where there is one, the mend; it gathers context on its way up, and only main
// turns it into a line on stderr and an exit code.
#pragma once

#include <cerrno>
#include <cstring>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

#include <sysexits.h>

namespace vfsguard::util {

struct Error {
  std::string message;          // one line, without a trailing full stop
  int exit_code = EX_SOFTWARE;  // sysexits.h
  int code = 0;                 // errno, 0 where there is none

  Error context(std::string_view what) && {
    message = std::string(what) + ": " + message;
    return std::move(*this);
  }
};

template <typename T>
using Result = std::expected<T, Error>;

inline std::unexpected<Error> fail(int exit_code, std::string message) { return std::unexpected(Error{std::move(message), exit_code, 0}); }

// The message of an errno value, without touching locale state of other threads.
inline std::string errno_text(int code) {
  char buffer[128];
  return strerror_r(code, buffer, sizeof buffer);
}

inline std::unexpected<Error> fail_errno(int exit_code, std::string_view what, int code = errno) {
  return std::unexpected(Error{std::string(what) + ": " + errno_text(code), exit_code, code});
}

inline std::unexpected<Error> pass_on(Error error) { return std::unexpected(std::move(error)); }

}  // namespace vfsguard::util
