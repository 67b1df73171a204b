// SPDX-License-Identifier: Apache-2.0
// Raw record -> typed event. Takes nothing on trust: every length is checked against the record, so any bytes may come in.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "event/event.h"
#include "util/result.h"

namespace vfsguard::event {

using Record = std::variant<Process, ProcessGone>;

// The kind of a record, after the checks that all kinds share. Fails (EX_DATAERR) on a short, oversized or foreign record.
util::Result<std::uint8_t> record_kind(std::span<const std::byte> data);

// Fills `out`, whose strings keep their memory from call to call.
util::Result<void> decode_operation(std::span<const std::byte> data, Operation& out);
util::Result<Process> decode_process(std::span<const std::byte> data);
util::Result<ProcessGone> decode_exit(std::span<const std::byte> data);

// "shadow\0etc\0" -> "/etc/shadow". `rooted` is false for what has no place in a mount namespace: no leading slash then.
void walk_to_path(std::string_view walk, bool rooted, std::string& out);

// Joins a name to an absolute directory by text alone: "." and empty components drop out, ".." takes one away.
void resolve_by_text(std::string_view directory, std::string_view name, std::string& out);

// Docker, podman, containerd, CRI-O, systemd-nspawn and LXC name their cgroups so that the container's id or name can be read off.
Container container_of(std::string_view cgroup);

}  // namespace vfsguard::event
