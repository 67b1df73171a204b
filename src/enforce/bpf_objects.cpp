// SPDX-License-Identifier: Apache-2.0
// What only user space can list for the programs that enforce: where file systems were mounted here, and other names of protected files.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
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
  return object_.run("look", context) ? std::optional(context) : std::nullopt;
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
  return object_.run("protect", request);
}

// As the map held them when it was read; it may be changed meanwhile.
void BpfEnforcer::for_each_protected(const std::function<void(const vg_inode_key&, const vg_protection&)>& each) {
  const auto all = protected_entries_.read();
  if (!all) {
    notes_.push_back(all.error().message);
    return;
  }
  vg_inode_key object{};
  vg_protection protection{};
  for (std::size_t at = 0; at < all->size(); at += sizeof object + sizeof protection) {
    std::memcpy(&object, &(*all)[at], sizeof object);
    std::memcpy(&protection, &(*all)[at + sizeof object], sizeof protection);
    each(object, protection);
  }
}

// What protects inodes in `from_version`, the one in force, and in the one before it, protects them in
// the next one as that has it. What is protected from now on by the one in force, the next one's
// tables translate.
void BpfEnforcer::carry_protected(const policy::Enforcement& tables, const std::vector<std::uint32_t>& last, std::uint32_t from_version) {
  const auto translated = [](const std::vector<std::uint32_t>& by, std::uint64_t set) { return set < by.size() ? by[set] : 0; };
  bool full = false;
  for_each_protected([&](const vg_inode_key& object, const vg_protection& protection) {
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
  });
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
  return object_.run("protect_named", request) && request.sets != 0 ? std::optional(key_of(request.object)) : std::nullopt;
}

// Of those that have no protected name any more, and were not moved out of one.
void BpfEnforcer::end_protection(const std::set<InodeKey>& named) {
  bool ended = false;
  for_each_protected([&](const vg_inode_key& object, const vg_protection& protection) {
    if (!named.contains(key_of(object)) && (protection.flags & VG_PROTECTION_MOVED) == 0) {
      ended = bpf_map_delete_elem(object_.map_fd("protected_inodes"), &object) == 0 || ended;
    }
  });
  if (ended) {
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
