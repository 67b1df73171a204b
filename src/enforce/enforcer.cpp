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
#include <tuple>

#include <fmt/format.h>

#include "enforce.skel.h"
#include "event/names.h"
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
};
constexpr std::uint64_t kContents = bit(VG_OP_READ) | bit(VG_OP_WRITE) | bit(VG_OP_OPEN);
constexpr EnforcedHook kHooks[] = {
    {"file_open", bit(VG_OP_OPEN) | bit(VG_OP_EXEC) | bit(VG_OP_CREATE)},
    {"file_permission", kContents},
    {"file_receive", bit(VG_OP_OPEN)},
    {"mmap_file", kContents | bit(VG_OP_MMAP)},
    {"file_mprotect", kContents | bit(VG_OP_MMAP)},
    {"file_ioctl", bit(VG_OP_IOCTL)},
    {"file_ioctl_compat", bit(VG_OP_IOCTL)},
    {"path_unlink", bit(VG_OP_UNLINK)},
    {"path_rmdir", bit(VG_OP_RMDIR)},
    {"path_mkdir", bit(VG_OP_MKDIR)},
    {"path_mknod", bit(VG_OP_MKNOD) | bit(VG_OP_CREATE) | bit(VG_OP_BIND)},
    {"path_symlink", bit(VG_OP_SYMLINK)},
    {"path_link", bit(VG_OP_LINK)},
    {"path_rename", bit(VG_OP_RENAME)},
    {"path_truncate", bit(VG_OP_TRUNCATE)},
    {"file_truncate", bit(VG_OP_TRUNCATE)},
    {"path_chmod", bit(VG_OP_CHMOD)},
    {"path_chown", bit(VG_OP_CHOWN)},
    {"inode_setattr", bit(VG_OP_UTIMES)},
    {"inode_setxattr", bit(VG_OP_SETXATTR)},
    {"inode_set_acl", bit(VG_OP_SETXATTR)},
    {"inode_removexattr", bit(VG_OP_REMOVEXATTR)},
    {"inode_remove_acl", bit(VG_OP_REMOVEXATTR)},
    {"sb_mount", bit(VG_OP_MOUNT)},
    {"move_mount", bit(VG_OP_MOUNT)},
    {"sb_umount", bit(VG_OP_UMOUNT)},
    {"sb_pivotroot", bit(VG_OP_PIVOT_ROOT)},
    {"path_chroot", bit(VG_OP_CHROOT)},
};

// Always: they give what is protected another name, or end what was remembered.
constexpr std::array<std::string_view, 4> kAlways{"path_link", "path_rename", "path_unlink", "path_rmdir"};

// Hooks that came after the oldest kernel that this runs on; what they stop is stopped by another one there.
constexpr std::array<std::string_view, 4> kNewer{"file_truncate", "inode_set_acl", "inode_remove_acl", "file_ioctl_compat"};

// Not worth asking: whoever looks may have to wait for another machine.
constexpr std::array<std::string_view, 8> kRemote{"nfs", "nfs4", "cifs", "smb3", "ceph", "afs", "autofs", "fuse.sshfs"};

// Entries that are looked at, at most, to find protected files with several names.
constexpr std::size_t kMaxLooked = 500'000;

struct SkeletonDeleter {
  void operator()(enforce_bpf* skeleton) const { enforce_bpf__destroy(skeleton); }
};
struct LinkDeleter {
  void operator()(bpf_link* link) const { bpf_link__destroy(link); }
};

// What of it no hook of the kernel could stop.
std::uint64_t beyond_lsm() {
  std::uint64_t stopped = 0;
  for (const EnforcedHook& hook : kHooks) {
    stopped |= hook.operations;
  }
  return ~stopped & ((std::uint64_t{1} << VG_OP_COUNT) - 2);
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

}  // namespace

struct Enforcer::State {
  std::unique_ptr<enforce_bpf, SkeletonDeleter> skeleton;
  std::vector<std::unique_ptr<bpf_link, LinkDeleter>> links;
  std::vector<bpf_program*> programs;
  util::UniqueFd mountinfo;
  std::vector<std::string> notes;
  std::uint32_t rules = 0;
  std::uint64_t table_bytes = 0;

  util::Result<void> load(const policy::Enforcement& tables, const sensor::KernelFacts& facts);
  std::optional<vg_look> look(const std::string& path);
  void find_homes();
  void find_names(const policy::Policy& policy, const policy::Enforcement& tables);
  [[nodiscard]] bool label(const std::string& path, std::uint32_t set);
};

util::Result<void> Enforcer::State::load(const policy::Enforcement& tables, const sensor::KernelFacts& facts) {
  skeleton.reset(enforce_bpf__open());
  if (!skeleton) {
    return util::fail_errno(EX_SOFTWARE, "cannot open the BPF object of enforcement");
  }
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton->obj) { bpf_program__set_autoload(program, false); }
  for (const EnforcedHook& hook : kHooks) {
    const bool always = std::ranges::find(kAlways, hook.name) != kAlways.end();
    if ((!always && (hook.operations & tables.operations) == 0) || !facts.has(std::string("bpf_lsm_") + hook.name)) {
      continue;
    }
    bpf_program* enforces = bpf_object__find_program_by_name(skeleton->obj, (std::string("enforce_") + hook.name).c_str());
    bpf_program__set_autoload(enforces, true);
    programs.push_back(enforces);
  }
  bpf_program__set_autoload(skeleton->progs.enforce_file_open, true);  // it also shows that hooks are called at all
  if (std::ranges::find(programs, skeleton->progs.enforce_file_open) == programs.end()) {
    programs.push_back(skeleton->progs.enforce_file_open);
  }
  bpf_program__set_autoload(skeleton->progs.who_enforces, true);
  bpf_program__set_autoload(skeleton->progs.look, true);
  auto& knobs = *skeleton->rodata;
  knobs.direct_loads = facts.rdonly_cast ? 1 : 0;
  knobs.attributes_come_second = facts.setattr_takes_idmap ? 1 : 0;
  knobs.decided_operations = tables.operations;
  knobs.mechanism = VG_MECHANISM_LSM;
  struct stat mounts{};
  knobs.our_mnt_ns = stat("/proc/self/ns/mnt", &mounts) == 0 ? static_cast<__u32>(mounts.st_ino) : 0;
  const auto cpus = static_cast<__u32>(std::max(libbpf_num_possible_cpus(), 1));
  const __u32 at_once = std::bit_ceil(std::max(cpus * 4, 64u));
  knobs.deed_mask = at_once - 1;
  bpf_map__set_max_entries(skeleton->maps.deeds, at_once);
  bpf_map__set_max_entries(skeleton->maps.rule_counts, std::max(tables.rules, 1u));
  bpf_map__set_value_size(skeleton->maps.tables, static_cast<__u32>(tables.tables.size()));
  knobs.table_mask = static_cast<__u32>(tables.tables.size() - 1);
  table_bytes = tables.tables.size();
  rules = tables.rules;
  if (const int code = enforce_bpf__load(skeleton.get()); code != 0) {
    return util::fail(EX_UNAVAILABLE, fmt::format("cannot load the programs of enforcement: {} ({})", util::errno_text(-code), sensor::why()));
  }
  const __u32 zero = 0;
  if (bpf_map__update_elem(skeleton->maps.tables, &zero, sizeof zero, tables.tables.data(), tables.tables.size(), BPF_ANY) != 0) {
    return util::fail_errno(EX_OSERR, "cannot fill the tables of enforcement");
  }
  LIBBPF_OPTS(bpf_test_run_opts, run);
  if (bpf_prog_test_run_opts(bpf_program__fd(skeleton->progs.who_enforces), &run) != 0) {
    return util::fail_errno(EX_OSERR, "cannot learn this process's own pid from the kernel");
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

bool Enforcer::State::label(const std::string& path, std::uint32_t set) {
  const auto seen = look(path);
  if (!seen) {
    return true;  // gone meanwhile
  }
  std::atomic_ref(skeleton->bss->labels_given).store(1);
  return bpf_map__update_elem(skeleton->maps.labels, &seen->object, sizeof seen->object, &set, sizeof set, BPF_ANY) == 0;
}

// Protected files that have several names: the others protect them too.
void Enforcer::State::find_names(const policy::Policy& policy, const policy::Enforcement& tables) {
  std::set<std::string> from;
  for (const policy::Rule& rule : policy.rules) {
    if (rule.decides() && rule.enforce) {
      for (const policy::Glob& glob : rule.paths) {
        from.insert(fixed_part(glob.text));
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
      full = full || !label(path, set);
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

util::Result<Enforcer> Enforcer::open(const policy::Policy& policy, const policy::Enforcement& tables) {
  sensor::keep_libbpf_words();
  if (auto ok = sensor::may_load(); !ok) {
    return util::pass_on(ok.error());
  }
  auto facts = sensor::kernel_facts();
  if (!facts) {
    return util::pass_on(facts.error());
  }
  auto state = std::make_unique<State>();
  std::uint64_t missing = beyond_lsm();
  for (const EnforcedHook& hook : kHooks) {
    if (!facts->has(std::string("bpf_lsm_") + hook.name) && std::ranges::find(kNewer, hook.name) == kNewer.end()) {
      missing |= hook.operations;
    }
  }
  if (!sensor::lsm_programs_load(*facts)) {
    return util::fail(EX_UNAVAILABLE, "this kernel has no BPF LSM, which enforcement needs; it needs CONFIG_BPF_LSM=y, and 'bpf' in its lsm= list");
  }
  for (const policy::Rule& rule : policy.rules) {
    const std::uint64_t lost = rule.operations & missing & ~(bit(VG_OP_CLOSE) | bit(VG_OP_EXIT));
    if (!rule.decides() || !rule.enforce || lost == 0) {
      continue;
    }
    const std::string what =
        fmt::format("{}:{}: rule '{}': the kernel offers nothing to stop '{}' by", rule.file, rule.line, rule.name, event::operation_names(lost));
    if (!rule.degraded) {
      return util::fail(EX_CONFIG, what + "; leave it out, or write 'degraded: accept' to have it only recorded");
    }
    state->notes.push_back(what + "; it is only recorded");
  }
  if (auto ok = state->load(tables, *facts); !ok) {
    return util::pass_on(ok.error());
  }
  state->mountinfo.reset(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  state->find_homes();
  state->find_names(policy, tables);
  return Enforcer(std::move(state));
}

Enforcer::Enforcer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Enforcer::Enforcer(Enforcer&&) noexcept = default;
Enforcer& Enforcer::operator=(Enforcer&&) noexcept = default;
Enforcer::~Enforcer() = default;

util::Result<void> Enforcer::attach() {
  for (bpf_program* program : state_->programs) {
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
    return util::fail(EX_UNAVAILABLE, "LSM programs attach but are never called: 'bpf' is not in the kernel's lsm= list");
  }
  return {};
}

int Enforcer::decisions() const { return bpf_map__fd(state_->skeleton->maps.decisions); }

int Enforcer::worker_decisions() const { return bpf_map__fd(state_->skeleton->maps.worker_decisions); }

int Enforcer::mounts_fd() const { return state_->mountinfo.get(); }

void Enforcer::mounts_changed() { state_->find_homes(); }

Counts Enforcer::counts() const {
  Counts counts;
  counts.rules.resize(state_->rules);
  for (__u32 i = 0; i < state_->rules; ++i) {
    bpf_map__lookup_elem(state_->skeleton->maps.rule_counts, &i, sizeof i, &counts.rules[i], sizeof counts.rules[i], 0);
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

std::uint64_t Enforcer::table_bytes() const { return state_->table_bytes; }

const std::vector<std::string>& Enforcer::notes() const { return state_->notes; }

}  // namespace vfsguard::enforce
