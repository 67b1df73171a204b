// SPDX-License-Identifier: Apache-2.0
#include "enforce/fanotify.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>

#include <fmt/format.h>

#include "enforce.skel.h"
#include "enforce_probe.skel.h"
#include "enforce/hooks.h"
#include "enforce/link_scan.h"
#include "enrich/caller.h"
#include "policy/trial.h"
#include "util/mountinfo.h"

namespace vfsguard::enforce {

namespace {

constexpr std::uint64_t kStopped = bit(VG_OP_OPEN) | bit(VG_OP_EXEC) | bit(VG_OP_READ);
constexpr std::uint64_t kEvents = FAN_OPEN_PERM | FAN_ACCESS_PERM | FAN_OPEN_EXEC_PERM | FAN_ONDIR;

// A file that has several names, one of which is protected.
struct Object {
  std::uint64_t dev = 0;
  std::uint64_t ino = 0;
  auto operator<=>(const Object&) const = default;
};

}  // namespace

struct FanotifyEnforcer::Version {
  std::uint32_t number = 0;
  policy::Policy policy;
  policy::Compiled compiled;
  std::map<Object, std::string> linked;  // to the protected name
  std::vector<std::atomic<std::uint64_t>> stopped;
  std::vector<std::atomic<std::uint64_t>> kill_failed;
};

struct FanotifyEnforcer::Asked {
  int fd = -1;
  pid_t tid = 0;
  std::uint64_t operations = 0;
};

struct FanotifyEnforcer::Answer {
  bool allow = false;
  std::shared_ptr<Version> version;
  std::uint32_t rule = 0;
  pid_t kill = 0;  // 0: nobody
};

std::string FanotifyEnforcer::weakness() const {
  return "fanotify asks this process: opens, executions and reads only, refused with EPERM; while it is stopped they wait, and when it ends they are allowed";
}

std::uint64_t FanotifyEnforcer::missing() const { return kAll & ~kStopped; }

util::Result<std::unique_ptr<Enforcer>> FanotifyEnforcer::open(const policy::Policy& policy, const policy::Compiled& compiled, const Heritage* before) {
  auto enforcer = std::unique_ptr<FanotifyEnforcer>(new FanotifyEnforcer());
  FanotifyEnforcer& e = *enforcer;
  e.version_ = before != nullptr ? before->version + 1 : VG_FIRST_VERSION;
  if (auto ok = e.take(policy, compiled); !ok) {
    return util::pass_on(ok.error());
  }
  e.group_.reset(fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS | FAN_REPORT_TID,
                               O_RDONLY | O_LARGEFILE | O_CLOEXEC | O_NONBLOCK));
  if (!e.group_) {
    return util::fail_errno(errno == EPERM ? EX_NOPERM : EX_UNAVAILABLE, "fanotify, which --enforce fanotify needs (CONFIG_FANOTIFY_ACCESS_PERMISSIONS=y)");
  }
  e.stop_.reset(eventfd(0, EFD_CLOEXEC));
  e.mountinfo_.reset(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  // The maps by which refusals reach the programs that write events.
  const sensor::Skeleton<enforce_bpf> skeleton(VFSGUARD_OPEN_VARIANT(enforce, false), enforce_bpf__destroy);
  if (!skeleton) {
    return util::fail_errno(EX_SOFTWARE, "cannot open the BPF object of enforcement");
  }
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton->obj) { bpf_program__set_autoload(program, program == skeleton->progs.look); }
  for (bpf_map* unused :
       {skeleton->maps.tables, skeleton->maps.decisions, skeleton->maps.unprotected_cache, skeleton->maps.protected_inodes, skeleton->maps.mount_points,
        skeleton->maps.host_views, skeleton->maps.candidates, skeleton->maps.ancestries, skeleton->maps.rule_counts, skeleton->maps.names}) {
    bpf_map__set_autocreate(unused, false);
  }
  if (before != nullptr && before->refusals >= 0) {
    bpf_map__reuse_fd(skeleton->maps.refusals, before->refusals);
    bpf_map__reuse_fd(skeleton->maps.worker_refusals, before->worker_refusals);
  }
  if (const int code = enforce_bpf__load(skeleton.get()); code != 0) {
    return util::fail(EX_UNAVAILABLE, fmt::format("cannot make the maps in which refusals are noted: {}", util::errno_text(-code)));
  }
  auto loaded = sensor::Loaded::of(skeleton->obj);
  if (!loaded) {
    return util::pass_on(loaded.error());
  }
  e.object_ = std::move(*loaded);
  return enforcer;
}

FanotifyEnforcer::~FanotifyEnforcer() { cease(); }

void FanotifyEnforcer::cease() {
  if (thread_.joinable()) {
    (void)eventfd_write(stop_.get(), 1);
    thread_.join();
  }
  group_.reset();
}

// Compiles nothing: the tables of the offline tools decide.
util::Result<void> FanotifyEnforcer::take(const policy::Policy& policy, const policy::Compiled& compiled) {
  if (auto ok = check(policy); !ok) {
    return ok;
  }
  auto version = std::make_shared<Version>();
  version->number = version_;
  version->policy = policy;
  version->compiled = compiled;
  version->stopped = std::vector<std::atomic<std::uint64_t>>(policy.rules.size());
  version->kill_failed = std::vector<std::atomic<std::uint64_t>>(policy.rules.size());
  const policy::Automaton& automaton = compiled.automaton;
  LinkedFiles linked;
  const auto collect = [&](const Found& found) {
    if (automaton.match(automaton.head.path_start, found.path) != 0) {
      version->linked.emplace(Object{found.dev, found.ino}, found.path);
      linked.add(found);
    }
  };
  add_notes(linked, scan(scan_starts(policy, {}), collect, {.deadline = scan_deadline(!thread_.joinable())}), notes_);
  std::vector<std::uint32_t> untried;
  states_.assign(policy.rules.size(), {});
  for (const policy::Trial& trial : policy::make_trials(policy, compiled, kStopped, untried)) {
    const bool decides = trial.decides == trial.rule;
    states_[trial.rule] = decides ? state_of(policy.rules[trial.rule]) : RuleState{RuleState::Kind::kCovered, "a rule before it decides what was tried"};
  }
  for (const std::uint32_t rule : untried) {
    const bool any = (policy.rules[rule].operations & kStopped) != 0;
    states_[rule] = any ? RuleState{RuleState::Kind::kUntried, kNothingToTry}
                        : RuleState{RuleState::Kind::kDegraded, "only recorded: fanotify stops opens, executions and reads"};
  }
  const std::scoped_lock lock(mutex_);
  now_ = std::move(version);
  return {};
}

std::shared_ptr<FanotifyEnforcer::Version> FanotifyEnforcer::current() const {
  const std::scoped_lock lock(mutex_);
  return now_;
}

// Each file system that a protected path can lie on, whole: whatever the mount or the name by which it is reached.
void FanotifyEnforcer::mark_file_systems() {
  const auto version = current();
  std::set<std::string> fixed;
  for (const policy::Rule& rule : version->policy.rules) {
    if (rule.decides() && rule.enforce && (rule.operations & kStopped) != 0) {
      for (const policy::Glob& glob : rule.paths) {
        fixed.insert(fixed_part(glob.text));
      }
    }
  }
  const std::vector<util::Mount> mounts = util::read_mountinfo(mountinfo_.get());
  std::set<std::string> wanted;
  for (const std::string& path : fixed) {
    const util::Mount* over = nullptr;  // the mount that it lies on; of those at one place the last
    for (const util::Mount& mount : mounts) {
      if (util::is_below(mount.point, path)) {
        wanted.insert(mount.point);
      }
      if (util::is_below(path, mount.point) && (over == nullptr || mount.point.size() >= over->point.size())) {
        over = &mount;
      }
    }
    if (over != nullptr) {
      wanted.insert(over->point);
    }
  }
  for (const std::string& point : wanted) {
    // Refused for pseudo file systems (procfs), on which nothing can be asked.
    if (fanotify_mark(group_.get(), FAN_MARK_ADD | FAN_MARK_FILESYSTEM, kEvents, AT_FDCWD, point.c_str()) == 0) {
      marked_.insert(point);
    }
  }
  for (auto it = marked_.begin(); it != marked_.end();) {
    // Of what is mounted twice one place may still be wanted: a mark taken away there is set again below.
    it = wanted.contains(*it) || fanotify_mark(group_.get(), FAN_MARK_REMOVE | FAN_MARK_FILESYSTEM, kEvents, AT_FDCWD, it->c_str()) != 0 ? std::next(it)
                                                                                                                                         : marked_.erase(it);
  }
  for (const std::string& point : marked_) {
    (void)fanotify_mark(group_.get(), FAN_MARK_ADD | FAN_MARK_FILESYSTEM, kEvents, AT_FDCWD, point.c_str());
  }
}

util::Result<void> FanotifyEnforcer::attach(const policy::Policy& /*policy*/, const policy::Enforcement& /*tables*/) {
  thread_ = std::thread([this] { answer_all(); });
  mark_file_systems();
  for (const std::string& point : marked_) {
    const std::uint64_t before = canaries_.load();
    const util::UniqueFd canary(::open(point.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (canary && canaries_.load() == before) {
      return util::fail(EX_UNAVAILABLE, fmt::format("fanotify takes a mark on '{}', and asks nothing (CONFIG_FANOTIFY_ACCESS_PERMISSIONS)", point));
    }
  }
  if (marked_.empty()) {
    return util::fail(EX_UNAVAILABLE, "fanotify takes a mark on none of the file systems that the protected paths lie on");
  }
  return {};
}

sensor::Inventory FanotifyEnforcer::inventory() const {
  sensor::Inventory inventory;
  sensor::add_object(inventory, "enforce", object_);
  return inventory;
}

util::Result<void> FanotifyEnforcer::replace(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& /*tables*/) {
  auto notes = notes_;
  auto states = states_;
  const auto last = current();
  ++version_;
  if (auto ok = take(policy, compiled); !ok) {
    --version_;
    notes_ = std::move(notes);
    states_ = std::move(states);
    return ok;
  }
  for (std::size_t r = 0; r < last->policy.rules.size(); ++r) {
    if (last->stopped[r] > 0) {
      before_.add(last->policy.rules[r].name, {.stopped = last->stopped[r], .kill_failed = last->kill_failed[r]});
    }
  }
  mark_file_systems();
  return {};
}

Heritage FanotifyEnforcer::heritage() const {
  Heritage heritage;
  heritage.mechanism = mechanism_;
  heritage.version = version_;
  heritage.refusals = refusals();
  heritage.worker_refusals = worker_refusals();
  return heritage;
}

util::Result<void> FanotifyEnforcer::pin(const std::string& /*directory*/, const policy::Policy& /*policy*/, const policy::Enforcement& /*tables*/) {
  return util::fail(EX_UNAVAILABLE, "fanotify ends with its process");
}

int FanotifyEnforcer::refusals() const { return object_.map_fd("refusals"); }

int FanotifyEnforcer::worker_refusals() const { return object_.map_fd("worker_refusals"); }

Counts FanotifyEnforcer::counts() const {
  Counts counts = before_;
  const auto version = current();
  for (std::size_t r = 0; r < version->policy.rules.size(); ++r) {
    if (version->stopped[r] > 0) {
      counts.add(version->policy.rules[r].name, {.stopped = version->stopped[r], .kill_failed = version->kill_failed[r]});
    }
  }
  counts.total.asked += asked_;
  counts.total.unknown += unreadable_;
  return counts;
}

void FanotifyEnforcer::answer_all() {
  std::array<pollfd, 2> fds{{{group_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
  alignas(fanotify_event_metadata) std::array<char, 16384> buffer;
  while (poll(fds.data(), fds.size(), -1) >= 0 || errno == EINTR) {
    if ((fds[1].revents & POLLIN) != 0) {
      return;
    }
    ssize_t n = read(group_.get(), buffer.data(), buffer.size());
    const auto* event = reinterpret_cast<const fanotify_event_metadata*>(buffer.data());
    for (; FAN_EVENT_OK(event, n); event = FAN_EVENT_NEXT(event, n)) {
      const util::UniqueFd fd(event->fd);
      if (!fd) {
        continue;  // the kernel could not open it for us, and has refused it itself
      }
      const bool opens = (event->mask & (FAN_OPEN_PERM | FAN_OPEN_EXEC_PERM)) != 0;
      // An execution asks twice: as such, and as an open.
      const std::uint64_t operations = (event->mask & FAN_OPEN_EXEC_PERM) != 0 ? bit(VG_OP_EXEC) : opens ? bit(VG_OP_OPEN) : bit(VG_OP_READ) | bit(VG_OP_OPEN);
      Answer answer{.allow = true};
      if (syscall(SYS_tgkill, getpid(), event->pid, 0) == 0) {
        ++canaries_;  // one of our own threads
      } else {
        answer = decide({event->fd, event->pid, operations});
      }
      // First the signal: an answer would let it go on for a moment. A signal that kills ends the wait for the answer, with ERESTARTSYS.
      if (answer.kill > 0 && kill(answer.kill, answer.version->policy.rules[answer.rule].signal) != 0) {
        ++answer.version->kill_failed[answer.rule];
      }
      const fanotify_response response{event->fd, static_cast<__u32>(answer.allow ? FAN_ALLOW : FAN_DENY)};
      (void)!write(group_.get(), &response, sizeof response);
    }
  }
}

// Every name that the object is known by: as the caller reached it, as this process's mounts have it, and a protected one of those it has.
std::vector<std::string> FanotifyEnforcer::names_of(const Asked& asked, const Version& version) {
  std::array<char, PATH_MAX> text;
  const ssize_t n = readlink(fmt::format("/proc/self/fd/{}", asked.fd).c_str(), text.data(), text.size());
  struct statx status{};
  if (n <= 0 || static_cast<std::size_t>(n) == text.size() ||
      statx(asked.fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_NLINK | STATX_INO | STATX_MNT_ID, &status) != 0) {
    return {};
  }
  std::string path(text.data(), static_cast<std::size_t>(n));
  constexpr std::string_view kDeleted = " (deleted)";
  if (status.stx_nlink == 0 && path.ends_with(kDeleted)) {
    path.resize(path.size() - kDeleted.size());
  }
  std::vector<std::string> names{path};
  const auto id = static_cast<std::uint32_t>(status.stx_mnt_id);
  auto mount = mounts_.by_id(id);
  if (!mount) {
    const util::UniqueFd theirs(::open(fmt::format("/proc/{}/mountinfo", asked.tid).c_str(), O_RDONLY | O_CLOEXEC));
    for (util::Mount& one : theirs ? util::read_mountinfo(theirs.get()) : std::vector<util::Mount>{}) {
      if (one.id == id) {
        mount = std::move(one);
      }
    }
  }
  if (mount && util::is_below(path, mount->point)) {
    const std::string rest = path == mount->point ? std::string() : path.substr(mount->point == "/" ? 0 : mount->point.size());
    auto ours = mounts_.host_path(mount->dev, mount->root == "/" ? (rest.empty() ? "/" : rest) : mount->root + rest);
    if (ours && *ours != path) {
      names.push_back(std::move(*ours));
    }
  }
  if (status.stx_nlink > 1) {
    if (const auto linked = version.linked.find({makedev(status.stx_dev_major, status.stx_dev_minor), status.stx_ino}); linked != version.linked.end()) {
      names.push_back(linked->second);
    }
  }
  return names;
}

// Whether the kernel is to go on.
FanotifyEnforcer::Answer FanotifyEnforcer::decide(const Asked& asked) {
  ++asked_;
  const auto version = current();
  std::vector<std::string> names = names_of(asked, *version);
  // What has no path that could be read is what every rule is about.
  const bool unreadable = names.empty();
  const policy::Automaton& automaton = version->compiled.automaton;
  std::erase_if(names, [&](const std::string& name) { return automaton.match(automaton.head.path_start, name) == 0; });
  if (names.empty() && !unreadable) {
    return {.allow = true};
  }
  event::Operation operation;
  const pid_t caller = enrich::describe_caller(asked.tid, operation);
  const policy::Rule* first = nullptr;
  const auto consider = [&](const policy::Rule& rule) {
    for (const unsigned of : {VG_OP_OPEN, VG_OP_EXEC, VG_OP_READ}) {
      operation.raw.operation = static_cast<vg_u8>(of);
      const bool about = (asked.operations & rule.operations & bit(of)) != 0 && rule.decides();
      // Of somebody who is gone, or cannot be looked at, every condition holds that would stop it.
      if (about && (first == nullptr || &rule < first) && (caller == 0 || rule.asks_for(operation))) {
        first = &rule;
      }
    }
  };
  std::vector<std::uint32_t> both;
  for (const std::string& name : names) {
    operation.path = name;
    policy::match_paths(version->compiled, operation);
    for (const std::uint32_t index : policy::rules_at(version->compiled, operation, both)) {
      consider(version->policy.rules[index]);
    }
  }
  if (unreadable) {
    ++unreadable_;
    std::ranges::for_each(version->policy.rules, consider);
  }
  if (first == nullptr || !first->enforce) {
    return {.allow = true};
  }
  const auto place = static_cast<std::uint32_t>(first - version->policy.rules.data());
  ++version->stopped[place];
  note(asked, place, *version);
  return {.allow = false, .version = version, .rule = place, .kill = first->action == policy::Action::kKill ? caller : 0};
}

// For the program that writes the event of this call: kept with the thread, as the programs that enforce do it.
void FanotifyEnforcer::note(const Asked& asked, std::uint32_t rule, const Version& version) const {
  vg_look look{};
  look.fd = asked.fd;
  (void)object_.run("look", look);
  vg_refusal decision{};
  decision.inode = look.inode;
  decision.rule = rule;
  decision.version = static_cast<vg_u16>(version.number);
  decision.verdict = version.policy.rules[rule].action == policy::Action::kKill ? VG_VERDICT_KILL : VG_VERDICT_DENY;
  decision.mechanism = VG_MECHANISM_FANOTIFY;
  decision.code = EPERM;
  // A thread that does not lead its process has such a descriptor since 6.9 (PIDFD_THREAD).
  util::UniqueFd thread(static_cast<int>(syscall(SYS_pidfd_open, asked.tid, O_EXCL)));
  if (!thread) {
    thread.reset(static_cast<int>(syscall(SYS_pidfd_open, asked.tid, 0)));
  }
  const int fd = thread.get();
  (void)bpf_map_update_elem(refusals(), &fd, &decision, BPF_ANY);
}

}  // namespace vfsguard::enforce
