// SPDX-License-Identifier: Apache-2.0
// What only user space can list for the programs that enforce: where file systems were mounted here, and other names of protected files.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <tuple>

#include <fmt/format.h>

#include "enforce/bpf_enforcer.h"
#include "enforce/link_scan.h"
#include "util/mountinfo.h"

namespace vfsguard::enforce {

namespace {

// Not worth asking: whoever looks may have to wait for another machine.
constexpr const char* kNoRoom = "more protected files with several names than there is room for; of some only the protected names are protected";

constexpr std::array<std::string_view, 8> kRemote{"nfs", "nfs4", "cifs", "smb3", "ceph", "afs", "autofs", "fuse.sshfs"};

}  // namespace

// What the kernel knows the path's object as. Never follows a link, opens nothing for reading.
std::optional<vg_look> BpfEnforcer::look(const std::string& path) {
  const util::UniqueFd fd(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  return fd ? look(fd.get()) : std::nullopt;
}

std::optional<vg_look> BpfEnforcer::look(int fd) {
  vg_look context{};
  context.fd = fd;
  LIBBPF_OPTS(bpf_test_run_opts, run);
  run.ctx_in = &context;  // and out again, by the same address
  run.ctx_size_in = sizeof context;
  if (bpf_prog_test_run_opts(object_.program_fd("look"), &run) != 0 || run.retval != 0) {
    return std::nullopt;
  }
  return context;
}

// A protected path can lead through the mount point, or to it.
bool BpfEnforcer::can_protect(const std::string& point) const {
  const auto below = [](const std::string& path, const std::string& directory) {
    return directory == "/" || path == directory || (path.starts_with(directory) && path[directory.size()] == '/');
  };
  return std::ranges::any_of(starts_, [&](const std::string& start) { return below(start, point) || below(point, start); });
}

// What the kernel does not keep: where directories of file systems were mounted here, for when they
// are no more. What is mounted now it finds by itself.
void BpfEnforcer::remember_mount_points() {
  std::map<std::tuple<std::uint64_t, std::uint32_t, std::uint32_t>, std::vector<std::string>> points;
  bool forgot = false;
  for (const util::Mount& mount : util::read_mountinfo(mountinfo_.get())) {
    if (std::ranges::find(kRemote, mount.type) != kRemote.end() || mount.point.size() > VG_PATH_MAX || !can_protect(mount.point)) {
      continue;
    }
    const auto seen = look(mount.point);
    if (!seen || seen->mnt_id != mount.id) {
      continue;  // hidden beneath another mount: nobody gets there by that path
    }
    points[{seen->mount.root_ino, seen->mount.dev, seen->mount.generation}].push_back(mount.point);
  }
  const int fd = object_.map_fd("mount_points");
  const auto value = std::make_unique<vg_mount_point>();
  for (const auto& [root, paths] : points) {
    vg_mount_point_key key{.root_ino = std::get<0>(root), .dev = std::get<1>(root), .generation = std::get<2>(root), .index = 0, .pad = 0};
    std::set<std::string> missing(paths.begin(), paths.end());
    // Those of before stay behind: a mount that was taken away protects by its path still.
    for (; key.index < VG_MOUNT_POINTS && bpf_map_lookup_elem(fd, &key, value.get()) == 0; ++key.index) {
      known_mount_points_.set(guard::bytes_of(key), guard::bytes_of(*value));
      missing.erase(std::string(value->path, std::min<std::size_t>(value->len, VG_PATH_MAX)));
      if (value->len == 0) {
        missing.erase("/");
      }
    }
    for (const std::string& path : missing) {
      if (key.index >= VG_MOUNT_POINTS) {
        forgot = true;
        break;
      }
      *value = {};
      if (path != "/") {
        value->len = static_cast<vg_u32>(path.size());
        std::ranges::copy(path, value->path);
      }
      if (bpf_map_update_elem(fd, &key, value.get(), BPF_ANY) != 0) {
        forgot = true;
        break;
      }
      known_mount_points_.set(guard::bytes_of(key), guard::bytes_of(*value));
      ++key.index;
    }
  }
  if (forgot && !std::exchange(forgot_mount_points_, true)) {
    notes_.push_back("more mount points than are remembered; files on a mount that is taken away later may be known by fewer of its paths");
  }
  std::atomic_ref(data().generation).fetch_add(1);
}

// As the map holds them now, all is as it must be.
void BpfEnforcer::note_protected() {
  if (auto all = protected_entries_.read()) {
    known_protected_.take(std::move(*all));
  }
}

bool BpfEnforcer::protect(const vg_inode_key& object, std::uint32_t for_version, std::uint32_t set) {
  vg_protect request{.object = object, .version = for_version, .set = set};
  LIBBPF_OPTS(bpf_test_run_opts, run);
  run.ctx_in = &request;
  run.ctx_size_in = sizeof request;
  return bpf_prog_test_run_opts(object_.program_fd("protect"), &run) == 0 && run.retval == 0;
}

// What protects inodes in `from_version`, the one in force, and in the one before it, protects them in
// the next one as that has it. What is protected from now on by the one in force, the next one's
// tables translate.
void BpfEnforcer::carry_protected(const policy::Enforcement& tables, const std::vector<std::uint32_t>& last, std::uint32_t from_version) {
  const auto translated = [](const std::vector<std::uint32_t>& by, std::uint64_t set) { return set < by.size() ? by[set] : 0; };
  const int fd = object_.map_fd("protected_inodes");
  vg_inode_key object{};
  vg_inode_key next{};
  const vg_inode_key* previous = nullptr;
  bool full = false;
  while (bpf_map_get_next_key(fd, previous, &next) == 0) {
    object = next;
    previous = &object;
    vg_protection protection{};
    if (bpf_map_lookup_elem(fd, &object, &protection) != 0) {
      continue;
    }
    std::set<std::uint32_t> sets;
    for (const vg_u64 slot : protection.by[from_version & 1]) {
      if (slot >> 32 == from_version) {
        sets.insert(static_cast<std::uint32_t>(slot));
      }
    }
    for (const vg_u64 slot : protection.by[~from_version & 1]) {
      if (slot >> 32 != from_version - 1) {
        continue;
      }
      // The slots of that version are taken now: this one has what it had there in its own.
      if (const std::uint32_t here = translated(last, static_cast<std::uint32_t>(slot)); here != 0 && sets.insert(here).second) {
        full = !protect(object, from_version, here) || full;
      }
    }
    for (const std::uint32_t set : sets) {
      if (const std::uint32_t there = translated(tables.translation, set); there != 0) {
        full = !protect(object, from_version + 1, there) || full;
      }
    }
  }
  if (full) {
    notes_.push_back(kNoRoom);
  }
}

// Protected files that have several names: the others are protected too. While the programs are
// attached nothing is missed: what is linked or renamed meanwhile they note themselves.
void BpfEnforcer::find_links(const policy::Policy& policy, const policy::Enforcement& tables, std::uint32_t for_version) {
  bool full = false;
  LinkedFiles linked;
  const policy::Automaton& automaton = tables.automaton;
  const auto tag = [&](const Found& found) {
    if (const std::uint32_t set = automaton.match(automaton.head.path_start, found.path); set != 0) {
      const auto seen = look(found.fd);
      if (seen && protect(seen->object, for_version, set)) {
        linked.add(found);
      } else {
        full = true;
      }
    }
  };
  const auto changes = [&] { return std::atomic_ref(bss().names_changed).load(); };
  const ScanOptions options{.deadline = scan_deadline(!in_force_)};
  const ScanReport report = scan_until_stable(scan_starts(policy, globs_), changes, tag, options);
  scanned_all_ = !report.gave_up && report.unread_total == 0;
  add_notes(linked, report, notes_);
  if (full) {
    notes_.push_back(kNoRoom);
  }
}

std::optional<InodeKey> BpfEnforcer::protect_named(int fd) const {
  vg_protect_named request{};
  request.fd = fd;
  LIBBPF_OPTS(bpf_test_run_opts, run);
  run.ctx_in = &request;
  run.ctx_size_in = sizeof request;
  if (bpf_prog_test_run_opts(object_.program_fd("protect_named"), &run) != 0 || run.retval != 0 || request.sets == 0) {
    return std::nullopt;
  }
  return key_of(request.object);
}

// Of those that have no protected name any more, and were not moved out of one.
void BpfEnforcer::end_protection(const std::set<InodeKey>& named) {
  const int fd = object_.map_fd("protected_inodes");
  std::vector<vg_inode_key> gone;
  vg_inode_key object{};
  vg_inode_key next{};
  const vg_inode_key* previous = nullptr;
  while (bpf_map_get_next_key(fd, previous, &next) == 0) {
    object = next;
    previous = &object;
    vg_protection protection{};
    if (!named.contains(key_of(object)) && bpf_map_lookup_elem(fd, &object, &protection) == 0 && (protection.flags & VG_PROTECTION_MOVED) == 0) {
      gone.push_back(object);
    }
  }
  for (const vg_inode_key& one : gone) {
    (void)bpf_map_delete_elem(fd, &one);
  }
  if (!gone.empty()) {
    std::atomic_ref(data().generation).fetch_add(1);
    note_protected();
  }
}

void BpfEnforcer::look_after() {
  if (!in_force_) {
    return;
  }
  if (check_ && check_->done()) {
    const bool complete = check_->is_complete();
    if (complete) {
      end_protection(check_->named());
    }
    // A link that was made just now, of a file whose protection just ended.
    if (complete && !check_->is_complete()) {
      --checked_;
    }
    check_.reset();
  }
  if (const std::uint64_t names = std::atomic_ref(bss().names_to_check).load(); !check_ && names != checked_) {
    checked_ = names;
    check_ = std::make_unique<LinkCheck>(starts_, [this] { return std::atomic_ref(bss().names_changed).load(); }, [this](int fd) { return protect_named(fd); });
  }
}

}  // namespace vfsguard::enforce
