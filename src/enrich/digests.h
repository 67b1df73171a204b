// SPDX-License-Identifier: Apache-2.0
// SHA-256 of executables, computed by a thread of its own and kept by identity (device, inode, size, times of change): the event path never
// waits for it. The first events of a program that was not seen before may come without.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <tuple>

#include "event/event.h"

namespace vfsguard::enrich {

inline constexpr std::size_t kMaxDigests = 4096;  // kept; past it all are forgotten

class Digests {
 public:
  Digests();
  ~Digests();
  Digests(const Digests&) = delete;
  Digests& operator=(const Digests&) = delete;

  // The digest of the executable that /proc/PID/exe leads to, as soon as it is known; stays not ready where the process is gone by then.
  std::shared_ptr<const event::Digest> of(std::uint32_t pid, std::uint64_t ino);

 private:
  struct Job {
    std::uint32_t pid;
    std::uint64_t ino;
    std::shared_ptr<event::Digest> digest;
  };
  using Identity = std::tuple<std::uint64_t, std::uint64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;

  void work(const std::stop_token& stop);
  void settle(const Job& job);

  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<Job> jobs_;
  std::map<Identity, std::array<char, 64>> known_;  // the thread's own
  std::jthread thread_;
};

}  // namespace vfsguard::enrich
