// SPDX-License-Identifier: Apache-2.0
// What is known of the processes that events refer to. Fed by the ring in order, so an event's process is here before the event is.
//
// Bounded: past kMaxProcesses the table is emptied and the kernel side is asked to describe everybody again. Of processes that are gone, or
// became another program or were never described, what their descendants' lines of ancestors need is kept: the last kMaxRemembered of them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "enrich/digests.h"
#include "event/event.h"
#include "util/result.h"

namespace vfsguard::enrich {

inline constexpr std::size_t kMaxProcesses = 16384;
inline constexpr std::size_t kMaxRemembered = 8192;

// When the process of that number began, to a clock tick (10 ms), as vg_process.start_ns; none: there is none.
std::optional<std::uint64_t> start_of(std::uint32_t pid);
// Whether the process of that number is still the one that began then.
bool is_running(std::uint32_t pid, std::uint64_t start_ns);
// Kills that process and no later one of its number; never this one or the first. Otherwise why not.
util::Result<void> end_process(std::uint32_t pid, std::uint64_t start_ns);

class Processes {
 public:
  // `describe_again` asks the kernel side to send every process once more.
  explicit Processes(std::function<void()> describe_again) : describe_again_(std::move(describe_again)) {}

  // From now on executables get their digest; `digests` outlives this.
  void digest_with(Digests* digests) { digests_ = digests; }

  void add(event::Process process);
  void remove(const event::ProcessGone& gone);
  // After each round of reading: events of the priority lane may be read after the end of their process, in the same round or the next.
  void end_round();

  // The image that the event's process had. Where its description was lost, /proc is asked, if it still is the same process.
  std::shared_ptr<const event::Process> find(const vg_event& e);

  [[nodiscard]] std::size_t size() const { return by_pid_.size(); }

 private:
  struct Image {
    std::uint32_t pid = 0;
    std::uint32_t exec_id = 0;
    std::uint64_t start_ns = 0;
    bool operator==(const Image&) const = default;
  };
  struct ImageHash {
    std::size_t operator()(const Image& i) const { return (i.start_ns * 0x9e3779b97f4a7c15u) ^ (std::uint64_t{i.pid} << 20) ^ i.exec_id; }
  };
  static Image image_of(const event::Process& p) { return {p.pid, static_cast<std::uint32_t>(p.exec_id), p.start_ns}; }
  using Name = std::shared_ptr<const std::string>;

  Name intern(const std::string& exe);
  // What is known already; an empty name: /proc was asked and could not tell.
  std::optional<Name> known_executable(const event::Ancestor& ancestor);
  void remember(const Image& image, Name name);
  std::shared_ptr<const event::Process> known(const Image& image) const;
  void leave(const std::shared_ptr<const event::Process>& process);
  void complete(event::Process& process);
  void write_command_lines(event::Process& process);

  std::function<void()> describe_again_;
  Digests* digests_ = nullptr;
  std::unordered_map<std::uint32_t, std::shared_ptr<const event::Process>> by_pid_;
  using Images = std::unordered_map<Image, std::shared_ptr<const event::Process>, ImageHash>;
  Images leaving_;                                         // gone, or another program by now, in this round
  Images leaving_before_;                                  // in the one before
  std::unordered_map<Image, Name, ImageHash> remembered_;  // gone, or never described here
  std::deque<Image> remembered_order_;                     // oldest first
  std::unordered_map<std::string, std::weak_ptr<const std::string>> names_;
};

}  // namespace vfsguard::enrich
