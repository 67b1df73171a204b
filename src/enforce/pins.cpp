// SPDX-License-Identifier: Apache-2.0
#include "enforce/pins.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include <fmt/format.h>

namespace vfsguard::enforce {

namespace {

std::vector<std::string> entries_of(const std::string& directory) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(directory.c_str()), closedir);
  while (const dirent* entry = dir ? readdir(dir.get()) : nullptr) {
    if (entry->d_name[0] != '.') {
      names.emplace_back(entry->d_name);
    }
  }
  return names;
}

std::optional<unsigned> number_in(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

// The whole of a map of one entry.
std::vector<std::byte> value_of(const util::UniqueFd& map) {
  bpf_map_info info{};
  __u32 size = sizeof info;
  const __u32 zero = 0;
  if (!map || bpf_obj_get_info_by_fd(map.get(), &info, &size) != 0 || info.key_size != sizeof zero) {
    return {};
  }
  std::vector<std::byte> value(info.value_size);
  return bpf_map_lookup_elem(map.get(), &zero, value.data()) == 0 ? value : std::vector<std::byte>{};
}

util::UniqueFd pinned(const std::string& directory, std::string_view name) {
  return util::UniqueFd(bpf_obj_get(fmt::format("{}/{}", directory, name).c_str()));
}

// A map that this build's programs could take over.
bool has_sizes(const util::UniqueFd& map, std::size_t key, std::size_t value) {
  bpf_map_info info{};
  __u32 size = sizeof info;
  return map && bpf_obj_get_info_by_fd(map.get(), &info, &size) == 0 && info.key_size == key && info.value_size == value;
}

}  // namespace

Heritage Standing::heritage() const {
  Heritage heritage;
  heritage.version = description.version;
  heritage.protected_inodes = protected_inodes.get();
  heritage.mount_points = mount_points.get();
  heritage.refusals = refusals.get();
  heritage.worker_refusals = worker_refusals.get();
  heritage.ancestries = description.forks != 0 ? ancestries.get() : -1;
  heritage.globs.insert(description.globs.begin(), description.globs.end());
  heritage.translation = description.translation;
  return heritage;
}

Counts Standing::counts() const {
  Counts counts = description.before;
  if (const auto rules = pinned(directory, "rule_counts"); has_sizes(rules, sizeof(__u32), sizeof(vg_rule_counts))) {
    for (std::uint32_t i = 0; i < description.rules.size(); ++i) {
      const __u32 index = (description.version & 1) * description.capacity + i;
      vg_rule_counts one{};
      if (bpf_map_lookup_elem(rules.get(), &index, &one) == 0 && one.stopped > 0) {
        counts.add(description.rules[i].name, one);
      }
    }
  }
  if (const auto totals = pinned(directory, "enforcement"); has_sizes(totals, sizeof(__u32), sizeof(vg_enforcement))) {
    counts.add_per_cpu(totals.get());
  }
  return counts;
}

util::Result<std::optional<Pins>> Pins::take(const std::string& directory, bool make) {
  if (make) {
    const std::string above = directory.substr(0, std::max<std::size_t>(directory.rfind('/'), 1));
    struct statfs fs{};
    if (statfs(above.c_str(), &fs) != 0 || static_cast<unsigned long>(fs.f_type) != BPF_FS_MAGIC) {
      return util::fail(EX_UNAVAILABLE, fmt::format("'persist: true' needs bpffs, and there is none at {}; run: mount -t bpf bpf {}", above, above));
    }
    if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
      return util::fail_errno(EX_CANTCREAT, fmt::format("cannot make '{}'", directory));
    }
  }
  util::UniqueFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) {
    if (errno == ENOENT) {
      return std::optional<Pins>();
    }
    return util::fail_errno(errno == EACCES ? EX_NOPERM : EX_UNAVAILABLE, fmt::format("cannot look into '{}'", directory));
  }
  // What is no bpffs holds somebody's files, which nobody here may remove.
  if (struct statfs fs{}; fstatfs(fd.get(), &fs) != 0 || static_cast<unsigned long>(fs.f_type) != BPF_FS_MAGIC) {
    return util::fail(EX_USAGE, fmt::format("'{}' is no directory of bpffs", directory));
  }
  struct stat status{};
  if (fstat(fd.get(), &status) != 0 || status.st_uid != 0 || (status.st_mode & 022) != 0) {
    return util::fail(EX_NOPERM, fmt::format("'{}' must belong to root and be writable for nobody else", directory));
  }
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return util::fail(EX_TEMPFAIL,
                      fmt::format("another agent has the persistent enforcement in '{}'; stop it first, or give this one a --pins of its own", directory));
  }
  return Pins(directory, std::move(fd));
}

std::vector<unsigned> Pins::sets() const {
  std::vector<unsigned> numbers;
  for (const std::string& name : entries_of(directory_)) {
    if (const auto number = number_in(name)) {
      numbers.push_back(*number);
    }
  }
  std::ranges::sort(numbers);
  return numbers;
}

void Pins::become_agent() const {
  for (const unsigned number : sets()) {
    if (const auto program = pinned(fmt::format("{}/{}", directory_, number), "who_enforces")) {
      LIBBPF_OPTS(bpf_test_run_opts, run);
      (void)bpf_prog_test_run_opts(program.get(), &run);
    }
  }
}

std::unique_ptr<Standing> Pins::standing(std::vector<std::string>& notes) const {
  const std::vector<unsigned> numbers = sets();
  for (auto it = numbers.rbegin(); it != numbers.rend(); ++it) {
    auto found = std::make_unique<Standing>();
    found->directory = fmt::format("{}/{}", directory_, *it);
    std::vector<unsigned> versions;
    for (const std::string& name : entries_of(found->directory)) {
      if (const auto version = name.starts_with(kAbout) ? number_in(std::string_view(name).substr(kAbout.size())) : std::nullopt) {
        versions.push_back(*version);
      }
    }
    const std::vector<std::byte> data = value_of(pinned(found->directory, "data"));
    for (const unsigned version : versions) {
      auto description = decode(value_of(pinned(found->directory, fmt::format("{}{}", kAbout, version))));
      if (!description) {
        notes.push_back(
            fmt::format("the enforcement in '{}' cannot be gone on with: {}; what it marked (protected files that were moved or linked) is forgotten",
                        found->directory, description.error().message));
        continue;
      }
      std::uint32_t decides = 0;
      if (data.size() < sizeof decides || description->version_at > data.size() - sizeof decides) {
        continue;
      }
      std::memcpy(&decides, data.data() + description->version_at, sizeof decides);
      if (decides != version || description->version != version) {
        continue;  // its agent died before, or after, it was in force
      }
      found->description = std::move(*description);
      found->protected_inodes = pinned(found->directory, "protected_inodes");
      found->mount_points = pinned(found->directory, "mount_points");
      found->refusals = pinned(found->directory, "refusals");
      found->worker_refusals = pinned(found->directory, "worker_refusals");
      found->ancestries = pinned(found->directory, "ancestries");
      if (!has_sizes(found->protected_inodes, sizeof(vg_inode_key), sizeof(vg_protection)) ||
          !has_sizes(found->mount_points, sizeof(vg_mount_point_key), sizeof(vg_mount_point)) || !has_sizes(found->refusals, sizeof(int), sizeof(vg_refusal)) ||
          !has_sizes(found->worker_refusals, sizeof(vg_worker_key), sizeof(vg_refusal)) || !has_sizes(found->ancestries, sizeof(int), sizeof(vg_ancestry))) {
        notes.push_back(fmt::format("the enforcement in '{}' has not the maps of this version; what it marked is forgotten", found->directory));
        continue;
      }
      for (const Description::Rule& rule : found->description.rules) {
        policy::Rule& stub = found->policy.rules.emplace_back();
        stub.name = rule.name;
        for (const std::string& glob : rule.globs) {
          stub.paths.emplace_back().text = glob;
        }
      }
      found->tables.set_rules = found->description.set_rules;
      found->tables.exe_sets = found->description.exe_sets;
      const auto in_policy = [&](std::uint32_t rule) { return rule < found->policy.rules.size(); };
      if (!std::ranges::all_of(found->tables.set_rules, [&](const auto& set) { return std::ranges::all_of(set, in_policy); })) {
        continue;
      }
      return found;
    }
  }
  return nullptr;
}

std::string Pins::next() const {
  const std::vector<unsigned> numbers = sets();
  return fmt::format("{}/{}", directory_, numbers.empty() ? 1 : numbers.back() + 1);
}

std::size_t Pins::drop_all_but(const std::string& kept) const {
  std::size_t dropped = 0;
  for (const unsigned number : sets()) {
    if (const std::string directory = fmt::format("{}/{}", directory_, number); directory != kept) {
      remove_set(directory);
      ++dropped;
    }
  }
  if (kept.empty()) {
    (void)rmdir(directory_.c_str());
  }
  return dropped;
}

void remove_set(const std::string& directory) {
  for (const std::string& name : entries_of(directory)) {
    (void)unlink(fmt::format("{}/{}", directory, name).c_str());
  }
  (void)rmdir(directory.c_str());
}

}  // namespace vfsguard::enforce
