// SPDX-License-Identifier: Apache-2.0
// The agent's own life on record: what it runs, and, by a small file that outlives it, how the one before ended.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "util/fd.h"
#include "util/result.h"

namespace vfsguard::guard {

inline constexpr const char* kStateFile = "/var/lib/vfsguard/state";

// How an agent stood when it was last heard of. Times are CLOCK_REALTIME.
struct Last {
  bool ended = false;  // it said so itself
  std::uint32_t pid = 0;
  std::uint64_t started_ns = 0;
  std::uint64_t seen_ns = 0;
  std::string boot_id;
};

// The file is this process's alone while the object lives; one thread.
class State {
 public:
  static constexpr std::uint64_t kBeatNs = 5'000'000'000;

  // Reads what the one before left, and says that this one runs. EX_TEMPFAIL: another agent has it; EX_CANTCREAT: it cannot be written. A file that is not
  // understood is as none.
  static util::Result<State> open(const std::string& file);

  // None: there was none before.
  [[nodiscard]] const std::optional<Last>& last() const { return last_; }
  // Says that it still runs; cheap where it was said less than kBeatNs ago.
  void beat();
  // Says that it ends.
  void end();

 private:
  explicit State(util::UniqueFd fd) : fd_(std::move(fd)) {}
  void write(bool ended) const;

  util::UniqueFd fd_;
  std::optional<Last> last_;
  std::uint64_t started_ns_ = 0;
  std::uint64_t beaten_ns_ = 0;  // CLOCK_MONOTONIC
  std::string boot_id_;
};

// Whether this process was kept from running: stopped by a signal, frozen by its control group, or left without a CPU. The machine's own suspension is none
// of that, since nothing happens meanwhile.
struct Clocks {
  std::uint64_t monotonic_ns = 0;  // does not go on while the machine is suspended
  std::uint64_t boottime_ns = 0;
  std::uint64_t cpu_ns = 0;  // of this process
  static Clocks now();
};
struct Pause {
  std::uint64_t up_to_ns = 0;      // it did not run for so long at most
  std::uint64_t suspended_ns = 0;  // the machine, beside that
  std::uint64_t since_ns = 0;      // CLOCK_BOOTTIME
};

class PauseWatch {
 public:
  static constexpr std::uint64_t kWorthTelling = 2'000'000'000;
  static constexpr std::uint64_t kLate = 1'000'000'000;

  // The loop came round, kLate after it should have at least, and kWorthTelling after it did last. It wanted to wait for `waited_ns`; what it computed
  // shows in its CPU time.
  std::optional<Pause> look(const Clocks& now, std::uint64_t waited_ns);
  // What was just done may have waited for others (a disk, who reads the output): the time since the last look says nothing.
  void excuse(const Clocks& now) { last_ = now; }

 private:
  Clocks last_;
};

// One digest for several files: of their paths and contents, in the order of the paths. A file that cannot be read counts as that.
std::string digest_of(std::vector<std::string> files);

// Readable when the clock is set (CLOCK_REALTIME); read it then by take_step().
class ClockWatch {
 public:
  ClockWatch();
  [[nodiscard]] int fd() const { return timer_.get(); }
  // By how much the clock was set since this was asked last, in nanoseconds, forwards or back.
  std::int64_t take_step();

 private:
  void arm() const;
  [[nodiscard]] static std::int64_t difference();  // of the two clocks
  util::UniqueFd timer_;
  std::int64_t difference_ = 0;
};

}  // namespace vfsguard::guard
