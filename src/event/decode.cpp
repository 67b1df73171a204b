// SPDX-License-Identifier: Apache-2.0
#include "event/decode.h"

#include <algorithm>
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

// Calls whose second string is no path.
bool is_text(unsigned call) {
  const unsigned operation = call_operation(call);
  return operation == VG_OP_SYMLINK || operation == VG_OP_SETXATTR || operation == VG_OP_REMOVEXATTR || call == VG_CALL_MOUNT;
}

bool is_container_id(std::string_view s) {
  return s.size() == 64 && std::ranges::all_of(s, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
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

std::string container_of(std::string_view cgroup) {
  std::size_t at = cgroup.size();
  while (at > 0) {
    const std::size_t slash = cgroup.rfind('/', at - 1);
    const std::size_t begin = slash == std::string_view::npos ? 0 : slash + 1;
    std::string_view part = cgroup.substr(begin, at - begin);
    at = slash == std::string_view::npos ? 0 : slash;
    for (const std::string_view prefix : {"docker-", "libpod-", "cri-containerd-", "crio-", "containerd-"}) {
      if (part.starts_with(prefix)) {
        part.remove_prefix(prefix.size());
        break;
      }
    }
    if (part.ends_with(".scope")) {
      part.remove_suffix(6);
    }
    if (is_container_id(part)) {
      return std::string(part);
    }
    for (const std::string_view prefix : {"lxc.payload.", "machine-"}) {
      if (part.starts_with(prefix) && part.size() > prefix.size()) {
        return std::string(part.substr(prefix.size()));
      }
    }
  }
  return {};
}

util::Result<void> decode_operation(std::span<const std::byte> data, Operation& out) {
  const auto strings =
      header_and_strings<vg_event>(data, out.raw, [](const vg_event& e) { return std::size_t{e.path_len} + e.raw_len + e.cwd_len + e.path2_len + e.raw2_len; });
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
  decode_path(e, e.path_flags, walk, raw, out.path, out.path_raw);
  decode_path(e, e.path2_flags, walk2, raw2, out.dst_path, out.dst_raw);
  if (is_text(e.call)) {
    out.dst_path.reset();
  }
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
  return {};
}

util::Result<Process> decode_process(std::span<const std::byte> data) {
  vg_process raw;
  const auto strings = header_and_strings<vg_process>(data, raw, [](const vg_process& p) { return std::size_t{p.exe_len} + p.cmdline_len + p.cgroup_len; });
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
  walk_to_path(strings->substr(std::size_t{raw.exe_len} + raw.cmdline_len), true, p.cgroup.emplace());
  p.container_id = container_of(*p.cgroup);
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
