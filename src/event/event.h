// SPDX-License-Identifier: Apache-2.0
// The typed event: what a raw record says, in the terms of docs/event-format.md. Strings are bytes, not text.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "abi/events.h"

namespace vfsguard::event {

// The SHA-256 of an executable, computed beside the event path. `ready` is set once, after `hex`.
struct Digest {
  std::atomic<bool> ready{false};
  std::array<char, 64> hex{};
};

// What a control group's path says of a container. Empty: nothing recognised.
struct Container {
  std::string id;       // 64 hexadecimal digits; with LXC and systemd-nspawn its name
  std::string name;     // where the control group tells it (LXC, systemd-nspawn)
  std::string runtime;  // docker, podman, containerd, cri-o, lxc, systemd-nspawn
};

// One that forked, or forked one that forked, ... the process, as it was then.
struct Ancestor {
  std::uint32_t pid = 0;
  std::uint64_t start_ns = 0;
  std::uint32_t exec_id = 0;
  std::shared_ptr<const std::string> exe;  // null: not known
};

// A process's arguments as one text.
struct CommandLine {
  std::string shell;           // as a shell would have to be given them; they can be told apart again
  std::string between_spaces;  // as they are, with spaces between them; empty: the same
  [[nodiscard]] std::string_view plain() const { return between_spaces.empty() ? shell : between_spaces; }
};

// A process image, as described by the kernel side in the process's own context. Shared by the events that refer to it.
struct Process {
  std::uint32_t pid = 0;
  std::uint64_t start_ns = 0;
  std::uint64_t exec_id = 0;
  std::uint64_t cgroup_id = 0;
  std::optional<std::string> exe;
  std::uint32_t exe_dev = 0;  // kernel-internal encoding, as vg_event.dev
  std::uint64_t exe_ino = 0;
  bool exe_deleted = false;
  bool exe_memfd = false;
  std::shared_ptr<const Digest> digest;  // null: not asked for
  std::optional<std::vector<std::string>> arguments;
  bool arguments_truncated = false;
  std::shared_ptr<const CommandLine> command_line;         // null: not known
  std::shared_ptr<const CommandLine> parent_command_line;  // of the process that forked it, as that was when this image was described
  std::optional<std::string> cgroup;
  Container container;
  std::vector<Ancestor> ancestors;  // parent first, at most VG_ANCESTORS_MAX
};

struct ProcessGone {
  std::uint32_t pid = 0;
  std::uint64_t start_ns = 0;
};

// A socket's address, from struct sockaddr.
struct Address {
  unsigned family = 0;
  std::string ip;  // AF_INET, AF_INET6: as inet_ntop writes it
  std::uint16_t port = 0;
  std::string name;  // AF_UNIX: an abstract name, without its leading NUL; one in the file system is the operation's path
};

// An event that stands for `count` alike.
struct Alike {
  std::uint64_t count = 1;
  std::uint64_t first_ns = 0;
  std::uint64_t last_ns = 0;
};

// What detection says of an event. Names of rules are the rules' own (sigma.h, Head::label()).
struct Detected {
  std::vector<std::string> rules;  // all that matched, the most severe first
  std::string severity;            // the highest
  std::vector<std::string> tags;   // of all of them
  std::string message;             // of the first
};

// A record of detection's own.
struct Alert {
  enum class Kind : std::uint8_t { kCorrelation, kHeldBack, kResponse };
  struct Contributor {
    std::string rule;
    std::uint64_t time_ns = 0;
    std::uint64_t seq = 0;
    std::uint32_t cpu = 0;
  };
  Kind kind = Kind::kCorrelation;
  std::string rule;
  std::string severity;
  std::vector<std::string> tags;
  std::string message;
  std::string type;                                        // of the correlation
  std::vector<std::pair<std::string, std::string>> group;  // by what they belong together
  double value = 0;                                        // what was counted, summed, ...; how many were held back
  std::uint64_t time_ns = 0;                               // as vg_event.time_ns
  std::uint64_t first_ns = 0;
  std::uint64_t last_ns = 0;
  std::vector<Contributor> events;  // the last that led to it
};

// A record of the agent's own: what it does, or what befell it.
struct Notice {
  std::string operation;  // start, stop, reload, unwatched, clock_step
  std::string_view severity = "info";
  std::string message;
  // In the order in which they are written. Values are JSON already.
  std::vector<std::pair<std::string_view, std::string>> fields;
  std::uint64_t time_ns = 0;  // as vg_event.time_ns
};

// One completed operation. `raw` holds the numbers as they came; the strings are decoded.
struct Operation {
  vg_event raw{};
  std::optional<std::string> path;        // canonical, or path_raw resolved by text (no VG_PATH_OBJECT in raw.path_flags)
  std::optional<std::string> path_in_ns;  // from the caller's own root, where that differs
  std::optional<std::string> fs_path;     // inside its file system; only for callers in another mount namespace
  std::optional<std::string> path_raw;    // as the caller gave it
  std::optional<std::string> cwd;
  std::optional<std::string> dst_path;     // the second path: where a rename or link leads
  std::optional<std::string> dst_raw;      // as the caller gave it; for symlink the target, for attributes the name, for mount the source
  std::optional<Address> address;          // connect, bind
  std::optional<Alike> alike;              // it stands for several
  std::optional<vg_access> access;         // close: what the process did with the file
  std::uint64_t wall_ns = 0;               // CLOCK_REALTIME at completion; 0: nobody has asked
  std::string_view user;                   // of the real user id; empty: not known. Lent by who enriched it
  std::shared_ptr<const Process> process;  // null: not known
  std::vector<std::string> policies;       // names of the policy rules that asked for it, in the policy's order
  std::string severity;                    // the highest among them; empty: none
  std::string_view verdict;                // of the policy: "deny" or "kill"; empty: nothing to stop
  std::optional<Detected> detected;        // rules of detection that match it
  std::optional<std::string> call_fields;  // of an event that was recorded: what output::append_call_fields() said of it then

  [[nodiscard]] bool has_result() const { return (raw.path_flags & VG_NO_RESULT) == 0; }
  [[nodiscard]] bool success() const { return raw.retval >= 0; }
};

// A gap in a CPU's sequence numbers: events that the kernel side could not hand over.
struct Lost {
  std::uint32_t cpu = 0;
  std::uint32_t lane = VG_LANE_BULK;
  std::uint64_t first_seq = 0;
  std::uint64_t count = 0;
  std::uint64_t time_ns = 0;
};

}  // namespace vfsguard::event
