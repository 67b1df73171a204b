// SPDX-License-Identifier: Apache-2.0
#include "probe/trials.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/fanotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <memory>
#include <sstream>

#include <fmt/format.h>

#include "event/names.h"
#include "probe.skel.h"
#include "sensor/kprobe_events.h"
#include "sensor/sensor.h"
#include "util/fd.h"

namespace vfsguard::probe {

namespace {

std::string read_text(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  std::string all = text.str();
  while (!all.empty() && all.back() == '\n') {
    all.pop_back();
  }
  return all;
}

std::string& log_text() {
  static std::string text;
  return text;
}

int keep_log(libbpf_print_level level, const char* format, va_list arguments) {
  if (level == LIBBPF_WARN) {
    char line[8192];
    vsnprintf(line, sizeof line, format, arguments);
    log_text() += line;
  }
  return 0;
}

// The verifier's verdict, if there is one, else the errno.
std::string kernel_words(int code) {
  const std::string log = std::exchange(log_text(), {});
  std::istringstream lines(log);
  std::string line;
  std::string verdict;
  while (std::getline(lines, line)) {
    for (const char* known : {"unknown func", "program of this type cannot use helper", "cannot use helper", "is not supported", "not found in kernel BTF",
                              "not in BTF", "not allowed"}) {
      if (line.find(known) != std::string::npos) {
        verdict = line;
      }
    }
  }
  std::string text = fmt::format("{} ({})", event::error_name(code), util::errno_text(code));
  if (!verdict.empty()) {
    text += ": " + verdict;
  }
  return text;
}

// A directory of our own with one file in it, gone at the end.
class Workshop {
 public:
  Workshop() {
    char name[] = "/tmp/vfsguard-doctor.XXXXXX";
    if (mkdtemp(name) != nullptr) {
      directory_ = name;
      const util::UniqueFd fd(open(file().c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    }
  }
  Workshop(const Workshop&) = delete;
  Workshop& operator=(const Workshop&) = delete;
  ~Workshop() {
    if (!directory_.empty()) {
      unlink(file().c_str());
      rmdir(directory_.c_str());
    }
  }
  [[nodiscard]] std::string file() const { return directory_ + "/canary"; }
  [[nodiscard]] const std::string& directory() const { return directory_; }

 private:
  std::string directory_;
};

// Runs `body` in a child and returns its wait status; -1 after three seconds (the child is killed then).
int in_child(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    _exit(body());
  }
  if (child < 0) {
    return -1;
  }
  for (int i = 0; i < 3000; ++i) {
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child) {
      return status;
    }
    usleep(1000);
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return -1;
}

constexpr int kOpened = 0;

// Opens the canary by the plain system call, so that a probe on it sees it; returns kOpened or the errno.
int open_canary(const std::string& path) {
  const long fd = syscall(SYS_openat, AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC, 0);
  return fd >= 0 ? kOpened : errno;
}

struct SkeletonDeleter {
  void operator()(probe_bpf* skeleton) const { probe_bpf__destroy(skeleton); }
};
using Skeleton = std::unique_ptr<probe_bpf, SkeletonDeleter>;
using Pick = bpf_program* (*)(const probe_bpf&);

// A trial with one program of bpf/probe.bpf.c.
class Trial {
 public:
  explicit Trial(std::initializer_list<Pick> picks) {
    log_text().clear();
    skeleton_.reset(probe_bpf__open());
    if (!skeleton_) {
      failure_ = "cannot open the BPF object: " + kernel_words(errno);
      return;
    }
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, skeleton_->obj) { bpf_program__set_autoload(program, false); }
    bpf_program__set_autoload(skeleton_->progs.who_am_i, true);
    for (const Pick pick : picks) {
      programs_.push_back(pick(*skeleton_));
      bpf_program__set_autoload(programs_.back(), true);
    }
    if (const int code = probe_bpf__load(skeleton_.get()); code != 0) {
      failure_ = "refused at load: " + kernel_words(-code);
      load_errno_ = -code;
      return;
    }
    loaded_ = true;
  }

  bool attach() {
    for (bpf_program* program : programs_) {
      bpf_link* link = bpf_program__attach(program);
      if (link == nullptr) {
        const int code = errno;
        failure_ = "refused at attach: " + kernel_words(code);
        return false;
      }
      links_.emplace_back(link, bpf_link__destroy);
    }
    return true;
  }

  // Attaches by tracefs, as the sensor does.
  bool attach_kprobe(const char* symbol, bool returns) {
    auto perf = kprobes_.add({symbol, returns, 0});
    if (!perf) {
      failure_ = perf.error().message;
      return false;
    }
    const int fd = fcntl(perf->get(), F_DUPFD_CLOEXEC, 0);
    bpf_link* link = bpf_program__attach_perf_event(programs_.front(), fd);
    if (link == nullptr) {
      failure_ = "refused at attach: " + kernel_words(errno);
      close(fd);
      return false;
    }
    links_.emplace_back(link, bpf_link__destroy);
    return true;
  }

  // In a child: becomes the canary, then does `body`. Returns the wait status.
  int with_canary(const std::function<int()>& body) {
    skeleton_->bss->hits = 0;
    const int status = in_child([&] {
      LIBBPF_OPTS(bpf_test_run_opts, run);
      if (bpf_prog_test_run_opts(bpf_program__fd(skeleton_->progs.who_am_i), &run) != 0) {
        return 255;
      }
      skeleton_->bss->canary = skeleton_->bss->self;
      return body();
    });
    skeleton_->bss->canary = 0;
    return status;
  }

  [[nodiscard]] bool loaded() const { return loaded_; }
  [[nodiscard]] int load_errno() const { return load_errno_; }
  [[nodiscard]] const std::string& failure() const { return failure_; }
  probe_bpf& skeleton() { return *skeleton_; }

 private:
  Skeleton skeleton_;
  std::vector<bpf_program*> programs_;
  sensor::KprobeEvents kprobes_;
  std::vector<std::unique_ptr<bpf_link, int (*)(bpf_link*)>> links_;
  bool loaded_ = false;
  int load_errno_ = 0;
  std::string failure_;
};

#define PICK(name) [](const probe_bpf& s) { return s.progs.name; }

std::string lsm_list() { return read_text("/sys/kernel/security/lsm"); }

// Where this host's boot loader takes its kernel command line from.
std::string boot_line(const std::string& addition) {
  if (access("/etc/default/grub", F_OK) == 0) {
    return fmt::format("add {} to GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub, reboot", addition);
  }
  if (access("/etc/kernel/cmdline", F_OK) == 0) {
    return fmt::format("add {} to /etc/kernel/cmdline, run kernel-install or bootctl, reboot", addition);
  }
  if (access("/boot/extlinux/extlinux.conf", F_OK) == 0) {
    return fmt::format("add {} to the APPEND line of /boot/extlinux/extlinux.conf, reboot", addition);
  }
  return fmt::format("boot the kernel with {}", addition);
}

std::string lsm_mend() {
  const std::string list = lsm_list();
  if (list.empty()) {
    return "mount -t securityfs securityfs /sys/kernel/security, then look at /sys/kernel/security/lsm";
  }
  if (("," + list + ",").find(",bpf,") == std::string::npos) {
    return boot_line(fmt::format("lsm={},bpf", list));
  }
  return "'bpf' stands in the lsm= list and the programs are refused all the same: the virtual machine monitor, container or security module above this "
         "kernel forbids them; use --hook kprobe or tracepoint here";
}

Outcome works() {
  Outcome outcome;
  outcome.works = true;
  return outcome;
}

Outcome failed(std::string reason, std::string mend) {
  Outcome outcome;
  outcome.reason = std::move(reason);
  outcome.mend = std::move(mend);
  return outcome;
}

// The real sensor, on a canary: does an event come out?
Outcome try_observe(sensor::Hook hook, const Workshop& shop) {
  sensor::Options options;
  options.filter.operations = 1u << VG_OP_OPEN;  // one tells; all of them take long where each probe is attached by itself
  options.hook = hook;
  options.ring_bytes = 256u << 10;
  options.filter.by_path = true;
  policy::PatternSet paths;
  paths.globs.push_back(*policy::parse_glob(shop.file()));
  paths.resolve = [](auto) { return 1u; };
  options.filter.automaton = *policy::compile(paths, {{}, [](auto) { return 1u; }});
  int events = 0;
  auto sensor = sensor::Sensor::open(options, [&](std::span<const std::byte> data) {
    if (data.size() >= sizeof(vg_record) && reinterpret_cast<const vg_record*>(data.data())->kind == VG_RECORD_EVENT) {
      ++events;
    }
  });
  if (!sensor) {
    return failed(sensor.error().message, {});
  }
  if (auto attached = sensor->attach(); !attached) {
    return failed(attached.error().message, {});
  }
  in_child([&] { return open_canary(shop.file()); });
  sensor->detach();
  for (int i = 0; i < 100 && events == 0; ++i) {
    (void)sensor->consume(100);
    usleep(1000);
  }
  if (events == 0) {
    return failed("loads and attaches, but an open of a canary gave no event", "this is a defect of vfsguard or of the kernel: please report it");
  }
  Outcome outcome = works();
  for (const sensor::Unserved& missing : sensor->unserved(~std::uint64_t{0})) {
    outcome.without.push_back(fmt::format("{} (no {})", event::operation_name(missing.operation), missing.function));
  }
  return outcome;
}

Outcome try_enforce_lsm(const Workshop& shop) {
  Trial trial({PICK(try_lsm)});
  if (!trial.loaded() || !trial.attach()) {
    return failed(trial.failure(), lsm_mend());
  }
  trial.skeleton().bss->deny = 1;
  const int status = trial.with_canary([&] { return open_canary(shop.file()); });
  if (trial.skeleton().bss->hits == 0) {
    return failed("attaches, but is never called", lsm_mend());
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != EACCES) {
    return failed("is called, but its refusal had no effect", {});
  }
  return works();
}

Outcome try_override(const Workshop& shop) {
  Trial trial({PICK(try_override)});
  constexpr std::string_view kOptions = "a kernel with CONFIG_BPF_KPROBE_OVERRIDE=y (and CONFIG_FUNCTION_ERROR_INJECTION=y)";
  if (!trial.loaded()) {
    return failed(trial.failure(), fmt::format("needs {}", kOptions));
  }
  if (!trial.attach_kprobe("__x64_sys_openat", false)) {
    return failed(trial.failure(), fmt::format("needs {} and kprobes", kOptions));
  }
  const int status = trial.with_canary([&] { return open_canary(shop.file()); });
  if (!WIFEXITED(status) || WEXITSTATUS(status) != EACCES) {
    return failed("attaches, but did not change what openat returned", fmt::format("needs {}", kOptions));
  }
  return works();
}

Outcome try_signal(const Workshop& shop) {
  Trial trial({PICK(try_tp_btf)});
  if (!trial.loaded() || !trial.attach()) {
    return failed(trial.failure(), {});
  }
  trial.skeleton().bss->signal = SIGKILL;
  const int status = trial.with_canary([&] {
    for (int i = 0; i < 1000; ++i) {
      open_canary(shop.file());
      usleep(1000);
    }
    return 0;
  });
  if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
    return failed("bpf_send_signal loads, but the canary lived on", {});
  }
  return works();
}

Outcome try_fanotify(const Workshop& shop) {
  const util::UniqueFd group(fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK, O_RDONLY | O_CLOEXEC));
  if (!group) {
    return failed(kernel_words(errno), errno == EPERM ? "needs CAP_SYS_ADMIN" : "needs CONFIG_FANOTIFY=y and CONFIG_FANOTIFY_ACCESS_PERMISSIONS=y");
  }
  if (fanotify_mark(group.get(), FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, shop.file().c_str()) != 0) {
    return failed("permission events: " + kernel_words(errno), "needs CONFIG_FANOTIFY_ACCESS_PERMISSIONS=y");
  }
  const pid_t child = fork();
  if (child == 0) {
    _exit(open_canary(shop.file()));
  }
  pollfd ready{group.get(), POLLIN, 0};
  bool refused = false;
  while (poll(&ready, 1, 2000) > 0) {
    alignas(fanotify_event_metadata) char buffer[4096];
    const ssize_t n = read(group.get(), buffer, sizeof buffer);
    if (n <= 0) {
      break;
    }
    const auto* event = reinterpret_cast<const fanotify_event_metadata*>(buffer);
    const fanotify_response response{event->fd, static_cast<__u32>(event->pid == child ? FAN_DENY : FAN_ALLOW)};
    (void)!write(group.get(), &response, sizeof response);
    close(event->fd);
    if (event->pid == child) {
      refused = true;
      break;
    }
  }
  int status = 0;
  if (!refused) {
    kill(child, SIGKILL);
  }
  waitpid(child, &status, 0);
  if (!refused || !WIFEXITED(status) || WEXITSTATUS(status) != EPERM) {
    return failed("a permission event was refused, but the open went through", {});
  }
  return works();
}

// A program that only has to be seen running.
Outcome try_program(Pick pick, const Workshop& shop, const char* kprobe = nullptr, bool returns = false) {
  Trial trial({pick});
  if (!trial.loaded()) {
    return failed(trial.failure(), {});
  }
  if (kprobe != nullptr ? !trial.attach_kprobe(kprobe, returns) : !trial.attach()) {
    return failed(trial.failure(), {});
  }
  trial.with_canary([&] { return open_canary(shop.file()); });
  if (trial.skeleton().bss->hits == 0) {
    return failed("attaches, but is never called", {});
  }
  return works();
}

Outcome try_iterator() {
  Trial trial({PICK(try_iter)});
  if (!trial.loaded()) {
    return failed(trial.failure(), {});
  }
  std::unique_ptr<bpf_link, int (*)(bpf_link*)> link(bpf_program__attach_iter(trial.skeleton().progs.try_iter, nullptr), bpf_link__destroy);
  if (!link) {
    return failed("refused at attach: " + kernel_words(errno), {});
  }
  const util::UniqueFd iterator(bpf_iter_create(bpf_link__fd(link.get())));
  char buffer[64];
  while (iterator && read(iterator.get(), buffer, sizeof buffer) > 0) {
  }
  return trial.skeleton().bss->hits > 0 ? works() : failed("attaches, but is never called", {});
}

std::string missing_capabilities() {
  std::istringstream status(read_text("/proc/self/status"));
  std::string line;
  std::uint64_t effective = 0;
  while (std::getline(status, line)) {
    if (line.starts_with("CapEff:")) {
      effective = std::stoull(line.substr(7), nullptr, 16);
    }
  }
  constexpr std::pair<int, const char*> kNeeded[] = {{39, "CAP_BPF"}, {38, "CAP_PERFMON"}, {21, "CAP_SYS_ADMIN"}, {19, "CAP_SYS_PTRACE"}};
  std::string missing;
  for (const auto& [bit, name] : kNeeded) {
    if ((effective >> bit & 1) == 0) {
      missing += (missing.empty() ? "" : ", ");
      missing += name;
    }
  }
  return missing;
}

void general_checks(Report& report) {
  const auto add = [&](std::string name, Outcome outcome, std::string detail = {}) {
    report.checks.push_back({std::move(name), std::move(outcome), std::move(detail)});
  };
  const std::string missing = missing_capabilities();
  add("capabilities", missing.empty() ? works() : failed("missing: " + missing, "run as root (sudo), in the initial user namespace"),
      missing.empty() ? "bpf, perfmon, sys_admin, sys_ptrace" : "");

  const bool btf = access("/sys/kernel/btf/vmlinux", R_OK) == 0;
  add("btf", btf ? works() : failed("/sys/kernel/btf/vmlinux: " + util::errno_text(errno), "needs CONFIG_DEBUG_INFO_BTF=y"));

  const std::string lsm = lsm_list();
  const bool in_list = ("," + lsm + ",").find(",bpf,") != std::string::npos;
  add("lsm_list", in_list ? works() : failed(lsm.empty() ? "/sys/kernel/security/lsm cannot be read" : "'bpf' is not in lsm=" + lsm, lsm_mend()), lsm);

  const std::string lockdown = read_text("/sys/kernel/security/lockdown");
  const bool confidential = lockdown.find("[confidentiality]") != std::string::npos;
  add("lockdown", confidential ? failed("confidentiality: BPF may not read kernel memory", boot_line("lockdown=integrity")) : works(),
      lockdown.empty() ? "not built in or not visible" : lockdown);

  const std::string jit = read_text("/proc/sys/net/core/bpf_jit_enable");
  add("bpf_jit", jit == "0" ? failed("off: programs are interpreted, several times slower", "sysctl net.core.bpf_jit_enable=1") : works(),
      jit.empty() ? "always on" : jit);

  const bool mounted = access("/sys/kernel/tracing/events", F_OK) == 0 || access("/sys/kernel/debug/tracing/events", F_OK) == 0;
  add("tracefs", mounted ? works() : failed("not mounted", "mount -t tracefs tracefs /sys/kernel/tracing (only kprobes need it)"));

  const std::string uring = read_text("/proc/sys/kernel/io_uring_disabled");
  add("io_uring", works(), uring.empty() ? "allowed, or not built in" : uring == "0" ? "allowed" : "restricted by kernel.io_uring_disabled=" + uring);

  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  add("rlimit_nofile", files.rlim_cur >= 256 ? works() : failed(fmt::format("{}: too few for every probe", files.rlim_cur), "ulimit -n 1024"),
      std::to_string(files.rlim_cur));
  rlimit memory{};
  getrlimit(RLIMIT_MEMLOCK, &memory);
  add("rlimit_memlock", works(),
      memory.rlim_cur == RLIM_INFINITY ? "unlimited" : fmt::format("{} (this kernel accounts BPF memory to the cgroup instead)", memory.rlim_cur));
}

}  // namespace

Report examine() {
  Report report;
  utsname kernel{};
  uname(&kernel);
  report.kernel = kernel.release;
  libbpf_set_print(keep_log);
  general_checks(report);
  const Workshop shop;

  report.observe_lsm = try_observe(sensor::Hook::kLsm, shop);
  if (!report.observe_lsm.works) {
    report.observe_lsm.mend = lsm_mend();
  }
  report.observe_kprobe = try_observe(sensor::Hook::kKprobe, shop);
  if (!report.observe_kprobe.works && report.observe_kprobe.mend.empty()) {
    report.observe_kprobe.mend =
        sensor::KprobeEvents::built_in() ? "mount -t tracefs tracefs /sys/kernel/tracing" : "a kernel with CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y";
  }
  report.observe_tracepoint = try_observe(sensor::Hook::kTracepoint, shop);
  if (!report.observe_tracepoint.works && report.observe_tracepoint.mend.empty()) {
    report.observe_tracepoint.mend = "needs CONFIG_FTRACE_SYSCALLS=y, CONFIG_DEBUG_INFO_BTF=y and a kernel of 5.17 or later";
  }
  libbpf_set_print(keep_log);
  report.enforce_lsm = try_enforce_lsm(shop);
  report.enforce_override = try_override(shop);
  report.enforce_signal = try_signal(shop);
  report.enforce_fanotify = try_fanotify(shop);

  const auto add = [&](const char* name, Outcome outcome) { report.checks.push_back({name, std::move(outcome), {}}); };
  add("program_tp_btf", try_program(PICK(try_tp_btf), shop));
  add("program_raw_tp", try_program(PICK(try_raw_tp), shop));
  add("program_tracepoint", try_program(PICK(try_tracepoint), shop));
  add("program_kprobe", try_program(PICK(try_kprobe), shop, "vfs_open", false));
  add("program_kretprobe", try_program(PICK(try_kretprobe), shop, "vfs_open", true));
  add("program_fentry", try_program(PICK(try_fentry), shop));
  add("program_lsm", try_program(PICK(try_lsm), shop));
  add("program_iter_task", try_iterator());
  add("helpers", try_program(PICK(try_helpers), shop));
  if (!report.can_observe() && geteuid() != 0) {
    for (Outcome* outcome : {&report.observe_lsm, &report.observe_kprobe, &report.observe_tracepoint}) {
      outcome->mend = "run as root (sudo)";
    }
  }
  return report;
}

}  // namespace vfsguard::probe
