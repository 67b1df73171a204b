// SPDX-License-Identifier: Apache-2.0
#include "sensor/kprobe_events.h"

#include <fcntl.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <fstream>
#include <sstream>
#include <unordered_set>

#include <fmt/format.h>

namespace vfsguard::sensor {

namespace {

constexpr int kMaxActive = 1024;  // calls of one function that are under way at once; what is beyond is missed, and counted

util::Result<void> write_command(const std::string& command) {
  const auto root = KprobeEvents::tracefs();
  if (!root) {
    return util::pass_on(root.error());
  }
  const util::UniqueFd fd(open((*root + "/kprobe_events").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  if (!fd) {
    if (errno == ENOENT) {
      return util::fail(EX_UNAVAILABLE, "this kernel has no kprobe events (CONFIG_KPROBE_EVENTS)");
    }
    return util::fail_errno(EX_NOPERM, *root + "/kprobe_events");
  }
  if (write(fd.get(), command.data(), command.size()) < 0) {
    return util::fail_errno(EX_UNAVAILABLE, fmt::format("kprobe '{}'", command));
  }
  return {};
}

std::string group_of(pid_t pid) { return fmt::format("vfsguard_{}", pid); }

}  // namespace

bool KprobeEvents::built_in() { return access("/sys/bus/event_source/devices/kprobe", F_OK) == 0 || access("/sys/bus/event_source/devices", F_OK) != 0; }

util::Result<std::string> KprobeEvents::tracefs() {
  if (!built_in()) {
    return util::fail(EX_UNAVAILABLE, "this kernel has no kprobes; it needs CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y");
  }
  for (const char* root : {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"}) {
    if (access((std::string(root) + "/events").c_str(), F_OK) == 0) {
      return root;
    }
  }
  return util::fail(EX_UNAVAILABLE, "tracefs is not mounted; run: mount -t tracefs tracefs /sys/kernel/tracing");
}

util::Result<util::UniqueFd> KprobeEvents::add(const KprobeSpec& spec) {
  if (names_.empty()) {
    remove_stale();
  }
  static std::atomic<unsigned> made_so_far{0};  // what records and what enforces can be on one function
  const std::string name = fmt::format("{}/{}{}_{}", group_of(getpid()), spec.returns ? "r_" : "p_", spec.symbol, made_so_far++);
  const std::string kind = spec.returns ? fmt::format("r{}", kMaxActive) : "p";
  if (auto made = write_command(fmt::format("{}:{} {}", kind, name, spec.symbol)); !made) {
    return util::pass_on(made.error());
  }
  names_.push_back(name);
  const auto root = tracefs();
  std::ifstream in(fmt::format("{}/events/{}/id", *root, name));
  std::uint64_t id = 0;
  if (!(in >> id)) {
    return util::fail(EX_UNAVAILABLE, fmt::format("kprobe event {} has no id", name));
  }
  perf_event_attr attr{};
  attr.type = PERF_TYPE_TRACEPOINT;
  attr.size = sizeof attr;
  attr.config = id;
  util::UniqueFd fd(static_cast<int>(syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC)));
  if (!fd) {
    return util::fail_errno(EX_UNAVAILABLE, fmt::format("perf event on kprobe {}", spec.symbol));
  }
  return fd;
}

std::uint64_t KprobeEvents::misses() const {
  const auto root = tracefs();
  if (!root || names_.empty()) {
    return 0;
  }
  std::ifstream in(*root + "/kprobe_profile");
  std::unordered_set<std::string> ours;
  for (const std::string& name : names_) {
    ours.insert(name.substr(name.find('/') + 1));
  }
  std::uint64_t total = 0;
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream fields(line);
    std::string name;
    std::uint64_t hits = 0;
    std::uint64_t missed = 0;
    if (fields >> name >> hits >> missed && ours.contains(name)) {
      total += missed;
    }
  }
  return total;
}

void KprobeEvents::clear() {
  for (const std::string& name : names_) {
    (void)write_command("-:" + name);
  }
  names_.clear();
}

KprobeEvents::~KprobeEvents() { clear(); }

void KprobeEvents::remove_stale() {
  const auto root = tracefs();
  if (!root) {
    return;
  }
  std::ifstream in(*root + "/kprobe_events");
  std::vector<std::string> stale;
  std::string line;
  while (std::getline(in, line)) {
    const std::size_t at = line.find("vfsguard_");
    const std::size_t slash = line.find('/', at);
    if (at == std::string::npos || slash == std::string::npos) {
      continue;
    }
    pid_t pid = 0;
    std::from_chars(line.data() + at + 9, line.data() + slash, pid);
    if (pid > 0 && kill(pid, 0) != 0 && errno == ESRCH) {
      stale.push_back(line.substr(at, line.find(' ', at) - at));
    }
  }
  for (const std::string& name : stale) {
    (void)write_command("-:" + name);
  }
}

}  // namespace vfsguard::sensor
