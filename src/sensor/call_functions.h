// SPDX-License-Identifier: Apache-2.0
// The kernel functions that kprobes are put on: one table for what begins and completes a call, one for what sees its object.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace vfsguard::sensor {

// Whether the running kernel has a function of this name.
using HasFunction = std::function<bool(const std::string&)>;

struct Probe {
  std::string symbol;
  std::uint64_t cookie = 0;
};

// The functions behind the system calls of these operations (bit per VG_OP_*), by ABI (arch/x86/include/asm/syscall_wrapper.h): where a
// 32-bit call has an entry of its own ("compat"), the plain __ia32_ function is not what runs.
std::vector<Probe> call_probes(std::uint64_t operations, const HasFunction& has);

// The functions behind io_uring's opcodes.
std::vector<Probe> request_probes(std::uint64_t operations, const HasFunction& has);

// Where the objects of these operations are seen (VG_AT_*).
std::vector<Probe> object_probes(std::uint64_t operations, const HasFunction& has);

// A hook of the same name serves LSM programs: "path_unlink" behind security_path_unlink.
struct ObjectHook {
  const char* name;  // without "security_"
  unsigned where;    // VG_AT_*
  std::uint64_t operations;
};
std::span<const ObjectHook> object_hooks();

// An operation that a mechanism cannot follow as it should on this kernel.
struct Unserved {
  unsigned operation = 0;  // VG_OP_*
  std::string function;    // the first that would serve it, and is not there to be hooked
  bool unseen = false;     // not seen at all; else without its object: by the name that the caller gave
};

// Those among `operations` for a mechanism that finds the objects at the functions PREFIX + ObjectHook::name ("security_", "bpf_lsm_") and,
// with `by_functions`, the calls at their own functions.
std::vector<Unserved> unserved(std::uint64_t operations, const std::string& prefix, bool by_functions, const HasFunction& has);

}  // namespace vfsguard::sensor
