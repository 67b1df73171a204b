// SPDX-License-Identifier: Apache-2.0
#include "enforce/enforcer.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <tuple>

#include <fmt/format.h>

#include "enforce.skel.h"
#include "event/names.h"
#include "policy/trial.h"
#include "sensor/attach.h"
#include "sensor/call_functions.h"
#include "sensor/grace.h"
#include "sensor/kernel_facts.h"
#include "util/fd.h"
#include "util/mountinfo.h"

namespace vfsguard::enforce {

namespace {

constexpr std::uint64_t bit(unsigned operation) { return event::operation_bit(operation); }

// The hooks that enforcement needs, and what each stops. A read or a write also ends what an open that is forbidden now began.
struct EnforcedHook {
  const char* name;
  std::uint64_t operations;
  unsigned where;  // for the program at security_NAME (VG_AT_*)
};
constexpr std::uint64_t kContents = bit(VG_OP_READ) | bit(VG_OP_WRITE) | bit(VG_OP_OPEN);
constexpr EnforcedHook kHooks[] = {
    {"file_open", bit(VG_OP_OPEN) | bit(VG_OP_EXEC) | bit(VG_OP_CREATE), VG_AT_FILE_OPEN},
    {"file_permission", kContents, VG_AT_FILE_PERMISSION},
    {"file_receive", bit(VG_OP_OPEN), VG_AT_FILE_RECEIVE},
    {"mmap_file", kContents | bit(VG_OP_MMAP), VG_AT_MMAP_FILE},
    {"file_mprotect", kContents | bit(VG_OP_MMAP), VG_AT_FILE_MPROTECT},
    {"file_ioctl", bit(VG_OP_IOCTL), VG_AT_FILE_IOCTL},
    {"file_ioctl_compat", bit(VG_OP_IOCTL), VG_AT_FILE_IOCTL},
    {"path_unlink", bit(VG_OP_UNLINK), VG_AT_PATH_UNLINK},
    {"path_rmdir", bit(VG_OP_RMDIR), VG_AT_PATH_RMDIR},
    {"path_mkdir", bit(VG_OP_MKDIR), VG_AT_PATH_MKDIR},
    {"path_mknod", bit(VG_OP_MKNOD) | bit(VG_OP_CREATE) | bit(VG_OP_BIND), VG_AT_PATH_MKNOD},
    {"path_symlink", bit(VG_OP_SYMLINK), VG_AT_PATH_SYMLINK},
    {"path_link", bit(VG_OP_LINK), VG_AT_PATH_LINK},
    {"path_rename", bit(VG_OP_RENAME), VG_AT_PATH_RENAME},
    {"path_truncate", bit(VG_OP_TRUNCATE), VG_AT_PATH_TRUNCATE},
    {"file_truncate", bit(VG_OP_TRUNCATE), VG_AT_FILE_TRUNCATE},
    {"path_chmod", bit(VG_OP_CHMOD), VG_AT_PATH_CHMOD},
    {"path_chown", bit(VG_OP_CHOWN), VG_AT_PATH_CHOWN},
    {"inode_setattr", bit(VG_OP_UTIMES), VG_AT_INODE_SETATTR},
    {"inode_setxattr", bit(VG_OP_SETXATTR), VG_AT_INODE_SETXATTR},
    {"inode_set_acl", bit(VG_OP_SETXATTR), VG_AT_INODE_SETXATTR},
    {"inode_removexattr", bit(VG_OP_REMOVEXATTR), VG_AT_INODE_REMOVEXATTR},
    {"inode_remove_acl", bit(VG_OP_REMOVEXATTR), VG_AT_INODE_REMOVEXATTR},
    {"sb_mount", bit(VG_OP_MOUNT), VG_AT_SB_MOUNT},
    {"move_mount", bit(VG_OP_MOUNT), VG_AT_MOVE_MOUNT},
    {"sb_umount", bit(VG_OP_UMOUNT), VG_AT_SB_UMOUNT},
    {"sb_pivotroot", bit(VG_OP_PIVOT_ROOT), VG_AT_SB_PIVOTROOT},
    {"path_chroot", bit(VG_OP_CHROOT), VG_AT_PATH_CHROOT},
};

// Always: they give what is protected another name, or end what was remembered.
constexpr std::array<std::string_view, 4> kAlways{"path_link", "path_rename", "path_unlink", "path_rmdir"};

// Hooks that came after the oldest kernel that this runs on; what they stop is stopped by another one there.
constexpr std::array<std::string_view, 4> kNewer{"file_truncate", "inode_set_acl", "inode_remove_acl", "file_ioctl_compat"};

// Lines of one kind.
constexpr std::size_t kNotesAtMost = 5;

// Not worth asking: whoever looks may have to wait for another machine.
constexpr std::array<std::string_view, 8> kRemote{"nfs", "nfs4", "cifs", "smb3", "ceph", "afs", "autofs", "fuse.sshfs"};

// Room from the start, so that most changes of a policy fit.
constexpr std::uint32_t kRulesAtLeast = 256;

// Entries that are looked at, at most, to find protected files with several names.
constexpr std::size_t kMaxLooked = 500'000;

struct SkeletonDeleter {
  void operator()(enforce_bpf* skeleton) const { enforce_bpf__destroy(skeleton); }
};

constexpr std::uint64_t kAll = (std::uint64_t{1} << VG_OP_COUNT) - 2;

// What the arguments of a call tell before it is carried out; maps and requests to drivers are left to what stands at the object.
constexpr std::uint64_t kByCall = kContents | bit(VG_OP_EXEC) | bit(VG_OP_UNLINK) | bit(VG_OP_RMDIR) | bit(VG_OP_MKDIR) | bit(VG_OP_MKNOD) |
                                  bit(VG_OP_SYMLINK) | bit(VG_OP_LINK) | bit(VG_OP_RENAME) | bit(VG_OP_TRUNCATE) | bit(VG_OP_CHMOD) | bit(VG_OP_CHOWN) |
                                  bit(VG_OP_UTIMES) | bit(VG_OP_SETXATTR) | bit(VG_OP_REMOVEXATTR) | bit(VG_OP_MOUNT) | bit(VG_OP_UMOUNT) |
                                  bit(VG_OP_PIVOT_ROOT) | bit(VG_OP_CHROOT);

// What a call has got when it returns: all that can be told then, before its caller goes on.
constexpr std::uint64_t kAtReturn = kContents | bit(VG_OP_EXEC) | bit(VG_OP_CREATE) | bit(VG_OP_MMAP);

// What of it no hook of the kernel could stop.
std::uint64_t beyond_hooks() {
  std::uint64_t stopped = 0;
  for (const EnforcedHook& hook : kHooks) {
    stopped |= hook.operations;
  }
  return ~stopped & kAll;
}

// A create and a truncation can be an open, a removed directory an unlinkat, and what is opened is read and written.
std::uint64_t with_opens(std::uint64_t operations) {
  if ((operations & (bit(VG_OP_CREATE) | bit(VG_OP_TRUNCATE))) != 0) {
    operations |= bit(VG_OP_OPEN);
  }
  if ((operations & bit(VG_OP_RMDIR)) != 0) {
    operations |= bit(VG_OP_UNLINK);
  }
  return (operations & bit(VG_OP_OPEN)) != 0 ? operations | kContents : operations;
}

// What is weaker about a mechanism than what rules say.
std::string weakness(Mechanism mechanism, bool at_return) {
  if (mechanism == Mechanism::kOverride) {
    return "override refuses by the name that the caller gives, and by descriptors; who comes by another name is killed, and what such a call changed stays "
           "changed";
  }
  return at_return ? "signal kills at the call's return, by what it opened, executed, read, wrote or mapped; requests of io_uring are not seen"
                   : "signal kills at the object; a call that changes something has changed it";
}

// The directory that every path which the glob matches lies in, or the path itself.
std::string fixed_part(const std::string& glob) {
  const std::size_t special = glob.find_first_of("*?[\\");
  if (special == std::string::npos) {
    return glob;
  }
  const std::size_t slash = glob.rfind('/', special);
  return slash == 0 ? "/" : glob.substr(0, slash);
}

bool is_needed(const EnforcedHook& hook, std::uint64_t operations) {
  // The first also shows that hooks are called at all.
  return (hook.operations & operations) != 0 || &hook == kHooks || std::ranges::find(kAlways, hook.name) != kAlways.end();
}

}  // namespace

struct Enforcer::State {
  std::unique_ptr<enforce_bpf, SkeletonDeleter> skeleton;
  sensor::KprobeEvents probes;  // without fprobes; they go after the links that hold them
  std::vector<sensor::Link> links;
  std::vector<bpf_program*> programs;
  std::optional<sensor::Grace> grace;
  std::vector<const EnforcedHook*> hooks;  // that this kernel has
  std::uint64_t missing = beyond_hooks();  // operations that none of them stops
  util::UniqueFd mountinfo;
  std::vector<std::string> notes;
  std::vector<RuleState> states;
  std::uint32_t version = VG_FIRST_VERSION;
  std::uint32_t capacity = 0;  // rules that there is room to count
  std::size_t table_size = 0;  // of one version
  std::set<const EnforcedHook*> loaded;
  std::vector<sensor::Probe> objects;  // where enforce_at goes
  std::vector<sensor::Probe> calls;    // where enforce_call goes
  std::uint64_t operations = 0;        // that these were chosen for
  bool fprobe = false;
  bool at_return = false;  // no kprobes: signals come by enforce_return
  Mechanism mechanism = Mechanism::kLsm;
  std::vector<std::string> names;          // of the rules
  std::set<std::string> globs;             // whose files were looked at for other names
  std::vector<std::uint32_t> translation;  // from the version before into this one
  Counts before;                           // what earlier versions did

  util::Result<std::size_t> attach_calls(std::span<const sensor::Probe> some);
  void choose(const sensor::KernelFacts& facts);
  void choose_programs(const sensor::KernelFacts& facts);
  util::Result<void> load(const policy::Enforcement& tables, const sensor::KernelFacts& facts, const State* follows);
  util::Result<void> fill(const policy::Enforcement& tables, std::uint32_t of_version);
  std::optional<vg_look> look(const std::string& path);
  void find_homes();
  void find_names(const policy::Policy& policy, const policy::Enforcement& tables, std::uint32_t for_version);
  [[nodiscard]] bool mark(const vg_label& object, std::uint32_t for_version, std::uint32_t set);
  void carry_marks(const policy::Enforcement& tables, const std::vector<std::uint32_t>& last, std::uint32_t from_version);
  util::Result<void> check(const policy::Policy& policy);
  util::Result<std::vector<RuleState>> prove(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables,
                                             std::uint32_t of_version) const;
  void remember(const policy::Policy& policy, const policy::Enforcement& tables);
  [[nodiscard]] std::map<std::string, vg_rule_counts> rule_counts(std::uint32_t of_version) const;
};

// What of the kernel's hooks there is, for this mechanism.
void Enforcer::State::choose(const sensor::KernelFacts& facts) {
  fprobe = facts.fprobe;
  at_return = mechanism == Mechanism::kSignal && !sensor::kprobes_usable(facts);
  if (at_return) {
    missing = kAll & ~kAtReturn;
    return;
  }
  const std::string prefix = mechanism == Mechanism::kLsm ? "bpf_lsm_" : "security_";
  for (const EnforcedHook& hook : kHooks) {
    if (facts.has(prefix + hook.name)) {
      hooks.push_back(&hook);
    } else if (std::ranges::find(kNewer, hook.name) == kNewer.end()) {
      missing |= hook.operations;
    }
  }
}

void Enforcer::State::choose_programs(const sensor::KernelFacts& facts) {
  const auto& p = skeleton->progs;
  for (const EnforcedHook* hook : hooks) {
    if (!is_needed(*hook, operations)) {
      continue;
    }
    loaded.insert(hook);
    if (mechanism == Mechanism::kLsm) {
      programs.push_back(bpf_object__find_program_by_name(skeleton->obj, (std::string("enforce_") + hook->name).c_str()));
    } else {
      objects.push_back({std::string("security_") + hook->name, hook->where});
    }
  }
  if (mechanism == Mechanism::kOverride) {
    calls = sensor::call_probes(with_opens(operations) & kByCall, [&](const std::string& name) { return facts.has(name); });
    programs.push_back(p.enforce_call);
  }
  if (at_return) {
    programs.push_back(p.enforce_return);
  } else if (mechanism != Mechanism::kLsm) {
    programs.push_back(p.enforce_at);
  }
  for (bpf_program* program : programs) {
    bpf_program__set_autoload(program, true);
    sensor::fit_to_kprobes(program, fprobe);
  }
}

util::Result<void> Enforcer::State::load(const policy::Enforcement& tables, const sensor::KernelFacts& facts, const State* follows) {
  skeleton.reset(enforce_bpf__open());
  if (!skeleton) {
    return util::fail_errno(EX_SOFTWARE, "cannot open the BPF object of enforcement");
  }
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton->obj) { bpf_program__set_autoload(program, false); }
  operations = tables.operations;
  choose_programs(facts);
  for (bpf_program* tool : {skeleton->progs.who_enforces, skeleton->progs.look, skeleton->progs.give_mark, skeleton->progs.try_rule}) {
    bpf_program__set_autoload(tool, true);
  }
  auto& knobs = *skeleton->rodata;
  knobs.direct_loads = facts.rdonly_cast ? 1 : 0;
  knobs.attributes_come_second = facts.setattr_takes_idmap ? 1 : 0;
  knobs.mechanism = mechanism == Mechanism::kLsm ? VG_MECHANISM_LSM : VG_MECHANISM_SIGNAL;  // at the object
  struct stat mounts{};
  knobs.our_mnt_ns = stat("/proc/self/ns/mnt", &mounts) == 0 ? static_cast<__u32>(mounts.st_ino) : 0;
  const auto cpus = static_cast<__u32>(std::max(libbpf_num_possible_cpus(), 1));
  const __u32 at_once = std::bit_ceil(std::max(cpus * 4, 64u));
  knobs.deed_mask = at_once - 1;
  bpf_map__set_max_entries(skeleton->maps.deeds, at_once);
  capacity = std::max(std::bit_ceil(2 * tables.rules), kRulesAtLeast);
  knobs.rule_capacity = capacity;
  bpf_map__set_max_entries(skeleton->maps.rule_counts, 2 * capacity);
  table_size = std::max(tables.tables.size(), policy::kTablesAtLeast);
  bpf_map__set_value_size(skeleton->maps.tables, static_cast<__u32>(table_size));
  knobs.table_mask = static_cast<__u32>(table_size - 1);
  skeleton->data->policy_version = version;
  skeleton->bss->decided_operations = tables.operations;
  if (follows != nullptr) {
    // What is marked stays so, and what either of them refuses is told as it was.
    bpf_map__reuse_fd(skeleton->maps.labels, bpf_map__fd(follows->skeleton->maps.labels));
    bpf_map__reuse_fd(skeleton->maps.decisions, bpf_map__fd(follows->skeleton->maps.decisions));
    bpf_map__reuse_fd(skeleton->maps.worker_decisions, bpf_map__fd(follows->skeleton->maps.worker_decisions));
    skeleton->bss->labels_given = std::atomic_ref(follows->skeleton->bss->labels_given).load();
  }
  if (const int code = enforce_bpf__load(skeleton.get()); code != 0) {
    return util::fail(EX_UNAVAILABLE, fmt::format("cannot load the programs of enforcement: {} ({})", util::errno_text(-code), sensor::why()));
  }
  if (auto filled = fill(tables, version); !filled) {
    return filled;
  }
  LIBBPF_OPTS(bpf_test_run_opts, run);
  if (bpf_prog_test_run_opts(bpf_program__fd(skeleton->progs.who_enforces), &run) != 0) {
    return util::fail_errno(EX_OSERR, "cannot learn this process's own pid from the kernel");
  }
  return {};
}

util::Result<void> Enforcer::State::fill(const policy::Enforcement& tables, std::uint32_t of_version) {
  const __u32 place = of_version & 1;
  std::vector<std::byte> image = tables.tables;
  image.resize(table_size);
  if (bpf_map__update_elem(skeleton->maps.tables, &place, sizeof place, image.data(), image.size(), BPF_ANY) != 0) {
    return util::fail_errno(EX_OSERR, "cannot fill the tables of enforcement");
  }
  return {};
}

// What the kernel knows the path's object as. Never follows a link, opens nothing for reading.
std::optional<vg_look> Enforcer::State::look(const std::string& path) {
  const util::UniqueFd fd(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) {
    return std::nullopt;
  }
  vg_look context{};
  context.fd = fd.get();
  LIBBPF_OPTS(bpf_test_run_opts, run);
  run.ctx_in = &context;  // and out again, by the same address
  run.ctx_size_in = sizeof context;
  if (bpf_prog_test_run_opts(bpf_program__fd(skeleton->progs.look), &run) != 0 || run.retval != 0) {
    return std::nullopt;
  }
  return context;
}

// Of each file system the mount that shows most of it, and lies highest.
void Enforcer::State::find_homes() {
  std::map<std::uint32_t, util::Mount> best;
  for (util::Mount& mount : util::read_mountinfo(mountinfo.get())) {
    if (std::ranges::find(kRemote, mount.type) != kRemote.end()) {
      continue;
    }
    const auto rank = [](const util::Mount& m) { return std::tuple(m.root.size(), m.point.size(), m.id); };
    const auto [it, added] = best.try_emplace(mount.dev, mount);
    if (!added && rank(mount) < rank(it->second)) {
      it->second = std::move(mount);
    }
  }
  for (const auto& [dev, mount] : best) {
    const auto seen = look(mount.point);
    if (!seen || seen->mnt_id != mount.id) {
      continue;  // hidden beneath another mount: who sees it sees it by another path
    }
    const vg_home home{.mnt = seen->mnt, .mnt_id = seen->mnt_id, .pad = 0};
    const __u32 key = seen->object.dev;
    bpf_map__update_elem(skeleton->maps.homes, &key, sizeof key, &home, sizeof home, BPF_ANY);
  }
  std::atomic_ref(skeleton->data->generation).fetch_add(1);
}

bool Enforcer::State::mark(const vg_label& object, std::uint32_t for_version, std::uint32_t set) {
  vg_giving giving{.object = object, .version = for_version, .set = set};
  LIBBPF_OPTS(bpf_test_run_opts, run);
  run.ctx_in = &giving;
  run.ctx_size_in = sizeof giving;
  return bpf_prog_test_run_opts(bpf_program__fd(skeleton->progs.give_mark), &run) == 0 && run.retval == 0;
}

// Marks of `from_version`, the one in force, and of the one before it, as they are in the next. What is marked from now on by the one in force, the
// next one's tables translate.
void Enforcer::State::carry_marks(const policy::Enforcement& tables, const std::vector<std::uint32_t>& last, std::uint32_t from_version) {
  const auto translated = [](const std::vector<std::uint32_t>& by, std::uint64_t set) { return set < by.size() ? by[set] : 0; };
  const int fd = bpf_map__fd(skeleton->maps.labels);
  vg_label object{};
  vg_label next{};
  const vg_label* previous = nullptr;
  while (bpf_map_get_next_key(fd, previous, &next) == 0) {
    object = next;
    previous = &object;
    vg_mark mark_of{};
    if (bpf_map_lookup_elem(fd, &object, &mark_of) != 0) {
      continue;
    }
    const auto of = [&](std::uint32_t v) -> std::optional<std::uint32_t> {
      const std::uint64_t by = mark_of.by[v & 1];
      return by >> 32 == v ? std::optional(static_cast<std::uint32_t>(by)) : std::nullopt;
    };
    std::uint32_t set = 0;
    if (const auto now = of(from_version)) {
      set = translated(tables.translation, *now);
    } else if (const auto earlier = of(from_version - 1)) {
      // Its place is taken now; should the next version not come about, this one goes by its own.
      const std::uint32_t here = translated(last, *earlier);
      (void)mark(object, from_version, here);
      set = translated(tables.translation, here);
    }
    // Without one too: else the kernel would take the mark of the version before for news.
    (void)mark(object, from_version + 1, set);
  }
}

// Protected files that have several names: the others protect them too.
void Enforcer::State::find_names(const policy::Policy& policy, const policy::Enforcement& tables, std::uint32_t for_version) {
  std::set<std::string> from;
  for (const policy::Rule& rule : policy.rules) {
    if (rule.decides() && rule.enforce) {
      for (const policy::Glob& glob : rule.paths) {
        if (!globs.contains(glob.text)) {
          from.insert(fixed_part(glob.text));
        }
      }
    }
  }
  std::size_t looked = 0;
  bool full = false;
  const auto consider = [&](const std::string& path, const struct stat& status) {
    if (!S_ISREG(status.st_mode) || status.st_nlink < 2) {
      return;
    }
    if (const std::uint32_t set = tables.automaton.match(tables.automaton.head.path_start, path); set != 0) {
      const auto seen = look(path);
      full = full || (seen && !mark(seen->object, for_version, set));
    }
  };
  std::string last;
  for (const std::string& path : from) {
    if (!last.empty() && path.starts_with(last == "/" ? "/" : last + "/")) {
      continue;  // walked already
    }
    struct stat status{};
    if (lstat(path.c_str(), &status) != 0) {
      continue;
    }
    consider(path, status);
    if (!S_ISDIR(status.st_mode)) {
      continue;
    }
    last = path;
    std::error_code error;
    std::filesystem::recursive_directory_iterator it(path, std::filesystem::directory_options::skip_permission_denied, error);
    for (; !error && it != std::filesystem::recursive_directory_iterator() && looked < kMaxLooked; it.increment(error)) {
      ++looked;
      const std::string& name = it->path().native();
      if (name == "/proc" || name == "/sys") {
        it.disable_recursion_pending();
        continue;
      }
      if (lstat(name.c_str(), &status) == 0) {
        consider(name, status);
      }
    }
  }
  if (looked >= kMaxLooked) {
    notes.push_back(
        fmt::format("the first {} files below the protected paths were looked at for hard links; of the others only the protected names hold", kMaxLooked));
  }
  if (full) {
    notes.push_back("more protected files with several names than there is room for; of some only the protected names hold");
  }
}

// Refuses what the kernel cannot hold; notes what the rule accepts of that.
util::Result<void> Enforcer::State::check(const policy::Policy& policy) {
  std::vector<std::string> weaker;
  std::size_t recorded = 0;
  if (mechanism != Mechanism::kLsm) {
    weaker.push_back(weakness(mechanism, at_return));
  }
  for (const policy::Rule& rule : policy.rules) {
    const std::uint64_t lost = rule.operations & missing & ~(bit(VG_OP_CLOSE) | bit(VG_OP_EXIT));
    if (rule.decides() && rule.enforce && mechanism != Mechanism::kLsm && !rule.degraded) {
      return util::fail(EX_CONFIG,
                        fmt::format("{}:{}: rule '{}' is to hold exactly, which takes BPF LSM (vfsguard doctor), and {}; write 'degraded: accept' where "
                                    "that will do, or record only, by --enforce off",
                                    rule.file, rule.line, rule.name, weakness(mechanism, at_return)));
    }
    if (!rule.decides() || !rule.enforce || lost == 0) {
      continue;
    }
    const std::string what =
        fmt::format("{}:{}: rule '{}': the kernel offers nothing to stop '{}' by", rule.file, rule.line, rule.name, event::operation_names(lost));
    if (!rule.degraded) {
      return util::fail(EX_CONFIG, what + "; leave it out, or write 'degraded: accept' to have it only recorded");
    }
    if (++recorded <= kNotesAtMost) {
      weaker.push_back(what + "; it is only recorded");
    }
  }
  if (recorded > kNotesAtMost) {
    weaker.push_back(fmt::format("and so for {} more rules", recorded - kNotesAtMost));
  }
  notes = std::move(weaker);
  return {};
}

// Each rule tried on this kernel, by the tables as they lie there.
util::Result<std::vector<RuleState>> Enforcer::State::prove(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables,
                                                            std::uint32_t of_version) const {
  std::vector<RuleState> found(policy.rules.size());
  std::vector<std::uint32_t> untried;
  const auto trials = policy::make_trials(policy, compiled, kAll & ~(bit(VG_OP_CLOSE) | bit(VG_OP_EXIT)), untried);
  for (const std::uint32_t rule : untried) {
    found[rule] = {RuleState::Kind::kUntried, "nothing could be made up that it is about; does 'unless' leave nobody of 'only'?"};
  }
  const policy::Automaton& automaton = tables.automaton;
  for (const policy::Trial& trial : trials) {
    const policy::Rule& rule = policy.rules[trial.rule];
    const event::Process& process = *trial.operation.process;
    vg_try context{};
    context.path = reinterpret_cast<std::uintptr_t>(trial.operation.path->c_str());
    context.operations = event::operation_bit(trial.operation.raw.operation);
    context.version = of_version;
    context.uid = trial.operation.raw.uid;
    context.gid = trial.operation.raw.gid;
    context.exe = process.exe ? automaton.match(automaton.head.exe_start, *process.exe) : 0;
    context.comm = automaton.match(automaton.head.comm_start, trial.name);
    context.cgroup = process.cgroup ? automaton.match(automaton.head.cgroup_start, *process.cgroup) : 0;
    context.ancestor = process.ancestors.empty() ? 0 : automaton.match(automaton.head.exe_start, *process.ancestors.front().exe);
    LIBBPF_OPTS(bpf_test_run_opts, run);
    run.ctx_in = &context;
    run.ctx_size_in = sizeof context;
    if (bpf_prog_test_run_opts(bpf_program__fd(skeleton->progs.try_rule), &run) != 0 || run.retval != 0) {
      return util::fail_errno(EX_OSERR, fmt::format("cannot try rule '{}' in the kernel", rule.name));
    }
    const std::uint32_t wanted = trial.decides.value_or(~0u);
    const bool same = context.rule == wanted && (wanted == ~0u || (context.enforce != 0) == policy.rules[wanted].enforce);
    if (!same) {
      const auto name = [&](std::uint32_t place) {
        return place < policy.rules.size() ? fmt::format("rule '{}'", policy.rules[place].name) : std::string("no rule");
      };
      return util::fail(
          EX_SOFTWARE,
          fmt::format("{}:{}: rule '{}' was tried with {} of {}, which {} is to decide; the kernel's tables say {}. That is a defect of vfsguard", rule.file,
                      rule.line, rule.name, event::operation_name(trial.operation.raw.operation), *trial.operation.path, name(wanted), name(context.rule)));
    }
    RuleState& state = found[trial.rule];
    const std::uint64_t lost = rule.operations & missing & ~(bit(VG_OP_CLOSE) | bit(VG_OP_EXIT));
    if (wanted != trial.rule) {
      state = {RuleState::Kind::kCovered, fmt::format("rule '{}' decides {} of {}", wanted == ~0u ? "" : policy.rules[wanted].name,
                                                      event::operation_name(trial.operation.raw.operation), *trial.operation.path)};
    } else if (!rule.enforce) {
      state = {RuleState::Kind::kObserved, {}};
    } else if (mechanism != Mechanism::kLsm) {
      state = {RuleState::Kind::kDegraded, fmt::format("by {}", event::mechanism_name(static_cast<unsigned>(mechanism)))};
    } else if (lost != 0) {
      state = {RuleState::Kind::kDegraded, fmt::format("only recorded: {}", event::operation_names(lost))};
    } else {
      state = {RuleState::Kind::kActive, {}};
    }
  }
  return found;
}

void Enforcer::State::remember(const policy::Policy& policy, const policy::Enforcement& tables) {
  names.clear();
  globs.clear();
  for (const policy::Rule& rule : policy.rules) {
    names.push_back(rule.name);
    if (rule.decides() && rule.enforce) {
      for (const policy::Glob& glob : rule.paths) {
        globs.insert(glob.text);
      }
    }
  }
  translation = tables.translation;
}

util::Result<std::unique_ptr<Enforcer::State>> Enforcer::load_and_try(const policy::Policy& policy, const policy::Compiled& compiled,
                                                                      const policy::Enforcement& tables, Mechanism mechanism, const Enforcer* before) {
  sensor::keep_libbpf_words();
  if (auto ok = sensor::may_load(); !ok) {
    return util::pass_on(ok.error());
  }
  auto facts = sensor::kernel_facts();
  if (!facts) {
    return util::pass_on(facts.error());
  }
  auto state = std::make_unique<State>();
  const bool lsm = sensor::lsm_programs_load(*facts);
  const bool overrides = sensor::kprobes_usable(*facts) && sensor::overrides_load();
  if (before != nullptr) {
    mechanism = before->state_->mechanism;
  } else if (mechanism == Mechanism::kAuto) {
    mechanism = lsm ? Mechanism::kLsm : overrides ? Mechanism::kOverride : Mechanism::kSignal;
  }
  if (mechanism == Mechanism::kLsm && !lsm) {
    return util::fail(EX_UNAVAILABLE, "this kernel has no BPF LSM, which --enforce lsm needs; it needs CONFIG_BPF_LSM=y, and 'bpf' in its lsm= list");
  }
  if (mechanism == Mechanism::kOverride && !overrides) {
    return util::fail(EX_UNAVAILABLE, "this kernel cannot override system calls, which --enforce override needs; it needs CONFIG_BPF_KPROBE_OVERRIDE=y");
  }
  state->mechanism = mechanism;
  state->choose(*facts);
  if (auto ok = state->check(policy); !ok) {
    return util::pass_on(ok.error());
  }
  auto grace = sensor::Grace::open();
  if (!grace) {
    return util::pass_on(grace.error());
  }
  state->grace = std::move(*grace);
  const State* follows = before != nullptr ? before->state_.get() : nullptr;
  if (follows != nullptr) {
    state->version = follows->version + 1;
    state->globs = follows->globs;
  }
  if (auto ok = state->load(tables, *facts, follows); !ok) {
    return util::pass_on(ok.error());
  }
  auto states = state->prove(policy, compiled, tables, state->version);
  if (!states) {
    return util::pass_on(states.error());
  }
  state->states = std::move(*states);
  return state;
}

util::Result<Enforcer> Enforcer::try_out(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables,
                                         Mechanism mechanism) {
  auto state = load_and_try(policy, compiled, tables, mechanism, nullptr);
  return state ? util::Result<Enforcer>(Enforcer(std::move(*state))) : util::pass_on(state.error());
}

util::Result<Enforcer> Enforcer::open(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables, Mechanism mechanism,
                                      const Enforcer* before) {
  auto loaded = load_and_try(policy, compiled, tables, mechanism, before);
  if (!loaded) {
    return util::pass_on(loaded.error());
  }
  auto state = std::move(*loaded);
  const State* follows = before != nullptr ? before->state_.get() : nullptr;
  state->mountinfo.reset(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  state->find_homes();
  if (follows != nullptr) {
    state->carry_marks(tables, follows->translation, follows->version);
  }
  state->find_names(policy, tables, state->version);
  state->remember(policy, tables);
  return Enforcer(std::move(state));
}

util::Result<void> Enforcer::replace(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables) {
  State& state = *state_;
  auto notes = std::move(state.notes);
  if (auto ok = state.check(policy); !ok) {
    state.notes = std::move(notes);
    return util::pass_on(ok.error());
  }
  const std::uint32_t next = state.version + 1;
  if (auto ok = state.fill(tables, next); !ok) {
    return util::pass_on(ok.error());
  }
  auto states = state.prove(policy, compiled, tables, next);
  if (!states) {
    return util::pass_on(states.error());
  }
  const std::uint32_t place = (next & 1) * state.capacity;
  for (std::uint32_t i = 0; i < state.capacity; ++i) {
    const __u32 index = place + i;
    const vg_rule_counts none{};
    bpf_map__update_elem(state.skeleton->maps.rule_counts, &index, sizeof index, &none, sizeof none, BPF_ANY);
  }
  state.carry_marks(tables, state.translation, state.version);
  state.find_names(policy, tables, next);
  std::atomic_ref decided(state.skeleton->bss->decided_operations);
  decided.store(decided.load() | tables.operations);
  std::atomic_ref(state.skeleton->data->policy_version).store(next);
  // From here on it is in force. What was begun before goes on by the old one, whose place is free again only then.
  auto waited = state.grace->wait();
  decided.store(tables.operations);
  for (const auto& [name, counts] : state.rule_counts(state.version)) {
    state.before.rules[name].stopped += counts.stopped;
    state.before.rules[name].kill_failed += counts.kill_failed;
  }
  state.version = next;
  state.states = std::move(*states);
  state.remember(policy, tables);
  return waited;
}

bool Enforcer::fits(const policy::Enforcement& tables) const {
  const bool hooked =
      std::ranges::all_of(state_->hooks, [&](const EnforcedHook* hook) { return !is_needed(*hook, tables.operations) || state_->loaded.contains(hook); });
  const bool probed = state_->mechanism == Mechanism::kLsm || (tables.operations & ~state_->operations) == 0;
  return hooked && probed && tables.tables.size() <= state_->table_size && tables.rules <= state_->capacity;
}

const std::vector<RuleState>& Enforcer::states() const { return state_->states; }

std::string_view state_name(RuleState::Kind kind) {
  switch (kind) {
    case RuleState::Kind::kActive: return "active";
    case RuleState::Kind::kDegraded: return "degraded";
    case RuleState::Kind::kObserved: return "observed";
    case RuleState::Kind::kCovered: return "covered";
    case RuleState::Kind::kUntried: return "untried";
    case RuleState::Kind::kNone: break;
  }
  return "recorded";
}

std::uint32_t Enforcer::version() const { return state_->version; }

unsigned Enforcer::mechanism() const { return static_cast<unsigned>(state_->mechanism); }

void Enforcer::take_over(const Enforcer& before) { state_->before = before.counts(); }

Enforcer::Enforcer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Enforcer::Enforcer(Enforcer&&) noexcept = default;
Enforcer& Enforcer::operator=(Enforcer&&) noexcept = default;
Enforcer::~Enforcer() = default;

// Only functions that the kernel lists for error injection can be answered for, and one that is not refuses all that come with it. A call that this
// kernel does not have is among them, as a weak function that answers ENOSYS; what else is left out, the programs at the object still stop.
util::Result<std::size_t> Enforcer::State::attach_calls(std::span<const sensor::Probe> some) {
  if (some.empty()) {
    return 0;
  }
  const std::size_t held = links.size();
  auto done = sensor::attach_probes(skeleton->progs.enforce_call, {some.begin(), some.end()}, false, fprobe, probes, links);
  if (done) {
    return some.size();
  }
  links.resize(held);
  if (done.error().code != EINVAL) {
    return util::pass_on(done.error());
  }
  if (some.size() == 1) {
    return 0;
  }
  auto first = attach_calls(some.first(some.size() / 2));
  auto second = first ? attach_calls(some.subspan(some.size() / 2)) : first;
  return second ? util::Result<std::size_t>(*first + *second) : second;
}

util::Result<void> Enforcer::attach() {
  State& state = *state_;
  const auto& progs = state.skeleton->progs;
  for (bpf_program* program : state.programs) {
    if (program == progs.enforce_at || program == progs.enforce_call) {
      auto done = util::Result<void>();
      if (program == progs.enforce_at) {
        done = sensor::attach_probes(program, state.objects, false, state.fprobe, state.probes, state.links);
      } else if (auto calls = state.attach_calls(state.calls); !calls) {
        done = util::pass_on(calls.error());
      } else if (*calls == 0) {
        done = util::fail(EX_UNAVAILABLE, "no system call of this kernel can be overridden (CONFIG_FUNCTION_ERROR_INJECTION)");
      }
      if (!done) {
        state.links.clear();
        state.probes.clear();
        return done;
      }
      continue;
    }
    bpf_link* link = bpf_program__attach(program);
    if (link == nullptr) {
      const int code = errno;
      state_->links.clear();
      return util::fail_errno(EX_UNAVAILABLE, fmt::format("cannot attach {}", bpf_program__name(program)), code);
    }
    state_->links.emplace_back(link);
  }
  const __u32 before = std::atomic_ref(state_->skeleton->bss->hook_canary).load();
  const util::UniqueFd canary(::open("/proc/self/status", O_RDONLY | O_CLOEXEC));
  if (std::atomic_ref(state_->skeleton->bss->hook_canary).load() == before) {
    state_->links.clear();
    return util::fail(EX_UNAVAILABLE, state.mechanism == Mechanism::kLsm ? "LSM programs attach but are never called: 'bpf' is not in the kernel's lsm= list"
                                                                         : "the programs that enforce attach but are never called");
  }
  return {};
}

int Enforcer::decisions() const { return bpf_map__fd(state_->skeleton->maps.decisions); }

int Enforcer::worker_decisions() const { return bpf_map__fd(state_->skeleton->maps.worker_decisions); }

int Enforcer::mounts_fd() const { return state_->mountinfo.get(); }

void Enforcer::mounts_changed() { state_->find_homes(); }

std::map<std::string, vg_rule_counts> Enforcer::State::rule_counts(std::uint32_t of_version) const {
  std::map<std::string, vg_rule_counts> counts;
  for (std::uint32_t i = 0; i < names.size(); ++i) {
    const __u32 index = (of_version & 1) * capacity + i;
    vg_rule_counts one{};
    if (bpf_map__lookup_elem(skeleton->maps.rule_counts, &index, sizeof index, &one, sizeof one, 0) == 0 && one.stopped > 0) {
      counts[names[i]] = one;
    }
  }
  return counts;
}

Counts Enforcer::counts() const {
  Counts counts = state_->before;
  for (const auto& [name, one] : state_->rule_counts(state_->version)) {
    counts.rules[name].stopped += one.stopped;
    counts.rules[name].kill_failed += one.kill_failed;
  }
  const __u32 zero = 0;
  std::vector<vg_enforcement> per_cpu(static_cast<std::size_t>(std::max(libbpf_num_possible_cpus(), 1)));
  if (bpf_map__lookup_elem(state_->skeleton->maps.enforcement, &zero, sizeof zero, per_cpu.data(), per_cpu.size() * sizeof(vg_enforcement), 0) == 0) {
    for (const vg_enforcement& one : per_cpu) {
      counts.total.asked += one.asked;
      counts.total.known += one.known;
      counts.total.unreadable += one.unreadable;
      counts.total.no_memory += one.no_memory;
      counts.total.labels_full += one.labels_full;
    }
  }
  return counts;
}

std::uint64_t Enforcer::table_bytes() const { return 2 * state_->table_size; }

const std::vector<std::string>& Enforcer::notes() const { return state_->notes; }

}  // namespace vfsguard::enforce
