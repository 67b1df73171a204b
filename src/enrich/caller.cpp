// SPDX-License-Identifier: Apache-2.0
#include "enrich/caller.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <climits>
#include <optional>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "event/decode.h"
#include "util/read_file.h"

namespace vfsguard::enrich {

namespace {

// The numbers of a line of /proc/PID/status.
std::optional<std::uint32_t> number_of(std::string_view status, std::string_view key) {
  const std::size_t at = status.find(fmt::format("\n{}:\t", key));
  std::uint32_t value = 0;
  if (at == std::string_view::npos) {
    return std::nullopt;
  }
  const char* begin = status.data() + at + key.size() + 3;
  return std::from_chars(begin, status.data() + status.size(), value).ec == std::errc() ? std::optional(value) : std::nullopt;
}

std::optional<std::string> executable_of(std::uint32_t pid) {
  const std::string link = fmt::format("/proc/{}/exe", pid);
  std::array<char, PATH_MAX> target;
  const ssize_t n = readlink(link.c_str(), target.data(), target.size());
  if (n <= 0) {
    return std::nullopt;
  }
  std::string path(target.data(), static_cast<std::size_t>(n));
  struct stat real{};
  struct stat named{};
  if (stat(link.c_str(), &real) != 0 || stat(path.c_str(), &named) != 0 || real.st_dev != named.st_dev || real.st_ino != named.st_ino) {
    return std::nullopt;
  }
  return path;
}

}  // namespace

pid_t describe_caller(pid_t tid, event::Operation& operation) {
  const auto status = util::read_file(fmt::format("/proc/{}/status", tid));
  const auto name = util::read_file(fmt::format("/proc/{}/comm", tid));
  if (!status || !name || name->empty()) {
    return 0;
  }
  const auto tgid = number_of(*status, "Tgid");
  const auto uid = number_of(*status, "Uid");
  const auto gid = number_of(*status, "Gid");
  if (!tgid || !uid || !gid) {
    return 0;
  }
  operation.raw.uid = *uid;
  operation.raw.gid = *gid;
  std::string_view(*name).substr(0, name->size() - 1).copy(operation.raw.comm, sizeof operation.raw.comm - 1);
  auto process = std::make_shared<event::Process>();
  process->pid = *tgid;
  process->exe = executable_of(*tgid);
  auto above = number_of(*status, "PPid");
  while (above && *above != 0 && process->ancestors.size() < VG_ANCESTORS_MAX) {
    event::Ancestor ancestor;
    ancestor.pid = *above;
    if (auto exe = executable_of(*above)) {
      ancestor.exe = std::make_shared<const std::string>(std::move(*exe));
    }
    process->ancestors.push_back(std::move(ancestor));
    const auto theirs = util::read_file(fmt::format("/proc/{}/status", *above));
    above = theirs ? number_of(*theirs, "PPid") : std::nullopt;
  }
  const auto groups = util::read_file(fmt::format("/proc/{}/cgroup", tid));
  if (const std::size_t at = groups ? ("\n" + *groups).find("\n0::") : std::string::npos; at != std::string::npos) {
    const std::string_view line = std::string_view(*groups).substr(at + 3);
    process->cgroup = line.substr(0, line.find('\n'));
    process->container = event::container_of(*process->cgroup);
  }
  operation.process = std::move(process);
  return static_cast<pid_t>(*tgid);
}

}  // namespace vfsguard::enrich
