// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <ctime>

#include <fmt/format.h>

#include "event/names.h"
#include "output/escape.h"
#include "output/format.h"

namespace vfsguard::output {

namespace {

constexpr std::string_view kRed = "\033[31m";
constexpr std::string_view kDim = "\033[2m";
constexpr std::string_view kReset = "\033[0m";

}  // namespace

std::string TextFormatter::header() {
  return fmt::format("{:<15} {:>7} {:>6} {:<16} {:<10} {:<16} {:<5} {}\n", "TIME", "PID", "UID", "COMM", "CALL", "RESULT", "MODE", "PATH");
}

void TextFormatter::append_time(std::uint64_t boot_ns, std::string& out) {
  if (clock_ == ClockKind::kBoottime) {
    fmt::format_to(std::back_inserter(out), "{:8}.{:06} ", boot_ns / 1'000'000'000u, boot_ns % 1'000'000'000u / 1000);
    return;
  }
  const std::uint64_t ns = wall_.at(boot_ns);
  const auto seconds = static_cast<time_t>(ns / 1'000'000'000u);
  tm local{};
  localtime_r(&seconds, &local);
  fmt::format_to(std::back_inserter(out), "{:02}:{:02}:{:02}.{:06} ", local.tm_hour, local.tm_min, local.tm_sec, ns % 1'000'000'000u / 1000);
}

void TextFormatter::append(const event::Operation& operation, std::string& out) {
  const vg_event& e = operation.raw;
  append_time(e.time_ns, out);
  std::string comm;
  append_text({e.comm, strnlen(e.comm, sizeof e.comm)}, comm);
  std::string result = "?";
  if (operation.has_result()) {
    result = operation.success() ? std::to_string(e.retval) : event::error_name(static_cast<int>(-e.retval));
  }
  std::string_view call = event::call_name(e.call);
  if (call == "open_by_handle_at") {
    call = "handle";
  }
  const bool failed = operation.has_result() && !operation.success();
  const unsigned kind = event::call_operation(e.call);
  const std::string_view mode = e.imode != 0 && (kind == VG_OP_OPEN || kind == VG_OP_EXEC) ? event::fmode_name(e.fmode, e.flags) : std::string_view("-");
  fmt::format_to(std::back_inserter(out), "{:>7} {:>6} {:<16} {:<10} {}{:<16}{} {:<5} ", e.pid, e.uid, comm, call, colour_ && failed ? kRed : "", result,
                 colour_ && failed ? kReset : "", mode);
  if (operation.path) {
    append_text(*operation.path, out);
  } else if (operation.path_raw) {
    append_text(*operation.path_raw, out);
  } else {
    out += '-';
  }
  if (operation.dst_path) {
    out += " -> ";
    append_text(*operation.dst_path, out);
  } else if (operation.dst_raw && !operation.dst_raw->empty()) {
    out += event::call_operation(e.call) == VG_OP_SYMLINK ? " -> " : " ";
    append_text(*operation.dst_raw, out);
  }
  if (operation.access) {
    const vg_access& a = *operation.access;
    fmt::format_to(std::back_inserter(out), " [{} reads of {} bytes, {} writes of {} bytes]", a.reads, a.bytes_read, a.writes, a.bytes_written);
  }
  if (e.via != VG_VIA_SYSCALL) {
    fmt::format_to(std::back_inserter(out), " [{}]", event::via_name(e.via));
  }
  if ((e.path_flags & VG_PATH_DELETED) != 0) {
    out += " [deleted]";
  }
  if ((e.path_flags & VG_PATH_TRUNCATED) != 0) {
    out += " [truncated]";
  }
  if (!operation.policies.empty()) {
    out += colour_ ? kDim : "";
    out += "  (";
    append_text(operation.policies.front(), out);
    out += ')';
    out += colour_ ? kReset : "";
  }
  if (const std::string_view cause = event::cause_name(e.cause); e.verdict != VG_VERDICT_NONE && !cause.empty()) {
    fmt::format_to(std::back_inserter(out), "  (refused, not known: {})", cause);
  }
  out += '\n';
  if (operation.detected) {
    tell(operation.detected->severity, operation.detected->rules.front(), operation.detected->message, out);
  }
}

// What a rule says of the line above, or of several.
void TextFormatter::tell(std::string_view severity, std::string_view rule, std::string_view message, std::string& out) const {
  out += colour_ && (severity == "high" || severity == "critical") ? kRed : "";
  fmt::format_to(std::back_inserter(out), "{:>15} {:<8} ", "!", severity);
  append_text(message, out);
  out += colour_ ? kReset : "";
  if (rule != message) {
    out += "  (";
    append_text(rule, out);
    out += ')';
  }
  out += '\n';
}

void TextFormatter::append(const event::Notice& notice, std::string& out) {
  append_time(notice.time_ns, out);
  out += colour_ && notice.severity != "info" ? kRed : "";
  out += "*** ";
  append_text(notice.message, out);
  out += colour_ && notice.severity != "info" ? kReset : "";
  out += '\n';
}

void TextFormatter::append(const event::Alert& alert, std::string& out) {
  append_time(alert.time_ns, out);
  out.pop_back();
  out += '\n';
  tell(alert.severity, alert.rule, alert.message, out);
}

void TextFormatter::append(const event::Lost& lost, std::string& out) {
  append_time(lost.time_ns, out);
  fmt::format_to(std::back_inserter(out), "{}*** {} events lost on cpu {}: the reader was too slow{}\n", colour_ ? kRed : "", lost.count, lost.cpu,
                 colour_ ? kReset : "");
}

}  // namespace vfsguard::output
