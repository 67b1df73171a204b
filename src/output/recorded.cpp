// SPDX-License-Identifier: Apache-2.0
#include "output/recorded.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <fstream>
#include <iterator>

#include <fmt/format.h>
#include <simdjson.h>

#include "event/names.h"
#include "output/escape.h"
#include "output/format.h"

namespace vfsguard::output {

namespace {

using event::Address;
using event::Ancestor;
using event::call_name;
using event::CommandLine;
using event::Digest;
using event::family_name;
using event::file_type_name;
using event::fmode_name;
using event::Operation;
using event::operation_from_name;
using event::Process;
using event::second_name;
using event::via_name;
using simdjson::dom::element;
constexpr std::size_t kLongestLine = 1u << 20;
constexpr std::size_t kMostProcesses = 16384;

const std::unordered_map<std::string_view, unsigned>& calls() {
  static const auto all = [] {
    std::unordered_map<std::string_view, unsigned> map;
    for (unsigned call = 1; call < VG_CALL_COUNT; ++call) {
      map.try_emplace(call_name(call), call);
    }
    return map;
  }();
  return all;
}

int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

}  // namespace

// One line.
class RecordedReader {
 public:
  RecordedReader(Recorded& shared, const element& from, Operation& to) : shared_(shared), from_(from), o_(to), e_(to.raw) {}

  // False where it is no operation.
  bool read() {
    const auto operation = operation_from_name(text("operation"));
    const auto call = calls().find(text("event_type"));
    if (!operation || call == calls().end()) {
      return false;
    }
    o_ = Operation{};
    e_.operation = static_cast<vg_u8>(*operation);
    e_.call = static_cast<vg_u8>(call->second);
    head();
    paths();
    object();
    result();
    others();
    o_.process = process();
    return true;
  }

 private:
  [[nodiscard]] std::string_view text(const char* key) const {
    std::string_view value;
    return from_[key].get(value) == simdjson::SUCCESS ? value : std::string_view{};
  }
  [[nodiscard]] bool is_true(const char* key) const {
    bool value = false;
    return from_[key].get(value) == simdjson::SUCCESS && value;
  }
  // With its exact bytes, where they were not UTF-8.
  [[nodiscard]] std::optional<std::string> bytes(const std::string& key) const {
    std::string_view value;
    if (from_[key + "_hex"].get(value) == simdjson::SUCCESS) {
      std::string exact;
      for (std::size_t i = 0; i + 1 < value.size(); i += 2) {
        exact += static_cast<char>(hex_digit(value[i]) << 4 | hex_digit(value[i + 1]));
      }
      return exact;
    }
    return from_[key].get(value) == simdjson::SUCCESS ? std::optional<std::string>(value) : std::nullopt;
  }
  template <typename T>
  void number(const char* key, T& into) const {
    std::int64_t value = 0;
    std::uint64_t large = 0;
    if (from_[key].get(value) == simdjson::SUCCESS) {
      into = static_cast<T>(value);
    } else if (from_[key].get(large) == simdjson::SUCCESS) {
      into = static_cast<T>(large);
    }
  }
  template <std::size_t N>
  void chars(const char* key, char (&into)[N]) const {
    if (const auto value = bytes(key)) {
      value->copy(into, N - 1);
    }
  }

  void head() {
    number("seq", e_.seq);
    number("cpu", e_.head.cpu);
    double seconds = 0;
    if (from_["timestamp"].get(seconds) == simdjson::SUCCESS && seconds >= 0 && seconds < 1e10) {
      // To the microsecond, as it was written.
      o_.wall_ns = static_cast<std::uint64_t>(std::llround(seconds * 1e6)) * 1000;
      e_.time_ns = o_.wall_ns;
    }
    const std::string_view via = text("via");
    for (unsigned i = 0; i < 4; ++i) {
      e_.via = !via.empty() && via_name(i) == via ? static_cast<vg_u8>(i) : e_.via;
    }
    number("pid", e_.pid);
    number("tid", e_.tid);
    number("ppid", e_.ppid);
    number("uid", e_.uid);
    number("gid", e_.gid);
    number("euid", e_.euid);
    number("egid", e_.egid);
    e_.loginuid = ~0u;
    e_.session = ~0u;
    number("loginuid", e_.loginuid);
    number("session", e_.session);
    number("mnt_ns", e_.mnt_ns);
    number("pid_ns", e_.pid_ns);
    chars("comm", e_.comm);
    chars("parent_comm", e_.parent_comm);
    if (const auto user = bytes("user")) {
      o_.user = shared_.users_.try_emplace(*user, *user).first->second;
    }
    const std::string_view id = text("process_id");
    if (const std::size_t dot = id.find('.'); dot != std::string_view::npos) {
      std::from_chars(id.data() + dot + 1, id.data() + id.size(), e_.start_ns);
    }
  }

  void paths() {
    o_.path = bytes("path");
    o_.path_in_ns = bytes("path_in_ns");
    o_.path_raw = bytes("path_raw");
    o_.cwd = bytes("cwd");
    o_.dst_path = bytes(e_.call == VG_CALL_IOCTL ? "source_path" : "dst_path");
    o_.dst_raw = bytes(std::string(second_name(e_.call)));
    e_.path_flags = VG_PATH_OBJECT;
    simdjson::dom::array names;
    if (from_["path_flags"].get(names) != simdjson::SUCCESS) {
      return;
    }
    for (const element& one : names) {
      std::string_view name;
      if (one.get(name) != simdjson::SUCCESS) {
        continue;
      }
      if (name == "unresolved") {
        e_.path_flags &= ~VG_PATH_OBJECT;
      }
      e_.path_flags |= path_flag(name);
    }
  }

  void object() {
    static constexpr std::array<std::uint32_t, 7> kTypes{S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK};
    const std::string_view type = text("file_type");
    for (const std::uint32_t one : kTypes) {
      e_.imode = file_type_name(one) == type ? one : e_.imode;
    }
    number("ino", e_.ino);
    number("nlink", e_.nlink);
    chars(e_.call == VG_CALL_MOUNT ? "mount_type" : "fs_type", e_.fs_type);
    const std::string_view mode = text("fmode");
    for (const std::uint32_t bits : {0u, 1u, 2u, 3u, 0x20u, 1u << 14}) {
      e_.fmode = fmode_name(bits, 0) == mode ? bits : e_.fmode;
    }
    number("flags", e_.flags);
    number("dst_ino", e_.dst_ino);
  }

  void result() {
    std::int64_t value = 0;
    if (from_["retval"].get(value) == simdjson::SUCCESS) {
      e_.retval = value;
    } else {
      e_.path_flags |= VG_NO_RESULT;
    }
    const std::string_view verdict = text("verdict");
    o_.verdict = verdict == "deny" ? "deny" : verdict == "kill" ? "kill" : "";
    if (is_true("enforced")) {
      e_.verdict = verdict == "kill" ? VG_VERDICT_KILL : VG_VERDICT_DENY;
    }
    const auto named = [](std::string_view name, unsigned count, auto name_of) {
      unsigned value = count - 1;
      while (value > 0 && (name.empty() || name_of(value) != name)) {
        --value;
      }
      return static_cast<vg_u8>(value);
    };
    e_.matched_by = named(text("matched_by"), VG_MATCHED_INODE + 1, event::matched_by_name);
    e_.cause = named(text("cause"), VG_UNKNOWN_COUNT, event::cause_name);
    simdjson::dom::array policies;
    if (from_["policies"].get(policies) == simdjson::SUCCESS) {
      for (const element& one : policies) {
        std::string_view name;
        if (one.get(name) == simdjson::SUCCESS) {
          o_.policies.emplace_back(name);
        }
      }
    } else if (auto policy = bytes("policy")) {
      o_.policies.push_back(std::move(*policy));
    }
  }

  void others() {
    // The call's own fields, as the formatter tells them.
    std::string fields;
    for (const std::string_view key : call_field_names()) {
      element value;
      if (from_[key].get(value) == simdjson::SUCCESS) {
        fields += fmt::format("\"{}\":{},", key, simdjson::minify(value));
      }
    }
    o_.call_fields = std::move(fields);
    if (e_.operation == VG_OP_CONNECT || e_.operation == VG_OP_BIND) {
      Address address;
      const bool binds = e_.operation == VG_OP_BIND;
      const std::string_view family = text("address_family");
      for (unsigned i = 1; i < 64; ++i) {
        address.family = address.family == 0 && family_name(i) == family ? i : address.family;
      }
      address.ip = text(binds ? "src_ip" : "dst_ip");
      number(binds ? "src_port" : "dst_port", address.port);
      address.name = bytes("abstract_name").value_or("");
      if (!family.empty()) {
        o_.address = std::move(address);
      }
    }
    std::uint64_t count = 0;
    if (from_["count"].get(count) == simdjson::SUCCESS) {
      o_.alike.emplace().count = count;
    }
    if (element reads; from_["reads"].get(reads) == simdjson::SUCCESS) {
      vg_access& access = o_.access.emplace();
      number("reads", access.reads);
      number("writes", access.writes);
      number("bytes_read", access.bytes_read);
      number("bytes_written", access.bytes_written);
    }
  }

  static std::shared_ptr<const CommandLine> line_of(const std::optional<std::string>& shell) {
    return shell ? output::command_line(split_arguments(*shell)) : nullptr;
  }

  std::shared_ptr<const Process> process() {
    const auto exe = bytes("exe");
    const auto line = bytes("cmdline");
    const auto parent_line = bytes("parent_cmdline");
    const std::string_view digest = text("exe_sha256");
    const std::string key = fmt::format("{}\n{}\n{}\n{}", text("process_id"), exe.value_or("\n"), line.value_or("\n"), digest);
    if (shared_.processes_.size() >= kMostProcesses) {
      shared_.processes_.clear();
    }
    auto& known = shared_.processes_[key];
    if (known && (!parent_line || known->parent_command_line)) {
      return known;
    }
    auto process = std::make_shared<Process>();
    process->pid = e_.pid;
    process->start_ns = e_.start_ns;
    process->exe = exe;
    process->exe_deleted = is_true("exe_deleted");
    process->exe_memfd = is_true("exe_memfd");
    process->command_line = line_of(line);
    process->parent_command_line = line_of(parent_line);
    process->cgroup = bytes("cgroup");
    process->container.id = bytes("container_id").value_or("");
    process->container.name = bytes("container_name").value_or("");
    process->container.runtime = text("container_runtime");
    if (digest.size() == 64) {
      auto found = std::make_shared<Digest>();
      std::ranges::copy(digest, found->hex.begin());
      found->ready.store(true);
      process->digest = std::move(found);
    }
    simdjson::dom::array ancestors;
    if (from_["ancestors"].get(ancestors) == simdjson::SUCCESS) {
      for (const element& one : ancestors) {
        Ancestor& ancestor = process->ancestors.emplace_back();
        if (std::uint64_t pid = 0; one["pid"].get(pid) == simdjson::SUCCESS) {
          ancestor.pid = static_cast<std::uint32_t>(pid);
        }
        if (std::string_view name; one["exe"].get(name) == simdjson::SUCCESS) {
          ancestor.exe = std::make_shared<const std::string>(name);
        }
      }
    }
    known = process;
    return known;
  }

  Recorded& shared_;
  const element& from_;
  Operation& o_;
  vg_event& e_;
};

util::Result<Recorded::Counts> Recorded::read(const std::string& file, const std::function<void(Operation&)>& each) {
  std::ifstream in(file, std::ios::binary);
  if (!in) {
    return util::fail_errno(EX_NOINPUT, fmt::format("cannot read the events {}", file));
  }
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  if (in.bad()) {
    return util::fail(EX_NOINPUT, fmt::format("cannot read the events {} to their end", file));
  }
  return read_text(file, text, each);
}

util::Result<Recorded::Counts> Recorded::read_text(const std::string& name, std::string_view text, const std::function<void(Operation&)>& each) {
  Counts counts;
  if (text.empty()) {
    return counts;
  }
  simdjson::dom::parser parser;
  simdjson::dom::document_stream stream;
  const simdjson::padded_string content(text);
  if (const auto error = parser.parse_many(content, kLongestLine).get(stream); error != simdjson::SUCCESS) {
    return util::fail(EX_DATAERR, fmt::format("cannot read the events {}: {}", name, simdjson::error_message(error)));
  }
  Operation operation;
  for (auto it = stream.begin(); it != stream.end(); ++it) {
    element line;
    if (const auto error = (*it).get(line); error != simdjson::SUCCESS || !line.is_object()) {
      return util::fail(EX_DATAERR,
                        fmt::format("{}:{}: no event: {}; a line is one JSON object", name, std::ranges::count(text.substr(0, it.current_index()), '\n') + 1,
                                    error != simdjson::SUCCESS ? simdjson::error_message(error) : "not an object"));
    }
    if (!RecordedReader(*this, line, operation).read()) {
      ++counts.others;
      continue;
    }
    ++counts.operations;
    each(operation);
  }
  counts.cut = stream.truncated_bytes();
  return counts;
}

}  // namespace vfsguard::output
