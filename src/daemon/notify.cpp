// SPDX-License-Identifier: Apache-2.0
#include "daemon/notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>

#include "util/clock.h"

namespace vfsguard::daemon {

namespace {

std::optional<std::uint64_t> number_in_environment(const char* name) {
  const char* const text = std::getenv(name);
  std::uint64_t number = 0;
  if (text == nullptr || std::from_chars(text, text + std::strlen(text), number).ec != std::errc{}) {
    return std::nullopt;
  }
  return number;
}

}  // namespace

Notifier::Notifier() {
  const char* const name = std::getenv("NOTIFY_SOCKET");
  if (name != nullptr && (*name == '/' || *name == '@') && std::strlen(name) < sizeof(sockaddr_un::sun_path)) {
    address_ = name;
    if (address_.front() == '@') {
      address_.front() = '\0';
    }
    socket_.reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const auto whom = number_in_environment("WATCHDOG_PID");
    const auto span = number_in_environment("WATCHDOG_USEC");
    if (span && *span > 0 && (!whom || *whom == static_cast<std::uint64_t>(getpid()))) {
      interval_ns_ = *span * 1000 / 2;
    }
  }
  for (const char* variable : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) {
    unsetenv(variable);
  }
}

void Notifier::reloading() const {
  // The manager compares it with its own clock (sd_notify(3), RELOADING).
  send(fmt::format("RELOADING=1\nMONOTONIC_USEC={}", util::clock_ns(CLOCK_MONOTONIC) / 1000));
}

void Notifier::send(std::string_view text) const {
  if (!socket_) {
    return;
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, address_.data(), address_.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address_.size());
  // A manager that does not take it is not waited for.
  (void)sendto(socket_.get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address), size);
}

}  // namespace vfsguard::daemon
