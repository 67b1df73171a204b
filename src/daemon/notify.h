// SPDX-License-Identifier: Apache-2.0
// Word to the service manager that started this process, by its protocol (sd_notify(3), "Standalone Implementations"): datagrams to the socket that
// NOTIFY_SOCKET names. Without one all of it does nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "util/fd.h"

namespace vfsguard::daemon {

class Notifier {
 public:
  // Reads the environment, and takes it out of there.
  Notifier();

  void ready() const { send("READY=1\nSTATUS=watching"); }
  void stopping() const { send("STOPPING=1"); }
  void reloading() const;
  void reloaded(std::string_view status) const { send("READY=1\nSTATUS=" + std::string(status)); }
  // Says that there is progress; to be called at least each interval(), and only where there is.
  void alive() const { send("WATCHDOG=1"); }
  // Half the time after which the manager takes this process for stuck; 0: it does not care.
  [[nodiscard]] std::uint64_t interval_ns() const { return interval_ns_; }

 private:
  void send(std::string_view text) const;

  util::UniqueFd socket_;
  std::string address_;  // as in sockaddr_un.sun_path; empty: nobody listens
  std::uint64_t interval_ns_ = 0;
};

}  // namespace vfsguard::daemon
