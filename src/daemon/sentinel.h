// SPDX-License-Identifier: Apache-2.0
// The agent's eye on itself: who gets hold of it (guard/debugger.h), whether it and what it goes by are still what they were (guard/integrity.h), and
// whether what decides in the kernel is, which it writes back (guard/kernel_state.h); with the reactions that the policy asks for. What it finds are
// records in the stream.
//
// One thread. How often: debuggers and words that decide each second, integrity as the policy says, what decides in the kernel also as soon as
// somebody gets a descriptor of it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "daemon/governor.h"
#include "event/event.h"
#include "guard/debugger.h"
#include "guard/integrity.h"
#include "guard/kernel_state.h"
#include "sensor/sensor.h"

namespace vfsguard::daemon {

// Of an agent that ended because of what was found.
inline constexpr int kExitTampered = 3;

class Sentinel {
 public:
  using Tell = std::function<void(event::Notice)>;

  // Before anything is loaded: who traces this process already, and what the policy wants done. An error: it is to end (kExitTampered).
  static util::Result<void> look_around(const policy::Guard& policy);

  // Before there are other threads. `sensor` is the one that records, whichever that is.
  Sentinel(Governor& governor, const std::optional<sensor::Sensor>& sensor, Tell tell);
  // Everything is attached; from here on it must stay as it is.
  void begin();

  // Of the recorded operations, what is done to this process.
  void look(const event::Operation& operation);
  // What is due now; cheap where nothing is.
  void work();
  [[nodiscard]] int due_in_ms() const;
  // Readable when somebody was held off; -1: nobody is.
  [[nodiscard]] int fd() const { return ptrace_ ? ptrace_->fd() : -1; }

  // The policy, the rules or the protected files were changed by command: this is how it must be from now on.
  void changed();
  // Before such a change: what is expected now is compared once more.
  void before_change();
  // Programs and maps may be others now, whatever is expected of files.
  void objects_changed();
  // Why a reload is not to be done; empty: it may.
  [[nodiscard]] std::string refuses_reload() const;
  // Why the agent is to end; empty: it may go on.
  [[nodiscard]] const std::string& ends() const { return ends_; }
  // For status: a JSON object.
  [[nodiscard]] std::string status() const;

 private:
  [[nodiscard]] const policy::Guard& policy() const { return governor_.policy().guard; }
  [[nodiscard]] guard::Facts facts() const;
  void add_kernel_facts(guard::Facts& facts) const;
  void add_file_facts(guard::Facts& facts) const;
  void apply_policy();
  void set_due();
  void check();
  void check_sight();
  void check_state(guard::KernelState::Depth depth);
  void tell_change(const guard::Change& change);
  [[nodiscard]] bool holds_off() const { return ptrace_ && policy().forbid != policy::Guard::Forbid::kOff; }
  void tell_difference(const guard::Difference& difference);
  void look_for_tracers();
  void look_at_bpf(const event::Operation& operation);
  void tell_held_off();
  void found(const guard::Tracer& who, std::string_view how, std::string message, std::vector<std::pair<std::string_view, std::string>> more);
  void react(const guard::Tracer& who);
  bool is_news(const guard::Tracer& who, std::string_view how);
  void tell_repeated(bool all);

  static constexpr std::uint64_t kRepeatNs = 10'000'000'000;
  struct Repeated {
    std::uint64_t told_ns = 0;  // CLOCK_MONOTONIC
    std::uint64_t held_back = 0;
    std::string who;
  };

  // Who got a descriptor of a map or program of ours.
  struct Stranger {
    guard::Tracer who;
    std::set<std::string> objects;   // "map enforce/labels"; of a bpf(2) call that says no more: empty
    std::set<std::string> writable;  // of these, maps that it may write to
    std::set<std::string> told;
    std::uint64_t told_ns = 0;  // CLOCK_MONOTONIC
    std::uint64_t seen_ns = 0;
    std::uint64_t repeated = 0;
  };
  Stranger& stranger(const guard::Tracer& who);
  void take_accesses();
  void tell_access(Stranger& stranger);
  void forget_strangers();
  [[nodiscard]] bool may_be_written() const;
  [[nodiscard]] const Stranger* who_changed(const std::string& map) const;
  struct Told {
    std::string found;
    std::uint64_t ns = 0;
    std::uint64_t more = 0;
  };

  Governor& governor_;
  const std::optional<sensor::Sensor>& sensor_;
  Tell tell_;
  guard::Integrity integrity_;
  std::optional<guard::PtraceGuard> ptrace_;
  std::string no_ptrace_guard_;  // why not
  std::uint32_t traced_by_ = 0;
  std::uint64_t untold_ = 0;
  std::uint64_t debuggers_due_ns_ = 0;  // CLOCK_MONOTONIC
  std::uint64_t integrity_due_ns_ = 0;  // 0: never
  std::uint64_t checks_ = 0;
  std::uint64_t last_check_ns_ = 0;  // CLOCK_REALTIME
  std::uint64_t attempts_ = 0;
  std::map<std::string, Repeated> repeated_;  // by process, and how
  std::uint32_t my_pid_ns_ = 0;
  bool blind_ = false;
  std::vector<Stranger> strangers_;
  guard::Followups followups_;
  std::map<std::string, Told> changes_told_;  // by Change::what
  std::set<std::string> unrestored_;
  std::uint64_t accesses_ = 0;
  std::uint64_t unseen_accesses_ = 0;
  std::uint64_t restored_ = 0;
  std::string ends_;
};

}  // namespace vfsguard::daemon
