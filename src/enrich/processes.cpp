// SPDX-License-Identifier: Apache-2.0
#include "enrich/processes.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <string>

#include <fmt/format.h>

#include "event/decode.h"
#include "util/fd.h"

namespace vfsguard::enrich {

namespace {

std::optional<std::string> read_file(const std::string& path) {
  const util::UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    return std::nullopt;
  }
  std::string text;
  std::array<char, 4096> chunk;
  ssize_t n = 0;
  while ((n = read(fd.get(), chunk.data(), chunk.size())) > 0) {
    text.append(chunk.data(), static_cast<std::size_t>(n));
  }
  return text;
}

// Field 22 of /proc/PID/stat, in clock ticks. The name in field 2 may hold anything, so count from the last ')'.
std::optional<std::uint64_t> start_ticks(std::uint32_t pid) {
  const auto stat = read_file(fmt::format("/proc/{}/stat", pid));
  if (!stat) {
    return std::nullopt;
  }
  std::size_t at = stat->rfind(')');
  for (int field = 2; field < 22 && at != std::string::npos; ++field) {
    at = stat->find(' ', at + 1);
  }
  if (at == std::string::npos) {
    return std::nullopt;
  }
  std::uint64_t ticks = 0;
  std::from_chars(stat->data() + at + 1, stat->data() + stat->size(), ticks);
  return ticks;
}

std::shared_ptr<const event::Process> from_proc(const vg_event& e) {
  const std::uint64_t ns_per_tick = 1'000'000'000u / static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK));
  const auto same = [&] {
    const auto ticks = start_ticks(e.pid);
    return ticks && *ticks == e.start_ns / ns_per_tick;
  };
  if (!same()) {
    return nullptr;
  }
  auto process = std::make_shared<event::Process>();
  process->pid = e.pid;
  process->start_ns = e.start_ns;
  process->exec_id = e.exec_id;
  std::array<char, 4097> target;
  const ssize_t n = readlink(fmt::format("/proc/{}/exe", e.pid).c_str(), target.data(), target.size());
  if (n > 0) {
    std::string_view exe(target.data(), static_cast<std::size_t>(n));
    if (exe.ends_with(" (deleted)")) {
      exe.remove_suffix(10);
      process->exe_deleted = true;
    }
    process->exe = exe;
  }
  if (auto text = read_file(fmt::format("/proc/{}/cmdline", e.pid))) {
    auto& arguments = process->arguments.emplace();
    std::size_t at = 0;
    while (at < text->size()) {
      const std::size_t nul = std::min(text->find('\0', at), text->size());
      arguments.emplace_back(*text, at, nul - at);
      at = nul + 1;
    }
  }
  return same() ? process : nullptr;
}

}  // namespace

void Processes::add(event::Process process) {
  if (by_pid_.size() >= kMaxProcesses) {
    by_pid_.clear();
    describe_again_();
  }
  const std::uint32_t pid = process.pid;
  by_pid_[pid] = std::make_shared<const event::Process>(std::move(process));
}

void Processes::remove(const event::ProcessGone& gone) {
  const auto it = by_pid_.find(gone.pid);
  if (it != by_pid_.end() && it->second->start_ns == gone.start_ns) {
    by_pid_.erase(it);
  }
}

std::shared_ptr<const event::Process> Processes::find(const vg_event& e) {
  const auto it = by_pid_.find(e.pid);
  if (it != by_pid_.end() && it->second->start_ns == e.start_ns && it->second->exec_id == e.exec_id) {
    return it->second;
  }
  auto process = from_proc(e);
  if (process && by_pid_.size() < kMaxProcesses) {
    by_pid_[e.pid] = process;
  }
  return process;
}

}  // namespace vfsguard::enrich
