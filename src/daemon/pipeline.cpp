// SPDX-License-Identifier: Apache-2.0
#include "daemon/pipeline.h"

#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <iterator>
#include <variant>

#include <fmt/format.h>

#include "enrich/processes.h"
#include "event/decode.h"
#include "event/names.h"
#include "output/sink.h"
#include "util/clock.h"
#include "util/fd.h"

namespace vfsguard::daemon {

namespace {

using Formatter = std::variant<output::JsonFormatter, output::TextFormatter>;

constexpr std::size_t kBatchRecords = 4096;
// What this kernel refuses, doctor explains.
util::Error with_hint(util::Error error) {
  if (error.exit_code == EX_UNAVAILABLE) {
    error.message += " (see vfsguard doctor)";
  }
  return error;
}

// While there is work the reader comes back after this long instead of being woken for each record.
constexpr int kBusyPauseMs = 4;

class Pipeline {
 public:
  Pipeline(Options options, output::Sink sink, Formatter formatter)
      : options_(std::move(options)), sink_(std::move(sink)), formatter_(std::move(formatter)), processes_([this] { sensor_->describe_again(); }) {}

  util::Result<void> run();

 private:
  void on_record(std::span<const std::byte> data);
  void on_operation(std::span<const std::byte> data);
  void note_gap(std::uint32_t cpu, std::uint64_t next_seq, std::uint64_t time_ns);
  util::Result<void> flush();
  util::Result<void> loop();
  util::Result<void> finish();
  void summary();
  void write_lost(const event::Lost& lost);
  [[nodiscard]] bool enough() const { return options_.count != 0 && written_ >= options_.count; }

  Options options_;
  output::Sink sink_;
  Formatter formatter_;
  std::optional<sensor::Sensor> sensor_;
  enrich::Processes processes_;
  event::Operation operation_;
  std::vector<std::uint64_t> next_seq_;  // per CPU
  std::array<std::uint64_t, VG_OP_COUNT> filtered_here_{};
  std::uint64_t written_ = 0;    // events put into the sink
  std::uint64_t received_ = 0;   // events out of the ring
  std::uint64_t malformed_ = 0;  // records that could not be decoded
  bool interrupted_ = false;
  util::UniqueFd signals_;
  std::uint64_t started_ns_ = 0;
  std::uint64_t last_complaint_ns_ = 0;
};

void Pipeline::write_lost(const event::Lost& lost) {
  std::visit([&](auto& formatter) { formatter.append(lost, sink_.buffer()); }, formatter_);
}

void Pipeline::note_gap(std::uint32_t cpu, std::uint64_t next_seq, std::uint64_t time_ns) {
  if (cpu >= next_seq_.size()) {
    next_seq_.resize(cpu + 1, 0);
  }
  if (next_seq > next_seq_[cpu]) {
    write_lost({cpu, next_seq_[cpu], next_seq - next_seq_[cpu], time_ns});
    next_seq_[cpu] = next_seq;
  }
}

void Pipeline::on_operation(std::span<const std::byte> data) {
  if (auto ok = event::decode_operation(data, operation_); !ok) {
    ++malformed_;
    return;
  }
  const vg_event& e = operation_.raw;
  ++received_;
  note_gap(e.head.cpu, e.seq, e.time_ns);
  next_seq_[e.head.cpu] = e.seq + 1;
  operation_.process = processes_.find(e);
  if (enough() || (options_.policy != nullptr && !policy::attribute(*options_.policy, *options_.compiled, operation_))) {
    ++filtered_here_[e.operation < VG_OP_COUNT ? e.operation : 0];
    return;
  }
  std::visit([&](auto& formatter) { formatter.append(operation_, sink_.buffer()); }, formatter_);
  ++written_;
}

void Pipeline::on_record(std::span<const std::byte> data) {
  const auto kind = event::record_kind(data);
  if (!kind) {
    ++malformed_;
    return;
  }
  switch (*kind) {
    case VG_RECORD_EVENT: on_operation(data); break;
    case VG_RECORD_PROCESS:
      if (auto process = event::decode_process(data)) {
        processes_.add(std::move(*process));
      } else {
        ++malformed_;
      }
      break;
    case VG_RECORD_EXIT:
      if (auto gone = event::decode_exit(data)) {
        processes_.remove(*gone);
      } else {
        ++malformed_;
      }
      break;
    default: ++malformed_;
  }
}

util::Result<void> Pipeline::flush() {
  if (auto done = sink_.flush(); !done) {
    return done;
  }
  if (const int trouble = sink_.take_trouble(); trouble != 0) {
    // Once in ten seconds: the reader must know, and must not drown.
    const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
    if (last_complaint_ns_ == 0 || now - last_complaint_ns_ > 10'000'000'000u) {
      last_complaint_ns_ = now;
      fmt::print(stderr, "warning: cannot write to {}: {}; {} events dropped so far, tracing goes on\n", sink_.name(), util::errno_text(trouble),
                 sink_.dropped());
    }
  }
  return {};
}

util::Result<void> Pipeline::loop() {
  const std::uint64_t deadline = options_.duration ? util::clock_ns(CLOCK_MONOTONIC) + static_cast<std::uint64_t>(options_.duration->count()) * 1'000'000u : 0;
  while (!enough()) {
    auto consumed = sensor_->consume(kBatchRecords);
    if (!consumed) {
      return util::pass_on(consumed.error());
    }
    if (auto done = flush(); !done) {
      return done;
    }
    int timeout = -1;
    if (deadline != 0) {
      const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
      if (now >= deadline) {
        return {};
      }
      timeout = static_cast<int>((deadline - now + 999'999u) / 1'000'000u);
    }
    std::array<pollfd, 3> fds{{{signals_.get(), POLLIN, 0}, {sink_.fd(), 0, 0}, {sensor_->wait_fd(), POLLIN, 0}}};
    nfds_t watched = 2;  // signals; the sink for the end of its reader
    if (*consumed >= kBatchRecords) {
      timeout = 0;
    } else if (*consumed > 0) {
      timeout = timeout < 0 ? kBusyPauseMs : std::min(timeout, kBusyPauseMs);
    } else {
      sensor_->arm();
      // What came between the last look and arming would not wake anybody.
      consumed = sensor_->consume(kBatchRecords);
      if (!consumed) {
        return util::pass_on(consumed.error());
      }
      if (*consumed > 0) {
        timeout = 0;
      } else {
        watched = 3;
      }
    }
    if (poll(fds.data(), watched, timeout) < 0 && errno != EINTR) {
      return util::fail_errno(EX_OSERR, "poll");
    }
    if ((fds[0].revents & POLLIN) != 0) {
      signalfd_siginfo info;
      (void)!read(signals_.get(), &info, sizeof info);
      interrupted_ = true;
      return {};
    }
    if ((fds[1].revents & POLLERR) != 0) {
      return util::fail_errno(EX_IOERR, fmt::format("cannot write to {}", sink_.name()), EPIPE);
    }
  }
  return {};
}

util::Result<void> Pipeline::finish() {
  sensor_->detach();
  // Programs that were running when their link went away may still add records; they are done within moments.
  sensor::Counters counters;
  for (int round = 0; round < 100; ++round) {
    std::size_t consumed = 0;
    do {
      auto more = sensor_->consume(kBatchRecords);
      if (!more) {
        return util::pass_on(more.error());
      }
      consumed = *more;
      if (auto done = flush(); !done) {
        return done;
      }
    } while (consumed > 0);
    counters = sensor_->counters();
    std::uint64_t emitted = 0;
    for (const auto& operation : counters.operations) {
      emitted += operation.emitted;
    }
    if (emitted == received_ + malformed_) {
      break;
    }
    usleep(1000);
  }
  // A gap at the very end has no later event to show it.
  const std::uint64_t now = util::clock_ns(CLOCK_BOOTTIME);
  for (std::size_t cpu = 0; cpu < counters.sequences.size(); ++cpu) {
    note_gap(static_cast<std::uint32_t>(cpu), counters.sequences[cpu], now);
  }
  return flush();
}

void Pipeline::summary() {
  const auto aggregated = [](const sensor::OperationCounts& o) { return o.aggregated > 0 ? fmt::format(" aggregated={}", o.aggregated) : std::string(); };
  sensor::Counters counters = sensor_->counters();
  sensor::OperationCounts total;
  std::string lines;
  for (unsigned i = 1; i < VG_OP_COUNT; ++i) {
    sensor::OperationCounts& o = counters.operations[i];
    o.filtered += filtered_here_[i];
    o.emitted -= std::min(o.emitted, filtered_here_[i]);
    total.seen += o.seen;
    total.filtered += o.filtered;
    total.aggregated += o.aggregated;
    total.emitted += o.emitted;
    total.lost += o.lost;
    if (o.seen > 0) {
      fmt::format_to(std::back_inserter(lines), "  {}: seen={} filtered={}{} emitted={} lost={}\n", event::operation_name(i), o.seen, o.filtered, aggregated(o),
                     o.emitted, o.lost);
    }
  }
  const std::uint64_t dropped = sink_.dropped();
  const double seconds = static_cast<double>(util::clock_ns(CLOCK_MONOTONIC) - started_ns_) / 1e9;
  fmt::print(stderr, "summary: seen={} filtered={}{} emitted={} lost={} hook={} seconds={:.1f}\n{}", total.seen, total.filtered, aggregated(total),
             total.emitted - std::min(total.emitted, dropped), total.lost + dropped, event::hook_name(static_cast<unsigned>(sensor_->hook())), seconds, lines);
  if (dropped > 0) {
    fmt::print(stderr, "  not written to {}: {} (counted as lost)\n", sink_.name(), dropped);
  }
  constexpr std::array<std::pair<unsigned, std::string_view>, 7> kTold{
      {{VG_CAUSE_NO_STORAGE, "arguments taken late for want of memory"},
       {VG_CAUSE_PATH_TRUNCATED, "paths cut at 4096 bytes"},
       {VG_CAUSE_CONTEXT_LOST, "process descriptions lost"},
       {VG_CAUSE_NO_COMPLETE, "calls whose end was not seen"},
       {VG_CAUSE_URING_FULL, "io_uring requests not followed to their end"},
       {VG_CAUSE_SESSIONS_FULL, "open files not followed: the table is full, each of their reads and writes was an event"},
       {VG_CAUSE_NAME_FAULT, "names that could not be read"}}};
  for (const auto& [cause, text] : kTold) {
    if (counters.causes[cause] > 0) {
      fmt::print(stderr, "  {}: {}\n", text, counters.causes[cause]);
    }
  }
  if (counters.probe_misses + counters.program_misses > 0) {
    fmt::print(stderr, "  probes missed: {}, programs skipped by the kernel: {}\n", counters.probe_misses, counters.program_misses);
  }
  if (malformed_ > 0) {
    fmt::print(stderr, "  malformed records: {}\n", malformed_);
  }
}

util::Result<void> Pipeline::run() {
  started_ns_ = util::clock_ns(CLOCK_MONOTONIC);
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGINT);
  sigaddset(&mask, SIGTERM);
  sigaddset(&mask, SIGHUP);
  sigprocmask(SIG_BLOCK, &mask, nullptr);
  signals_.reset(signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) {
    return util::fail_errno(EX_OSERR, "signalfd");
  }
  signal(SIGPIPE, SIG_IGN);

  auto sensor = sensor::Sensor::open(options_.sensor, [this](std::span<const std::byte> data) { on_record(data); });
  if (!sensor) {
    return util::pass_on(with_hint(sensor.error()));
  }
  sensor_.emplace(std::move(*sensor));
  // The automaton and what loading took (the kernel's type information, the verifier's words) are not needed any more.
  options_.sensor.filter.automaton = {};
  malloc_trim(0);
  if (auto attached = sensor_->attach(); !attached) {
    return util::pass_on(with_hint(attached.error()));
  }
  utsname kernel{};
  uname(&kernel);
  fmt::print(stderr, "ready hook={} kernel={} pid={}\n", event::hook_name(static_cast<unsigned>(sensor_->hook())), kernel.release, getpid());
  if (std::holds_alternative<output::TextFormatter>(formatter_)) {
    sink_.buffer() += output::TextFormatter::header();
  }
  auto looped = loop();
  if (!looped && looped.error().code == EPIPE) {
    // Nobody reads any more: no use in draining.
    sensor_->detach();
    summary();
    return looped;
  }
  auto finished = finish();
  summary();
  return !looped ? looped : finished;
}

}  // namespace

util::Result<void> run_pipeline(Options options) {
  auto sink = output::Sink::open(options.output);
  if (!sink) {
    return util::pass_on(sink.error());
  }
  const bool terminal = isatty(sink->fd()) != 0;
  const output::FormatKind format = options.format.value_or(terminal ? output::FormatKind::kText : output::FormatKind::kJson);
  utsname names{};
  uname(&names);
  const char* no_colour = getenv("NO_COLOR");
  const bool colour = terminal && (no_colour == nullptr || *no_colour == '\0');
  Formatter formatter = format == output::FormatKind::kJson ? Formatter(output::JsonFormatter(options.clock, names.nodename))
                                                            : Formatter(output::TextFormatter(options.clock, colour));
  Pipeline pipeline(std::move(options), std::move(*sink), std::move(formatter));
  return pipeline.run();
}

}  // namespace vfsguard::daemon
