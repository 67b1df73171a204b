// SPDX-License-Identifier: Apache-2.0
// vfsguard policy: check, test, explain and simulate. All of them read a policy and watch nothing.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <tuple>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/commands.h"
#include "enforce/enforcer.h"
#include "enforce/link_scan.h"
#include "event/names.h"
#include "output/escape.h"
#include "output/recorded.h"
#include "policy/enforcement.h"
#include "policy/policy.h"
#include "util/fd.h"
#include "util/mountinfo.h"

namespace vfsguard::cli {

namespace {

using output::printable;

struct PolicyText {
  std::string file;
  std::string path;
  std::string dst_path;
  std::string operation = "open";
  std::vector<std::string> as;
  std::vector<std::string> events;
  bool live = false;
  util::Result<int> (*chosen)(const PolicyText&) = nullptr;
};

struct Loaded {
  policy::Policy policy;
  policy::Compiled compiled;
  policy::Enforcement enforcement;  // where it was asked for, and a rule is to be carried out
};

util::Result<Loaded> load(const std::string& file, bool enforcement = false) {
  auto policy = policy::load(file);
  if (!policy) {
    return util::pass_on(policy.error());
  }
  auto tables = policy::compile_tables(*policy, enforcement && policy::enforces(*policy));
  if (!tables) {
    return util::pass_on(tables.error());
  }
  return Loaded{std::move(*policy), std::move(tables->compiled), std::move(tables->enforcement)};
}

std::string subject_text(const event::Operation& operation) {
  std::string text = fmt::format("uid={} gid={}", operation.raw.uid, operation.raw.gid);
  if (operation.raw.comm[0] != '\0') {
    text += " comm=" + printable(operation.raw.comm);
  }
  if (operation.process) {
    const event::Process& process = *operation.process;
    text += process.exe ? " exe=" + printable(*process.exe) : "";
    for (const event::Ancestor& ancestor : process.ancestors) {
      text += " ancestor=" + printable(*ancestor.exe);
    }
    text += process.cgroup ? " cgroup=" + printable(*process.cgroup) : "";
    text += process.container.id.empty() ? "" : " container=" + printable(process.container.id);
  }
  return text;
}

// The rule that decides about it; null: none does.
const policy::Rule* decide(const Loaded& loaded, event::Operation& operation) {
  policy::match_paths(loaded.compiled, operation);
  return policy::deciding_rule(loaded.policy, loaded.compiled, operation);
}

policy::Action verdict_of(const policy::Rule* deciding) { return deciding == nullptr ? policy::Action::kAudit : deciding->action; }

// Which protected files have other hard links now, and where that could not be found out.
std::vector<std::string> review_links(const Loaded& loaded) {
  std::vector<std::string> notes;
  if (!policy::enforces(loaded.policy)) {
    return notes;
  }
  constexpr auto kTime = std::chrono::seconds(10);
  const policy::Automaton& automaton = loaded.enforcement.automaton;
  enforce::LinkedFiles linked;
  const auto collect = [&](const enforce::Found& found) {
    if (automaton.match(automaton.head.path_start, found.path) != 0) {
      linked.add(found);
    }
  };
  const auto report = enforce::scan(enforce::scan_starts(loaded.policy, {}), collect, {.deadline = std::chrono::steady_clock::now() + kTime});
  enforce::add_notes(linked, report, notes);
  return notes;
}

util::Result<int> check(const PolicyText& text) {
  auto loaded = load(text.file, true);
  if (!loaded) {
    return util::pass_on(loaded.error());
  }
  for (const std::string& note : policy::review(loaded->policy, loaded->compiled)) {
    fmt::print(stderr, "note: {}\n", note);
  }
  for (const std::string& note : review_links(*loaded)) {
    fmt::print(stderr, "note: {}\n", note);
  }
  const policy::Automaton& automaton = loaded->compiled.automaton;
  const std::size_t bytes = policy::kernel_tables(automaton, loaded->compiled.set_operations).size() + loaded->enforcement.tables.size();
  fmt::print("{}: {} rules, {} automaton states, {} KiB in the kernel\n", text.file, loaded->policy.rules.size(), automaton.states.size(), bytes / 1024);
  return 0;
}

// The tables of enforcement loaded into this kernel, attached to nothing, and each rule tried by them.
util::Result<int> test_live(const Loaded& loaded) {
  if (!policy::enforces(loaded.policy)) {
    fmt::print(stderr, "note: no rule of {} is to stop anything, so nothing was tried\n", loaded.policy.file);
    return 0;
  }
  auto tried = enforce::Enforcer::try_out(loaded.policy, loaded.compiled, loaded.enforcement, enforce::Mechanism::kAuto);
  if (!tried) {
    return util::pass_on(tried.error());
  }
  const enforce::Enforcer* enforcer = tried->get();
  bool all = true;
  for (std::size_t r = 0; r < loaded.policy.rules.size(); ++r) {
    const policy::Rule& rule = loaded.policy.rules[r];
    const enforce::RuleState& state = enforcer->states()[r];
    if (rule.decides()) {
      all = all && state.kind != enforce::RuleState::Kind::kUntried;
      fmt::print("{:<8}  {}:{}  {}{}{}\n", enforce::state_name(state.kind), rule.file, rule.line, printable(rule.name), state.why.empty() ? "" : ": ",
                 state.why);
    }
  }
  fmt::print("by {}, on this kernel\n", mechanism_name(enforcer->mechanism()));
  for (const std::string& note : enforcer->notes()) {
    fmt::print(stderr, "note: {}\n", note);
  }
  return all ? 0 : 1;
}

util::Result<int> test(const PolicyText& text) {
  auto loaded = load(text.file, text.live);
  if (!loaded) {
    return util::pass_on(loaded.error());
  }
  if (text.live) {
    return test_live(*loaded);
  }
  int passed = 0;
  int failed = 0;
  for (const policy::Rule& rule : loaded->policy.rules) {
    for (const policy::Expectation& expectation : rule.expect) {
      event::Operation operation = expectation.operation;
      const policy::Action verdict = verdict_of(decide(*loaded, operation));
      const bool ok = verdict == expectation.verdict;
      ++(ok ? passed : failed);
      fmt::print("{:<6}  {}:{}  {}: {} {} as {}: {}{}\n", ok ? "ok" : "FAILED", rule.file, expectation.line, printable(rule.name),
                 event::operation_name(operation.raw.operation), printable(*operation.path), subject_text(operation), policy::action_name(verdict),
                 ok ? "" : fmt::format(", expected {}", policy::action_name(expectation.verdict)));
    }
  }
  fmt::print("{} passed, {} failed\n", passed, failed);
  if (passed + failed == 0) {
    fmt::print(stderr, "note: no rule of {} has 'expect', so nothing was tried\n", text.file);
  }
  return failed == 0 ? 0 : 1;
}

// Of owner, group or others, as the mode says; root passes, save for an execution that nobody may.
bool mode_allows(const struct stat& status, const vg_event& who, unsigned wanted) {
  if (who.uid == 0) {
    return (wanted & 1) == 0 || S_ISDIR(status.st_mode) || (status.st_mode & 0111) != 0;
  }
  const unsigned shift = who.uid == status.st_uid ? 6 : who.gid == status.st_gid ? 3 : 0;
  return (status.st_mode >> shift & wanted) == wanted;
}

std::string mode_text(const std::string& path, const struct stat& status) {
  return fmt::format("{} (mode {:04o}, owner {}:{})", printable(path), status.st_mode & 07777u, status.st_uid, status.st_gid);
}

constexpr std::uint64_t op_bit(unsigned operation) { return event::operation_bit(operation); }

// What changes the directory that a name stands in; what changes the object; what only its owner may.
constexpr std::uint64_t kChangeNames = op_bit(VG_OP_CREATE) | op_bit(VG_OP_UNLINK) | op_bit(VG_OP_RMDIR) | op_bit(VG_OP_MKDIR) | op_bit(VG_OP_MKNOD) |
                                       op_bit(VG_OP_LINK) | op_bit(VG_OP_SYMLINK) | op_bit(VG_OP_RENAME);
constexpr std::uint64_t kChangeContent = op_bit(VG_OP_WRITE) | op_bit(VG_OP_TRUNCATE) | op_bit(VG_OP_SETXATTR) | op_bit(VG_OP_REMOVEXATTR);
constexpr std::uint64_t kOwners = op_bit(VG_OP_CHMOD) | op_bit(VG_OP_CHOWN) | op_bit(VG_OP_UTIMES);

// The first directory on the way that the subject may not search, or the last if it may not be changed.
void explain_way(const std::string& path, const vg_event& who, bool changes_names) {
  for (std::size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const bool last = slash == std::string::npos;
    const std::string directory = last ? path.substr(0, std::max<std::size_t>(path.rfind('/'), 1)) : path.substr(0, slash);
    struct stat status{};
    if (stat(directory.c_str(), &status) != 0) {
      return;
    }
    if (!mode_allows(status, who, 1)) {
      fmt::print("  besides: {} may not be searched\n", mode_text(directory, status));
      return;
    }
    if (last) {
      if (changes_names && !mode_allows(status, who, 2)) {
        fmt::print("  besides: {} may not be changed\n", mode_text(directory, status));
      } else if (changes_names && (status.st_mode & S_ISVTX) != 0 && who.uid != 0 && who.uid != status.st_uid) {
        fmt::print("  besides: {} is sticky: only the owner of a name may remove or rename it\n", mode_text(directory, status));
      }
      return;
    }
  }
}

void explain_mount(const std::string& path, std::uint64_t operation) {
  struct statvfs mount{};
  if (statvfs(path.c_str(), &mount) != 0) {
    return;
  }
  constexpr std::uint64_t kReads = op_bit(VG_OP_OPEN) | op_bit(VG_OP_EXEC) | op_bit(VG_OP_READ) | op_bit(VG_OP_MMAP);
  if ((mount.f_flag & ST_RDONLY) != 0 && (operation & kReads) == 0) {
    fmt::print("  besides: its mount is read-only\n");
  }
  if ((mount.f_flag & ST_NOEXEC) != 0 && (operation & op_bit(VG_OP_EXEC)) != 0) {
    fmt::print("  besides: its mount has noexec\n");
  }
}

// The object's identity, and what the kernel would say anyway, as far as modes, flags and mounts tell.
void explain_object(const event::Operation& operation) {
  const std::uint64_t wanted = op_bit(operation.raw.operation);
  const std::string& path = *operation.path;
  explain_way(path, operation.raw, (wanted & kChangeNames) != 0);
  struct stat status{};
  struct statx more{};
  if (lstat(path.c_str(), &status) != 0) {
    fmt::print("  object: {}\n", errno == ENOENT ? "none of that name now; its path alone protects it" : util::errno_text(errno));
    explain_mount(path.substr(0, std::max<std::size_t>(path.rfind('/'), 1)), wanted);
    return;
  }
  (void)statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, STATX_MNT_ID, &more);
  std::string where;
  const util::UniqueFd mountinfo(open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  for (const util::Mount& mount : util::read_mountinfo(mountinfo.get())) {
    if (mount.id == more.stx_mnt_id) {
      where = fmt::format(", on {} at {}{}", mount.type, printable(mount.point), mount.root == "/" ? "" : fmt::format(" (its {})", printable(mount.root)));
    }
  }
  fmt::print("  object: dev {}:{} ino {} nlink {}, {}, mode {:04o}, owner {}:{}{}\n", major(status.st_dev), minor(status.st_dev), status.st_ino,
             status.st_nlink, event::file_type_name(status.st_mode), status.st_mode & 07777u, status.st_uid, status.st_gid, where);
  if (status.st_nlink > 1 && !S_ISDIR(status.st_mode)) {
    fmt::print("  note: it has {} names; where it is enforced, what protects one of them protects it by all\n", status.st_nlink);
  }
  explain_mount(path, wanted);
  const bool changes = (wanted & (kChangeContent | kOwners)) != 0;
  if ((more.stx_attributes & STATX_ATTR_IMMUTABLE) != 0 && (wanted & (kChangeContent | kOwners | kChangeNames)) != 0) {
    fmt::print("  besides: it is immutable (chattr +i)\n");
  } else if ((more.stx_attributes & STATX_ATTR_APPEND) != 0 && (wanted & (op_bit(VG_OP_TRUNCATE) | kChangeNames)) != 0) {
    fmt::print("  besides: it can only be appended to (chattr +a)\n");
  }
  if ((wanted & kOwners) != 0 && operation.raw.uid != 0 && operation.raw.uid != status.st_uid) {
    fmt::print("  besides: it is not uid {}'s own\n", operation.raw.uid);
    return;
  }
  constexpr std::uint64_t kByMode = op_bit(VG_OP_OPEN) | op_bit(VG_OP_READ) | op_bit(VG_OP_EXEC) | kChangeContent;
  if ((wanted & kByMode) != 0 && !mode_allows(status, operation.raw, (wanted & op_bit(VG_OP_EXEC)) != 0 ? 1 : changes ? 2 : 4)) {
    const bool acl = lgetxattr(path.c_str(), "system.posix_acl_access", nullptr, 0) > 0;
    fmt::print("  besides: the mode bits refuse it to uid {} gid {} ({})\n", operation.raw.uid, operation.raw.gid,
               acl ? "it has an ACL, which is not looked at" : "further groups are not looked at");
  }
}

util::Result<int> explain(const PolicyText& text) {
  auto loaded = load(text.file);
  if (!loaded) {
    return util::pass_on(loaded.error());
  }
  event::Operation operation;
  const auto wanted = event::operation_from_name(text.operation);
  if (!wanted) {
    return util::fail(EX_USAGE, fmt::format("--do '{}': there is no such operation; {}", text.operation, event::nearest_operation(text.operation)));
  }
  operation.raw.operation = static_cast<vg_u8>(*wanted);
  for (const auto& [option, from, to] : {std::tuple{"--path", &text.path, &operation.path}, std::tuple{"--dst-path", &text.dst_path, &operation.dst_path}}) {
    if (from->empty()) {
      continue;
    }
    if (!from->starts_with('/')) {
      return util::fail(EX_USAGE, fmt::format("{} '{}': write an absolute path", option, *from));
    }
    // As the kernel side sees it: links on the way are followed.
    std::error_code error;
    const auto real = std::filesystem::weakly_canonical(*from, error);
    *to = error ? *from : real.string();
  }
  for (const std::string& condition : text.as) {
    const std::size_t equals = condition.find('=');
    if (equals == std::string::npos) {
      return util::fail(EX_USAGE, fmt::format("--as '{}': write KEY=VALUE, such as uid=1000,exe=/bin/cat", condition));
    }
    if (auto ok = policy::set_subject(operation, condition.substr(0, equals), condition.substr(equals + 1)); !ok) {
      return util::pass_on(std::move(ok.error()).context("--as"));
    }
  }
  const policy::Rule* decides = decide(*loaded, operation);
  fmt::print("{} {}{} as {}: {}\n", text.operation, printable(*operation.path), operation.dst_path ? " to " + printable(*operation.dst_path) : "",
             subject_text(operation), policy::action_name(verdict_of(decides)));
  if (*operation.path != text.path) {
    fmt::print("  path: {} leads there\n", printable(text.path));
  }
  if (decides != nullptr) {
    const std::string how =
        decides->action == policy::Action::kDeny ? event::error_name(decides->error) : event::signal_name(static_cast<unsigned>(decides->signal));
    fmt::print("  decided by '{}', {}:{} ({}, mode {})\n", printable(decides->name), decides->file, decides->line, how,
               decides->enforce ? "enforce" : "observe");
  } else {
    fmt::print("  no rule denies or kills it\n");
  }
  // Every other rule that is about this path, and why it does or does not apply.
  std::vector<std::uint32_t> both;
  for (const std::uint32_t index : policy::rules_at(loaded->compiled, operation, both)) {
    const policy::Rule& rule = loaded->policy.rules[index];
    if (&rule == decides) {
      continue;
    }
    std::string why;
    if ((rule.operations >> operation.raw.operation & 1) == 0) {
      why = "is about the path, not about this operation";
    } else if (!rule.only.empty() && !rule.only.hold(operation)) {
      why = "does not apply: 'only' is about other subjects";
    } else if (!rule.unless.empty() && rule.unless.hold(operation)) {
      why = "does not apply: 'unless' leaves this subject out";
    } else {
      why = rule.stops(operation) ? fmt::format("would {} it, and comes later", policy::action_name(rule.action)) : "records it";
    }
    fmt::print("  '{}' ({}:{}) {}\n", printable(rule.name), rule.file, rule.line, why);
  }
  explain_object(operation);
  return 0;
}

util::Result<int> simulate(const PolicyText& text) {
  auto loaded = load(text.file);
  if (!loaded) {
    return util::pass_on(loaded.error());
  }
  struct Stopped {
    std::uint64_t succeeded = 0;  // what worked then and would not now
    std::uint64_t failed = 0;
  };
  std::map<std::tuple<std::size_t, std::string, std::string, std::string>, Stopped> stopped;  // rule, operation, program, path
  std::vector<bool> asked(loaded->policy.rules.size());
  std::vector<std::uint32_t> both;
  std::uint64_t events = 0;
  std::uint64_t others = 0;
  std::size_t cut = 0;
  output::Recorded recorded;
  for (const std::string& file : text.events) {
    const auto counts = recorded.read(file, [&](event::Operation& operation) {
      const policy::Rule* rule = decide(*loaded, operation);
      for (const std::uint32_t index : policy::rules_at(loaded->compiled, operation, both)) {
        asked[index] = asked[index] || loaded->policy.rules[index].asks_for(operation);
      }
      if (rule != nullptr) {
        const auto place = static_cast<std::size_t>(rule - loaded->policy.rules.data());
        Stopped& count = stopped[{place, std::string(event::operation_name(operation.raw.operation)), operation.process->exe.value_or(operation.raw.comm),
                                  operation.path.value_or("")}];
        ++(operation.success() ? count.succeeded : count.failed);
      }
    });
    if (!counts) {
      return util::pass_on(counts.error());
    }
    events += counts->operations;
    others += counts->others;
    cut += counts->cut;
  }
  if (cut > 0) {
    fmt::print(stderr, "note: the last {} bytes are no whole line and were left out\n", cut);
  }
  std::uint64_t total = 0;
  for (const auto& [key, count] : stopped) {
    const auto& [rule, operation, program, path] = key;
    total += count.succeeded;
    fmt::print("{}  {}: {} {} by {}: {} times{}\n", policy::action_name(loaded->policy.rules[rule].action), printable(loaded->policy.rules[rule].name),
               operation, printable(path), printable(program), count.succeeded + count.failed,
               count.failed == 0 ? "" : fmt::format(", {} of which failed anyway", count.failed));
  }
  for (std::size_t r = 0; r < asked.size(); ++r) {
    if (!asked[r]) {
      const policy::Rule& rule = loaded->policy.rules[r];
      fmt::print("never  {} ({}:{}) was about none of these events\n", printable(rule.name), rule.file, rule.line);
    }
  }
  fmt::print("{} events, {} that succeeded would have been stopped\n", events, total);
  if (others > 0) {
    fmt::print(stderr, "note: {} lines were no operations (records of losses)\n", others);
  }
  return 0;
}

}  // namespace

Registered add_policy(CLI::App& root) {
  auto text = std::make_shared<PolicyText>();
  CLI::App* app = root.add_subcommand("policy", "Check, test, explain and simulate policies");
  const auto command = [&](const char* name, const char* what) {
    CLI::App* sub = app->add_subcommand(name, what);
    sub->add_option("FILE", text->file, "Policy file, or a directory of them")->required();
    return sub;
  };
  CLI::App* check_app = command("check", "Read a policy, compile it, say what it would cost and what is worth a second look");
  CLI::App* test_app = command("test", "Try what the rules' 'expect' says, offline");
  test_app->add_flag("--live", text->live, "Load it into this kernel, attached to nothing, and try every rule there; needs root");
  CLI::App* explain_app = command("explain", "Which rule decides about one operation, and why the others do not");
  explain_app->add_option("--path", text->path, "What it is done to")->required()->type_name("PATH");
  explain_app->add_option("--dst-path", text->dst_path, "The second path of a rename or link")->type_name("PATH");
  explain_app->add_option("--do", text->operation, "The operation (default: open)")->type_name("OP");
  explain_app->add_option("--as", text->as, "Who: uid, gid, user, group, exe, comm, ancestor, cgroup, container (default: root, by an unknown program)")
      ->type_name("KEY=VALUE,..")
      ->delimiter(',')
      ->allow_extra_args(false);
  CLI::App* simulate_app = command("simulate", "What a policy would have stopped of recorded events");
  simulate_app->add_option("--events", text->events, "Events as vfsguard writes them (JSON Lines; repeatable)")
      ->required()
      ->type_name("FILE")
      ->allow_extra_args(false);
  app->require_subcommand(1);
  app->footer(
      "Examples:\n"
      "  vfsguard policy check /etc/vfsguard/policy.yaml\n"
      "  vfsguard policy test policy.yaml --live\n"
      "  vfsguard policy explain policy.yaml --path /etc/shadow --do open --as uid=1000,exe=/bin/cat\n"
      "  vfsguard policy simulate policy.yaml --events /var/log/vfsguard.jsonl");
  for (const auto& [sub, run] :
       {std::pair(check_app, &check), std::pair(test_app, &test), std::pair(explain_app, &explain), std::pair(simulate_app, &simulate)}) {
    sub->callback([text, run] { text->chosen = run; });
  }
  return {app, [text] { return text->chosen(*text); }};
}

}  // namespace vfsguard::cli
