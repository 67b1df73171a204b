// SPDX-License-Identifier: Apache-2.0
#include "guard/integrity.h"

#include <fcntl.h>
#include <linux/fsverity.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fmt/format.h>

#include "util/fd.h"
#include "util/memory.h"
#include "util/result.h"
#include "util/sha256.h"

namespace vfsguard::guard {

namespace {

constexpr const char* kSelf = "/proc/self/exe";
constexpr std::string_view kExecutable = "executable ";
constexpr std::string_view kRunning = "executable (running)";
constexpr std::string_view kDeleted = " (deleted)";

std::string digest_or_why(const std::string& path) {
  const util::UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd) {
    return errno == ENOENT ? kAbsent : fmt::format("cannot be read: {}", util::errno_text(errno));
  }
  util::Sha256 digest;
  if (!digest.update_from(fd.get())) {
    return fmt::format("cannot be read: {}", util::errno_text(errno));
  }
  const auto hex = digest.hex();
  return hex ? fmt::format("sha256:{}", std::string_view(hex->data(), hex->size())) : "cannot be read: no digest";
}

// The executable maps of this process.
void add_maps(Facts& facts) {
  std::map<std::string, std::uint64_t> changed;  // of several with one name all that is
  for (const util::Map& map : util::own_maps()) {
    std::string_view name = map.name;
    if (map.rights.size() < 3 || map.rights[2] != 'x' || name == "[vdso]" || name == "[vsyscall]" || name == "[uprobes]") {
      continue;
    }
    if (name.ends_with(kDeleted)) {
      name.remove_suffix(kDeleted.size());  // a library was upgraded; it is mapped as it was
    }
    changed[name.empty() ? "memory (no file)" : fmt::format("memory {}+{}{}", name, map.offset, map.rights[1] == 'w' ? ", writable" : "")] += map.own_kib;
  }
  for (const auto& [map, kib] : changed) {
    facts[map] = kib == 0 ? "as its file" : fmt::format("{} KiB of it changed", kib);
  }
}

}  // namespace

std::string executable_path() {
  std::error_code error;
  std::string path = std::filesystem::read_symlink(kSelf, error).string();
  if (path.ends_with(kDeleted)) {
    path.resize(path.size() - kDeleted.size());
  }
  return path;
}

std::string executable_digest() { return util::sha256_of_file(kSelf).value_or(""); }

std::string executable_verity() {
  const util::UniqueFd fd(open(kSelf, O_RDONLY | O_CLOEXEC));
  if (!fd) {
    return {};
  }
  constexpr std::size_t kMost = 64;
  alignas(fsverity_digest) std::array<std::byte, sizeof(fsverity_digest) + kMost> memory{};
  auto* const digest = reinterpret_cast<fsverity_digest*>(memory.data());
  digest->digest_size = kMost;
  if (ioctl(fd.get(), FS_IOC_MEASURE_VERITY, digest) != 0) {
    return {};
  }
  std::string text = digest->digest_algorithm == FS_VERITY_HASH_ALG_SHA256   ? "sha256:"
                     : digest->digest_algorithm == FS_VERITY_HASH_ALG_SHA512 ? "sha512:"
                                                                             : "?:";
  for (std::size_t i = 0; i < digest->digest_size; ++i) {
    text += fmt::format("{:02x}", std::to_integer<unsigned>(memory[sizeof(fsverity_digest) + i]));
  }
  return text;
}

void add_executable(Facts& facts) {
  const std::string digest = digest_or_why(kSelf);
  const std::string verity = executable_verity();
  facts[std::string(kRunning)] = verity.empty() ? digest : fmt::format("{} verity:{}", digest, verity);
  static const std::string path = executable_path();  // by which it was started; what lies there later may be another file
  struct stat running{};
  struct stat there{};
  const bool known = stat(kSelf, &running) == 0;
  std::string& value = facts[std::string(kExecutable) + path];
  if (stat(path.c_str(), &there) != 0) {
    value = errno == ENOENT ? kAbsent : "cannot be looked at: " + util::errno_text(errno);
  } else {
    const bool same = known && running.st_dev == there.st_dev && running.st_ino == there.st_ino;
    value = fmt::format("{}:{} {} {}", major(there.st_dev), minor(there.st_dev), there.st_ino, same ? digest : digest_or_why(path));
  }
  add_maps(facts);
}

void add_files(Facts& facts, const std::string& role, const std::vector<std::string>& files) {
  for (const std::string& file : files) {
    facts[fmt::format("{} {}", role, file)] = digest_or_why(file);
  }
}

void Integrity::expect(const Facts& facts, const std::vector<std::string>& kinds) {
  const auto is_meant = [&](const std::string& name) {
    return kinds.empty() || std::ranges::any_of(kinds, [&](const std::string& kind) { return name.starts_with(kind + " "); });
  };
  std::erase_if(expected_, [&](const auto& entry) { return is_meant(entry.first); });
  std::erase_if(told_, [&](const auto& entry) { return is_meant(entry.first); });
  for (const auto& [name, value] : facts) {
    if (is_meant(name)) {
      expected_[name] = value;
    }
  }
}

// Another file under the same name, beside an unchanged program.
bool Integrity::is_upgrade(const std::string& what, const Facts& found) const {
  if (!what.starts_with(kExecutable) || what == kRunning) {
    return false;
  }
  const auto expected = expected_.find(std::string(kRunning));
  const auto running = found.find(std::string(kRunning));
  const auto before = expected_.find(what);
  const auto after = found.find(what);
  const auto file_of = [](const std::string& value) { return value.substr(0, value.find(' ', value.find(' ') + 1)); };
  return expected != expected_.end() && running != found.end() && expected->second == running->second && before != expected_.end() && after != found.end() &&
         file_of(before->second) != file_of(after->second);
}

std::vector<Difference> Integrity::compare(const Facts& found) {
  std::vector<Difference> differences;
  const auto look = [&](const std::string& name, const std::string& expected, const std::string& value) {
    const auto told = told_.find(name);
    if (expected == value) {
      if (told != told_.end()) {
        differences.push_back({.what = name, .expected = expected, .found = value, .restored = true});
        told_.erase(told);
        std::erase(upgrades_, name);
      }
      return;
    }
    if (told != told_.end() && told->second == value) {
      return;
    }
    told_[name] = value;
    const bool upgrade = is_upgrade(name, found);
    std::erase(upgrades_, name);
    if (upgrade) {
      upgrades_.push_back(name);
    }
    differences.push_back({.what = name, .expected = expected, .found = value, .upgrade = upgrade});
  };
  for (const auto& [name, value] : expected_) {
    const auto now = found.find(name);
    look(name, value, now == found.end() ? kAbsent : now->second);
  }
  for (const auto& [name, value] : found) {
    if (!expected_.contains(name)) {
      look(name, kAbsent, value);
    }
  }
  std::vector<std::string> gone;  // what had come and went
  for (const auto& [name, value] : told_) {
    if (!expected_.contains(name) && !found.contains(name)) {
      gone.push_back(name);
    }
  }
  for (const std::string& name : gone) {
    look(name, kAbsent, kAbsent);
  }
  return differences;
}

std::vector<std::string> Integrity::standing() const {
  std::vector<std::string> names;
  for (const auto& [name, found] : told_) {
    if (std::ranges::find(upgrades_, name) == upgrades_.end()) {
      names.push_back(name);
    }
  }
  return names;
}

}  // namespace vfsguard::guard
