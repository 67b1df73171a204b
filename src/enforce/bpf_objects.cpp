// SPDX-License-Identifier: Apache-2.0
// What only user space can list for the programs that enforce: where file systems are mounted here, and other names of protected files.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <tuple>

#include <fmt/format.h>

#include "enforce/bpf_enforcer.h"
#include "enforce/names.h"
#include "util/mountinfo.h"

namespace vfsguard::enforce {

namespace {

// Not worth asking: whoever looks may have to wait for another machine.
constexpr std::array<std::string_view, 8> kRemote{"nfs", "nfs4", "cifs", "smb3", "ceph", "afs", "autofs", "fuse.sshfs"};

}  // namespace

// What the kernel knows the path's object as. Never follows a link, opens nothing for reading.
std::optional<vg_look> BpfEnforcer::look(const std::string& path) {
  const util::UniqueFd fd(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) {
    return std::nullopt;
  }
  vg_look context{};
  context.fd = fd.get();
  LIBBPF_OPTS(bpf_test_run_opts, run);
  run.ctx_in = &context;  // and out again, by the same address
  run.ctx_size_in = sizeof context;
  if (bpf_prog_test_run_opts(object_.program_fd("look"), &run) != 0 || run.retval != 0) {
    return std::nullopt;
  }
  return context;
}

// Of each file system the mount that shows most of it, and lies highest.
void BpfEnforcer::find_homes() {
  std::map<std::uint32_t, util::Mount> best;
  for (util::Mount& mount : util::read_mountinfo(mountinfo_.get())) {
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
    if (bpf_map_update_elem(object_.map_fd("homes"), &key, &home, BPF_ANY) == 0) {
      known_homes_.set(guard::bytes_of(key), guard::bytes_of(home));
    }
  }
  std::atomic_ref(data().generation).fetch_add(1);
}

// As the map holds them now, all is as it must be.
void BpfEnforcer::note_marks() {
  if (auto all = marks_.read()) {
    known_marks_.take(std::move(*all));
  }
}

bool BpfEnforcer::mark(const vg_label& object, std::uint32_t for_version, std::uint32_t set) {
  vg_giving giving{.object = object, .version = for_version, .set = set};
  LIBBPF_OPTS(bpf_test_run_opts, run);
  run.ctx_in = &giving;
  run.ctx_size_in = sizeof giving;
  return bpf_prog_test_run_opts(object_.program_fd("give_mark"), &run) == 0 && run.retval == 0;
}

// Marks of `from_version`, the one in force, and of the one before it, as they are in the next. What is marked from now on by the one in force, the
// next one's tables translate.
void BpfEnforcer::carry_marks(const policy::Enforcement& tables, const std::vector<std::uint32_t>& last, std::uint32_t from_version) {
  const auto translated = [](const std::vector<std::uint32_t>& by, std::uint64_t set) { return set < by.size() ? by[set] : 0; };
  const int fd = object_.map_fd("labels");
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
      // Its place is taken now; should the next version_ not come about, this one goes by its own.
      const std::uint32_t here = translated(last, *earlier);
      (void)mark(object, from_version, here);
      set = translated(tables.translation, here);
    }
    // Without one too: else the kernel would take the mark of the version_ before for news.
    (void)mark(object, from_version + 1, set);
  }
}

// Protected files that have several names: the others protect them too.
void BpfEnforcer::find_names(const policy::Policy& policy, const policy::Enforcement& tables, std::uint32_t for_version) {
  bool full = false;
  const bool all = for_each_linked_file(policy, globs_, [&](const std::string& path, const struct stat&) {
    if (const std::uint32_t set = tables.automaton.match(tables.automaton.head.path_start, path); set != 0) {
      const auto seen = look(path);
      full = full || (seen && !mark(seen->object, for_version, set));
    }
  });
  if (!all) {
    notes_.push_back(not_all_looked_at());
  }
  if (full) {
    notes_.push_back("more protected files with several names than there is room for; of some only the protected names hold");
  }
}

}  // namespace vfsguard::enforce
