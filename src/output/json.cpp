// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <string_view>

#include <fmt/compile.h>
#include <fmt/format.h>

#include "event/names.h"
#include "output/escape.h"
#include "output/format.h"

namespace vfsguard::output {

namespace {

constexpr std::size_t kCacheSize = 1024;  // power of two
constexpr std::uint32_t kUnset = ~0u;

// Every helper appends `"name":value,`; the caller takes the last comma away.
void number(std::string_view key, std::int64_t value, std::string& out) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  out += '"';
  out += key;
  out += "\":";
  out.append(digits, end);
  out += ',';
}

void unsigned_number(std::string_view key, std::uint64_t value, std::string& out) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  out += '"';
  out += key;
  out += "\":";
  out.append(digits, end);
  out += ',';
}

// For text that is known to be plain.
void word(std::string_view key, std::string_view value, std::string& out) {
  out += '"';
  out += key;
  out += "\":\"";
  out += value;
  out += "\",";
}

// For bytes from outside: exact bytes beside it, as hexadecimal, where they are not UTF-8.
void bytes(std::string_view key, std::string_view value, std::string& out) {
  out += '"';
  out += key;
  out += "\":\"";
  const bool exact = append_json(value, out);
  out += "\",";
  if (!exact) {
    out += '"';
    out += key;
    out += "_hex\":\"";
    append_hex(value, out);
    out += "\",";
  }
}

std::string_view chars(const char* text, std::size_t size) { return {text, strnlen(text, size)}; }

struct FlagText {
  std::uint32_t flag;
  std::string_view name;
};
constexpr FlagText kPathFlags[] = {
    {VG_PATH_TRUNCATED, "truncated"}, {VG_PATH_DELETED, "deleted"},           {VG_PATH_OUTSIDE, "outside_root"},    {VG_PATH_DETACHED, "detached"},
    {VG_PATH_ANONYMOUS, "anonymous"}, {VG_PATH_DISCONNECTED, "disconnected"}, {VG_PATH_AMBIGUOUS, "ambiguous"},     {VG_RAW_TRUNCATED, "raw_truncated"},
    {VG_RAW_FAULT, "raw_fault"},      {VG_RAW_CHANGED, "raw_changed"},        {VG_BASE_UNKNOWN, "base_unknown"},    {VG_NO_RESULT, "no_result"},
    {VG_CWD_DELETED, "cwd_deleted"},  {VG_CWD_TRUNCATED, "cwd_truncated"},    {VG_PATH_NOT_ON_HOST, "not_on_host"},
};

template <typename Add>
void each_path_flag(std::uint32_t flags, bool has_path, Add add) {
  if ((flags & VG_PATH_OBJECT) == 0 && has_path) {
    add("unresolved");
  }
  for (const auto& [flag, name] : kPathFlags) {
    if ((flags & flag) != 0) {
      add(name);
    }
  }
}

void path_flags(std::string_view key, std::uint32_t flags, bool has_path, std::string& out) {
  bool any = false;
  each_path_flag(flags, has_path, [&](std::string_view name) {
    if (any) {
      out += ",\"";
    } else {
      out += '"';
      out += key;
      out += "\":[\"";
    }
    any = true;
    out += name;
    out += '"';
  });
  if (any) {
    out += "],";
  }
}

// Two numbers as one word.
void number_pair(std::string_view key, std::uint64_t first, char between, std::uint64_t second, std::string& out) {
  fmt::basic_memory_buffer<char, 48> text;
  fmt::format_to(std::back_inserter(text), FMT_COMPILE("{}{}{}"), first, between, second);
  word(key, {text.data(), text.size()}, out);
}

void device(std::string_view key, std::uint64_t dev_major, std::uint64_t dev_minor, std::string& out) { number_pair(key, dev_major, ':', dev_minor, out); }

// As the kernel keeps it (include/linux/kdev_t.h).
void kernel_device(std::string_view key, std::uint32_t dev, std::string& out) { device(key, dev >> 20, dev & 0xfffff, out); }

void mode(std::uint32_t value, std::string& out) { word("mode", fmt::format("{:04o}", value), out); }

void open_how(const vg_event& e, std::string& out) {
  unsigned_number("flags", e.flags, out);
  out += "\"flags_text\":\"";
  event::append_open_flags(e.flags, out);
  out += "\",";
  constexpr std::uint64_t kCreates = 0100 | 020000000;  // O_CREAT, __O_TMPFILE
  if ((e.flags & kCreates) != 0) {
    mode(e.mode, out);
  }
  if (e.value != 0) {
    unsigned_number("resolve", e.value, out);
    std::string text;
    event::append_resolve_flags(e.value, text);
    word("resolve_text", text, out);
  }
}

void call_flags(const vg_event& e, std::string& out) {
  unsigned_number("flags", e.flags, out);
  std::string text;
  event::append_call_flags(e.call, e.flags, text);
  word("flags_text", text, out);
}

// -1 leaves an owner as it is.
void owner(std::string_view key, std::uint64_t value, std::string& out) {
  if (static_cast<std::uint32_t>(value) != kUnset) {
    unsigned_number(key, static_cast<std::uint32_t>(value), out);
  }
}

void map(const vg_event& e, std::string& out) {
  std::string protection;
  event::append_protection(e.mode, protection);
  word("protection", protection, out);
  if (e.call != VG_CALL_MPROTECT && e.call != VG_CALL_PKEY_MPROTECT) {
    unsigned_number("offset", e.value, out);
  }
  unsigned_number("length", e.value2, out);
}

void ioctl_request(const vg_event& e, std::string& out) {
  const auto request = static_cast<std::uint32_t>(e.flags);
  word("request", event::ioctl_name(request), out);
  if (std::string text; event::append_attributes(request, e.value, text)) {
    word("attributes", text, out);
  }
}

// The ids that a call of the setuid family asks for, by what each of its arguments is.
void credentials(const vg_event& e, std::string& out) {
  switch (e.call) {
    case VG_CALL_SETUID:
    case VG_CALL_SETUID16: owner("new_uid", e.value, out); break;
    case VG_CALL_SETGID:
    case VG_CALL_SETGID16: owner("new_gid", e.value, out); break;
    case VG_CALL_SETRESUID:
    case VG_CALL_SETRESUID16: owner("new_suid", e.mode, out); [[fallthrough]];
    case VG_CALL_SETREUID:
    case VG_CALL_SETREUID16:
      owner("new_uid", e.value, out);
      owner("new_euid", e.value2, out);
      break;
    case VG_CALL_SETRESGID:
    case VG_CALL_SETRESGID16: owner("new_sgid", e.mode, out); [[fallthrough]];
    case VG_CALL_SETREGID:
    case VG_CALL_SETREGID16:
      owner("new_gid", e.value, out);
      owner("new_egid", e.value2, out);
      break;
    case VG_CALL_SETFSUID:
    case VG_CALL_SETFSUID16: owner("new_fsuid", e.value, out); break;
    case VG_CALL_SETFSGID:
    case VG_CALL_SETFSGID16: owner("new_fsgid", e.value, out); break;
    case VG_CALL_SETGROUPS:
    case VG_CALL_SETGROUPS16: unsigned_number("groups", e.value, out); break;
    default: break;
  }
}

void process_id(std::string_view key, std::uint64_t pid, std::uint64_t start_ns, std::string& out) { number_pair(key, pid, '.', start_ns, out); }

}  // namespace

namespace {

constexpr std::array<std::string_view, 19> kCallNumbers{"dirfd",     "fd",      "dst_dirfd",  "flags",     "resolve",  "offset",   "length",
                                                        "new_uid",   "new_gid", "new_euid",   "new_egid",  "new_suid", "new_sgid", "new_fsuid",
                                                        "new_fsgid", "groups",  "target_pid", "child_pid", "exit_code"};
constexpr std::array<std::string_view, 32> kCallFields{
    "dirfd",   "fd",         "dst_dirfd",   "flags",    "flags_text", "mode",     "resolve",    "resolve_text", "protection",       "offset",    "length",
    "request", "attributes", "new_uid",     "new_gid",  "new_euid",   "new_egid", "new_suid",   "new_sgid",     "new_fsuid",        "new_fsgid", "groups",
    "rdev",    "mount_type", "socket_type", "protocol", "command",    "signal",   "target_pid", "child_pid",    "child_process_id", "exit_code"};

}  // namespace

std::span<const std::string_view> call_field_names() { return kCallFields; }

bool is_call_number(std::string_view name) { return std::ranges::find(kCallNumbers, name) != kCallNumbers.end(); }

std::uint32_t path_flag(std::string_view name) {
  const auto known = std::ranges::find(kPathFlags, name, &FlagText::name);
  return known == std::end(kPathFlags) ? 0 : known->flag;
}

void append_path_flags(std::uint32_t flags, bool has_path, std::string& out) {
  each_path_flag(flags, has_path, [&](std::string_view name) {
    if (!out.empty()) {
      out += ' ';
    }
    out += name;
  });
}

// What the call asked for beyond its paths.
void append_call_fields(const vg_event& e, std::string& out) {
  if ((e.path_flags & VG_HAVE_DIRFD) != 0) {
    number("dirfd", e.dirfd, out);
  }
  if ((e.path_flags & VG_HAVE_FD) != 0) {
    number("fd", e.fd, out);
  }
  if (e.call == VG_CALL_RENAMEAT || e.call == VG_CALL_RENAMEAT2 || e.call == VG_CALL_LINKAT || e.call == VG_CALL_MOVE_MOUNT) {
    number("dst_dirfd", e.dirfd2, out);
  }
  if ((e.path_flags & VG_HAVE_ARGS) == 0) {
    return;
  }
  const unsigned operation = event::call_operation(e.call);
  if (operation == VG_OP_OPEN) {
    open_how(e, out);
    return;
  }
  switch (e.call) {
    case VG_CALL_EXECVEAT:
    case VG_CALL_RENAMEAT2:
    case VG_CALL_UNLINKAT:
    case VG_CALL_LINKAT:
    case VG_CALL_FALLOCATE:
    case VG_CALL_FCHMODAT2:
    case VG_CALL_FCHOWNAT:
    case VG_CALL_UTIMENSAT:
    case VG_CALL_SETXATTR:
    case VG_CALL_LSETXATTR:
    case VG_CALL_FSETXATTR:
    case VG_CALL_SETXATTRAT:
    case VG_CALL_REMOVEXATTRAT:
    case VG_CALL_MOUNT:
    case VG_CALL_UMOUNT2:
    case VG_CALL_MOVE_MOUNT:
    case VG_CALL_MMAP:
    case VG_CALL_MMAP2:
    case VG_CALL_OLD_MMAP:
    case VG_CALL_CLONE:
    case VG_CALL_CLONE3: call_flags(e, out); break;
    default: break;
  }
  switch (operation) {
    case VG_OP_MKDIR:
    case VG_OP_CHMOD: mode(e.mode, out); break;
    case VG_OP_MKNOD:
      mode(e.mode, out);
      if (const std::uint32_t type = e.mode & S_IFMT; type == S_IFCHR || type == S_IFBLK) {
        // As user space writes it (new_decode_dev in include/linux/kdev_t.h).
        device("rdev", (e.value & 0xfff00) >> 8, (e.value & 0xff) | ((e.value >> 12) & 0xfff00), out);
      }
      break;
    case VG_OP_CHOWN:
      owner("new_uid", e.value, out);
      owner("new_gid", e.value2, out);
      break;
    case VG_OP_TRUNCATE:
      if (e.call == VG_CALL_FALLOCATE) {
        number("offset", static_cast<std::int64_t>(e.value), out);
        number("length", static_cast<std::int64_t>(e.value2), out);
      } else {
        number("length", static_cast<std::int64_t>(e.value), out);
      }
      break;
    case VG_OP_MOUNT:
      if (e.call == VG_CALL_MOUNT && e.fs_type[0] != '\0') {
        bytes("mount_type", chars(e.fs_type, sizeof e.fs_type), out);
      }
      break;
    case VG_OP_MMAP: map(e, out); break;
    case VG_OP_IOCTL: ioctl_request(e, out); break;
    case VG_OP_CONNECT:
    case VG_OP_BIND:
      number("fd", e.fd, out);
      word("socket_type", event::socket_type_name(e.mode), out);
      if (e.value2 != 0) {
        word("protocol", event::protocol_name(static_cast<unsigned>(e.value2)), out);
      }
      break;
    case VG_OP_PTRACE:
      if (e.call == VG_CALL_PTRACE) {
        word("request", event::ptrace_name(e.value), out);
      }
      if (e.value2 != 0) {
        unsigned_number("target_pid", static_cast<std::uint32_t>(e.value2), out);
      }
      break;
    case VG_OP_BPF: word("command", event::bpf_name(e.value), out); break;
    case VG_OP_KILL:
      word("signal", event::signal_name(e.value), out);
      number("target_pid", static_cast<std::int32_t>(e.value2), out);
      break;
    case VG_OP_SETUID: credentials(e, out); break;
    case VG_OP_FORK:
      if (e.value != 0) {
        unsigned_number("child_pid", e.value, out);
        process_id("child_process_id", e.value, e.value2, out);
      }
      break;
    case VG_OP_EXIT:
      if (e.value2 != 0) {
        word("signal", event::signal_name(e.value2), out);
      } else {
        unsigned_number("exit_code", e.value, out);
      }
      break;
    default: break;
  }
}

namespace {

// Of the policy's rules and of detection's.
std::string_view highest(const event::Operation& operation) {
  static constexpr std::array<std::string_view, 5> kOrder{"info", "low", "medium", "high", "critical"};
  if (!operation.detected) {
    return operation.severity;
  }
  const auto rank = [](std::string_view word) { return std::ranges::find(kOrder, word) - kOrder.begin(); };
  const std::string& detected = operation.detected->severity;
  return operation.severity.empty() || rank(detected) > rank(operation.severity) ? std::string_view(detected) : std::string_view(operation.severity);
}

void append_detected(const event::Detected& detected, std::string& out) {
  bytes("rule", detected.rules.front(), out);
  if (detected.rules.size() > 1) {
    out += "\"rules\":" + json_list(detected.rules) + ",";
  }
  if (!detected.tags.empty()) {
    out += "\"tags\":" + json_list(detected.tags) + ",";
  }
  bytes("message", detected.message, out);
}

}  // namespace

JsonFormatter::JsonFormatter(ClockKind clock, std::string_view host) : clock_(clock), cache_(kCacheSize) {
  bytes("host", host, host_);
  host_ += clock == ClockKind::kRealtime ? "\"clock\":\"realtime\"," : "\"clock\":\"boottime\",";
}

void JsonFormatter::append_time(std::string_view key, std::uint64_t boot_ns, std::string& out) {
  const std::uint64_t ns = clock_ == ClockKind::kRealtime ? wall_.at(boot_ns) : boot_ns;
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, ns / 1'000'000'000u).ptr;
  out += '"';
  out += key;
  out += "\":";
  out.append(digits, end);
  out += '.';
  std::uint64_t micros = ns % 1'000'000'000u / 1000;
  char fraction[6];
  for (int i = 5; i >= 0; --i) {
    fraction[i] = static_cast<char>('0' + micros % 10);
    micros /= 10;
  }
  out.append(fraction, sizeof fraction);
  out += ',';
}

const std::string& JsonFormatter::rendered(const std::shared_ptr<const event::Process>& process) {
  Rendered& entry = cache_[(reinterpret_cast<std::uintptr_t>(process.get()) >> 6) & (kCacheSize - 1)];
  // An address can be used again; the weak pointer tells whether it is still the same object.
  const bool digested = process->digest && process->digest->ready.load(std::memory_order_acquire);
  if (entry.key == process.get() && entry.digested == digested && !entry.owner.expired()) {
    return entry.text;
  }
  entry.digested = digested;
  entry.key = process.get();
  entry.owner = process;
  std::string& out = entry.text;
  out.clear();
  if (process->exe) {
    bytes("exe", *process->exe, out);
    if (process->exe_deleted) {
      out += "\"exe_deleted\":true,";
    }
    if (process->exe_memfd) {
      out += "\"exe_memfd\":true,";
    }
    if (process->exe_ino != 0) {
      kernel_device("exe_dev", process->exe_dev, out);
      unsigned_number("exe_ino", process->exe_ino, out);
    }
    if (digested) {
      word("exe_sha256", {process->digest->hex.data(), process->digest->hex.size()}, out);
    }
  }
  if (process->command_line) {
    bytes("cmdline", process->command_line->shell, out);
    if (process->arguments_truncated) {
      out += "\"cmdline_truncated\":true,";
    }
  }
  if (process->cgroup) {
    bytes("cgroup", *process->cgroup, out);
  }
  if (!process->container.id.empty()) {
    bytes("container_id", process->container.id, out);
    if (!process->container.name.empty()) {
      bytes("container_name", process->container.name, out);
    }
    if (!process->container.runtime.empty()) {
      word("container_runtime", process->container.runtime, out);
    }
  }
  if (!process->ancestors.empty()) {
    out += "\"ancestors\":[";
    for (const event::Ancestor& ancestor : process->ancestors) {
      out += '{';
      unsigned_number("pid", ancestor.pid, out);
      if (ancestor.exe) {
        bytes("exe", *ancestor.exe, out);
      }
      out.back() = '}';
      out += ',';
    }
    out.back() = ']';
    out += ',';
  }
  return out;
}

void JsonFormatter::append(const event::Operation& operation, std::string& out) {
  const vg_event& e = operation.raw;
  out += "{\"schema\":1,";
  unsigned_number("seq", e.seq, out);
  unsigned_number("cpu", e.head.cpu, out);
  if (e.lane == VG_LANE_PRIORITY) {
    out += "\"lane\":\"priority\",";
  }
  out += host_;
  append_time("timestamp", e.time_ns, out);
  word("event_type", event::call_name(e.call), out);
  word("operation", event::operation_name(e.operation), out);
  word("via", event::via_name(e.via), out);
  word("hook", event::hook_name(e.hook), out);
  unsigned_number("pid", e.pid, out);
  unsigned_number("tid", e.tid, out);
  unsigned_number("ppid", e.ppid, out);
  unsigned_number("uid", e.uid, out);
  if (!operation.user.empty()) {
    bytes("user", operation.user, out);
  }
  unsigned_number("gid", e.gid, out);
  unsigned_number("euid", e.euid, out);
  unsigned_number("egid", e.egid, out);
  if (e.loginuid != kUnset) {
    unsigned_number("loginuid", e.loginuid, out);
  }
  if (e.session != kUnset) {
    unsigned_number("session", e.session, out);
  }
  bytes("comm", chars(e.comm, sizeof e.comm), out);
  bytes("parent_comm", chars(e.parent_comm, sizeof e.parent_comm), out);
  if (operation.process) {
    out += rendered(operation.process);
  }
  if (operation.process && operation.process->parent_command_line && e.operation == VG_OP_EXEC) {
    bytes("parent_cmdline", operation.process->parent_command_line->shell, out);
  }
  if (operation.cwd) {
    if (*operation.cwd != last_cwd_ || last_cwd_text_.empty()) {
      last_cwd_ = *operation.cwd;
      last_cwd_text_.clear();
      bytes("cwd", last_cwd_, last_cwd_text_);
    }
    out += last_cwd_text_;
  }
  process_id("process_id", e.pid, e.start_ns, out);
  unsigned_number("mnt_ns", e.mnt_ns, out);
  unsigned_number("pid_ns", e.pid_ns, out);
  if (operation.path) {
    bytes("path", *operation.path, out);
  }
  if (operation.path_in_ns) {
    bytes("path_in_ns", *operation.path_in_ns, out);
  }
  if (operation.path_raw) {
    bytes("path_raw", *operation.path_raw, out);
  }
  path_flags("path_flags", e.operation == VG_OP_EXIT ? e.path_flags & ~VG_NO_RESULT : e.path_flags, operation.path.has_value(), out);
  if (e.imode != 0) {
    kernel_device("dev", e.dev, out);
    unsigned_number("ino", e.ino, out);
    word("file_type", event::file_type_name(e.imode), out);
    if (e.call != VG_CALL_MOUNT) {
      bytes("fs_type", chars(e.fs_type, sizeof e.fs_type), out);
    }
    unsigned_number("nlink", e.nlink, out);
    if (e.generation != 0) {
      unsigned_number("generation", e.generation, out);
    }
    if (e.mnt_id != 0) {
      unsigned_number("mnt_id", e.mnt_id, out);
    }
    if (e.layer != VG_LAYER_NONE) {
      word("layer", e.layer == VG_LAYER_UPPER ? "upper" : "lower", out);
    }
    if (const unsigned operation_of = event::call_operation(e.call); operation_of == VG_OP_OPEN || operation_of == VG_OP_EXEC) {
      word("fmode", event::fmode_name(e.fmode, e.flags), out);
    }
  }
  if (operation.dst_path) {
    bytes(e.call == VG_CALL_IOCTL ? "source_path" : "dst_path", *operation.dst_path, out);
  }
  if (operation.address) {
    const event::Address& address = *operation.address;
    const bool binds = event::call_operation(e.call) == VG_OP_BIND;
    word("address_family", event::family_name(address.family), out);
    if (!address.ip.empty()) {
      word(binds ? "src_ip" : "dst_ip", address.ip, out);
      unsigned_number(binds ? "src_port" : "dst_port", address.port, out);
    }
    if (!address.name.empty()) {
      bytes("abstract_name", address.name, out);
    }
  }
  if (operation.dst_raw) {
    bytes(event::second_name(e.call), *operation.dst_raw, out);
  }
  path_flags("dst_path_flags", e.path2_flags, operation.dst_path.has_value(), out);
  if (e.dst_ino != 0) {
    const bool source = e.call == VG_CALL_IOCTL;
    kernel_device(source ? "source_dev" : "dst_dev", e.dst_dev, out);
    unsigned_number(source ? "source_ino" : "dst_ino", e.dst_ino, out);
  }
  append_call_fields(e, out);
  if (operation.access) {
    const vg_access& a = *operation.access;
    unsigned_number("reads", a.reads, out);
    unsigned_number("bytes_read", a.bytes_read, out);
    unsigned_number("writes", a.writes, out);
    unsigned_number("bytes_written", a.bytes_written, out);
    if (a.failed_reads != 0) {
      unsigned_number("failed_reads", a.failed_reads, out);
    }
    if (a.failed_writes != 0) {
      unsigned_number("failed_writes", a.failed_writes, out);
    }
    if (a.maps != 0) {
      unsigned_number("maps", a.maps, out);
    }
    append_time("first", a.first_ns, out);
    append_time("last", a.last_ns, out);
  }
  if ((e.path_flags & VG_EXEC_BY_THREAD) != 0) {
    out += "\"exec_by_thread\":true,";
  }
  if (operation.has_result()) {
    number("retval", e.retval, out);
    if (operation.success()) {
      out += "\"error_code\":0,\"success\":true,";
    } else {
      number("error_code", -e.retval, out);
      word("error", event::error_name(static_cast<int>(-e.retval)), out);
      out += "\"success\":false,";
    }
  }
  if (operation.alike) {
    unsigned_number("count", operation.alike->count, out);
    append_time("first", operation.alike->first_ns, out);
    append_time("last", operation.alike->last_ns, out);
  }
  if (const std::string_view severity = highest(operation); !severity.empty()) {
    word("severity", severity, out);
  }
  if (!operation.verdict.empty()) {
    word("verdict", operation.verdict, out);
    out += e.verdict != VG_VERDICT_NONE ? "\"enforced\":true,\"denied_by\":\"vfsguard\"," : "\"enforced\":false,";
    if (e.verdict != VG_VERDICT_NONE) {
      word("mechanism", event::mechanism_name(e.mechanism), out);
      if (const std::string_view name = event::matched_by_name(e.matched_by); !name.empty()) {
        word("matched_by", name, out);
      }
      if (const std::string_view cause = event::cause_name(e.cause); !cause.empty()) {
        word("cause", cause, out);
      }
    }
  }
  if (!operation.policies.empty()) {
    bytes("policy", operation.policies.front(), out);
    if (operation.policies.size() > 1) {
      out += "\"policies\":[";
      for (const std::string& name : operation.policies) {
        out += '"';
        append_json(name, out);
        out += "\",";
      }
      out.back() = ']';
      out += ',';
    }
  }
  if (operation.detected) {
    append_detected(*operation.detected, out);
  }
  out.back() = '}';
  out += '\n';
}

void JsonFormatter::append(const event::Alert& alert, std::string& out) {
  const bool held_back = alert.kind == event::Alert::Kind::kHeldBack;
  const bool response = alert.kind == event::Alert::Kind::kResponse;
  out += "{\"schema\":1,";
  out += host_;
  append_time("timestamp", alert.time_ns, out);
  word("event_type", held_back ? "alerts_held_back" : response ? "response" : "correlation", out);
  bytes("rule", alert.rule, out);
  word("severity", alert.severity, out);
  if (!alert.tags.empty()) {
    out += "\"tags\":" + json_list(alert.tags) + ",";
  }
  bytes("message", alert.message, out);
  if (response) {
    word("response", alert.type, out);
    for (const auto& [name, value] : alert.group) {
      bytes(name, value, out);
    }
    out.back() = '}';
    out += '\n';
    return;
  }
  if (!held_back) {
    word("correlation", alert.type, out);
    if (!alert.group.empty()) {
      out += "\"group\":{";
      for (const auto& [name, value] : alert.group) {
        bytes(name, value, out);
      }
      out.back() = '}';
      out += ',';
    }
  }
  out += fmt::format("\"{}\":{},", held_back || alert.type == "event_count" ? "count" : "value", alert.value);
  append_time("first", alert.first_ns, out);
  append_time("last", alert.last_ns, out);
  if (!alert.events.empty()) {
    out += "\"events\":[";
    for (const event::Alert::Contributor& from : alert.events) {
      out += '{';
      bytes("rule", from.rule, out);
      append_time("timestamp", from.time_ns, out);
      unsigned_number("seq", from.seq, out);
      unsigned_number("cpu", from.cpu, out);
      out.back() = '}';
      out += ',';
    }
    out.back() = ']';
    out += ',';
  }
  out.back() = '}';
  out += '\n';
}

void JsonFormatter::append(const event::Notice& notice, std::string& out) {
  out += "{\"schema\":1,";
  out += host_;
  append_time("timestamp", notice.time_ns, out);
  word("event_type", "agent", out);
  word("operation", notice.operation, out);
  word("severity", notice.severity, out);
  bytes("message", notice.message, out);
  for (const auto& [name, value] : notice.fields) {
    out += fmt::format("\"{}\":{},", name, value);
  }
  out.back() = '}';
  out += '\n';
}

void JsonFormatter::append(const event::Lost& lost, std::string& out) {
  out += "{\"schema\":1,";
  unsigned_number("seq", lost.first_seq, out);
  unsigned_number("cpu", lost.cpu, out);
  if (lost.lane == VG_LANE_PRIORITY) {
    out += "\"lane\":\"priority\",";
  }
  out += host_;
  append_time("timestamp", lost.time_ns, out);
  word("event_type", "lost", out);
  unsigned_number("count", lost.count, out);
  out += fmt::format("\"message\":\"{} events lost on cpu {}: the reader was too slow\"}}\n", lost.count, lost.cpu);
}

}  // namespace vfsguard::output
