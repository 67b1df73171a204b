// SPDX-License-Identifier: Apache-2.0
// vfsguard trace: operations as they happen, by filters that the kernel side evaluates.
#include <charconv>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <unordered_map>
#include <unordered_set>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/options.h"
#include "event/names.h"

namespace vfsguard::cli {

namespace {

// Kinds of events that are counted at once; more are written by themselves, and said.
constexpr std::uint32_t kMaxAggregates = 16384;

struct TraceText {
  CommonText common;
  std::vector<std::string> paths;
  std::vector<std::string> not_paths;
  std::vector<std::string> comms;
  std::vector<std::string> exes;
  std::vector<std::string> operations;
  std::vector<std::uint32_t> pids;
  std::vector<std::uint32_t> uids;
  bool follow = false;
  bool failed = false;
  bool write = false;
  bool every = false;
  std::string aggregate;
  std::string duration;
  std::uint64_t count = 0;
};

util::Result<std::chrono::milliseconds> parse_duration(const char* option, const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  const std::string unit(rest, end);
  double factor = 0;
  if (unit == "s" || unit.empty()) {
    factor = 1000;
  } else if (unit == "ms") {
    factor = 1;
  } else if (unit == "m") {
    factor = 60'000;
  } else if (unit == "h") {
    factor = 3'600'000;
  }
  if (error != std::errc{} || factor == 0 || !(value > 0) || value * factor > 1e12) {
    return util::fail(EX_USAGE, fmt::format("{} '{}': write a time such as 5s, 500ms, 2m", option, text));
  }
  return std::chrono::milliseconds(static_cast<std::int64_t>(value * factor));
}

util::Result<std::vector<policy::Glob>> parse_globs(const std::string& option, const std::vector<std::string>& texts) {
  std::vector<policy::Glob> globs;
  for (const std::string& text : texts) {
    auto glob = policy::parse_glob(text);
    if (!glob) {
      return util::pass_on(std::move(glob.error()).context(option));
    }
    globs.push_back(std::move(*glob));
  }
  return globs;
}

// The descendants that already exist, from /proc; those that come later are followed in the kernel.
std::vector<std::uint32_t> with_descendants(const std::vector<std::uint32_t>& roots) {
  std::unordered_map<std::uint32_t, std::vector<std::uint32_t>> children;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename();
    std::uint32_t pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ptr != name.data() + name.size()) {
      continue;
    }
    std::ifstream in(entry.path() / "stat");
    std::string stat((std::istreambuf_iterator<char>(in)), {});
    const std::size_t close = stat.rfind(')');
    std::uint32_t parent = 0;
    if (close != std::string::npos && close + 4 < stat.size()) {
      std::from_chars(stat.data() + close + 4, stat.data() + stat.size(), parent);
      children[parent].push_back(pid);
    }
  }
  std::vector<std::uint32_t> all = roots;
  std::unordered_set<std::uint32_t> known(roots.begin(), roots.end());
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (const std::uint32_t child : children[all[i]]) {
      if (known.insert(child).second) {
        all.push_back(child);
      }
    }
  }
  return all;
}

util::Result<sensor::Filter> make_filter(const TraceText& text) {
  sensor::Filter filter;
  auto paths = parse_globs("--path", text.paths);
  if (!paths) {
    return util::pass_on(paths.error());
  }
  auto not_paths = parse_globs("--not-path", text.not_paths);
  if (!not_paths) {
    return util::pass_on(not_paths.error());
  }
  auto exes = parse_globs("--exe", text.exes);
  if (!exes) {
    return util::pass_on(exes.error());
  }
  filter.by_path = !paths->empty() || !not_paths->empty();
  filter.by_exe = !exes->empty();
  if (paths->empty() && filter.by_path) {
    paths->push_back(*policy::parse_glob("/**"));
  }
  const std::size_t wanted = paths->size();
  policy::PatternSet set;
  set.globs = std::move(*paths);
  set.globs.insert(set.globs.end(), not_paths->begin(), not_paths->end());
  set.resolve = [wanted](std::span<const std::uint32_t> globs) {
    // Sorted: an excluding glob, if any, is the last.
    return globs.front() < wanted && globs.back() < wanted ? 1u : 0u;
  };
  auto automaton = policy::compile(set, {std::move(*exes), [](auto) { return 1u; }});
  if (!automaton) {
    return util::pass_on(automaton.error());
  }
  filter.automaton = std::move(*automaton);

  if (!text.operations.empty()) {
    filter.operations = 0;
    for (const std::string& name : text.operations) {
      const auto named = event::operations_from_name(name);
      if (!named) {
        return util::fail(EX_USAGE, fmt::format("--op '{}': there is no such operation; {}", name, event::nearest_operation(name)));
      }
      filter.operations |= *named;
      filter.required |= name == "all" ? 0 : *named;
    }
  }
  for (const std::string& comm : text.comms) {
    if (comm.empty() || comm.size() >= VG_COMM_LEN) {
      return util::fail(EX_USAGE, fmt::format("--comm '{}': the kernel keeps 1 to {} bytes of a process's name", comm, VG_COMM_LEN - 1));
    }
    filter.comms.push_back(comm);
  }
  if (text.follow && text.pids.empty()) {
    return util::fail(EX_USAGE, "--follow goes with --pid");
  }
  for (const std::uint32_t pid : text.pids) {
    std::error_code error;
    if (!std::filesystem::exists(fmt::format("/proc/{}", pid), error)) {
      return util::fail(EX_USAGE, fmt::format("--pid {}: there is no such process", pid));
    }
  }
  filter.follow_children = text.follow;
  filter.pids = text.follow ? with_descendants(text.pids) : text.pids;
  filter.uids = text.uids;
  filter.only_failed = text.failed;
  filter.only_write = text.write;
  filter.every_access = text.every;
  if (text.every && (filter.operations & event::kAccesses) == 0) {
    return util::fail(EX_USAGE, "--every goes with --op read or write");
  }
  return filter;
}

}  // namespace

Registered add_trace(CLI::App& root) {
  auto text = std::make_shared<TraceText>();
  CLI::App* app = root.add_subcommand("trace", "Print file operations as they happen");
  app->add_option("--path", text->paths, "Only paths that match (repeatable); * ? [..] within a component, ** any depth")
      ->type_name("GLOB")
      ->allow_extra_args(false);
  app->add_option("--not-path", text->not_paths, "Not these paths (repeatable)")->type_name("GLOB")->allow_extra_args(false);
  app->add_option("--op", text->operations, "Only these operations: " + event::operation_list() + "; without it what opens, executes or changes")
      ->type_name("OP")
      ->delimiter(',')
      ->allow_extra_args(false);
  app->add_option("--comm", text->comms, "Only processes of this name (repeatable)")->type_name("NAME")->allow_extra_args(false);
  app->add_option("--exe", text->exes, "Only processes whose executable matches (repeatable)")->type_name("GLOB")->allow_extra_args(false);
  app->add_option("--pid", text->pids, "Only this process (repeatable)")->type_name("PID")->delimiter(',')->allow_extra_args(false);
  app->add_flag("--follow", text->follow, "With --pid: its descendants too");
  app->add_option("--uid", text->uids, "Only this real user id (repeatable)")->type_name("UID")->delimiter(',')->allow_extra_args(false);
  app->add_flag("--failed", text->failed, "Only what failed");
  app->add_flag("--write", text->write, "Only what changes something; of opens those for writing (O_WRONLY, O_RDWR, O_TRUNC)");
  app->add_flag("--every", text->every, "An event for each read and write, instead of the first ones and the sums at close");
  app->add_option("--aggregate", text->aggregate,
                  "Write what one program does to one object with one result as one event with a count, once in this time: 5s, 500ms")
      ->type_name("TIME");
  app->add_option("--duration", text->duration, "Stop after this time: 5s, 500ms, 2m")->type_name("TIME");
  app->add_option("--count", text->count, "Stop after so many events")->type_name("N");
  add_common(*app, text->common);
  app->footer(
      "Examples:\n"
      "  vfsguard trace --path '/etc/**' --failed\n"
      "  vfsguard trace --path '/home/*/.ssh/**' --not-path '/home/*/.ssh/known_hosts'\n"
      "  vfsguard trace --path '/srv/data/**' --op read,write    how much who reads and writes\n"
      "  vfsguard trace --pid 4242 --follow --op exec --format json | jq .cmdline\n"
      "A name that never led to a file is matched as it was given, made absolute; path_flags says 'unresolved'.");
  return {app, [text]() -> util::Result<int> {
            daemon::Options options;
            if (auto ok = apply_common(text->common, options); !ok) {
              return util::pass_on(ok.error());
            }
            auto filter = make_filter(*text);
            if (!filter) {
              return util::pass_on(filter.error());
            }
            options.sensor.filter = std::move(*filter);
            options.count = text->count;
            if (!text->aggregate.empty()) {
              auto period = parse_duration("--aggregate", text->aggregate);
              if (!period) {
                return util::pass_on(period.error());
              }
              options.aggregate = *period;
              options.sensor.aggregates = kMaxAggregates;
            }
            if (!text->duration.empty()) {
              auto duration = parse_duration("--duration", text->duration);
              if (!duration) {
                return util::pass_on(duration.error());
              }
              options.duration = *duration;
            }
            return daemon::run_pipeline(std::move(options));
          }};
}

}  // namespace vfsguard::cli
