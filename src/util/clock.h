// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ctime>

#include <cstdint>
#include <string>

namespace vfsguard::util {

inline std::uint64_t clock_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec);
}

// For a person: local time, to the second.
inline std::string wall_time_text(std::uint64_t realtime_ns) {
  const auto seconds = static_cast<std::time_t>(realtime_ns / 1'000'000'000u);
  std::tm parts{};
  char text[32]{};
  localtime_r(&seconds, &parts);
  return std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts) > 0 ? text : "?";
}

// Turns the kernel side's CLOCK_BOOTTIME into wall-clock time. The difference moves when the clock is set, so it is measured anew
// every second of use.
class WallClock {
 public:
  std::uint64_t at(std::uint64_t boot_ns) {
    if (boot_ns > checked_ns_ + 1'000'000'000u || checked_ns_ == 0) {
      // The tightest of a few readings: a preemption between the two clocks would show as a wrong difference.
      std::uint64_t best = ~0ull;
      for (int i = 0; i < 3; ++i) {
        const std::uint64_t before = clock_ns(CLOCK_BOOTTIME);
        const std::uint64_t wall = clock_ns(CLOCK_REALTIME);
        const std::uint64_t after = clock_ns(CLOCK_BOOTTIME);
        if (after - before < best) {
          best = after - before;
          difference_ = wall - (before + (after - before) / 2);
        }
      }
      checked_ns_ = boot_ns;
    }
    return boot_ns + difference_;
  }

 private:
  std::uint64_t difference_ = 0;
  std::uint64_t checked_ns_ = 0;
};

}  // namespace vfsguard::util
