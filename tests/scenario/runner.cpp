// SPDX-License-Identifier: Apache-2.0
// Runs scenario files against the real program on the real kernel: vfsguard trace follows this process, an actor does what the
// scenario says, and the events of the actor (all of them, and nothing else) are compared with what the scenario expects. Run on
// several mechanisms, each scenario's events must also be the same field by field, save in scenarios that say they vary.
//
// With --policy it is vfsguard run by that policy instead, and what is looked at are the events of what was refused: one for each step that
// must fail with EACCES and for each `killed`, or those that the scenario names (tests/scenario/held).
//
//   scenario_runner --vfsguard PROGRAM --noop64 P --noop32 P [--hook NAME]... [--only NAME] [--fs NAME] [--results FILE] [--policy FILE] [--keep] FILE...
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <simdjson.h>

#include "scenario.h"
#include "util/fd.h"

extern char** environ;

namespace vfsguard::scenario {

namespace {

using Fields = std::map<std::string, std::string>;  // every value as text; arrays joined by ','

struct Options {
  std::string program;
  std::string noop64;
  std::string noop32;
  std::vector<std::string> hooks;
  std::vector<std::string> files;
  std::string only;
  std::string fs = "ext4";  // which of the guest's scratch folders
  std::string policy;       // a template: $ROOT is where the scenarios work
  std::string results;      // a line for each event that was expected and came
  bool keep = false;
};

const int kPatienceMs = getenv("VFSGUARD_VM") != nullptr ? 60000 : 15000;

std::string scalar(simdjson::dom::element value) {
  switch (value.type()) {
    case simdjson::dom::element_type::STRING: return std::string(std::string_view(value));
    case simdjson::dom::element_type::ARRAY: {
      std::string joined;
      for (const simdjson::dom::element item : simdjson::dom::array(value)) {
        joined += (joined.empty() ? "" : ",") + scalar(item);
      }
      return joined;
    }
    default: return simdjson::minify(value);
  }
}

Fields parse_event(const std::string& line) {
  static simdjson::dom::parser parser;
  Fields fields;
  simdjson::dom::object object;
  if (parser.parse(line).get(object) != simdjson::SUCCESS) {
    fmt::print(stderr, "not a JSON object: {}\n", line);
    exit(99);
  }
  for (const auto [key, value] : object) {
    fields[std::string(key)] = scalar(value);
  }
  return fields;
}

std::string get(const Fields& fields, const std::string& key) {
  const auto it = fields.find(key);
  return it == fields.end() ? "absent" : it->second;
}

// The program under test, following this process.
class Tracer {
 public:
  Tracer(const Options& options, const std::string& hook, const std::string& root) {
    int out[2];
    int err[2];
    if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) {
      exit(99);
    }
    fcntl(out[1], F_SETPIPE_SZ, 1 << 20);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, err[1], 2);
    const std::string pid = std::to_string(getpid());
    std::vector<std::string> words{options.program, "trace", "--hook", hook, "--pid", pid, "--follow", "--format", "json", "--op", "all"};
    if (!options.policy.empty()) {
      std::ifstream in(options.policy);
      const std::string text((std::istreambuf_iterator<char>(in)), {});
      std::filesystem::create_directories(root);
      const std::string file = root + ".policy.yaml";
      std::ofstream(file) << substitute(text, {{"ROOT", root}});
      words = {options.program, "run", "--hook", hook, "--config", file, "--format", "json", "--control", "off", "--state", "off"};
    }
    std::vector<char*> argv;
    for (std::string& word : words) {
      argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    if (posix_spawn(&pid_, options.program.c_str(), &actions, nullptr, argv.data(), environ) != 0) {
      fmt::print(stderr, "cannot start {}\n", options.program);
      exit(99);
    }
    out_.reset(out[0]);
    err_.reset(err[0]);
    close(out[1]);
    close(err[1]);
    fcntl(out_.get(), F_SETFL, O_NONBLOCK);
    std::string said;
    char c = 0;
    while (read(err_.get(), &c, 1) == 1) {
      said += c;
      if (c == '\n' && said.find("ready ") != std::string::npos) {
        break;
      }
    }
    if (said.find("ready ") == std::string::npos) {
      fmt::print(stderr, "{} --hook {} did not start: {}", options.program, hook, said);
      exit(1);
    }
    if (said.find("hook=" + hook) == std::string::npos) {
      fmt::print(stderr, "asked for {}, got: {}", hook, said);
      exit(1);
    }
  }
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;
  ~Tracer() {
    kill(pid_, SIGCONT);
    stop();
  }

  // Everything up to the event whose path_raw is `marker`.
  std::optional<std::vector<Fields>> until(const std::string& marker) {
    std::vector<Fields> events;
    const auto start = std::chrono::steady_clock::now();
    for (;;) {
      for (std::size_t end = 0; (end = pending_.find('\n')) != std::string::npos;) {
        const std::string line = pending_.substr(0, end);
        pending_.erase(0, end + 1);
        Fields fields = parse_event(line);
        if (get(fields, "event_type") == "agent") {
          continue;  // the tracer's own life
        }
        if (get(fields, "path_raw") == marker) {
          return events;
        }
        events.push_back(std::move(fields));
      }
      if (std::chrono::steady_clock::now() - start > std::chrono::milliseconds(kPatienceMs)) {
        return std::nullopt;
      }
      pollfd ready{out_.get(), POLLIN, 0};
      poll(&ready, 1, 100);
      char chunk[65536];
      const ssize_t n = read(out_.get(), chunk, sizeof chunk);
      if (n > 0) {
        pending_.append(chunk, static_cast<std::size_t>(n));
      } else if (n == 0) {
        return std::nullopt;
      }
    }
  }

  void freeze() { kill(pid_, SIGSTOP); }
  void thaw() { kill(pid_, SIGCONT); }

  // Ends it and returns its summary.
  std::string stop() {
    if (pid_ <= 0) {
      return {};
    }
    kill(pid_, SIGTERM);
    std::string said;
    char chunk[4096];
    ssize_t n = 0;
    fcntl(out_.get(), F_SETFL, 0);
    while ((n = read(out_.get(), chunk, sizeof chunk)) > 0) {
    }
    while ((n = read(err_.get(), chunk, sizeof chunk)) > 0) {
      said.append(chunk, static_cast<std::size_t>(n));
    }
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      said += fmt::format("exit status {}\n", status);
    }
    return said;
  }

 private:
  pid_t pid_ = -1;
  util::UniqueFd out_;
  util::UniqueFd err_;
  std::string pending_;
};

// Where the scenarios work: in a guest on the file system that was asked for.
std::string scratch_root(const std::string& fs) {
  const char* scratch = getenv("VFSGUARD_SCRATCH");
  return scratch != nullptr ? std::string(scratch) + "/" + fs : "/tmp";
}

std::string unmet_need(const std::vector<std::string>& needs, const std::string& fs) {
  for (const std::string& need : needs) {
    if (need == "cgroup2") {
      if (access("/sys/fs/cgroup/cgroup.procs", W_OK) != 0 && access("/sys/fs/cgroup/unified/cgroup.procs", W_OK) != 0) {
        return "no cgroup2 hierarchy to make a group in";
      }
    } else if (need == "time32") {
      long result = 30;  // utime(NULL, NULL)
      asm volatile("int $0x80" : "+a"(result) : "b"(0), "c"(0) : "memory", "r8", "r9", "r10", "r11");
      if (static_cast<int>(result) == -ENOSYS) {
        return "this kernel has no 32-bit times (CONFIG_COMPAT_32BIT_TIME)";
      }
    } else if (need == "xfs") {
      std::ifstream known("/proc/filesystems");
      const std::string text((std::istreambuf_iterator<char>(known)), {});
      if (text.find("\txfs\n") == std::string::npos || access("/dev/loop-control", R_OK) != 0 || access("/sbin/mkfs.xfs", X_OK) != 0) {
        return "no xfs, no loop devices, or no mkfs.xfs here";
      }
    } else if (need == "userfaultfd") {
      if (!util::UniqueFd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC)))) {
        return "no userfaultfd: " + util::errno_text(errno);
      }
    } else if (need == "uring-ftruncate") {
      // IORING_REGISTER_PROBE would say; 6.9 brought it together with what uname tells.
      utsname names{};
      uname(&names);
      int major = 0;
      int minor = 0;
      if (std::sscanf(names.release, "%d.%d", &major, &minor) != 2 || major < 6 || (major == 6 && minor < 9)) {
        return "this kernel's io_uring has no ftruncate";
      }
    } else if (need == "tmpfile") {
      const util::UniqueFd file(open(scratch_root(fs).c_str(), O_TMPFILE | O_WRONLY, 0600));
      if (!file) {
        return "the file system has no O_TMPFILE: " + util::errno_text(errno);
      }
    } else if (need == "handles") {
      struct {
        file_handle head;
        unsigned char bytes[MAX_HANDLE_SZ];
      } handle{};
      handle.head.handle_bytes = MAX_HANDLE_SZ;
      int mount_id = 0;
      if (name_to_handle_at(AT_FDCWD, scratch_root(fs).c_str(), &handle.head, &mount_id, 0) != 0) {
        return "the file system has no file handles: " + util::errno_text(errno);
      }
    } else if (need == "chattr") {
      const util::UniqueFd root(open(scratch_root(fs).c_str(), O_RDONLY | O_CLOEXEC));
      int flags = 0;
      if (ioctl(root.get(), FS_IOC_GETFLAGS, &flags) != 0) {
        return "the file system has no attributes (chattr): " + util::errno_text(errno);
      }
    } else if (need == "xattr") {
      // tmpfs has user attributes since 6.6 only; the scenario folder decides.
      const std::string root = scratch_root(fs);
      if (setxattr(root.c_str(), "user.vfsguard", "1", 1, 0) != 0) {
        return root + " has no user attributes: " + util::errno_text(errno);
      }
      removexattr(root.c_str(), "user.vfsguard");
    } else {
      return "unknown need " + need;
    }
  }
  return {};
}

bool holds(const Condition& c, const Fields& event, const std::map<std::string, std::string>& variables, std::string& why) {
  if (!c.hooks.empty() && std::ranges::find(c.hooks, get(event, "hook")) == c.hooks.end()) {
    return true;
  }
  std::string wanted = substitute(c.value, variables);
  if (c.key == "same") {  // the object is this file, by device and inode
    struct stat status{};
    if (stat(wanted.c_str(), &status) != 0) {
      why = fmt::format("cannot stat {}", wanted);
      return false;
    }
    const std::string dev = fmt::format("{}:{}", major(status.st_dev), minor(status.st_dev));
    if (get(event, "dev") == dev && get(event, "ino") == std::to_string(status.st_ino)) {
      return true;
    }
    why = fmt::format("object is {}/{}, {} is {}/{}", get(event, "dev"), get(event, "ino"), wanted, dev, status.st_ino);
    return false;
  }
  const std::string actual = get(event, c.key);
  bool ok = false;
  if (c.relation == "=") {
    ok = actual == wanted;
  } else if (c.relation == "!=") {
    ok = actual != wanted;
  } else if (c.relation == ">=") {
    ok = actual != "absent" && std::stoll(actual) >= std::stoll(wanted);
  } else if (c.relation == "^=") {
    ok = actual.starts_with(wanted);
  } else if (c.relation == "*=") {
    ok = actual.find(wanted) != std::string::npos;
  }
  if (!ok) {
    why = fmt::format("{} is {}, expected {} {}", c.key, actual, c.relation, wanted);
  }
  return ok;
}

bool matches(const Expectation& e, const Fields& event, const std::map<std::string, std::string>& variables, std::string& why) {
  if (get(event, "event_type") != e.call) {
    why = fmt::format("a {} event, expected {}", get(event, "event_type"), e.call);
    return false;
  }
  return std::ranges::all_of(e.conditions, [&](const Condition& c) { return holds(c, event, variables, why); });
}

// What must be the same whatever the mechanism: everything but what says when, where and by which process.
std::string normalized(const std::vector<Fields>& events) {
  static const std::set<std::string> kVolatile{"seq",        "cpu",        "timestamp", "hook",      "pid",        "tid",        "ppid",
                                               "process_id", "ino",        "mnt_ns",    "first",     "last",       "source_ino", "dst_ino",
                                               "exe_ino",    "generation", "mnt_id",    "ancestors", "target_pid", "child_pid",  "child_process_id"};
  std::vector<std::string> lines;
  for (const Fields& event : events) {
    std::string line;
    const std::string operation = get(event, "operation");
    for (const auto& [key, value] : event) {
      if (!kVolatile.contains(key) && (key != "retval" || (operation != "fork" && operation != "mmap"))) {
        // io_uring's workers have the submitter's pid in their name.
        line += fmt::format("{}={} ", key, key == "comm" && value.starts_with("iou-") ? value.substr(0, 7) : value);
      }
    }
    lines.push_back(line);
  }
  return fmt::format("{}", fmt::join(lines, "\n"));
}

class Runner {
 public:
  explicit Runner(Options options) : options_(std::move(options)) {
    root_ = scratch_root(options_.fs) + "/vfsguard-scenarios";
    if (getenv("VFSGUARD_SCRATCH") == nullptr) {
      root_ += "." + std::to_string(getpid());
    }
  }
  ~Runner() {
    if (!options_.keep) {
      std::error_code ignored;
      std::filesystem::remove_all(root_, ignored);
    }
  }

  int run() {
    std::vector<Scenario> scenarios;
    for (const std::string& file : options_.files) {
      auto some = parse_scenarios(file);
      if (!some) {
        fmt::print(stderr, "{}\n", some.error().message);
        return 2;
      }
      scenarios.insert(scenarios.end(), some->begin(), some->end());
    }
    for (const std::string& hook : options_.hooks) {
      Tracer tracer(options_, hook, root_);
      for (const Scenario& scenario : scenarios) {
        if (options_.only.empty() || scenario.name == options_.only) {
          one(scenario, hook, tracer);
        }
      }
      const std::string summary = tracer.stop();
      fmt::print("{}: {}", hook, summary);
      if (summary.find(" lost=0 ") == std::string::npos || summary.find("exit status") != std::string::npos) {
        fmt::print("FAILED {}: events were lost, or it did not end cleanly\n", hook);
        ++failed_;
      }
    }
    compare(scenarios);
    if (!options_.results.empty()) {
      std::ofstream(options_.results) << results_;
    }
    fmt::print("{} passed, {} failed, {} skipped\n", passed_, failed_, skipped_);
    return failed_ == 0 ? 0 : 1;
  }

 private:
  void one(const Scenario& scenario, const std::string& hook, Tracer& tracer);
  void compare(const std::vector<Scenario>& scenarios);
  void check_refused(const Scenario& scenario, const std::string& hook, const std::vector<Fields>& events, const std::map<std::string, std::string>& variables,
                     const std::function<void(const std::string&)>& fail);

  Options options_;
  std::string root_;
  std::map<std::string, std::map<std::string, std::string>> seen_;  // scenario -> hook -> normalized events
  std::string results_;
  int passed_ = 0;
  int failed_ = 0;
  int skipped_ = 0;
};

void Runner::one(const Scenario& scenario, const std::string& hook, Tracer& tracer) {
  const std::string name = fmt::format("{} [{}]", scenario.name, hook);
  if (const std::string why = unmet_need(scenario.needs, options_.fs); !why.empty()) {
    fmt::print("SKIPPED {}: {}\n", name, why);
    ++skipped_;
    return;
  }
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
  const std::string directory = root_ + "/" + scenario.name;
  std::filesystem::create_directories(directory);
  chmod(root_.c_str(), 0755);
  chmod(directory.c_str(), 0777);
  std::map<std::string, std::string> variables{{"D", directory},
                                               {"NOOP64", options_.noop64},
                                               {"NOOP32", options_.noop32},
                                               {"SELF_UID", std::to_string(getuid())},
                                               {"CGROUP", access("/sys/fs/cgroup/cgroup.procs", W_OK) == 0 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/unified"}};
  prepare(scenario.setup, variables);
  if (scenario.reader_stopped) {
    tracer.freeze();
  }
  int go[2];
  (void)!pipe(go);
  const pid_t actor = fork();
  if (actor == 0) {
    char c = 0;
    close(go[1]);
    (void)!read(go[0], &c, 1);
    close_range(3, ~0u, 0);  // descriptors are counted from 3 in every scenario
    umask(0);
    act(scenario.steps, variables);
    _exit(0);
  }
  // The events from here on are the actor's.
  close(go[0]);
  const std::string begin = root_ + "/.begin";
  (void)open(begin.c_str(), O_RDONLY);
  close(go[1]);
  int status = 0;
  waitpid(actor, &status, 0);
  if (scenario.reader_stopped) {
    tracer.thaw();
  }
  const std::string marker = root_ + "/.end";
  (void)open(marker.c_str(), O_RDONLY);
  auto before = tracer.until(begin);
  auto events = before ? tracer.until(marker) : std::nullopt;
  const auto fail = [&](const std::string& why) {
    fmt::print("FAILED {} ({}:{}): {}\n", name, scenario.file, scenario.line, why);
    if (events) {
      for (const Fields& event : *events) {
        fmt::print("    {}\n", normalized({event}));
      }
    }
    ++failed_;
  };
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    fail(fmt::format("the actor failed (status {})", status));
    return;
  }
  if (!events) {
    fail("no end marker: events are missing");
    return;
  }
  // Only the actor's and its descendants'.
  std::set<std::string> pids{std::to_string(actor)};
  const std::string mine = fmt::format("{{\"pid\":{},", actor);
  std::erase_if(*events, [&](const Fields& event) {
    if (pids.contains(get(event, "pid")) || pids.contains(get(event, "ppid")) || get(event, "ancestors").find(mine) != std::string::npos) {
      pids.insert(get(event, "pid"));
      return false;
    }
    return true;
  });
  if (!options_.policy.empty()) {
    std::erase_if(*events, [](const Fields& event) { return get(event, "enforced") != "true"; });
    check_refused(scenario, hook, *events, variables, fail);
    return;
  }
  const std::vector<std::string> watched = scenario.watch.empty() ? std::vector<std::string>{"open", "create", "exec"} : scenario.watch;
  static const std::set<std::string> kContext{"mmap", "connect", "bind", "ptrace", "bpf", "kill", "setuid", "fork", "exit"};  // only where asked for
  std::erase_if(*events, [&](const Fields& event) {
    const std::string operation = get(event, "operation");
    return watched.front() == "all" ? kContext.contains(operation) : std::ranges::find(watched, operation) == watched.end();
  });
  variables["ACTOR"] = std::to_string(actor);
  variables["RUNNER"] = std::to_string(getpid());

  auto wanted = scenario.for_hook(hook);
  if (wanted.size() != events->size()) {
    fail(fmt::format("{} events, expected {}", events->size(), wanted.size()));
    return;
  }
  std::vector<Fields> rest = *events;
  for (const Expectation* e : wanted) {
    std::string why = "no event left";
    std::size_t i = 0;
    for (; i < rest.size(); ++i) {
      if (matches(*e, rest[i], variables, why) || !scenario.unordered) {
        break;
      }
    }
    std::string ignored_why;
    if (i == rest.size() || !matches(*e, rest[i], variables, ignored_why)) {
      fail(fmt::format("line {}: {}", e->line, why));
      return;
    }
    rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(i));
  }
  if (scenario.alike.empty() ? !scenario.varies : std::ranges::find(scenario.alike, hook) != scenario.alike.end()) {
    if (scenario.unordered) {
      std::ranges::sort(*events, [](const Fields& a, const Fields& b) { return normalized({a}) < normalized({b}); });
    }
    seen_[scenario.name][hook] = normalized(*events);
  }
  ++passed_;
  for (const Fields& event : *events) {
    results_ += fmt::format("{}\t{}\t{}\t{}\t{}\n", hook, get(event, "operation"), get(event, "via"), get(event, "fs_type"),
                            get(event, "success") == "false" ? "refused" : "success");
  }
}

// One event, and no more, for each step that had to be refused, in their order.
void Runner::check_refused(const Scenario& scenario, const std::string& hook, const std::vector<Fields>& events,
                           const std::map<std::string, std::string>& variables, const std::function<void(const std::string&)>& fail) {
  std::vector<Expectation> wanted;
  for (const Expectation* e : scenario.for_hook(hook)) {
    wanted.push_back(*e);
  }
  for (const Line& step : wanted.empty() ? scenario.steps : std::vector<Line>{}) {
    const bool killed = step.words[0] == "killed";
    const auto mark = std::ranges::find(step.words, "!");
    if (killed || (mark != step.words.end() && mark + 1 != step.words.end() && mark[1] == "EACCES")) {
      wanted.push_back({step.number, {}, "", {{"verdict", "=", killed ? "kill" : "deny", {}}, {"mechanism", "=", "lsm", {}}, {"success", "=", "false", {}}}});
    }
  }
  for (std::size_t i = 0; i < std::max(wanted.size(), events.size()); ++i) {
    std::string why = "it was refused, and no event says so";
    if (i == wanted.size()) {
      fail(fmt::format("{} events of refusals, expected {}", events.size(), wanted.size()));
      return;
    }
    Expectation e = wanted[i];
    if (e.call.empty() && i < events.size()) {
      e.call = get(events[i], "event_type");
    }
    if (i == events.size() || !matches(e, events[i], variables, why)) {
      fail(fmt::format("line {}: {}", e.line, why));
      return;
    }
  }
  ++passed_;
}

void Runner::compare(const std::vector<Scenario>& scenarios) {
  for (const Scenario& scenario : scenarios) {
    const auto it = seen_.find(scenario.name);
    if (it == seen_.end() || it->second.size() < 2) {
      continue;
    }
    const auto& [first_hook, first] = *it->second.begin();
    for (const auto& [hook, text] : it->second) {
      if (text != first) {
        fmt::print("FAILED {}: the mechanisms tell different events\n  {}:\n{}\n  {}:\n{}\n", scenario.name, first_hook, first, hook, text);
        ++failed_;
      }
    }
  }
}

}  // namespace

}  // namespace vfsguard::scenario

int main(int argc, char** argv) {
  using vfsguard::scenario::Options;
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto next = [&] { return std::string(i + 1 < argc ? argv[++i] : ""); };
    if (word == "--vfsguard") {
      options.program = next();
    } else if (word == "--noop64") {
      options.noop64 = next();
    } else if (word == "--noop32") {
      options.noop32 = next();
    } else if (word == "--hook") {
      options.hooks.push_back(next());
    } else if (word == "--only") {
      options.only = next();
    } else if (word == "--fs") {
      options.fs = next();
    } else if (word == "--policy") {
      options.policy = next();
    } else if (word == "--results") {
      options.results = next();
    } else if (word == "--keep") {
      options.keep = true;
    } else {
      options.files.push_back(word);
    }
  }
  signal(SIGPIPE, SIG_IGN);
  umask(022);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  return vfsguard::scenario::Runner(options).run();
}
