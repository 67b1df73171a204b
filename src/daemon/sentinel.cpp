// SPDX-License-Identifier: Apache-2.0
#include "daemon/sentinel.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "enrich/processes.h"
#include "event/names.h"
#include "output/escape.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/memory.h"

namespace vfsguard::daemon {

namespace {

using output::json_string;

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kDebuggersEvery = kSecond;

std::string_view reaction_name(policy::Guard::OnDifference reaction) {
  return reaction == policy::Guard::OnDifference::kStop ? "stop" : reaction == policy::Guard::OnDifference::kRefuseReload ? "refuse_reload" : "report";
}

std::string name_of(const guard::Tracer& who) { return fmt::format("{} (pid {}, uid {})", who.exe.empty() ? who.comm : who.exe, who.pid, who.uid); }

// The kernel's fixed-size names; they end at a NUL or at their end.
template <std::size_t kSize>
std::string text_of(const char (&name)[kSize]) {
  return {name, strnlen(name, kSize)};
}

void add_tracer(event::Notice& notice, const guard::Tracer& who) {
  notice.fields.insert(notice.fields.end(),
                       {{"tracer_pid", std::to_string(who.pid)}, {"tracer_uid", std::to_string(who.uid)}, {"tracer_comm", json_string(who.comm)}});
  if (!who.exe.empty()) {
    notice.fields.emplace_back("tracer_exe", json_string(who.exe));
  }
}

// The pid in "/proc/PID/mem" or "/proc/PID/task/TID/mem".
std::optional<std::uint32_t> memory_of(const std::string& path) {
  constexpr std::string_view kProc = "/proc/";
  if (!path.starts_with(kProc) || !path.ends_with("/mem")) {
    return std::nullopt;
  }
  std::uint32_t pid = 0;
  const auto [end, error] = std::from_chars(path.data() + kProc.size(), path.data() + path.size(), pid);
  const std::string_view rest(end, path.data() + path.size());
  return error == std::errc{} && (rest == "/mem" || rest.starts_with("/task/")) ? std::optional(pid) : std::nullopt;
}

bool is_my_thread(std::uint32_t tid) {
  return tid == static_cast<std::uint32_t>(getpid()) || access(fmt::format("/proc/self/task/{}", tid).c_str(), F_OK) == 0;
}

}  // namespace

util::Result<void> Sentinel::look_around(const policy::Guard& policy) {
  const auto who = guard::tracer();
  if (!who) {
    return {};
  }
  fmt::print(stderr, "warning: this agent is traced from its start, by {}\n", name_of(*who));
  if (policy.on_debugger == policy::Guard::OnDebugger::kEnd) {
    return util::fail(kExitTampered, fmt::format("traced by {}; the policy says 'debugger: end'", name_of(*who)));
  }
  if (policy.on_debugger == policy::Guard::OnDebugger::kKill) {
    if (auto done = enrich::end_process(who->pid, who->start_ns); !done) {
      return util::fail(kExitTampered, fmt::format("traced by {}, who was to be killed: {}", name_of(*who), done.error().message));
    }
  }
  return {};
}

Sentinel::Sentinel(Governor& governor, const std::optional<sensor::Sensor>& sensor, Tell tell) : governor_(governor), sensor_(sensor), tell_(std::move(tell)) {
  struct stat status{};
  my_pid_ns_ = stat("/proc/self/ns/pid", &status) == 0 ? static_cast<std::uint32_t>(status.st_ino) : 0;
  apply_policy();
}

// Loads the guard where it is wanted for the first time.
void Sentinel::apply_policy() {
  const bool wanted = policy().forbid != policy::Guard::Forbid::kOff;
  if (wanted && !ptrace_ && no_ptrace_guard_.empty()) {
    auto guard = guard::PtraceGuard::open(policy());
    if (guard) {
      ptrace_.emplace(std::move(*guard));
    } else {
      no_ptrace_guard_ = guard.error().message;
    }
  } else if (ptrace_) {
    ptrace_->set(policy());
  }
  if (ptrace_) {
    for (const std::string& missing : ptrace_->missing()) {
      fmt::print(stderr, "note: forbid_ptrace: there is no executable {}; nobody is exempt by it until the next reload\n", missing);
    }
  } else if (policy().forbid == policy::Guard::Forbid::kAll) {
    fmt::print(stderr, "warning: forbid_ptrace: all needs BPF LSM, and {}; nobody is kept from tracing, attempts on the agent are told\n", no_ptrace_guard_);
  }
  // Nobody without CAP_SYS_PTRACE gets hold of it, with no LSM too; and no core of it is written.
  prctl(PR_SET_DUMPABLE, wanted ? 0 : 1, 0, 0, 0);
}

void Sentinel::begin() {
  // What looking up a user loads is part of the program from here on.
  std::vector<char> memory(16384);
  passwd entry{};
  passwd* found = nullptr;
  (void)getpwuid_r(static_cast<uid_t>(-2), &entry, memory.data(), memory.size(), &found);

  debuggers_due_ns_ = util::clock_ns(CLOCK_MONOTONIC);
  integrity_.expect(facts());
  set_due();
}

void Sentinel::set_due() { integrity_due_ns_ = policy().integrity_seconds == 0 ? 0 : util::clock_ns(CLOCK_MONOTONIC) + policy().integrity_seconds * kSecond; }

guard::Facts Sentinel::facts() const {
  guard::Facts facts;
  guard::add_executable(facts);
  add_file_facts(facts);
  add_kernel_facts(facts);
  return facts;
}

void Sentinel::add_file_facts(guard::Facts& facts) const {
  guard::add_files(facts, "policy", governor_.policy().files);
  guard::add_files(facts, "policy", {governor_.source().protected_file});
  if (const detect::Detector* detector = governor_.detector().get()) {
    guard::add_files(facts, "rules", detector->files());
  }
}

void Sentinel::add_kernel_facts(guard::Facts& facts) const {
  facts.merge(sensor_->inventory());
  if (const enforce::Enforcer* enforcer = governor_.enforcer()) {
    facts.merge(enforcer->inventory());
  }
  if (ptrace_) {
    facts.merge(ptrace_->inventory());
  }
}

void Sentinel::changed() {
  apply_policy();
  guard::Facts now;
  add_file_facts(now);
  add_kernel_facts(now);
  integrity_.expect(now, {"policy", "rules", "program", "link", "map", "tables"});
  set_due();
}

int Sentinel::due_in_ms() const {
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  const std::uint64_t due = integrity_due_ns_ == 0 ? debuggers_due_ns_ : std::min(debuggers_due_ns_, integrity_due_ns_);
  return now >= due ? 0 : static_cast<int>((due - now + 999'999) / 1'000'000);
}

void Sentinel::work() {
  if (ptrace_) {
    tell_held_off();
  }
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  if (now >= debuggers_due_ns_) {
    debuggers_due_ns_ = now + kDebuggersEvery;
    look_for_tracers();
    tell_repeated(false);
  }
  if (integrity_due_ns_ != 0 && now >= integrity_due_ns_) {
    integrity_due_ns_ = now + policy().integrity_seconds * kSecond;
    check();
  }
}

void Sentinel::check() {
  ++checks_;
  last_check_ns_ = util::clock_ns(CLOCK_REALTIME);
  for (const guard::Difference& difference : integrity_.compare(facts())) {
    tell_difference(difference);
  }
  check_sight();
  if (checks_ == 1 && integrity_.standing().empty() && !blind_) {
    tell_({.operation = "integrity",
           .message = fmt::format("{} things are as they were at the start; looked at every {} s", integrity_.size(), policy().integrity_seconds),
           .fields = {{"success", "true"}, {"checked", std::to_string(integrity_.size())}}});
  }
  util::give_back_memory();
}

// Programs that are attached, and never called (kprobes can be disarmed for all at once, by debugfs), see nothing.
void Sentinel::check_sight() {
  const bool blind = !sensor_->sees();
  if (blind == blind_) {
    return;
  }
  blind_ = blind;
  tell_difference(
      {.what = "sight", .expected = "an open of the agent's own is seen", .found = blind ? "it is not" : "it is", .upgrade = false, .restored = !blind});
}

void Sentinel::tell_difference(const guard::Difference& d) {
  const auto reaction = policy().on_difference;
  event::Notice notice{.operation = "integrity"};
  const bool file = d.what.starts_with("policy ") || d.what.starts_with("rules ");
  if (d.restored) {
    notice.message = fmt::format("{} is as it was", d.what);
  } else if (d.upgrade) {
    notice.severity = "medium";
    notice.message = fmt::format("{} is another file now; what runs is what was started, restart the agent to run that", d.what);
  } else if (file) {
    notice.severity = "high";
    notice.message = fmt::format("{} is not what is in force; a reload would take it{}", d.what,
                                 reaction == policy::Guard::OnDifference::kRefuseReload ? ", and is refused as long as this stands" : "");
  } else {
    notice.severity = "critical";
    notice.message = fmt::format("{} is not what it was", d.what);
  }
  notice.fields = {{"success", d.restored ? "true" : "false"},
                   {"what", json_string(d.what)},
                   {"expected", json_string(d.expected)},
                   {"found", json_string(d.found)},
                   {"reaction", fmt::format("\"{}\"", d.restored || d.upgrade ? "report" : reaction_name(reaction))}};
  if (!d.restored) {
    fmt::print(stderr, "warning: integrity: {}: expected {}, found {}\n", notice.message, d.expected, d.found);
  }
  if (reaction == policy::Guard::OnDifference::kStop && !d.restored && !d.upgrade && ends_.empty()) {
    ends_ = "integrity";
  }
  tell_(std::move(notice));
}

std::string Sentinel::refuses_reload() const {
  if (policy().on_difference != policy::Guard::OnDifference::kRefuseReload) {
    return {};
  }
  const auto standing = integrity_.standing();
  return standing.empty() ? "" : fmt::format("integrity: {} is not what it was; put it back, or restart the agent", fmt::join(standing, ", "));
}

void Sentinel::look(const event::Operation& operation) {
  const vg_event& e = operation.raw;
  // By LSM everybody is held off, and told of by who did it.
  if (ptrace_ || e.pid == static_cast<std::uint32_t>(getpid())) {
    return;
  }
  std::uint32_t target = 0;
  std::string how;
  if (e.operation == VG_OP_PTRACE && !(e.call == VG_CALL_PTRACE && e.value == 0 /* PTRACE_TRACEME */)) {
    target = static_cast<std::uint32_t>(e.value2);
    how = e.call == VG_CALL_PTRACE ? event::ptrace_name(e.value) : std::string(event::call_name(e.call));
  } else if (e.operation == VG_OP_OPEN && operation.path) {
    target = memory_of(*operation.path).value_or(0);
    how = "open of /proc/PID/mem";
  }
  // Numbers of other pid namespaces say nothing here.
  if (target == 0 || (e.pid_ns != 0 && my_pid_ns_ != 0 && e.pid_ns != my_pid_ns_) || !is_my_thread(target)) {
    return;
  }
  guard::Tracer who{.pid = e.pid, .uid = e.uid, .start_ns = e.start_ns, .comm = text_of(e.comm)};
  if (operation.process && operation.process->exe) {
    who.exe = *operation.process->exe;
  }
  found(who, how, fmt::format("{} got hold of the agent by {}{}", name_of(who), how, operation.success() ? "" : ", and was refused"),
        {{"success", operation.success() ? "true" : "false"}});
}

void Sentinel::look_for_tracers() {
  const auto who = guard::tracer();
  const std::uint32_t pid = who ? who->pid : 0;
  if (pid != 0 && pid != traced_by_) {
    found(*who, "TracerPid", fmt::format("{} traces the agent", name_of(*who)), {{"success", "true"}});
  }
  traced_by_ = pid;
}

void Sentinel::tell_held_off() {
  for (const vg_held_off& held : ptrace_->take()) {
    guard::Tracer who = guard::describe(held.pid);
    if (!enrich::is_running(held.pid, held.start_ns)) {
      who.exe.clear();  // it has ended, and its number may be another's
    }
    who.uid = held.uid;
    who.start_ns = held.start_ns;
    who.comm = text_of(held.comm);
    ++attempts_;
    if (!is_news(who, fmt::format("of {}", held.target_pid))) {
      continue;
    }
    const bool agent = held.target_pid == static_cast<std::uint32_t>(getpid());
    const std::string target = agent ? "the agent" : fmt::format("{} (pid {})", text_of(held.target_comm), held.target_pid);
    event::Notice notice{.operation = "debugger",
                         .severity = agent ? "high" : "medium",
                         .message = fmt::format("{} was kept from {}", name_of(who), target),
                         .fields = {{"success", "false"},
                                    {"enforced", "true"},
                                    {"mechanism", "\"lsm\""},
                                    {"how", held.mode == 0 ? "\"ptrace_traceme\"" : "\"ptrace_access_check\""},
                                    {"target_pid", std::to_string(held.target_pid)}}};
    add_tracer(notice, who);
    tell_(std::move(notice));
    if (agent) {
      react(who);
    }
  }
  if (const std::uint64_t untold = ptrace_->untold(); untold > untold_) {
    tell_({.operation = "debugger",
           .severity = "medium",
           .message = fmt::format("{} more attempts were refused than there was room to tell of", untold - untold_),
           .fields = {{"success", "false"}, {"enforced", "true"}, {"count", std::to_string(untold - untold_)}}});
    untold_ = untold;
  }
}

void Sentinel::found(const guard::Tracer& who, std::string_view how, std::string message, std::vector<std::pair<std::string_view, std::string>> more) {
  ++attempts_;
  if (!is_news(who, how)) {
    return;
  }
  event::Notice notice{.operation = "debugger", .severity = "high", .message = std::move(message), .fields = std::move(more)};
  notice.fields.insert(notice.fields.end(), {{"enforced", "false"}, {"how", json_string(how)}});
  add_tracer(notice, who);
  fmt::print(stderr, "warning: {}\n", notice.message);
  tell_(std::move(notice));
  react(who);
}

// The same by the same process once in kRepeatNs, the others counted: what reads this agent's memory all the time would else be told of all the time, and
// the telling of it too.
bool Sentinel::is_news(const guard::Tracer& who, std::string_view how) {
  constexpr std::size_t kMost = 256;
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  const auto [it, added] = repeated_.try_emplace(fmt::format("{}.{} {}", who.pid, who.start_ns, how), Repeated{now, 0, name_of(who)});
  if (!added) {
    ++it->second.held_back;
    return false;
  }
  if (repeated_.size() > kMost) {
    tell_repeated(true);
  }
  return true;
}

void Sentinel::tell_repeated(bool all) {
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  std::erase_if(repeated_, [&](const auto& entry) {
    const Repeated& repeated = entry.second;
    if (!all && now - repeated.told_ns < kRepeatNs) {
      return false;
    }
    if (repeated.held_back > 0) {
      tell_({.operation = "debugger",
             .severity = "medium",
             .message = fmt::format("{} did the same {} times more", repeated.who, repeated.held_back),
             .fields = {{"how", json_string(std::string_view(entry.first).substr(entry.first.find(' ') + 1))}, {"count", std::to_string(repeated.held_back)}}});
    }
    return true;
  });
}

void Sentinel::react(const guard::Tracer& who) {
  switch (policy().on_debugger) {
    case policy::Guard::OnDebugger::kReport: return;
    case policy::Guard::OnDebugger::kEnd:
      if (ends_.empty()) {
        ends_ = "debugger";
      }
      return;
    case policy::Guard::OnDebugger::kKill: {
      const auto done = enrich::end_process(who.pid, who.start_ns);
      tell_({.operation = "debugger",
             .severity = "high",
             .message = done ? fmt::format("{} was killed", name_of(who)) : fmt::format("{} was to be killed: {}", name_of(who), done.error().message),
             .fields = {{"success", done ? "true" : "false"}, {"how", "\"kill\""}, {"tracer_pid", std::to_string(who.pid)}}});
      return;
    }
  }
}

std::string Sentinel::status() const {
  const auto standing = integrity_.standing();
  return fmt::format(R"("guard":{{"forbid_ptrace":"{}","held_by":"{}","attempts":{},"integrity_every":{},"checks":{},"last_check":{}.{:03},"differs":{}}},)",
                     policy().forbid == policy::Guard::Forbid::kAll     ? "all"
                     : policy().forbid == policy::Guard::Forbid::kAgent ? "agent"
                                                                        : "off",
                     ptrace_ ? "lsm" : "none", attempts_, policy().integrity_seconds, checks_, last_check_ns_ / kSecond, last_check_ns_ % kSecond / 1'000'000,
                     output::json_list(standing));
}

}  // namespace vfsguard::daemon
