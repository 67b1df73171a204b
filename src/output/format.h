// SPDX-License-Identifier: Apache-2.0
// Events to lines. A formatter knows no sink; it appends to a buffer that its caller owns. Not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "event/event.h"
#include "util/clock.h"

namespace vfsguard::output {

inline constexpr int kSchema = 1;

enum class ClockKind { kRealtime, kBoottime };
enum class FormatKind { kJson, kText };

// What is told of a call's own arguments, by call: `"flags":577,"flags_text":"O_WRONLY|O_CREAT|O_TRUNC","mode":"0644",`. Each ends in a comma.
void append_call_fields(const vg_event& raw, std::string& out);
// All names that append_call_fields() may use, and those of them whose values are numbers.
std::span<const std::string_view> call_field_names();
bool is_call_number(std::string_view name);
// The flag of that name in path_flags; 0: there is none.
std::uint32_t path_flag(std::string_view name);
// The names of path_flags, with spaces between them.
void append_path_flags(std::uint32_t flags, bool has_path, std::string& out);

// Native JSON Lines (docs/event-format.md).
class JsonFormatter {
 public:
  JsonFormatter(ClockKind clock, std::string_view host);

  void append(const event::Operation& operation, std::string& out);
  void append(const event::Lost& lost, std::string& out);
  void append(const event::Alert& alert, std::string& out);
  void append(const event::Notice& notice, std::string& out);

 private:
  // What does not change from event to event of one process image, rendered once.
  struct Rendered {
    std::weak_ptr<const event::Process> owner;
    const event::Process* key = nullptr;
    bool digested = false;
    std::string text;
  };
  const std::string& rendered(const std::shared_ptr<const event::Process>& process);
  void append_time(std::string_view key, std::uint64_t boot_ns, std::string& out);

  ClockKind clock_;
  util::WallClock wall_;
  std::string host_;  // the field, ready to append
  std::vector<Rendered> cache_;
  std::string last_cwd_;
  std::string last_cwd_text_;
};

// Aligned text for people.
class TextFormatter {
 public:
  TextFormatter(ClockKind clock, bool colour) : clock_(clock), colour_(colour) {}

  static std::string header();
  void append(const event::Operation& operation, std::string& out);
  void append(const event::Lost& lost, std::string& out);
  void append(const event::Alert& alert, std::string& out);
  void append(const event::Notice& notice, std::string& out);

 private:
  void append_time(std::uint64_t boot_ns, std::string& out);
  void tell(std::string_view severity, std::string_view rule, std::string_view message, std::string& out) const;

  ClockKind clock_;
  bool colour_;
  util::WallClock wall_;
};

}  // namespace vfsguard::output
