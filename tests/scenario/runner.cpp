// SPDX-License-Identifier: Apache-2.0
// Runs scenario files against the real program on the real kernel: vfsguard trace follows this process, an actor does what the
// scenario says, and the events of the actor (all of them, and nothing else) are compared with what the scenario expects. Run on
// several mechanisms, each scenario's events must also be the same field by field, save in scenarios that say they vary.
//
//   scenario_runner --vfsguard PROGRAM --noop64 P --noop32 P [--hook NAME]... [--only NAME] [--keep] FILE...
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
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
  Tracer(const Options& options, const std::string& hook) {
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
    std::vector<std::string> words{options.program, "trace", "--hook", hook, "--pid", pid, "--follow", "--format", "json"};
    if (hook != "kprobe") {  // which follows no reads and writes
      words.insert(words.end(), {"--op", "all"});
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

std::string unmet_need(const std::vector<std::string>& needs) {
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
    } else if (need == "uring-ftruncate") {
      // IORING_REGISTER_PROBE would say; 6.9 brought it together with what uname tells.
      utsname names{};
      uname(&names);
      int major = 0;
      int minor = 0;
      if (std::sscanf(names.release, "%d.%d", &major, &minor) != 2 || major < 6 || (major == 6 && minor < 9)) {
        return "this kernel's io_uring has no ftruncate";
      }
    } else if (need == "xattr") {
      // tmpfs has user attributes since 6.6 only; the scenario folder decides.
      const char* scratch = getenv("VFSGUARD_SCRATCH");
      const std::string root = scratch != nullptr ? std::string(scratch) + "/ext4" : "/tmp";
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
  static const std::set<std::string> kVolatile{"seq",        "cpu", "timestamp", "hook",     "pid",   "tid", "ppid",
                                               "process_id", "ino", "mnt_ns",    "comm_tid", "first", "last"};
  std::vector<std::string> lines;
  for (const Fields& event : events) {
    std::string line;
    for (const auto& [key, value] : event) {
      if (!kVolatile.contains(key)) {
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
    const char* scratch = getenv("VFSGUARD_SCRATCH");
    root_ = fmt::format("{}/vfsguard-scenarios", scratch != nullptr ? std::string(scratch) + "/ext4" : "/tmp");
    if (scratch == nullptr) {
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
      Tracer tracer(options_, hook);
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
    fmt::print("{} passed, {} failed, {} skipped\n", passed_, failed_, skipped_);
    return failed_ == 0 ? 0 : 1;
  }

 private:
  void one(const Scenario& scenario, const std::string& hook, Tracer& tracer);
  void compare(const std::vector<Scenario>& scenarios);

  Options options_;
  std::string root_;
  std::map<std::string, std::map<std::string, std::string>> seen_;  // scenario -> hook -> normalized events
  int passed_ = 0;
  int failed_ = 0;
  int skipped_ = 0;
};

void Runner::one(const Scenario& scenario, const std::string& hook, Tracer& tracer) {
  const std::string name = fmt::format("{} [{}]", scenario.name, hook);
  if (const std::string why = unmet_need(scenario.needs); !why.empty()) {
    fmt::print("SKIPPED {}: {}\n", name, why);
    ++skipped_;
    return;
  }
  if (hook == "kprobe" && std::ranges::find(scenario.watch, "read") != scenario.watch.end()) {
    return;  // docs/limitations.md
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
  std::erase_if(*events, [&](const Fields& event) {
    if (pids.contains(get(event, "pid")) || pids.contains(get(event, "ppid"))) {
      pids.insert(get(event, "pid"));
      return false;
    }
    return true;
  });
  const std::vector<std::string> watched = scenario.watch.empty() ? std::vector<std::string>{"open", "create", "exec"} : scenario.watch;
  std::erase_if(*events, [&](const Fields& event) { return watched.front() != "all" && std::ranges::find(watched, get(event, "operation")) == watched.end(); });
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
