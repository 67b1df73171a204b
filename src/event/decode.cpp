// SPDX-License-Identifier: Apache-2.0
#include "event/decode.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include <fmt/format.h>

#include "event/names.h"

namespace vfsguard::event {

namespace {

template <typename T>
util::Result<std::string_view> header_and_strings(std::span<const std::byte> data, T& out, std::size_t strings_size(const T&)) {
  if (data.size() < sizeof(T)) {
    return util::fail(EX_DATAERR, fmt::format("record of {} bytes is shorter than its header of {}", data.size(), sizeof(T)));
  }
  std::memcpy(&out, data.data(), sizeof(T));
  const std::size_t strings = strings_size(out);
  if (sizeof(T) + strings != out.head.size) {
    return util::fail(EX_DATAERR, fmt::format("record of {} bytes holds strings of {}", out.head.size, strings));
  }
  return std::string_view(reinterpret_cast<const char*>(data.data()) + sizeof(T), strings);
}

std::string& slot(std::optional<std::string>& s) {
  if (!s) {
    s.emplace();
  }
  return *s;
}

// One of an event's paths: that of the object, or the caller's name made absolute by text.
void decode_path(const vg_event& e, std::uint32_t flags, std::string_view walk, std::string_view raw, std::optional<std::string>& path,
                 std::optional<std::string>& path_raw) {
  if ((flags & VG_RAW_PRESENT) != 0) {
    slot(path_raw).assign(raw);
  } else {
    path_raw.reset();
  }
  const bool rooted = (flags & (VG_PATH_DETACHED | VG_PATH_ANONYMOUS | VG_PATH_TRUNCATED)) == 0;
  if ((flags & VG_PATH_OBJECT) != 0) {
    if ((flags & VG_PATH_DISCONNECTED) != 0) {
      path.reset();
      return;
    }
    walk_to_path(walk, rooted, slot(path));
    if ((flags & VG_PATH_ANONYMOUS) != 0 && path->empty()) {
      // As d_path names the pseudo file systems' objects: "pipe:[12345]".
      std::string_view fs(e.fs_type, strnlen(e.fs_type, sizeof e.fs_type));
      if (fs.ends_with("fs")) {
        fs.remove_suffix(2);
      }
      *path = fmt::format("{}:[{}]", fs, e.ino);
    }
  } else if (raw.empty() || (flags & VG_RAW_PRESENT) == 0 || (raw[0] != '/' && (flags & (VG_BASE_UNKNOWN | VG_PATH_DISCONNECTED)) != 0)) {
    path.reset();
  } else {
    std::string directory;
    walk_to_path(walk, rooted, directory);
    resolve_by_text(directory, raw, slot(path));
  }
}

std::optional<Address> decode_address(std::string_view bytes) {
  sockaddr_storage storage{};
  if (bytes.size() < sizeof storage.ss_family || bytes.size() > sizeof storage) {
    return std::nullopt;
  }
  std::memcpy(&storage, bytes.data(), bytes.size());
  Address address;
  address.family = storage.ss_family;
  char text[INET6_ADDRSTRLEN] = {};
  if (address.family == AF_INET && bytes.size() >= sizeof(sockaddr_in)) {
    sockaddr_in in{};
    std::memcpy(&in, &storage, sizeof in);
    address.ip = inet_ntop(AF_INET, &in.sin_addr, text, sizeof text);
    address.port = ntohs(in.sin_port);
  } else if (address.family == AF_INET6 && bytes.size() >= 24) {  // SIN6_LEN_RFC2133: without the scope
    sockaddr_in6 in{};
    std::memcpy(&in, &storage, sizeof in);
    address.ip = inet_ntop(AF_INET6, &in.sin6_addr, text, sizeof text);
    address.port = ntohs(in.sin6_port);
  } else if (address.family == AF_UNIX && bytes.size() > 3 && bytes[2] == '\0') {
    address.name = bytes.substr(3);
  }
  return address;
}

bool is_container_id(std::string_view s) {
  return s.size() == 64 && std::ranges::all_of(s, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// systemd writes what a unit's name may not hold as \xHH (systemd.unit(5)).
std::string unescape_unit(std::string_view name) {
  std::string out;
  for (std::size_t i = 0; i < name.size(); ++i) {
    unsigned value = 0;
    if (name[i] == '\\' && i + 3 < name.size() && name[i + 1] == 'x' &&
        std::from_chars(name.data() + i + 2, name.data() + i + 4, value, 16).ec == std::errc{}) {
      out += static_cast<char>(value);
      i += 3;
    } else {
      out += name[i];
    }
  }
  return out;
}

}  // namespace

util::Result<std::uint8_t> record_kind(std::span<const std::byte> data) {
  vg_record head;
  if (data.size() < sizeof head) {
    return util::fail(EX_DATAERR, fmt::format("record of {} bytes", data.size()));
  }
  std::memcpy(&head, data.data(), sizeof head);
  if (head.version != VG_ABI_VERSION) {
    return util::fail(EX_DATAERR, fmt::format("record of schema {}, expected {}", head.version, VG_ABI_VERSION));
  }
  if (head.size < sizeof head || head.size > data.size()) {
    return util::fail(EX_DATAERR, fmt::format("record says {} bytes, has {}", head.size, data.size()));
  }
  return head.kind;
}

void walk_to_path(std::string_view walk, bool rooted, std::string& out) {
  out.clear();
  // Components come leaf first; lay them down from the end.
  std::size_t end = walk.size();
  if (end == 0) {
    if (rooted) {
      out = "/";
    }
    return;
  }
  out.reserve(walk.size() + 1);
  if (walk[end - 1] == '\0') {
    --end;
  }
  while (true) {
    const std::size_t nul = end == 0 ? std::string_view::npos : walk.rfind('\0', end - 1);
    const std::size_t begin = nul == std::string_view::npos ? 0 : nul + 1;
    if (rooted || !out.empty()) {
      out += '/';
    }
    out += walk.substr(begin, end - begin);
    if (begin == 0) {
      break;
    }
    end = begin - 1;
  }
}

void resolve_by_text(std::string_view directory, std::string_view name, std::string& out) {
  out.assign(directory);
  if (out == "/") {
    out.clear();
  }
  // A chroot's root is where ".." stops only for absolute names; for relative ones it is the directory tree's own root.
  const std::size_t floor = !name.empty() && name[0] == '/' ? out.size() : 0;
  std::size_t at = 0;
  while (at < name.size()) {
    const std::size_t slash = std::min(name.find('/', at), name.size());
    const std::string_view component = name.substr(at, slash - at);
    at = slash + 1;
    if (component.empty() || component == ".") {
      continue;
    }
    if (component == "..") {
      const std::size_t cut = out.rfind('/');
      if (cut != std::string::npos && cut >= floor) {
        out.resize(cut);
      }
      continue;
    }
    out += '/';
    out += component;
  }
  if (out.empty()) {
    out = "/";
  }
}

Container container_of(std::string_view cgroup) {
  struct Naming {
    std::string_view prefix;
    std::string_view runtime;
  };
  // The prefixes of systemd scopes; with the cgroupfs driver the bare id stands below a directory of the runtime's.
  constexpr Naming kIds[] = {
      {"docker-", "docker"}, {"libpod-", "podman"}, {"cri-containerd-", "containerd"}, {"crio-", "cri-o"}, {"containerd-", "containerd"}};
  constexpr Naming kParents[] = {{"/docker/", "docker"}, {"/libpod_parent/", "podman"}, {"/kubepods", "containerd"}};
  constexpr Naming kNames[] = {{"lxc.payload.", "lxc"}, {"machine-", "systemd-nspawn"}};
  std::size_t at = cgroup.size();
  while (at > 0) {
    const std::size_t slash = cgroup.rfind('/', at - 1);
    const std::size_t begin = slash == std::string_view::npos ? 0 : slash + 1;
    std::string_view part = cgroup.substr(begin, at - begin);
    at = slash == std::string_view::npos ? 0 : slash;
    if (part.ends_with(".scope")) {
      part.remove_suffix(6);
    }
    Container found;
    for (const auto& [prefix, runtime] : kIds) {
      if (part.starts_with(prefix)) {
        part.remove_prefix(prefix.size());
        found.runtime = runtime;
        break;
      }
    }
    if (is_container_id(part)) {
      for (const auto& [parent, runtime] : kParents) {
        if (found.runtime.empty() && cgroup.find(parent) != std::string_view::npos) {
          found.runtime = runtime;
        }
      }
      found.id = part;
      return found;
    }
    for (const auto& [prefix, runtime] : kNames) {
      if (part.starts_with(prefix) && part.size() > prefix.size()) {
        found.runtime = runtime;
        found.name = unescape_unit(part.substr(prefix.size()));
        found.id = found.name;
        return found;
      }
    }
    // LXC on cgroup v1 and the older layout: /lxc/NAME.
    if (at > 0 && cgroup.substr(0, at).ends_with("/lxc")) {
      return {std::string(part), std::string(part), "lxc"};
    }
  }
  return {};
}

util::Result<void> decode_operation(std::span<const std::byte> data, Operation& out) {
  const auto strings = header_and_strings<vg_event>(
      data, out.raw, [](const vg_event& e) { return std::size_t{e.path_len} + e.raw_len + e.cwd_len + e.path2_len + e.raw2_len + e.fs_len; });
  if (!strings) {
    return util::pass_on(strings.error());
  }
  const vg_event& e = out.raw;
  std::size_t at = 0;
  const auto next = [&](std::size_t size) {
    const std::string_view part = strings->substr(at, size);
    at += size;
    return part;
  };
  const std::string_view walk = next(e.path_len);
  const std::string_view raw = next(e.raw_len);
  const std::string_view cwd = next(e.cwd_len);
  const std::string_view walk2 = next(e.path2_len);
  const std::string_view raw2 = next(e.raw2_len);
  const std::string_view fs_walk = next(e.fs_len);
  decode_path(e, e.path_flags, walk, raw, out.path, out.path_raw);
  decode_path(e, e.path2_flags, walk2, raw2, out.dst_path, out.dst_raw);
  // As the caller sees it: the part of the walk that lies below its root.
  out.path_in_ns.reset();
  if (out.path && (e.path_flags & (VG_PATH_OUTSIDE | VG_PATH_DETACHED | VG_PATH_ANONYMOUS | VG_PATH_TRUNCATED | VG_BASE_UNKNOWN)) == 0 &&
      e.root_at < walk.size()) {
    std::string inside;
    walk_to_path(walk.substr(0, e.root_at), true, inside);
    if ((e.path_flags & VG_PATH_OBJECT) != 0) {
      out.path_in_ns = std::move(inside);
    } else {
      resolve_by_text(inside, raw, out.path_in_ns.emplace());
    }
  }
  if (e.fs_len > 0) {
    walk_to_path(fs_walk, true, slot(out.fs_path));
  } else {
    out.fs_path.reset();
  }
  const std::string_view second = second_name(e.call);
  if (second != "dst_path_raw") {
    out.dst_path.reset();
  }
  out.address.reset();
  if (second == "address") {
    if ((e.path2_flags & VG_RAW_PRESENT) != 0) {
      out.address = decode_address(raw2);
    }
    out.dst_raw.reset();
  }
  out.alike.reset();
  out.access.reset();
  if (e.operation == VG_OP_CLOSE) {
    if (raw2.size() == sizeof(vg_access)) {
      std::memcpy(&out.access.emplace(), raw2.data(), sizeof(vg_access));
    }
    out.dst_path.reset();
    out.dst_raw.reset();
  }

  if (e.cwd_len > 0 || (e.path_flags & VG_CWD_TRUNCATED) == 0) {
    walk_to_path(cwd, (e.path_flags & VG_CWD_TRUNCATED) == 0, slot(out.cwd));
  } else {
    out.cwd.reset();
  }
  out.process.reset();
  out.policies.clear();
  out.severity.clear();
  out.verdict = {};
  return {};
}

util::Result<Process> decode_process(std::span<const std::byte> data) {
  vg_process raw;
  const auto strings = header_and_strings<vg_process>(
      data, raw, [](const vg_process& p) { return std::size_t{p.exe_len} + p.cmdline_len + p.cgroup_len + std::size_t{p.ancestors} * sizeof(vg_ancestor); });
  if (!strings) {
    return util::pass_on(strings.error());
  }
  Process p;
  p.pid = raw.pid;
  p.start_ns = raw.start_ns;
  p.exec_id = raw.exec_id;
  p.cgroup_id = raw.cgroup_id;
  if ((raw.exe_flags & VG_PATH_OBJECT) != 0) {
    walk_to_path(strings->substr(0, raw.exe_len), (raw.exe_flags & (VG_PATH_DETACHED | VG_PATH_ANONYMOUS | VG_PATH_TRUNCATED)) == 0, p.exe.emplace());
    p.exe_deleted = (raw.exe_flags & VG_PATH_DELETED) != 0;
  }
  if ((raw.exe_flags & (VG_PATH_OBJECT | VG_CMDLINE_FAULT)) == VG_PATH_OBJECT) {
    auto& arguments = p.arguments.emplace();
    std::string_view rest = strings->substr(raw.exe_len, raw.cmdline_len);
    while (!rest.empty()) {
      const std::size_t nul = std::min(rest.find('\0'), rest.size());
      arguments.emplace_back(rest.substr(0, nul));
      rest.remove_prefix(std::min(nul + 1, rest.size()));
    }
    p.arguments_truncated = (raw.exe_flags & VG_CMDLINE_TRUNCATED) != 0;
  }
  p.exe_dev = raw.exe_dev;
  p.exe_ino = raw.exe_ino;
  p.exe_memfd = p.exe && (raw.exe_flags & VG_PATH_ANONYMOUS) != 0 && p.exe->starts_with("memfd:");
  const std::size_t at_cgroup = std::size_t{raw.exe_len} + raw.cmdline_len;
  walk_to_path(strings->substr(at_cgroup, raw.cgroup_len), true, p.cgroup.emplace());
  for (std::size_t i = 0; i < raw.ancestors; ++i) {
    vg_ancestor a;
    std::memcpy(&a, strings->data() + at_cgroup + raw.cgroup_len + i * sizeof a, sizeof a);
    p.ancestors.push_back({a.pid, a.start_ns, a.exec_id, nullptr});
  }
  p.container = container_of(*p.cgroup);
  return p;
}

util::Result<ProcessGone> decode_exit(std::span<const std::byte> data) {
  vg_exit raw;
  if (auto rest = header_and_strings<vg_exit>(data, raw, [](const vg_exit&) { return std::size_t{0}; }); !rest) {
    return util::pass_on(rest.error());
  }
  return ProcessGone{raw.pid, raw.start_ns};
}

}  // namespace vfsguard::event
