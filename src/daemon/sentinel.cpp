// SPDX-License-Identifier: Apache-2.0
#include "daemon/sentinel.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <iterator>

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

// `as`: "tracer", "by".
void add_tracer(event::Notice& notice, const guard::Tracer& who, std::string_view as = "tracer") {
  const bool tracer = as == "tracer";
  notice.fields.insert(notice.fields.end(), {{tracer ? "tracer_pid" : "by_pid", std::to_string(who.pid)},
                                             {tracer ? "tracer_uid" : "by_uid", std::to_string(who.uid)},
                                             {tracer ? "tracer_comm" : "by_comm", json_string(who.comm)}});
  if (!who.exe.empty()) {
    notice.fields.emplace_back(tracer ? "tracer_exe" : "by_exe", json_string(who.exe));
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
  // Where nobody is to be kept off it still records who opens the agent's maps.
  if (!ptrace_ && no_ptrace_guard_.empty()) {
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
  objects_changed();
  set_due();
}

void Sentinel::objects_changed() {
  if (ptrace_) {
    guard::Facts now;
    add_kernel_facts(now);
    ptrace_->guard_objects(sensor::ids_of(now));
  }
}

void Sentinel::before_change() {
  if (integrity_due_ns_ != 0) {
    check_state(guard::KernelState::Depth::kAll);
  }
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
  integrity_.expect(now, {"policy", "rules", "program", "link", "map"});
  objects_changed();
  unrestored_.clear();
  set_due();
}

int Sentinel::due_in_ms() const {
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  std::uint64_t due = debuggers_due_ns_;
  for (const std::uint64_t other : {integrity_due_ns_, followups_.due_ns()}) {
    due = other == 0 ? due : std::min(due, other);
  }
  return now >= due ? 0 : static_cast<int>((due - now + 999'999) / 1'000'000);
}

void Sentinel::work() {
  if (ptrace_) {
    tell_held_off();
    take_accesses();
  }
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  const bool compares = integrity_due_ns_ != 0;
  if (now >= debuggers_due_ns_) {
    debuggers_due_ns_ = now + kDebuggersEvery;
    look_for_tracers();
    tell_repeated(false);
    if (compares) {
      check_state(guard::KernelState::Depth::kWords);
    }
  }
  if (const std::uint64_t due = followups_.due_ns(); due != 0 && now >= due) {
    if (compares) {
      check_state(guard::KernelState::Depth::kAll);
    }
    forget_strangers();
    followups_.done(now, compares && may_be_written());
  }
  if (integrity_due_ns_ != 0 && now >= integrity_due_ns_) {
    integrity_due_ns_ = now + policy().integrity_seconds * kSecond;
    check();
  }
}

void Sentinel::check() {
  ++checks_;
  last_check_ns_ = util::clock_ns(CLOCK_REALTIME);
  check_state(guard::KernelState::Depth::kAll);
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

void Sentinel::check_state(guard::KernelState::Depth depth) {
  guard::KernelState state;
  sensor_->register_state(state);
  enforce::Enforcer* const enforcer = governor_.enforcer();
  if (enforcer != nullptr) {
    enforcer->register_state(state);
  }
  if (ptrace_) {
    ptrace_->register_state(state);
  }
  const std::vector<guard::Change> changes = state.check(depth);
  if (changes.empty()) {
    return;
  }
  if (enforcer != nullptr) {
    enforcer->state_restored();
  }
  if (ptrace_) {
    take_accesses();  // who wrote while it was being compared
  }
  for (const guard::Change& change : changes) {
    tell_change(change);
  }
}

void Sentinel::tell_change(const guard::Change& change) {
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  if (change.restored) {
    ++restored_;
    unrestored_.erase(change.what);
  } else {
    unrestored_.insert(change.what);
  }
  // What is changed again and again is told once a second, and what cannot be restored once.
  Told& told = changes_told_[change.what];
  if (told.ns != 0 && (now - told.ns < kSecond || (!change.restored && told.found == change.found))) {
    ++told.more;
    return;
  }
  const Stranger* const by = who_changed(change.map);
  event::Notice notice{.operation = "integrity", .severity = "critical"};
  notice.message = fmt::format("{} was changed{}{}", change.what, by != nullptr ? ", most likely by " + name_of(by->who) : "",
                               change.restored ? ", and is restored" : ", and could not be restored: " + change.why);
  notice.fields = {{"success", "false"},
                   {"what", json_string(change.what)},
                   {"expected", json_string(change.expected)},
                   {"found", json_string(change.found)},
                   {"restored", change.restored ? "true" : "false"},
                   {"reaction", fmt::format("\"{}\"", reaction_name(policy().on_difference))}};
  if (told.more > 0) {
    notice.fields.emplace_back("count", std::to_string(told.more + 1));
  }
  if (by != nullptr) {
    add_tracer(notice, by->who, "by");
  }
  told = {change.found, now, 0};
  fmt::print(stderr, "warning: integrity: {}: expected {}, found {}\n", notice.message, change.expected, change.found);
  if (policy().on_difference == policy::Guard::OnDifference::kStop && ends_.empty()) {
    ends_ = "integrity";
  }
  tell_(std::move(notice));
}

// The last one that may have written to it, or opened a program, which can be run: that only where it came clearly later. Else who called bpf(2) at all.
const Sentinel::Stranger* Sentinel::who_changed(const std::string& map) const {
  const Stranger* found = nullptr;
  std::uint64_t best = 0;
  for (const Stranger& one : strangers_) {
    const bool program = std::ranges::any_of(one.objects, [](const std::string& object) { return object.starts_with("program "); });
    const bool wrote = one.writable.contains("map " + map);
    const std::uint64_t score = wrote ? one.seen_ns : program ? one.seen_ns - std::min(one.seen_ns, kSecond) : one.objects.empty() ? 1 : 0;
    if (score > best || (score == 1 && best == 1 && one.seen_ns > found->seen_ns)) {
      found = &one;
      best = score;
    }
  }
  return found;
}

Sentinel::Stranger& Sentinel::stranger(const guard::Tracer& who) {
  constexpr std::size_t kMost = 64;
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  auto known = std::ranges::find_if(strangers_, [&](const Stranger& one) { return one.who.pid == who.pid && one.who.start_ns == who.start_ns; });
  if (known == strangers_.end()) {
    if (strangers_.size() >= kMost) {
      strangers_.erase(std::ranges::min_element(strangers_, {}, &Stranger::seen_ns));
    }
    known = strangers_.insert(strangers_.end(), Stranger{.who = who, .told_ns = now});
  }
  known->seen_ns = now;
  return *known;
}

// Those that still run may have descriptors; others are kept for a while, to be named by what they changed.
void Sentinel::forget_strangers() {
  constexpr std::uint64_t kKeep = 60 * kSecond;
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  std::erase_if(strangers_, [&](const Stranger& one) { return now - one.seen_ns > kKeep && !enrich::is_running(one.who.pid, one.who.start_ns); });
}

bool Sentinel::may_be_written() const {
  return std::ranges::any_of(
      strangers_, [](const Stranger& one) { return (!one.writable.empty() || one.objects.empty()) && enrich::is_running(one.who.pid, one.who.start_ns); });
}

void Sentinel::take_accesses() {
  std::vector<guard::PtraceGuard::Access> taken = ptrace_->take_accesses();
  for (const guard::PtraceGuard::Access& access : taken) {
    ++accesses_;
    guard::Tracer who{.pid = access.raw.pid, .uid = access.raw.uid, .start_ns = access.raw.start_ns, .comm = text_of(access.raw.comm)};
    Stranger& one = stranger(who);
    if (one.who.exe.empty() && enrich::is_running(who.pid, who.start_ns)) {
      one.who.exe = guard::describe(who.pid).exe;
    }
    one.objects.insert(access.object);
    if ((access.raw.fmode & VG_FMODE_WRITE) != 0) {
      one.writable.insert(access.object);
    }
    if (one.told.contains(access.object)) {
      ++one.repeated;
    }
  }
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  for (Stranger& one : strangers_) {
    if (now - one.told_ns >= kRepeatNs) {
      if (one.repeated > 0) {
        tell_({.operation = "bpf_access",
               .severity = "medium",
               .message = fmt::format("{} did the same {} times more", name_of(one.who), one.repeated),
               .fields = {{"count", std::to_string(one.repeated)}, {"by_pid", std::to_string(one.who.pid)}}});
      }
      one.told_ns = now;
      one.repeated = 0;
    }
    if (one.told.size() < one.objects.size()) {
      tell_access(one);
    }
  }
  if (const std::uint64_t unseen = ptrace_->unseen_accesses(); unseen > unseen_accesses_) {
    tell_({.operation = "bpf_access",
           .severity = "medium",
           .message = fmt::format("the agent's maps or programs were opened {} times more than there was room to tell of", unseen - unseen_accesses_),
           .fields = {{"count", std::to_string(unseen - unseen_accesses_)}}});
    unseen_accesses_ = unseen;
  }
  if (!taken.empty()) {
    followups_.begin(now);
  }
}

void Sentinel::tell_access(Stranger& one) {
  std::vector<std::string> news;
  std::ranges::set_difference(one.objects, one.told, std::back_inserter(news));
  const bool writes = std::ranges::any_of(news, [&](const std::string& object) { return one.writable.contains(object); });
  event::Notice notice{.operation = "bpf_access", .severity = writes ? "medium" : "low"};
  notice.message = fmt::format("{} opened {}{}, {}", name_of(one.who), news.front(),
                               news.size() > 1 ? fmt::format(" and {} more of the agent's BPF objects", news.size() - 1) : "",
                               writes ? "and may write to what it opened" : "to read");
  notice.fields = {{"success", "true"}, {"may_write", writes ? "true" : "false"}, {"objects", output::json_list(news)}};
  add_tracer(notice, one.who, "by");
  one.told.insert(news.begin(), news.end());
  tell_(std::move(notice));
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
  auto standing = integrity_.standing();
  standing.insert(standing.end(), unrestored_.begin(), unrestored_.end());
  return standing.empty() ? "" : fmt::format("integrity: {} is not what it was; put it back, or restart the agent", fmt::join(standing, ", "));
}

void Sentinel::look(const event::Operation& operation) {
  const vg_event& e = operation.raw;
  if (e.pid == static_cast<std::uint32_t>(getpid())) {
    return;
  }
  if (e.operation == VG_OP_BPF) {
    look_at_bpf(operation);
  }
  // By LSM everybody is held off, and told of by who did it.
  if (holds_off()) {
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

// Without BPF LSM it is not known whose map was opened, only that one was.
void Sentinel::look_at_bpf(const event::Operation& operation) {
  constexpr std::uint64_t kOpens = 1ull << BPF_MAP_GET_FD_BY_ID | 1ull << BPF_PROG_GET_FD_BY_ID | 1ull << BPF_LINK_GET_FD_BY_ID | 1ull << BPF_OBJ_GET;
  const vg_event& e = operation.raw;
  if (ptrace_ || e.value > BPF_LINK_GET_FD_BY_ID || (kOpens >> e.value & 1) == 0 || !operation.success()) {
    return;
  }
  guard::Tracer who{.pid = e.pid, .uid = e.uid, .start_ns = e.start_ns, .comm = text_of(e.comm)};
  if (operation.process && operation.process->exe) {
    who.exe = *operation.process->exe;
  }
  stranger(who);
  followups_.begin(util::clock_ns(CLOCK_MONOTONIC));
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
  auto standing = integrity_.standing();
  standing.insert(standing.end(), unrestored_.begin(), unrestored_.end());
  return fmt::format(
      R"("guard":{{"forbid_ptrace":"{}","held_by":"{}","attempts":{},"integrity_every":{},"checks":{},"last_check":{}.{:03},"bpf_accesses":{},"restored":{},"differs":{}}},)",
      policy().forbid == policy::Guard::Forbid::kAll     ? "all"
      : policy().forbid == policy::Guard::Forbid::kAgent ? "agent"
                                                         : "off",
      holds_off() ? "lsm" : "none", attempts_, policy().integrity_seconds, checks_, last_check_ns_ / kSecond, last_check_ns_ % kSecond / 1'000'000, accesses_,
      restored_, output::json_list(standing));
}

}  // namespace vfsguard::daemon
