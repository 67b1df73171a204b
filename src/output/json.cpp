// SPDX-License-Identifier: Apache-2.0
#include <charconv>
#include <cstring>
#include <string_view>

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
    {VG_PATH_TRUNCATED, "truncated"},    {VG_PATH_DELETED, "deleted"},           {VG_PATH_OUTSIDE, "outside_root"},   {VG_PATH_DETACHED, "detached"},
    {VG_PATH_ANONYMOUS, "anonymous"},    {VG_PATH_DISCONNECTED, "disconnected"}, {VG_RAW_TRUNCATED, "raw_truncated"}, {VG_RAW_FAULT, "raw_fault"},
    {VG_RAW_CHANGED, "raw_changed"},     {VG_BASE_UNKNOWN, "base_unknown"},      {VG_NO_RESULT, "no_result"},         {VG_CWD_DELETED, "cwd_deleted"},
    {VG_CWD_TRUNCATED, "cwd_truncated"},
};

void path_flags(const event::Operation& operation, std::string& out) {
  const std::uint32_t flags = operation.raw.path_flags;
  const bool unresolved = (flags & VG_PATH_OBJECT) == 0 && operation.path.has_value();
  bool any = false;
  const auto add = [&](std::string_view name) {
    out += any ? ",\"" : "\"path_flags\":[\"";
    any = true;
    out += name;
    out += '"';
  };
  if (unresolved) {
    add("unresolved");
  }
  for (const auto& [flag, name] : kPathFlags) {
    if ((flags & flag) != 0) {
      add(name);
    }
  }
  if (any) {
    out += "],";
  }
}

void open_how(const vg_event& e, std::string& out) {
  if ((e.path_flags & VG_HAVE_DIRFD) != 0) {
    number("dirfd", e.dirfd, out);
  }
  if ((e.path_flags & VG_HAVE_ARGS) == 0) {
    return;
  }
  if (e.operation == VG_OP_OPEN) {
    unsigned_number("flags", e.flags, out);
    out += "\"flags_text\":\"";
    event::append_open_flags(e.flags, out);
    out += "\",";
    constexpr std::uint64_t kCreates = 0100 | 020000000;  // O_CREAT, __O_TMPFILE
    if ((e.flags & kCreates) != 0) {
      out += fmt::format("\"mode\":\"{:04o}\",", e.mode);
    }
    if (e.resolve != 0) {
      unsigned_number("resolve", e.resolve, out);
      std::string text;
      event::append_resolve_flags(e.resolve, text);
      word("resolve_text", text, out);
    }
  } else if (e.call == VG_CALL_EXECVEAT) {
    unsigned_number("flags", e.flags, out);
    std::string text;
    event::append_at_flags(e.flags, text);
    word("flags_text", text, out);
  }
}

}  // namespace

JsonFormatter::JsonFormatter(ClockKind clock, std::string_view host) : clock_(clock), cache_(kCacheSize) {
  bytes("host", host, host_);
  host_ += clock == ClockKind::kRealtime ? "\"clock\":\"realtime\"," : "\"clock\":\"boottime\",";
}

void JsonFormatter::append_time(std::uint64_t boot_ns, std::string& out) {
  const std::uint64_t ns = clock_ == ClockKind::kRealtime ? wall_.at(boot_ns) : boot_ns;
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, ns / 1'000'000'000u).ptr;
  out += "\"timestamp\":";
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
  if (entry.key == process.get() && !entry.owner.expired()) {
    return entry.text;
  }
  entry.key = process.get();
  entry.owner = process;
  std::string& out = entry.text;
  out.clear();
  if (process->exe) {
    bytes("exe", *process->exe, out);
    if (process->exe_deleted) {
      out += "\"exe_deleted\":true,";
    }
  }
  if (process->arguments) {
    const auto& arguments = *process->arguments;
    bytes("cmdline", join_arguments(arguments.data(), arguments.data() + arguments.size()), out);
    if (process->arguments_truncated) {
      out += "\"cmdline_truncated\":true,";
    }
  }
  if (process->cgroup) {
    bytes("cgroup", *process->cgroup, out);
  }
  if (!process->container_id.empty()) {
    bytes("container_id", process->container_id, out);
  }
  return out;
}

void JsonFormatter::append(const event::Operation& operation, std::string& out) {
  const vg_event& e = operation.raw;
  out += "{\"schema\":1,";
  unsigned_number("seq", e.seq, out);
  unsigned_number("cpu", e.head.cpu, out);
  out += host_;
  append_time(e.time_ns, out);
  word("event_type", event::call_name(e.call), out);
  word("operation", event::operation_name(e.operation), out);
  word("via", event::via_name(e.via), out);
  word("hook", event::hook_name(e.hook), out);
  unsigned_number("pid", e.pid, out);
  unsigned_number("tid", e.tid, out);
  unsigned_number("ppid", e.ppid, out);
  unsigned_number("uid", e.uid, out);
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
  if (operation.cwd) {
    if (*operation.cwd != last_cwd_ || last_cwd_text_.empty()) {
      last_cwd_ = *operation.cwd;
      last_cwd_text_.clear();
      bytes("cwd", last_cwd_, last_cwd_text_);
    }
    out += last_cwd_text_;
  }
  out += "\"process_id\":\"";
  {
    char digits[48];
    char* end = std::to_chars(digits, digits + sizeof digits, e.pid).ptr;
    *end++ = '.';
    end = std::to_chars(end, digits + sizeof digits, e.start_ns).ptr;
    out.append(digits, end);
  }
  out += "\",";
  unsigned_number("mnt_ns", e.mnt_ns, out);
  unsigned_number("pid_ns", e.pid_ns, out);
  if (operation.path) {
    bytes("path", *operation.path, out);
  }
  if (operation.path_raw) {
    bytes("path_raw", *operation.path_raw, out);
  }
  path_flags(operation, out);
  if ((e.path_flags & VG_PATH_OBJECT) != 0) {
    out += "\"dev\":\"";
    char digits[24];
    char* end = std::to_chars(digits, digits + sizeof digits, e.dev >> 20).ptr;
    *end++ = ':';
    end = std::to_chars(end, digits + sizeof digits, e.dev & 0xfffff).ptr;
    out.append(digits, end);
    out += "\",";
    unsigned_number("ino", e.ino, out);
    word("file_type", event::file_type_name(e.imode), out);
    bytes("fs_type", chars(e.fs_type, sizeof e.fs_type), out);
    unsigned_number("nlink", e.nlink, out);
    word("fmode", event::fmode_name(e.fmode, e.flags), out);
  }
  open_how(e, out);
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
  if (!operation.severity.empty()) {
    word("severity", operation.severity, out);
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
  out.back() = '}';
  out += '\n';
}

void JsonFormatter::append(const event::Lost& lost, std::string& out) {
  out += "{\"schema\":1,";
  unsigned_number("seq", lost.first_seq, out);
  unsigned_number("cpu", lost.cpu, out);
  out += host_;
  append_time(lost.time_ns, out);
  word("event_type", "lost", out);
  unsigned_number("count", lost.count, out);
  out += fmt::format("\"message\":\"{} events lost on cpu {}: the reader was too slow\"}}\n", lost.count, lost.cpu);
}

}  // namespace vfsguard::output
