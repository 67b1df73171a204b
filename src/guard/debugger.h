// SPDX-License-Identifier: Apache-2.0
// Who gets hold of the agent by ptrace or by what the kernel treats alike: refused by BPF LSM where that works (bpf/self_protect.bpf.c), seen in
// /proc/PID/status everywhere. The same BPF object records who gets a descriptor of the agent's maps, programs and links.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "abi/guard.h"
#include "guard/kernel_state.h"
#include "policy/policy.h"
#include "sensor/inventory.h"
#include "util/result.h"

struct self_protect_bpf;
struct ring_buffer;

namespace vfsguard::guard {

struct Tracer {
  std::uint32_t pid = 0;
  std::uint32_t uid = 0;
  std::uint64_t start_ns = 0;  // as vg_process.start_ns; 0: it has ended
  std::string comm;
  std::string exe;  // empty: not known
};

// What /proc says of a process.
Tracer describe(std::uint32_t pid);
// Who traces a thread of this process now.
std::optional<Tracer> tracer();

// One thread.
class PtraceGuard {
 public:
  // Loads, attaches, and sees a child of this process refused. EX_UNAVAILABLE: this kernel cannot. To be made before there are other threads.
  static util::Result<PtraceGuard> open(const policy::Guard& policy);
  PtraceGuard(PtraceGuard&&) noexcept;
  PtraceGuard& operator=(PtraceGuard&&) noexcept;
  ~PtraceGuard();

  // Other rules from now on. Executables that are exempt are looked up by their paths; one that is not there is named by missing().
  void set(const policy::Guard& policy);
  [[nodiscard]] const std::vector<std::string>& missing() const { return missing_; }

  // What was refused since this was asked last.
  std::vector<vg_held_off> take();
  // Refused too, but there was no room to tell of it.
  [[nodiscard]] std::uint64_t untold() const;
  // What is recorded when somebody else gets a descriptor of it: VG_GUARDED_KEY, and its name.
  void guard_objects(std::map<std::uint64_t, std::string> ids);
  // Who did since this was asked last.
  struct Access {
    vg_bpf_access raw{};
    std::string object;  // "map enforce/labels"
  };
  std::vector<Access> take_accesses();
  // Others did too, but there was no room to tell of it.
  [[nodiscard]] std::uint64_t unseen_accesses() const;

  // Readable when there is something to take().
  [[nodiscard]] int fd() const;
  // What of it is in the kernel now.
  [[nodiscard]] sensor::Inventory inventory() const;
  // What of it could be written to by others, and how it must be.
  void register_state(KernelState& state);

 private:
  struct State;
  explicit PtraceGuard(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
  std::vector<std::string> missing_;
};

}  // namespace vfsguard::guard
