// SPDX-License-Identifier: Apache-2.0
// What is known of the processes that events refer to. Fed by the ring in order, so an event's process is here before the event is.
// Bounded: past kMaxProcesses the table is emptied and the kernel side is asked to describe everybody again.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>

#include "event/event.h"

namespace vfsguard::enrich {

inline constexpr std::size_t kMaxProcesses = 32768;

class Processes {
 public:
  // `describe_again` asks the kernel side to send every process once more.
  explicit Processes(std::function<void()> describe_again) : describe_again_(std::move(describe_again)) {}

  void add(event::Process process);
  void remove(const event::ProcessGone& gone);

  // The image that the event's process had. Where its description was lost, /proc is asked, if it still is the same process.
  std::shared_ptr<const event::Process> find(const vg_event& e);

  [[nodiscard]] std::size_t size() const { return by_pid_.size(); }

 private:
  std::function<void()> describe_again_;
  std::unordered_map<std::uint32_t, std::shared_ptr<const event::Process>> by_pid_;
};

}  // namespace vfsguard::enrich
