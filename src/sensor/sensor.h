// SPDX-License-Identifier: Apache-2.0
// The kernel side as an object: loads and attaches the programs of one mechanism, hands over raw records, reads the counters.
// One thread owns a Sensor. Destroying it detaches everything; nothing is ever pinned.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "abi/control.h"
#include "event/names.h"
#include "guard/kernel_state.h"
#include "policy/automaton.h"
#include "sensor/call_functions.h"
#include "sensor/inventory.h"
#include "util/result.h"

namespace vfsguard::sensor {

struct KernelFacts;  // sensor.cpp

enum class Hook { kAuto = 0, kTracepoint = VG_HOOK_TRACEPOINT, kKprobe = VG_HOOK_KPROBE, kLsm = VG_HOOK_LSM };

// What the kernel side lets through; everything else is counted as filtered there. Empty lists do not filter.
struct Filter {
  std::uint64_t operations = event::kDefaultOperations;  // bit per VG_OP_*
  std::uint64_t required = 0;                            // of these, what was asked for by name: open() fails where it cannot be followed
  bool every_access = false;                             // an event for each read and write instead of sessions
  bool only_failed = false;
  bool only_write = false;
  bool follow_children = false;
  std::vector<std::string> comms;  // at most 15 bytes each
  std::vector<std::uint32_t> uids;
  std::vector<std::uint32_t> pids;
  bool by_path = false;  // automaton.head.path_start decides
  bool by_exe = false;   // automaton.head.exe_start decides
  policy::Automaton automaton;
  int refusals = -1;  // the maps in which enforcement notes what it refused (enforce::Enforcer); not owned
  int worker_refusals = -1;
  bool killing = false;                       // ... among it calls that went on
  std::vector<std::uint64_t> set_operations;  // per match set: bit per VG_OP_*; empty: `operations` alone counts
};

class Sensor;

struct Options {
  Hook hook = Hook::kAuto;
  std::uint32_t ring_bytes = 2u << 20;  // power of two, multiple of the page size
  std::uint32_t aggregates = 0;         // kinds of events that are counted at once instead of told; 0: every event is told
  Filter filter;
  std::size_t tables_at_least = 0;  // bytes of filter tables that there is to be room for (Sensor::replace)
  // Whom it follows, detached and with its rings read empty: sessions, descriptions, counters and rings are handed on, and the mechanism is the same.
  const Sensor* follows = nullptr;
};

struct OperationCounts {
  std::uint64_t seen = 0;
  std::uint64_t filtered = 0;
  std::uint64_t aggregated = 0;
  std::uint64_t emitted = 0;
  std::uint64_t lost = 0;
};

struct Counters {
  std::array<OperationCounts, VG_OP_COUNT> operations{};
  std::array<std::uint64_t, VG_CAUSE_COUNT> causes{};
  std::array<std::vector<std::uint64_t>, VG_LANE_COUNT> sequences;  // per lane and CPU: events emitted or lost so far
  std::uint64_t probe_misses = 0;                                   // kprobes and kretprobes that did not fire, by the kernel's own count
  std::uint64_t program_misses = 0;                                 // programs that the kernel skipped because of recursion
};

// What the kernel side may take, by how it was configured. A table that is full is counted among the causes (Counters).
struct Limits {
  std::uint64_t ring_bytes = 0;     // both lanes
  std::uint64_t table_bytes = 0;    // all tables, when they are full
  std::uint32_t open_files = 0;     // sessions of reads and writes
  std::uint32_t requests = 0;       // of io_uring, on their way
  std::uint32_t kinds = 0;          // of counted events (--aggregate)
  std::uint32_t thread_bytes = 0;   // for each thread that is inside a followed call, or was
  std::uint32_t process_bytes = 0;  // for each process that acted
};

class Sensor {
 public:
  using Handler = std::function<void(std::span<const std::byte>)>;

  // Loads; attaches nothing yet. Fails with the kernel's reason (EX_NOPERM, EX_UNAVAILABLE) and what to do about it.
  static util::Result<Sensor> open(const Options& options, Handler handler);

  Sensor(Sensor&&) noexcept;
  Sensor& operator=(Sensor&&) noexcept;
  ~Sensor();

  util::Result<void> attach();
  // No event begins after this; what is in the ring can still be consumed.
  void detach();

  // Other paths and operations from now on; subjects stay as they were. For what does not fit, which is what needs programs or room that were not
  // loaded, another Sensor is to follow this one (Options::follows). What was begun before goes on by the old filter; vg_event.policy_version tells.
  util::Result<void> replace(const Filter& filter);
  [[nodiscard]] bool fits(const Filter& filter) const;
  // That the filter lets through, of any path.
  [[nodiscard]] std::uint64_t operations() const;
  [[nodiscard]] std::uint32_t version() const;

  // Hands over up to about `limit` records; returns how many. Never blocks. The two lanes are merged by time.
  util::Result<std::size_t> consume(std::size_t limit);
  // Where the two lanes end now.
  struct Ends {
    std::uint64_t bulk = 0;
    std::uint64_t priority = 0;
    std::uint64_t time_ns = 0;
  };
  [[nodiscard]] Ends ends() const;
  // consume(), and true once all is handed over that was there then, however much came since.
  util::Result<bool> consume_until(const Ends& ends, std::size_t limit);
  // Readable when a record came after arm().
  [[nodiscard]] int wait_fd() const;
  // The next record shall wake wait_fd(); without it records pile up silently, which is cheap.
  void arm();

  [[nodiscard]] Hook hook() const;
  // What this kernel lacks for this mechanism, among these operations.
  [[nodiscard]] std::vector<Unserved> unserved(std::uint64_t operations) const;
  // Operations of which this mechanism tells the caller's names alone, never the object (those of unserved() are not among them).
  [[nodiscard]] std::uint64_t names_only() const;
  // Makes a call that is followed, and says whether the programs were called; true where nothing is followed that can be tried.
  [[nodiscard]] bool sees() const;
  // Whether a reload may need CAP_SYS_ADMIN: kprobes by perf events (no CONFIG_FPROBE), and kernel.perf_event_paranoid above 2, which Debian has, and which
  // does not go by CAP_PERFMON.
  [[nodiscard]] bool needs_admin() const;
  // What of it is in the kernel now.
  [[nodiscard]] Inventory inventory() const;
  // What filters and could be written to by others, and how it must be.
  void register_state(guard::KernelState& state) const;
  [[nodiscard]] Counters counters() const;
  [[nodiscard]] Limits limits() const;
  void describe_again();

  // Counting of what is alike (bpf/lib/aggregate.bpf.h). turn_aggregates() lets the kernel side begin a new table; once everything that is in
  // the rings was consumed, take_aggregates() hands out the old one's entries, and empties it.
  util::Result<void> turn_aggregates();
  util::Result<void> take_aggregates(const std::function<void(const vg_aggregate&)>& each);
  // vg_event.aggregate & 1 of the table that is filled now.
  [[nodiscard]] std::uint64_t filled_table() const;
  // A table was full since this was asked last.
  bool aggregates_were_full();

 private:
  struct State;
  // Of one mechanism, not kAuto.
  static util::Result<Sensor> open_one(const Options& options, const KernelFacts& facts, Handler handler);
  explicit Sensor(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace vfsguard::sensor
