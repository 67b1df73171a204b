// SPDX-License-Identifier: Apache-2.0
#include "enrich/processes.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <string>

#include <fmt/format.h>

#include "event/decode.h"
#include "output/escape.h"
#include "util/fd.h"
#include "util/read_file.h"

namespace vfsguard::enrich {

namespace {

// Field 22 of /proc/PID/stat, in clock ticks. The name in field 2 may hold anything, so count from the last ')'.
std::optional<std::uint64_t> start_ticks(std::uint32_t pid) {
  const auto stat = util::read_file(fmt::format("/proc/{}/stat", pid));
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

std::uint64_t ns_per_tick() { return 1'000'000'000u / static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK)); }

}  // namespace

std::optional<std::uint64_t> start_of(std::uint32_t pid) {
  const auto ticks = start_ticks(pid);
  return ticks ? std::optional(*ticks * ns_per_tick()) : std::nullopt;
}

bool is_running(std::uint32_t pid, std::uint64_t start_ns) {
  const auto ticks = start_ticks(pid);
  return ticks && *ticks == start_ns / ns_per_tick();
}

util::Result<void> end_process(std::uint32_t pid, std::uint64_t start_ns) {
  if (pid <= 1 || pid == static_cast<std::uint32_t>(getpid())) {
    return util::fail(EX_NOPERM, "it is spared");
  }
  const util::UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!process || !is_running(pid, start_ns)) {
    return process || errno == ESRCH ? util::fail(EX_UNAVAILABLE, "it has ended") : util::fail_errno(EX_OSERR, "pidfd_open");
  }
  if (syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0) != 0) {
    return util::fail_errno(EX_OSERR, "pidfd_send_signal");
  }
  return {};
}

namespace {

struct Executable {
  std::string path;
  bool deleted = false;
};

std::optional<Executable> executable_in_proc(std::uint32_t pid, std::uint64_t start_ns) {
  std::array<char, 4097> target;
  const ssize_t n = readlink(fmt::format("/proc/{}/exe", pid).c_str(), target.data(), target.size());
  if (n <= 0 || !is_running(pid, start_ns)) {
    return std::nullopt;
  }
  std::string_view exe(target.data(), static_cast<std::size_t>(n));
  const bool deleted = exe.ends_with(" (deleted)");
  if (deleted) {
    exe.remove_suffix(10);
  }
  if (exe.starts_with("/memfd:")) {
    exe.remove_prefix(1);  // as the kernel side names it
  }
  return Executable{std::string(exe), deleted};
}

std::shared_ptr<const event::Process> from_proc(const vg_event& e) {
  auto exe = executable_in_proc(e.pid, e.start_ns);
  if (!exe && !is_running(e.pid, e.start_ns)) {
    return nullptr;
  }
  auto process = std::make_shared<event::Process>();
  process->pid = e.pid;
  process->start_ns = e.start_ns;
  process->exec_id = e.exec_id;
  if (exe) {
    process->exe = std::move(exe->path);
    process->exe_deleted = exe->deleted;
    process->exe_memfd = process->exe->starts_with("memfd:");
  }
  if (auto text = util::read_file(fmt::format("/proc/{}/cmdline", e.pid))) {
    auto& arguments = process->arguments.emplace();
    std::size_t at = 0;
    while (at < text->size()) {
      const std::size_t nul = std::min(text->find('\0', at), text->size());
      arguments.emplace_back(*text, at, nul - at);
      at = nul + 1;
    }
  }
  if (process->arguments) {
    process->command_line = output::command_line(*process->arguments);
  }
  return is_running(e.pid, e.start_ns) ? process : nullptr;
}

}  // namespace

// The same string once, however many processes run the program.
Processes::Name Processes::intern(const std::string& exe) {
  constexpr std::size_t kSweepAt = 4096;
  if (names_.size() >= kSweepAt) {
    std::erase_if(names_, [](const auto& entry) { return entry.second.expired(); });
  }
  auto& known = names_[exe];
  Name name = known.lock();
  if (!name) {
    name = std::make_shared<const std::string>(exe);
    known = name;
  }
  return name;
}

void Processes::remember(const Image& image, Name name) {
  if (remembered_.insert_or_assign(image, std::move(name)).second) {
    remembered_order_.push_back(image);
  }
  while (remembered_order_.size() > kMaxRemembered) {
    remembered_.erase(remembered_order_.front());
    remembered_order_.pop_front();
  }
}

void Processes::leave(const std::shared_ptr<const event::Process>& process) {
  const Image image = image_of(*process);
  if (process->exe) {
    remember(image, intern(*process->exe));
  }
  leaving_[image] = process;
}

std::optional<Processes::Name> Processes::known_executable(const event::Ancestor& ancestor) {
  const auto remembered = remembered_.find({ancestor.pid, ancestor.exec_id, ancestor.start_ns});
  const auto live = by_pid_.find(ancestor.pid);
  if (live != by_pid_.end() && live->second->start_ns == ancestor.start_ns) {
    if (static_cast<std::uint32_t>(live->second->exec_id) == ancestor.exec_id && live->second->exe) {
      return intern(*live->second->exe);
    }
    // It is another program by now, which is all that /proc could tell.
    return remembered == remembered_.end() ? nullptr : remembered->second;
  }
  return remembered == remembered_.end() ? std::nullopt : std::optional(remembered->second);
}

// Names the ancestors and what the process shares with the one that it was forked from.
void Processes::complete(event::Process& process) {
  Name above;
  std::uint32_t image = 0;
  for (auto a = process.ancestors.rbegin(); a != process.ancestors.rend(); ++a) {
    const auto known = known_executable(*a);
    a->exe = known.value_or(nullptr);
    if (!a->exe && above && image == a->exec_id) {
      a->exe = above;  // forked and never executed anything: it runs what its parent ran
    }
    if (!a->exe && !known) {
      if (const auto exe = executable_in_proc(a->pid, a->start_ns)) {
        a->exe = intern(exe->path);
      }
      remember({a->pid, a->exec_id, a->start_ns}, a->exe);  // so that it is not asked for every descendant
    }
    above = a->exe;
    image = a->exec_id;
  }
  if (process.exe || process.ancestors.empty() || process.ancestors.front().exec_id != static_cast<std::uint32_t>(process.exec_id)) {
    return;
  }
  // Described at its end, when its memory was gone already.
  if (above) {
    process.exe = *above;
  }
  const event::Ancestor& forked_by = process.ancestors.front();
  if (const auto parent = known({forked_by.pid, forked_by.exec_id, forked_by.start_ns})) {
    process.arguments = parent->arguments;
    process.command_line = parent->command_line;
    process.arguments_truncated = parent->arguments_truncated;
    process.exe_dev = parent->exe_dev;
    process.exe_ino = parent->exe_ino;
    process.digest = parent->digest;
  }
}

// The arguments as one text, its own and those of the process that forked it.
void Processes::write_command_lines(event::Process& process) {
  if (process.arguments && !process.command_line) {
    process.command_line = output::command_line(*process.arguments);
  }
  if (!process.ancestors.empty()) {
    const event::Ancestor& forked_by = process.ancestors.front();
    if (const auto parent = known({forked_by.pid, forked_by.exec_id, forked_by.start_ns})) {
      process.parent_command_line = parent->command_line;
    }
  }
}

void Processes::add(event::Process process) {
  if (by_pid_.size() >= kMaxProcesses) {
    by_pid_.clear();
    describe_again_();
  }
  complete(process);
  write_command_lines(process);
  if (digests_ != nullptr && !process.digest && process.exe_ino != 0) {
    process.digest = digests_->of(process.pid, process.exe_ino);
  }
  auto& entry = by_pid_[process.pid];
  if (entry && (entry->start_ns != process.start_ns || entry->exec_id != process.exec_id)) {
    leave(entry);
  }
  entry = std::make_shared<const event::Process>(std::move(process));
}

void Processes::remove(const event::ProcessGone& gone) {
  const auto it = by_pid_.find(gone.pid);
  if (it != by_pid_.end() && it->second->start_ns == gone.start_ns) {
    leave(it->second);
    by_pid_.erase(it);
  }
}

void Processes::end_round() {
  leaving_before_ = std::move(leaving_);
  leaving_.clear();
}

// The image, if it runs or has left only now.
std::shared_ptr<const event::Process> Processes::known(const Image& image) const {
  const auto it = by_pid_.find(image.pid);
  if (it != by_pid_.end() && image_of(*it->second) == image) {
    return it->second;
  }
  for (const Images* images : {&leaving_, &leaving_before_}) {
    if (const auto left = images->find(image); left != images->end()) {
      return left->second;
    }
  }
  return nullptr;
}

std::shared_ptr<const event::Process> Processes::find(const vg_event& e) {
  if (auto process = known({e.pid, static_cast<std::uint32_t>(e.exec_id), e.start_ns})) {
    return process;
  }
  auto process = from_proc(e);
  if (process && by_pid_.size() < kMaxProcesses) {
    by_pid_[e.pid] = process;
  }
  return process;
}

}  // namespace vfsguard::enrich
