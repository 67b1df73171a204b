// SPDX-License-Identifier: Apache-2.0
#include "detect/fields.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include <fmt/format.h>

#include "event/names.h"
#include "output/escape.h"
#include "output/format.h"

namespace vfsguard::detect {

namespace {

constexpr unsigned kOurs = 1;
constexpr unsigned kAudit = 2;

struct Named {
  std::string_view name;
  FieldKey key;
  unsigned dialects = kOurs;
};

// Of kCommandLine, kParentCommandLine: as our events tell it. Sigma's are without quotes.
constexpr std::uint8_t kShell = 1;

// The place of "protocol" among output::call_field_names().
constexpr std::uint8_t kProtocol = 25;

constexpr std::array<std::string_view, 4> kSeconds{"dst_path_raw", "target", "xattr", "source"};

// Sigma's taxonomy (github.com/SigmaHQ/sigma-specification, appendix taxonomy), what it maps to; then our own names; then auditd's
// (github.com/linux-audit/audit-documentation, specs/fields).
constexpr Named kFields[] = {
    {"TargetFilename", {Field::kTarget}},
    {"SourceFilename", {Field::kOrigin}},
    {"Image", {Field::kExe}},
    {"CommandLine", {Field::kCommandLine}},
    {"ParentImage", {Field::kParentExe}},
    {"ParentCommandLine", {Field::kParentCommandLine}},
    {"User", {Field::kUser}},
    {"LogonId", {Field::kSession}},
    {"CurrentDirectory", {Field::kCwd}},
    {"ProcessId", {Field::kPid}},
    {"ParentProcessId", {Field::kParentPid}},
    {"ProcessGuid", {Field::kProcessId}},
    {"Hashes", {Field::kHashes}},
    {"sha256", {Field::kExeHash}},
    {"DestinationIp", {Field::kTheirIp}},
    {"DestinationPort", {Field::kTheirPort}},
    {"DestinationHostname", {Field::kTheirHost}},
    {"DestinationIsIpv6", {Field::kIsIpv6}},
    {"SourceIp", {Field::kSourceIp}},
    {"SourcePort", {Field::kSourcePort}},
    {"Initiated", {Field::kInitiated}},
    {"Protocol", {Field::kCallField, kProtocol}},
    {"path", {Field::kPath}},
    {"path_in_ns", {Field::kPathInNamespace}},
    {"path_raw", {Field::kPathRaw}},
    {"path_flags", {Field::kPathFlags}},
    {"dst_path", {Field::kSecondPath, 0}},
    {"source_path", {Field::kSecondPath, 1}},
    {"dst_path_raw", {Field::kSecondRaw, 0}},
    {"target", {Field::kSecondRaw, 1}},
    {"xattr", {Field::kSecondRaw, 2}},
    {"source", {Field::kSecondRaw, 3}},
    {"cwd", {Field::kCwd}, kOurs | kAudit},
    {"exe", {Field::kExe}, kOurs | kAudit},
    {"exe_deleted", {Field::kExeDeleted}},
    {"exe_memfd", {Field::kExeMemfd}},
    {"exe_sha256", {Field::kExeHash}},
    {"cmdline", {Field::kCommandLine, kShell}},
    {"parent_cmdline", {Field::kParentCommandLine, kShell}},
    {"ancestors", {Field::kAncestors}},
    {"comm", {Field::kComm}, kOurs | kAudit},
    {"parent_comm", {Field::kParentComm}},
    {"user", {Field::kUser}},
    {"pid", {Field::kPid}, kOurs | kAudit},
    {"tid", {Field::kTid}},
    {"ppid", {Field::kParentPid}, kOurs | kAudit},
    {"uid", {Field::kUid}, kOurs | kAudit},
    {"gid", {Field::kGid}, kOurs | kAudit},
    {"euid", {Field::kEuid}, kOurs | kAudit},
    {"egid", {Field::kEgid}, kOurs | kAudit},
    {"loginuid", {Field::kLoginUid}},
    {"session", {Field::kSession}},
    {"process_id", {Field::kProcessId}},
    {"mnt_ns", {Field::kMountNamespace}},
    {"pid_ns", {Field::kPidNamespace}},
    {"cgroup", {Field::kCgroup}},
    {"container_id", {Field::kContainerId}},
    {"container_name", {Field::kContainerName}},
    {"container_runtime", {Field::kContainerRuntime}},
    {"operation", {Field::kOperation}},
    {"event_type", {Field::kCall}},
    {"via", {Field::kVia}},
    {"ino", {Field::kInode}},
    {"nlink", {Field::kLinks}},
    {"file_type", {Field::kFileType}},
    {"fs_type", {Field::kFileSystem}},
    {"fmode", {Field::kOpenMode}},
    {"src_ip", {Field::kSourceIp}},
    {"src_port", {Field::kSourcePort}},
    {"dst_ip", {Field::kTheirIp}},
    {"dst_port", {Field::kTheirPort}},
    {"address_family", {Field::kAddressFamily}},
    {"abstract_name", {Field::kAbstractName}},
    {"retval", {Field::kResult}},
    {"error_code", {Field::kErrorCode}},
    {"error", {Field::kError}},
    {"success", {Field::kSuccess}},
    {"verdict", {Field::kVerdict}},
    {"enforced", {Field::kEnforced}},
    {"policy", {Field::kPolicies}},
    {"timestamp", {Field::kTimestamp}},
    {"count", {Field::kCount}},
    {"reads", {Field::kReads}},
    {"writes", {Field::kWrites}},
    {"bytes_read", {Field::kBytesRead}},
    {"bytes_written", {Field::kBytesWritten}},
    {"type", {Field::kRecordTypes}, kAudit},
    {"name", {Field::kRecordName}, kAudit},
    {"nametype", {Field::kNameType}, kAudit},
    {"success", {Field::kSuccessWord}, kAudit},
    {"proctitle", {Field::kCommandLine}, kAudit},
    {"syscall", {Field::kCall}, kAudit},
    {"SYSCALL", {Field::kCall}, kAudit},
    {"exit", {Field::kResult}, kAudit},
    {"auid", {Field::kLoginUid}, kAudit},
    {"ses", {Field::kSession}, kAudit},
    {"argc", {Field::kArgumentCount}, kAudit},
};

constexpr unsigned mask_of(Dialect dialect) { return dialect == Dialect::kAuditd ? kAudit : kOurs; }

std::optional<std::uint8_t> argument_index(std::string_view name) {
  std::uint8_t index = 0;
  if (name.size() < 2 || name[0] != 'a') {
    return std::nullopt;
  }
  const auto [end, error] = std::from_chars(name.data() + 1, name.data() + name.size(), index);
  return error == std::errc{} && end == name.data() + name.size() && index < 100 ? std::optional(index) : std::nullopt;
}

constexpr std::uint32_t kUnset = ~0u;

class Reader {
 public:
  Reader(const event::Operation& operation, std::string& buffer, Values& out) : o_(operation), e_(operation.raw), buffer_(buffer), out_(out) { out_.count = 0; }
  void read(FieldKey key);

 private:
  void text(std::string_view value) {
    if (out_.count < Values::kMost) {
      out_.texts[out_.count++] = value;
    }
  }
  void text(const char* value) { text(std::string_view(value)); }
  void text(const std::optional<std::string>& value) {
    if (value) {
      text(std::string_view(*value));
    }
  }
  void text_unless_empty(std::string_view value) {
    if (!value.empty()) {
      text(value);
    }
  }
  void number(std::int64_t value) {
    out_.number = value;
    out_.count = 1;
  }
  void id(std::uint32_t value) {
    if (value != kUnset) {
      number(value);
    }
  }
  void truth(bool value) { text(value ? "true" : "false"); }
  void chars(const char* value, std::size_t size) { text(std::string_view(value, strnlen(value, size))); }
  // In the buffer; any number of them.
  void built(std::string value) {
    buffer_ = std::move(value);
    text(std::string_view(buffer_));
  }

  [[nodiscard]] bool gives_name() const { return e_.operation == VG_OP_RENAME || e_.operation == VG_OP_LINK; }
  void of_process(FieldKey key, const event::Process& p);
  void of_call(FieldKey key);
  void path_flags();
  void address(FieldKey key);
  void audit(FieldKey key);
  void argument(std::uint8_t index);

  const event::Operation& o_;
  const vg_event& e_;
  std::string& buffer_;
  Values& out_;
};

void Reader::of_process(FieldKey key, const event::Process& p) {
  switch (key.field) {
    case Field::kExe: text(p.exe); break;
    case Field::kExeDeleted:
      if (p.exe_deleted) {
        truth(true);
      }
      break;
    case Field::kExeMemfd:
      if (p.exe_memfd) {
        truth(true);
      }
      break;
    case Field::kCommandLine:
      if (p.command_line) {
        text(key.index == kShell ? std::string_view(p.command_line->shell) : p.command_line->plain());
      }
      break;
    case Field::kParentExe:
      if (!p.ancestors.empty() && p.ancestors.front().exe) {
        text(std::string_view(*p.ancestors.front().exe));
      }
      break;
    case Field::kParentCommandLine:
      if (p.parent_command_line && e_.operation == VG_OP_EXEC) {
        text(key.index == kShell ? std::string_view(p.parent_command_line->shell) : p.parent_command_line->plain());
      }
      break;
    case Field::kAncestors:
      for (const event::Ancestor& ancestor : p.ancestors) {
        if (ancestor.exe) {
          text(std::string_view(*ancestor.exe));
        }
      }
      break;
    case Field::kCgroup: text(p.cgroup); break;
    case Field::kContainerId: text_unless_empty(p.container.id); break;
    case Field::kContainerName: text_unless_empty(p.container.name); break;
    case Field::kContainerRuntime: text_unless_empty(p.container.runtime); break;
    case Field::kExeHash:
    case Field::kHashes:
      if (p.digest && p.digest->ready.load(std::memory_order_acquire)) {
        const std::string_view hex(p.digest->hex.data(), p.digest->hex.size());
        if (key.field == Field::kHashes) {
          built("SHA256=" + std::string(hex));
        } else {
          text(hex);
        }
      }
      break;
    default: break;
  }
}

// As the formatter tells them, or as they were recorded.
void Reader::of_call(FieldKey key) {
  const std::string_view wanted = output::call_field_names()[key.index];
  buffer_.clear();
  std::string_view fields;
  if (o_.call_fields) {
    fields = *o_.call_fields;
  } else {
    output::append_call_fields(e_, buffer_);
    fields = buffer_;
  }
  char name[32];
  const auto end = fmt::format_to(name, "\"{}\":", wanted);
  const std::string_view pattern(name, static_cast<std::size_t>(end - name));
  const std::size_t at = fields.find(pattern);
  if (at == std::string_view::npos) {
    return;
  }
  std::string_view value = fields.substr(at + pattern.size());
  if (is_number(key)) {
    std::int64_t parsed = 0;
    if (std::from_chars(value.data(), value.data() + value.size(), parsed).ec == std::errc{}) {
      number(parsed);
    }
    return;
  }
  value.remove_prefix(1);  // the quote
  text(value.substr(0, value.find('"')));
}

void Reader::path_flags() {
  buffer_.clear();
  output::append_path_flags(e_.operation == VG_OP_EXIT ? e_.path_flags & ~VG_NO_RESULT : e_.path_flags, o_.path.has_value(), buffer_);
  std::size_t at = 0;
  while (at < buffer_.size()) {
    const std::size_t end = std::min(buffer_.find(' ', at), buffer_.size());
    text(std::string_view(buffer_).substr(at, end - at));
    at = end + 1;
  }
}

void Reader::address(FieldKey key) {
  if (!o_.address) {
    return;
  }
  const event::Address& a = *o_.address;
  const bool binds = e_.operation == VG_OP_BIND;
  switch (key.field) {
    case Field::kSourceIp:
    case Field::kTheirIp:
      if (binds == (key.field == Field::kSourceIp)) {
        text_unless_empty(a.ip);
      }
      break;
    case Field::kSourcePort:
    case Field::kTheirPort:
      if (binds == (key.field == Field::kSourcePort) && !a.ip.empty()) {
        number(a.port);
      }
      break;
    case Field::kIsIpv6:
      if (!a.ip.empty()) {
        truth(a.ip.find(':') != std::string::npos);
      }
      break;
    case Field::kInitiated:
      if (e_.operation == VG_OP_CONNECT) {
        truth(true);
      }
      break;
    case Field::kAddressFamily: built(event::family_name(a.family)); break;
    case Field::kAbstractName: text_unless_empty(a.name); break;
    default: break;
  }
}

// The argument that a shell would be given as the index-th word of the command line, which was joined for one.
void Reader::argument(std::uint8_t index) {
  if (e_.operation != VG_OP_EXEC || !o_.process || !o_.process->command_line) {
    return;
  }
  const auto arguments = output::split_arguments(o_.process->command_line->shell);
  if (index == 0xff) {
    number(static_cast<std::int64_t>(arguments.size()));
  } else if (index < arguments.size()) {
    built(arguments[index]);
  }
}

void Reader::audit(FieldKey key) {
  constexpr std::uint64_t kMakes = event::operation_bit(VG_OP_CREATE) | event::operation_bit(VG_OP_MKDIR) | event::operation_bit(VG_OP_MKNOD) |
                                   event::operation_bit(VG_OP_SYMLINK) | event::operation_bit(VG_OP_LINK) | event::operation_bit(VG_OP_RENAME);
  constexpr std::uint64_t kRemoves = event::operation_bit(VG_OP_UNLINK) | event::operation_bit(VG_OP_RMDIR);
  switch (key.field) {
    case Field::kRecordTypes:
      text("SYSCALL");
      if (e_.operation == VG_OP_EXEC) {
        text("EXECVE");
      }
      if (o_.path) {
        text("PATH");
      }
      if (o_.cwd) {
        text("CWD");
      }
      if (o_.address) {
        text("SOCKADDR");
      }
      if (o_.process && o_.process->command_line) {
        text("PROCTITLE");
      }
      break;
    case Field::kRecordName:
      text(o_.path);
      text(o_.dst_path);
      break;
    case Field::kNameType:
      if (o_.path) {
        const std::uint64_t bit = event::operation_bit(e_.operation);
        text((bit & kMakes) != 0 ? "CREATE" : (bit & kRemoves) != 0 ? "DELETE" : "NORMAL");
      }
      break;
    case Field::kSuccessWord:
      if (o_.has_result()) {
        text(o_.success() ? "yes" : "no");
      }
      break;
    case Field::kArgument: argument(key.index); break;
    case Field::kArgumentCount: argument(0xff); break;
    default: break;
  }
}

void Reader::read(FieldKey key) {
  if (is_of_process(key) || key.field == Field::kParentCommandLine) {
    if (o_.process) {
      of_process(key, *o_.process);
    }
    return;
  }
  switch (key.field) {
    case Field::kTarget: text(gives_name() && o_.dst_path ? o_.dst_path : o_.path); break;
    case Field::kOrigin:
      if (gives_name()) {
        text(o_.path);
      }
      break;
    case Field::kPath: text(o_.path); break;
    case Field::kPathInNamespace: text(o_.path_in_ns); break;
    case Field::kPathRaw: text(o_.path_raw); break;
    case Field::kPathFlags: path_flags(); break;
    case Field::kSecondPath:
      if ((e_.call == VG_CALL_IOCTL) == (key.index == 1)) {
        text(o_.dst_path);
      }
      break;
    case Field::kSecondRaw:
      if (event::second_name(e_.call) == kSeconds[key.index]) {
        text(o_.dst_raw);
      }
      break;
    case Field::kCwd: text(o_.cwd); break;
    case Field::kComm: chars(e_.comm, sizeof e_.comm); break;
    case Field::kParentComm: chars(e_.parent_comm, sizeof e_.parent_comm); break;
    case Field::kUser: text_unless_empty(o_.user); break;
    case Field::kPid: number(e_.pid); break;
    case Field::kTid: number(e_.tid); break;
    case Field::kParentPid: number(e_.ppid); break;
    case Field::kUid: number(e_.uid); break;
    case Field::kGid: number(e_.gid); break;
    case Field::kEuid: number(e_.euid); break;
    case Field::kEgid: number(e_.egid); break;
    case Field::kLoginUid: id(e_.loginuid); break;
    case Field::kSession: id(e_.session); break;
    case Field::kProcessId: built(fmt::format("{}.{}", e_.pid, e_.start_ns)); break;
    case Field::kMountNamespace: number(e_.mnt_ns); break;
    case Field::kPidNamespace: number(e_.pid_ns); break;
    case Field::kOperation: text(event::operation_name(e_.operation)); break;
    case Field::kCall: text(event::call_name(e_.call)); break;
    case Field::kVia: text(event::via_name(e_.via)); break;
    case Field::kInode:
    case Field::kLinks:
      if (e_.imode != 0) {
        number(key.field == Field::kInode ? static_cast<std::int64_t>(e_.ino) : e_.nlink);
      }
      break;
    case Field::kFileType:
      if (e_.imode != 0) {
        text(event::file_type_name(e_.imode));
      }
      break;
    case Field::kFileSystem:
      if (e_.imode != 0 && e_.call != VG_CALL_MOUNT) {
        chars(e_.fs_type, sizeof e_.fs_type);
      }
      break;
    case Field::kOpenMode:
      if (const unsigned kind = event::call_operation(e_.call); e_.imode != 0 && (kind == VG_OP_OPEN || kind == VG_OP_EXEC)) {
        text(event::fmode_name(e_.fmode, e_.flags));
      }
      break;
    case Field::kSourceIp:
    case Field::kSourcePort:
    case Field::kTheirIp:
    case Field::kTheirPort:
    case Field::kIsIpv6:
    case Field::kInitiated:
    case Field::kAddressFamily:
    case Field::kAbstractName: address(key); break;
    case Field::kResult:
      if (o_.has_result()) {
        number(e_.retval);
      }
      break;
    case Field::kErrorCode:
      if (o_.has_result()) {
        number(o_.success() ? 0 : -e_.retval);
      }
      break;
    case Field::kError:
      if (o_.has_result() && !o_.success()) {
        built(event::error_name(static_cast<int>(-e_.retval)));
      }
      break;
    case Field::kSuccess:
      if (o_.has_result()) {
        truth(o_.success());
      }
      break;
    case Field::kVerdict: text_unless_empty(o_.verdict); break;
    case Field::kEnforced:
      if (!o_.verdict.empty()) {
        truth(e_.verdict != VG_VERDICT_NONE);
      }
      break;
    case Field::kPolicies:
      for (const std::string& policy : o_.policies) {
        text(std::string_view(policy));
      }
      break;
    case Field::kTimestamp:
      if (o_.wall_ns != 0) {
        number(static_cast<std::int64_t>(o_.wall_ns / 1'000'000'000u));
      }
      break;
    case Field::kCount:
      if (o_.alike) {
        number(static_cast<std::int64_t>(o_.alike->count));
      }
      break;
    case Field::kReads:
    case Field::kWrites:
    case Field::kBytesRead:
    case Field::kBytesWritten:
      if (o_.access) {
        const vg_access& a = *o_.access;
        number(static_cast<std::int64_t>(key.field == Field::kReads       ? a.reads
                                         : key.field == Field::kWrites    ? a.writes
                                         : key.field == Field::kBytesRead ? a.bytes_read
                                                                          : a.bytes_written));
      }
      break;
    case Field::kCallField: of_call(key); break;
    default: audit(key); break;
  }
}

}  // namespace

std::optional<FieldKey> find_field(std::string_view name, Dialect dialect) {
  for (const Named& field : kFields) {
    if (field.name == name && (field.dialects & mask_of(dialect)) != 0) {
      return field.key;
    }
  }
  if (dialect == Dialect::kAuditd) {
    const auto index = argument_index(name);
    return index ? std::optional(FieldKey{Field::kArgument, *index}) : std::nullopt;
  }
  const auto of_calls = output::call_field_names();
  for (std::size_t i = 0; i < of_calls.size(); ++i) {
    if (of_calls[i] == name) {
      return FieldKey{Field::kCallField, static_cast<std::uint8_t>(i)};
    }
  }
  return std::nullopt;
}

std::vector<std::string_view> field_names(Dialect dialect) {
  std::vector<std::string_view> names;
  for (const Named& field : kFields) {
    if ((field.dialects & mask_of(dialect)) != 0) {
      names.push_back(field.name);
    }
  }
  if (dialect == Dialect::kSigma) {
    const auto of_calls = output::call_field_names();
    names.insert(names.end(), of_calls.begin(), of_calls.end());
  }
  return names;
}

std::string field_name(FieldKey key, Dialect dialect) {
  if (key.field == Field::kArgument) {
    return fmt::format("a{}", key.index);
  }
  for (const Named& field : kFields) {
    if (field.key == key && (field.dialects & mask_of(dialect)) != 0) {
      return std::string(field.name);
    }
  }
  return key.field == Field::kCallField ? std::string(output::call_field_names()[key.index]) : "?";
}

bool is_of_process(FieldKey key) {
  switch (key.field) {
    case Field::kExe:
    case Field::kExeDeleted:
    case Field::kExeMemfd:
    case Field::kExeHash:
    case Field::kHashes:
    case Field::kCommandLine:
    case Field::kParentExe:
    case Field::kAncestors:
    case Field::kCgroup:
    case Field::kContainerId:
    case Field::kContainerName:
    case Field::kContainerRuntime: return true;
    default: return false;
  }
}

bool is_of_object(FieldKey key) {
  return key.field == Field::kInode || key.field == Field::kLinks || key.field == Field::kFileType || key.field == Field::kFileSystem ||
         key.field == Field::kOpenMode;
}

bool is_never_known(FieldKey key) { return key.field == Field::kTheirHost; }

bool is_number(FieldKey key) {
  switch (key.field) {
    case Field::kPid:
    case Field::kTid:
    case Field::kParentPid:
    case Field::kUid:
    case Field::kGid:
    case Field::kEuid:
    case Field::kEgid:
    case Field::kLoginUid:
    case Field::kSession:
    case Field::kMountNamespace:
    case Field::kPidNamespace:
    case Field::kInode:
    case Field::kLinks:
    case Field::kSourcePort:
    case Field::kTheirPort:
    case Field::kResult:
    case Field::kErrorCode:
    case Field::kTimestamp:
    case Field::kCount:
    case Field::kReads:
    case Field::kWrites:
    case Field::kBytesRead:
    case Field::kBytesWritten:
    case Field::kArgumentCount: return true;
    case Field::kCallField: return output::is_call_number(output::call_field_names()[key.index]);
    default: return false;
  }
}

std::span<const FieldKey> searched_by_keywords() {
  static constexpr FieldKey kSearched[] = {{Field::kPath},        {Field::kSecondPath, 0}, {Field::kSecondRaw, 1}, {Field::kExe},
                                           {Field::kCommandLine}, {Field::kParentExe},     {Field::kCwd},          {Field::kComm},
                                           {Field::kUser},        {Field::kCall},          {Field::kAbstractName}};
  return kSearched;
}

void read_field(const event::Operation& operation, FieldKey key, std::string& buffer, Values& out) { Reader(operation, buffer, out).read(key); }

}  // namespace vfsguard::detect
