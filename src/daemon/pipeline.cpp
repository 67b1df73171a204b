// SPDX-License-Identifier: Apache-2.0
#include "daemon/pipeline.h"

#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <iterator>
#include <map>
#include <unordered_map>
#include <variant>

#include <fmt/format.h>

#include "control/server.h"
#include "daemon/blindness.h"
#include "daemon/control.h"
#include "daemon/notify.h"
#include "daemon/sentinel.h"
#include "enrich/digests.h"
#include "enrich/mounts.h"
#include "enrich/processes.h"
#include "enrich/users.h"
#include "event/decode.h"
#include "event/names.h"
#include "guard/life.h"
#include "guard/sandbox.h"
#include "output/escape.h"
#include "output/sink.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/memory.h"
#include "util/sha256.h"
#include "version.h"

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

std::uint64_t nanoseconds(std::chrono::milliseconds span) { return static_cast<std::uint64_t>(span.count()) * 1'000'000u; }

// Rounded up, so that who waits for it does not come too early; 0 when it is over.
int milliseconds_until(std::uint64_t due_ns) {
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  return now >= due_ns ? 0 : static_cast<int>(std::min<std::uint64_t>((due_ns - now + 999'999u) / 1'000'000u, INT_MAX));
}

class Pipeline {
 public:
  Pipeline(Options options, output::Sink sink, Formatter formatter)
      : options_(std::move(options)), sink_(std::move(sink)), formatter_(std::move(formatter)), processes_([this] { sensor_->describe_again(); }) {}

  util::Result<void> run();
  // It ended because of what it found about itself.
  [[nodiscard]] bool tampered() const { return sentinel_ && !sentinel_->ends().empty(); }

 private:
  void on_record(std::span<const std::byte> data);
  void on_operation(std::span<const std::byte> data);
  void tell_as_host(event::Operation& operation);
  void enrich(event::Operation& operation);
  void note_gap(std::uint32_t lane, std::uint32_t cpu, std::uint64_t next_seq, std::uint64_t time_ns);
  void write(event::Operation& operation);
  bool detect(event::Operation& operation);
  void write_alerts();
  void respond();
  void kill_process(const detect::Action& action);
  void deny_objects();
  void tell_response(const detect::Action& action, std::string_view what, std::string message);
  void end_detection();
  void take_detector();
  void tell(event::Notice notice);
  void tell_start();
  void tell_last();
  void tell_stop();
  void tell_change(std::string_view what, const util::Result<void>& done);
  void tell_mechanism();
  [[nodiscard]] std::string_view mechanism();  // that carries out rules
  void add_digests(event::Notice& notice) const;
  void watch_clock();
  void watch_output();
  void look_for_pause(std::uint64_t waited_ns);
  void tell_pause(const guard::Pause& pause);
  void reopen_output();
  void open_state();
  void keep_back(std::span<const std::byte> data, bool asked_for);
  util::Result<void> write_aggregates();
  util::Result<void> consume_all();
  util::Result<void> flush();
  util::Result<void> loop();
  util::Result<void> finish();
  void tell_alive();
  util::Result<void> drop_capabilities(bool last);
  [[nodiscard]] std::pair<sensor::Counters, sensor::OperationCounts> counts() const;
  void summary();
  void write_lost(const event::Lost& lost);
  util::Result<void> listen();
  util::Result<void> reload();
  void after_change(std::string_view what, const util::Result<void>& done);
  [[nodiscard]] std::string status() const;
  [[nodiscard]] std::string detection_status() const;
  Governor::Recorder recorder();
  sensor::Sensor::Handler handler() {
    return [this](std::span<const std::byte> data) { on_record(data); };
  }
  enforce::Enforcer* enforcer() { return options_.governor ? options_.governor->enforcer() : nullptr; }
  [[nodiscard]] bool enough() const { return options_.count != 0 && written_ >= options_.count; }

  Options options_;
  output::Sink sink_;
  Formatter formatter_;
  std::optional<sensor::Sensor> sensor_;
  std::optional<enrich::Digests> digests_;
  enrich::Processes processes_;
  enrich::Users users_;
  enrich::Mounts mounts_;
  util::WallClock wall_;
  std::vector<event::Alert> alerts_;
  std::vector<detect::Action> denials_;                             // due as soon as no record is being read
  std::shared_ptr<detect::Detector> detector_;                      // the governor's, as long as it is the same
  std::map<std::string, detect::Detector::Count> detected_before_;  // by rules of earlier ones
  std::uint64_t alerts_expire_ns_ = 0;                              // when to look again; 0: nothing is held back
  event::Operation operation_;
  std::array<std::vector<std::uint64_t>, VG_LANE_COUNT> next_seq_;  // per CPU
  // The first of those that are alike, until their number is known.
  struct KeptBack {
    std::vector<std::byte> record;
    std::shared_ptr<const event::Process> process;
    bool asked_for = true;  // by the policy; else detection is to be asked
  };
  std::unordered_map<std::uint64_t, KeptBack> kept_back_;  // by vg_event.aggregate
  std::uint64_t aggregates_due_ns_ = 0;                    // when the counts are read next
  std::array<std::uint64_t, VG_OP_COUNT> filtered_here_{};
  std::uint64_t written_ = 0;    // events put into the sink
  std::uint64_t received_ = 0;   // events out of the ring
  std::uint64_t malformed_ = 0;  // records that could not be decoded
  std::string stopped_by_;       // why it ends
  std::string_view mechanism_told_;
  std::string exe_digest_;  // of this program's file; it does not change while it runs
  std::optional<guard::State> state_;
  std::optional<guard::ClockWatch> clock_;
  guard::PauseWatch pauses_;
  std::uint64_t output_due_ns_ = 0;  // CLOCK_MONOTONIC
  std::optional<Sentinel> sentinel_;
  Notifier manager_;
  std::uint64_t alive_due_ns_ = 0;
  std::uint64_t received_when_alive_ = 0;
  util::UniqueFd signals_;
  std::optional<control::Server> server_;
  std::uint64_t started_ns_ = 0;
  std::uint64_t last_complaint_ns_ = 0;
};

void Pipeline::write_lost(const event::Lost& lost) {
  std::visit([&](auto& formatter) { formatter.append(lost, sink_.buffer()); }, formatter_);
}

void Pipeline::note_gap(std::uint32_t lane, std::uint32_t cpu, std::uint64_t next_seq, std::uint64_t time_ns) {
  auto& next = next_seq_[lane < VG_LANE_COUNT ? lane : 0];
  if (cpu >= next.size()) {
    next.resize(cpu + 1, 0);
  }
  if (next_seq > next[cpu]) {
    write_lost({cpu, lane, next[cpu], next_seq - next[cpu], time_ns});
    next[cpu] = next_seq;
  }
}

void Pipeline::enrich(event::Operation& operation) {
  constexpr std::uint32_t kNowhere = VG_PATH_DETACHED | VG_PATH_ANONYMOUS | VG_PATH_DISCONNECTED | VG_PATH_TRUNCATED | VG_PATH_DELETED;
  operation.user = users_.name(operation.raw.uid);
  if (operation.fs_path && operation.path && (operation.raw.path_flags & (VG_PATH_OBJECT | kNowhere)) == VG_PATH_OBJECT) {
    tell_as_host(operation);
  }
}

// From another mount namespace: `path` as the agent's own would have it, `path_in_ns` as the caller does.
void Pipeline::tell_as_host(event::Operation& operation) {
  auto host = mounts_.host_path(operation.raw.dev, *operation.fs_path);
  if (!operation.path_in_ns) {
    operation.path_in_ns = operation.path;
  }
  if (!host) {
    operation.raw.path_flags |= VG_PATH_NOT_ON_HOST;
    return;
  }
  operation.path = std::move(host);
  if (operation.path == operation.path_in_ns) {
    operation.path_in_ns.reset();
  }
}

void Pipeline::on_operation(std::span<const std::byte> data) {
  if (auto ok = event::decode_operation(data, operation_); !ok) {
    ++malformed_;
    return;
  }
  const vg_event& e = operation_.raw;
  ++received_;
  const std::uint32_t lane = e.lane < VG_LANE_COUNT ? e.lane : 0;
  note_gap(lane, e.head.cpu, e.seq, e.time_ns);
  next_seq_[lane][e.head.cpu] = e.seq + 1;
  operation_.process = processes_.find(e);
  if (sentinel_) {
    sentinel_->look(operation_);
  }
  const bool asked_for = !enough() && (!options_.governor || options_.governor->attribute(operation_));
  if (e.aggregate != 0 && (asked_for || detector_)) {
    keep_back(data, asked_for);
    return;
  }
  const bool told = detector_ && !enough() && detect(operation_);
  if (!asked_for && !told) {
    ++filtered_here_[e.operation < VG_OP_COUNT ? e.operation : 0];
    return;
  }
  write(operation_);
}

// True: it is an alert. What follows from it for correlations is written, before it.
bool Pipeline::detect(event::Operation& operation) {
  operation.wall_ns = wall_.at(operation.raw.time_ns);
  enrich(operation);
  detector_->look(operation, alerts_);
  if (detector_->responds()) {
    respond();
  }
  const bool told = operation.detected.has_value();
  if (!alerts_.empty()) {
    write_alerts();
  }
  if (alerts_expire_ns_ == 0) {
    alerts_expire_ns_ = operation.raw.time_ns + 1'000'000'000u;
  }
  return told;
}

// Processes at once; objects when no record is being read, because that takes a change of the policy.
void Pipeline::respond() {
  for (detect::Action& action : detector_->take_actions()) {
    if (action.response.kill) {
      kill_process(action);
    }
    if (action.response.deny && !action.path.empty()) {
      denials_.push_back(std::move(action));
    }
  }
}

void Pipeline::tell_response(const detect::Action& action, std::string_view what, std::string message) {
  const detect::Head& head = detector_->head(action.node);
  event::Alert alert;
  alert.kind = event::Alert::Kind::kResponse;
  alert.rule = head.label();
  alert.severity = detect::severity_name(head.severity);
  alert.tags = head.tags;
  alert.type = what;
  alert.message = std::move(message);
  alert.time_ns = action.time_ns;
  alert.group = {{"process_id", fmt::format("{}.{}", action.pid, action.start_ns)}, {"exe", action.exe}, {"path", action.path}};
  std::erase_if(alert.group, [](const auto& field) { return field.second.empty(); });
  alerts_.push_back(std::move(alert));
}

void Pipeline::kill_process(const detect::Action& action) {
  if (auto done = enrich::end_process(action.pid, action.start_ns); !done) {
    return tell_response(action, "kill_failed", fmt::format("process {} was to be killed: {}", action.pid, done.error().message));
  }
  tell_response(action, "kill", fmt::format("process {} was killed", action.pid));
}

void Pipeline::deny_objects() {
  for (const detect::Action& action : std::exchange(denials_, {})) {
    const std::string why = "response to " + detector_->head(action.node).label();
    if (auto done = options_.governor->deny_object(action.path, why, recorder()); !done) {
      tell_response(action, "deny_failed", fmt::format("{} was to be refused to everybody: {}", action.path, done.error().message));
      if (sentinel_) {
        sentinel_->objects_changed();
      }
    } else {
      pauses_.excuse(guard::Clocks::now());
      tell_response(action, "deny", fmt::format("{} is refused to everybody, until the next reload", action.path));
      if (sentinel_) {
        sentinel_->changed();
      }
    }
  }
  write_alerts();
}

void Pipeline::write_alerts() {
  for (const event::Alert& alert : alerts_) {
    std::visit([&](auto& formatter) { formatter.append(alert, sink_.buffer()); }, formatter_);
  }
  alerts_.clear();
}

// Its last words, and its counts.
void Pipeline::end_detection() {
  if (!detector_) {
    return;
  }
  denials_.clear();  // a reload lifts what was refused; and they are this detector's
  detector_->finish(alerts_);
  write_alerts();
  for (std::size_t node = 0; node < detector_->counts().size(); ++node) {
    const detect::Detector::Count& count = detector_->counts()[node];
    if (count.matched == 0) {
      continue;
    }
    detect::Detector::Count& sum = detected_before_[detector_->head(node).label()];
    sum.matched += count.matched;
    sum.told += count.told;
    sum.held_back += count.held_back;
    sum.taken += count.taken;
  }
  detector_.reset();
}

void Pipeline::write(event::Operation& operation) {
  if (!detector_) {
    enrich(operation);
  }
  std::visit([&](auto& formatter) { formatter.append(operation, sink_.buffer()); }, formatter_);
  ++written_;
}

void Pipeline::keep_back(std::span<const std::byte> data, bool asked_for) {
  kept_back_.insert_or_assign(operation_.raw.aggregate, KeptBack{{data.begin(), data.end()}, operation_.process, asked_for});
}

// What is there when it begins: whoever makes events as fast as they are read must not keep it, and a reload that waits for it, for ever.
util::Result<void> Pipeline::consume_all() {
  const sensor::Sensor::Ends ends = sensor_->ends();
  for (;;) {
    const auto all = sensor_->consume_until(ends, kBatchRecords);
    if (!all) {
      return util::pass_on(all.error());
    }
    if (auto done = flush(); !done) {
      return done;
    }
    if (*all) {
      return {};
    }
  }
}

// Reads the counts of the table that was filled until now and writes what was kept back for it.
util::Result<void> Pipeline::write_aggregates() {
  if (options_.aggregate.count() == 0) {
    return {};
  }
  aggregates_due_ns_ = util::clock_ns(CLOCK_MONOTONIC) + nanoseconds(options_.aggregate);
  if (auto turned = sensor_->turn_aggregates(); !turned) {
    return turned;
  }
  if (auto done = consume_all(); !done) {
    return done;
  }
  std::unordered_map<std::uint64_t, vg_aggregate> counts;
  if (auto done = sensor_->take_aggregates([&](const vg_aggregate& entry) { counts.emplace(entry.id, entry); }); !done) {
    return done;
  }
  event::Operation operation;
  for (auto it = kept_back_.begin(); it != kept_back_.end();) {
    const auto count = counts.find(it->first);
    if (count == counts.end() && (it->first & 1) == sensor_->filled_table()) {
      ++it;  // of the new table
      continue;
    }
    if (event::decode_operation(it->second.record, operation)) {
      operation.process = it->second.process;
      auto& alike = operation.alike.emplace();
      alike.first_ns = operation.raw.time_ns;
      alike.last_ns = operation.raw.time_ns;
      if (count != counts.end()) {
        alike.count = count->second.count;
        alike.last_ns = std::max(alike.last_ns, count->second.last_ns);
      }
      operation.detected.reset();
      if (!it->second.asked_for && !detect(operation)) {
        filtered_here_[operation.raw.operation < VG_OP_COUNT ? operation.raw.operation : 0] += 1;
      } else {
        if (it->second.asked_for && detector_) {
          detect(operation);
        }
        write(operation);
      }
    }
    it = kept_back_.erase(it);
  }
  return flush();
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
  if (!sink_.is_file()) {
    pauses_.excuse(guard::Clocks::now());  // it may have waited for who reads it
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

// That this loop goes round says that what was read is written; what the kernel side has handed over must have been read as well.
void Pipeline::tell_alive() {
  const auto [counters, total] = counts();
  const std::uint64_t received = received_ + malformed_;
  if (total.emitted == received || received != received_when_alive_) {
    manager_.alive();
  }
  received_when_alive_ = received;
}

// What all threads that are started from here on have; the one that answers fanotify is.
util::Result<void> Pipeline::drop_capabilities(bool last) {
  if (!options_.sandbox) {
    return {};
  }
  const bool marks = options_.governor && options_.governor->source().mechanism == enforce::Mechanism::kFanotify;
  const bool admin = marks || (last && sensor_->needs_admin());
  return guard::drop_capabilities({.starting = !last, .admin = admin, .owners = !last && options_.control && options_.control->group});
}

util::Result<void> Pipeline::loop() {
  const std::uint64_t deadline = options_.duration ? util::clock_ns(CLOCK_MONOTONIC) + nanoseconds(*options_.duration) : 0;
  while (!enough()) {
    auto consumed = sensor_->consume(kBatchRecords);
    if (!consumed) {
      return util::pass_on(consumed.error());
    }
    look_for_pause(0);
    watch_output();
    processes_.end_round();
    if (!denials_.empty()) {
      deny_objects();
    }
    if (auto done = flush(); !done) {
      return done;
    }
    int timeout = -1;
    if (options_.aggregate.count() != 0) {
      timeout = milliseconds_until(aggregates_due_ns_);
      if (timeout == 0 || sensor_->aggregates_were_full()) {
        if (auto done = write_aggregates(); !done) {
          return done;
        }
        continue;
      }
    }
    if (deadline != 0) {
      const int left = milliseconds_until(deadline);
      if (left == 0) {
        return {};
      }
      timeout = timeout < 0 ? left : std::min(timeout, left);
    }
    if (alerts_expire_ns_ != 0 && detector_) {
      const std::uint64_t now = util::clock_ns(CLOCK_BOOTTIME);
      if (now >= alerts_expire_ns_) {
        alerts_expire_ns_ = detector_->expire(now, *consumed < kBatchRecords, alerts_) ? now + 1'000'000'000u : 0;
        write_alerts();
        if (auto done = flush(); !done) {
          return done;
        }
      }
      if (alerts_expire_ns_ != 0) {
        timeout = timeout < 0 ? 1000 : std::min(timeout, 1000);
      }
    }
    if (const auto due = server_ ? server_->due_in() : std::nullopt) {
      timeout = timeout < 0 ? *due : std::min(timeout, *due);
    }
    if (sentinel_) {
      sentinel_->work();
      if (!sentinel_->ends().empty()) {
        stopped_by_ = sentinel_->ends();
        return {};
      }
      timeout = timeout < 0 ? sentinel_->due_in_ms() : std::min(timeout, sentinel_->due_in_ms());
    }
    if (manager_.interval_ns() != 0) {
      if (util::clock_ns(CLOCK_MONOTONIC) >= alive_due_ns_) {
        alive_due_ns_ = util::clock_ns(CLOCK_MONOTONIC) + manager_.interval_ns();
        tell_alive();
      }
      timeout = timeout < 0 ? milliseconds_until(alive_due_ns_) : std::min(timeout, milliseconds_until(alive_due_ns_));
    }
    const int mounts = enforcer() != nullptr ? enforcer()->mounts_fd() : -1;
    if (enforcer() != nullptr) {
      enforcer()->look_after();
      constexpr int kLookAfterMs = 1000;
      timeout = timeout < 0 ? kLookAfterMs : std::min(timeout, kLookAfterMs);
    }
    if (state_) {
      state_->beat();
      constexpr int kBeatMs = static_cast<int>(guard::State::kBeatNs / 1'000'000);
      timeout = timeout < 0 ? kBeatMs : std::min(timeout, kBeatMs);
    }
    std::array<pollfd, 7> fds{{{signals_.get(), POLLIN, 0},
                               {sink_.fd(), 0, 0},
                               {mounts, POLLPRI, 0},
                               {server_ ? server_->fd() : -1, POLLIN, 0},
                               {clock_ ? clock_->fd() : -1, POLLIN, 0},
                               {sentinel_ ? sentinel_->fd() : -1, POLLIN, 0},
                               {sensor_->wait_fd(), POLLIN, 0}}};
    nfds_t watched = 6;  // signals; the sink for the end of its reader; mounts; the control socket; the clock; who is held off
    if (*consumed >= kBatchRecords) {
      timeout = 0;
    } else if (*consumed > 0 && !(detector_ && detector_->responds())) {
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
        watched = 7;
      }
    }
    look_for_pause(0);
    if (poll(fds.data(), watched, timeout) < 0 && errno != EINTR) {
      return util::fail_errno(EX_OSERR, "poll");
    }
    look_for_pause(timeout < 0 ? ~std::uint64_t{0} / 2 : nanoseconds(std::chrono::milliseconds(timeout)));
    if ((fds[0].revents & POLLIN) != 0) {
      signalfd_siginfo info{};
      if (read(signals_.get(), &info, sizeof info) == sizeof info && info.ssi_signo == SIGHUP && options_.governor) {
        (void)reload();
        continue;
      }
      stopped_by_ = event::signal_name(info.ssi_signo);
      return {};
    }
    if ((fds[4].revents & POLLIN) != 0) {
      watch_clock();
    }
    if ((fds[2].revents & POLLPRI) != 0) {
      enforcer()->mounts_changed();
    }
    if (server_) {
      server_->work();
    }
    if ((fds[1].revents & POLLERR) != 0) {
      return util::fail_errno(EX_IOERR, fmt::format("cannot write to {}", sink_.name()), EPIPE);
    }
  }
  return {};
}

util::Result<void> Pipeline::finish() {
  manager_.stopping();
  sensor_->detach();
  // Programs that were running when their link went away may still add records; they are done within moments.
  sensor::Counters counters;
  for (int round = 0; round < 100; ++round) {
    if (auto done = consume_all(); !done) {
      return done;
    }
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
  for (std::uint32_t lane = 0; lane < VG_LANE_COUNT; ++lane) {
    for (std::size_t cpu = 0; cpu < counters.sequences[lane].size(); ++cpu) {
      note_gap(lane, static_cast<std::uint32_t>(cpu), counters.sequences[lane][cpu], now);
    }
  }
  // Twice: what was begun in the new table while the old one was read.
  for (int table = 0; table < 2; ++table) {
    if (auto done = write_aggregates(); !done) {
      return done;
    }
  }
  end_detection();
  tell_stop();
  return flush();
}

// With what the policy ruled out here, and all operations together.
std::pair<sensor::Counters, sensor::OperationCounts> Pipeline::counts() const {
  sensor::Counters counters = sensor_->counters();
  sensor::OperationCounts total;
  for (unsigned i = 1; i < VG_OP_COUNT; ++i) {
    sensor::OperationCounts& o = counters.operations[i];
    o.filtered += filtered_here_[i];
    o.emitted -= std::min(o.emitted, filtered_here_[i]);
    total.seen += o.seen;
    total.filtered += o.filtered;
    total.aggregated += o.aggregated;
    total.emitted += o.emitted;
    total.lost += o.lost;
  }
  return {std::move(counters), total};
}

void Pipeline::summary() {
  const auto aggregated = [](const sensor::OperationCounts& o) { return o.aggregated > 0 ? fmt::format(" aggregated={}", o.aggregated) : std::string(); };
  const auto [counters, total] = counts();
  std::string lines;
  for (unsigned i = 1; i < VG_OP_COUNT; ++i) {
    const sensor::OperationCounts& o = counters.operations[i];
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
  constexpr std::array<std::pair<unsigned, std::string_view>, 8> kTold{
      {{VG_CAUSE_NO_STORAGE, "arguments taken late for want of memory"},
       {VG_CAUSE_PATH_TRUNCATED, "paths cut at 4096 bytes"},
       {VG_CAUSE_CONTEXT_LOST, "process descriptions lost"},
       {VG_CAUSE_NO_COMPLETE, "calls whose end was not seen"},
       {VG_CAUSE_URING_FULL, "io_uring requests not followed to their end"},
       {VG_CAUSE_SESSIONS_FULL, "open files not followed: the table is full, each of their reads and writes was an event"},
       {VG_CAUSE_AGGREGATES_FULL, "events written by themselves: the table of those that are counted was full"},
       {VG_CAUSE_NAME_FAULT, "names that could not be read"}}};
  for (const auto& [cause, text] : kTold) {
    if (counters.causes[cause] > 0) {
      fmt::print(stderr, "  {}: {}\n", text, counters.causes[cause]);
    }
  }
  for (const auto& [name, count] : detected_before_) {
    fmt::print(stderr, "  detected '{}': {}{}{}\n", name, count.matched, count.taken > 0 ? fmt::format(", {} for correlations", count.taken) : "",
               count.held_back > 0 ? fmt::format(", {} held back", count.held_back) : "");
  }
  if (enforcer() != nullptr) {
    const enforce::Counts counts = enforcer()->counts();
    for (const auto& [name, rule] : counts.rules) {
      fmt::print(stderr, "  rule '{}': stopped {}{}\n", name, rule.stopped,
                 rule.kill_failed > 0 ? fmt::format(", of which {} could not be sent the signal", rule.kill_failed) : "");
    }
    fmt::print(
        stderr,
        "  decisions: {}, of which {} about what no rule names; not known {} ({} refused), refused as out of memory {}, no room to protect an inode {}\n",
        counts.total.asked, counts.total.known, counts.total.unknown, counts.total.refused_unknown, counts.total.no_memory, counts.total.protected_inodes_full);
    if (counts.total.no_ancestors > 0) {
      fmt::print(stderr, "  forks whose ancestors could not be noted: {}\n", counts.total.no_ancestors);
    }
    if (options_.governor->persists()) {
      fmt::print(stderr, "  what it stops stays stopped (persist: true), until the next agent or vfsguard release\n");
    }
  }
  if (counters.probe_misses + counters.program_misses > 0) {
    fmt::print(stderr, "  probes missed: {}, programs skipped by the kernel: {}\n", counters.probe_misses, counters.program_misses);
  }
  const sensor::Limits limits = sensor_->limits();
  fmt::print(stderr,
             "  limits: {} KiB of rings, {} KiB of kernel tables when full ({} open files, {} io_uring requests{}), {} B a thread, {} B a process; {} "
             "processes known\n",
             limits.ring_bytes >> 10, (limits.table_bytes + 1023) >> 10, limits.open_files, limits.requests,
             limits.kinds > 0 ? fmt::format(", {} counted kinds", limits.kinds) : "", limits.thread_bytes, limits.process_bytes, enrich::kMaxProcesses);
  if (malformed_ > 0) {
    fmt::print(stderr, "  malformed records: {}\n", malformed_);
  }
}

// The one in force; the one before has its last words.
void Pipeline::take_detector() {
  const auto& now = options_.governor ? options_.governor->detector() : nullptr;
  if (now == detector_) {
    return;
  }
  end_detection();
  detector_ = now;
  if (!detector_) {
    return;
  }
  if (const auto never = detector_->never_match(blindness_of(*sensor_)); !never.empty()) {
    fmt::print(stderr, "note: hook={} keeps {} rules from ever matching ({}{}); vfsguard rules check says why\n",
               event::hook_name(static_cast<unsigned>(sensor_->hook())), never.size(), never.front(), never.size() > 1 ? ", ..." : "");
  }
  if (detector_->wants_digests() && !options_.hash) {
    fmt::print(stderr, "note: rules look at digests of executables, which are absent without --hash\n");
  }
  detector_->forget_conditions();
}

void Pipeline::tell(event::Notice notice) {
  if (!options_.agent) {
    return;
  }
  notice.time_ns = util::clock_ns(CLOCK_BOOTTIME);
  std::visit([&](auto& formatter) { formatter.append(notice, sink_.buffer()); }, formatter_);
}

// Of what it goes by: the executable, the policy with all of its files, the rules.
void Pipeline::add_digests(event::Notice& notice) const {
  const auto add = [&](std::string_view name, const std::string& digest) {
    if (!digest.empty()) {
      notice.fields.emplace_back(name, fmt::format("\"{}\"", digest));
    }
  };
  add("exe_sha256", exe_digest_);
  add("exe_verity", guard::executable_verity());
  if (!options_.governor) {
    return;
  }
  std::vector<std::string> files;
  for (const policy::Rule& rule : options_.governor->policy().rules) {
    files.push_back(rule.file);
  }
  if (!options_.governor->source().config.empty() && !files.empty()) {
    add("policy_sha256", guard::digest_of(files));
  }
  if (const detect::Detector* detector = options_.governor->detector().get()) {
    add("rules_sha256", guard::digest_of(detector->files()));
  }
}

void Pipeline::open_state() {
  if (options_.state_file.empty()) {
    return;
  }
  auto state = guard::State::open(options_.state_file);
  if (!state) {
    fmt::print(stderr, "note: how this agent ends will not be known to the next one: {}\n", state.error().message);
    return;
  }
  state_.emplace(std::move(*state));
}

void Pipeline::tell_start() {
  utsname kernel{};
  uname(&kernel);
  event::Notice notice{.operation = "start", .message = fmt::format("vfsguard {} watches", VFSGUARD_VERSION)};
  notice.fields = {{"version", "\"" VFSGUARD_VERSION "\""},
                   {"pid", std::to_string(getpid())},
                   {"kernel", output::json_string(kernel.release)},
                   {"hook", fmt::format("\"{}\"", event::hook_name(static_cast<unsigned>(sensor_->hook())))},
                   {"mechanism", fmt::format("\"{}\"", mechanism())}};
  mechanism_told_ = mechanism();
  add_digests(notice);
  tell(std::move(notice));
}

std::string_view Pipeline::mechanism() { return enforcer() != nullptr ? enforce::mechanism_name(enforcer()->mechanism()) : "none"; }

void Pipeline::tell_mechanism() {
  const std::string_view before = std::exchange(mechanism_told_, mechanism());
  if (before == mechanism_told_) {
    return;
  }
  tell({.operation = "mechanism",
        .message = fmt::format("rules are carried out by {}; it was {}", mechanism_told_, before),
        .fields = {{"from", fmt::format("\"{}\"", before)}, {"to", fmt::format("\"{}\"", mechanism_told_)}}});
}

// How long nobody watched, where the one before did not say that it ends.
void Pipeline::tell_last() {
  if (!state_ || !state_->last() || state_->last()->ended) {
    return;
  }
  const guard::Last& last = *state_->last();
  const std::uint64_t now = util::clock_ns(CLOCK_REALTIME);
  const double seconds = now > last.seen_ns ? static_cast<double>(now - last.seen_ns) / 1e9 : 0;
  event::Notice notice{.operation = "unwatched",
                       .severity = "high",
                       .message = fmt::format("the agent before (pid {}) ended without saying so; last seen {}, nothing was watched for up to {:.1f} s since",
                                              last.pid, util::wall_time_text(last.seen_ns), seconds)};
  notice.fields = {{"last_pid", std::to_string(last.pid)},
                   {"last_started", fmt::format("{}.{:06}", last.started_ns / 1'000'000'000u, last.started_ns % 1'000'000'000u / 1000)},
                   {"last_seen", fmt::format("{}.{:06}", last.seen_ns / 1'000'000'000u, last.seen_ns % 1'000'000'000u / 1000)},
                   {"seconds", fmt::format("{:.3f}", seconds)}};
  fmt::print(stderr, "note: {}\n", notice.message);
  tell(std::move(notice));
}

void Pipeline::tell_stop() {
  const auto [counters, total] = counts();
  const std::string reason = stopped_by_.empty() ? "done" : stopped_by_;
  event::Notice notice{.operation = "stop", .message = fmt::format("vfsguard {} ends: {}", VFSGUARD_VERSION, reason)};
  notice.fields = {{"reason", fmt::format("\"{}\"", reason)},
                   {"pid", std::to_string(getpid())},
                   {"seconds", fmt::format("{:.1f}", static_cast<double>(util::clock_ns(CLOCK_MONOTONIC) - started_ns_) / 1e9)},
                   {"seen", std::to_string(total.seen)},
                   {"emitted", std::to_string(total.emitted)},
                   {"lost", std::to_string(total.lost + sink_.dropped())}};
  tell(std::move(notice));
  if (state_) {
    state_->end();
  }
}

void Pipeline::after_change(std::string_view what, const util::Result<void>& done) {
  pauses_.excuse(guard::Clocks::now());  // it waited for the kernel
  tell_change(what, done);
  tell_mechanism();
  take_detector();
  if (sentinel_) {
    done ? sentinel_->changed() : sentinel_->objects_changed();
  }
}

// A reload, or a change of the protected files.
void Pipeline::tell_change(std::string_view what, const util::Result<void>& done) {
  event::Notice notice{.operation = std::string(what)};
  if (done) {
    notice.message = fmt::format("{}: in force", what);
    notice.fields = {
        {"success", "true"}, {"mechanism", fmt::format("\"{}\"", mechanism())}, {"rules", std::to_string(options_.governor->policy().rules.size())}};
    add_digests(notice);
  } else {
    notice.severity = "medium";
    notice.message = fmt::format("{} refused: {}; what is in force stays", what, done.error().message);
    notice.fields = {{"success", "false"}};
  }
  tell(std::move(notice));
}

void Pipeline::watch_clock() {
  constexpr std::int64_t kWorthTelling = 1'000'000'000;
  const std::int64_t step = clock_->take_step();
  if (std::abs(step) < kWorthTelling) {
    return;
  }
  event::Notice notice{.operation = "clock_step",
                       .severity = "medium",
                       .message = fmt::format("the clock was set {} by {:.3f} s", step > 0 ? "forward" : "back", std::abs(static_cast<double>(step)) / 1e9)};
  notice.fields = {{"seconds", fmt::format("{:.6f}", static_cast<double>(step) / 1e9)}};
  tell(std::move(notice));
}

void Pipeline::look_for_pause(std::uint64_t waited_ns) {
  if (const auto pause = pauses_.look(guard::Clocks::now(), waited_ns); pause && options_.agent) {
    tell_pause(*pause);
  }
}

// It ran not at all, or not for us: events wait in the rings meanwhile, as far as they have room, and detection is late.
void Pipeline::tell_pause(const guard::Pause& pause) {
  const double seconds = static_cast<double>(pause.up_to_ns) / 1e9;
  event::Notice notice{
      .operation = "unwatched",
      .severity = "high",
      .message = fmt::format("the agent did not run for up to {:.1f} s: it was stopped or frozen, or had no CPU, or waited for its disk", seconds)};
  notice.fields = {{"cause", "\"stopped\""},
                   {"seconds", fmt::format("{:.3f}", seconds)},
                   {"since", fmt::format("{}.{:06}", wall_.at(pause.since_ns) / 1'000'000'000u, wall_.at(pause.since_ns) % 1'000'000'000u / 1000)}};
  if (pause.suspended_ns > 0) {
    notice.fields.emplace_back("suspended", fmt::format("{:.3f}", static_cast<double>(pause.suspended_ns) / 1e9));
  }
  fmt::print(stderr, "warning: {}\n", notice.message);
  tell(std::move(notice));
}

// Each second: whether what was written is still there.
void Pipeline::watch_output() {
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  if (!options_.agent || !sink_.is_file() || now < output_due_ns_) {
    return;
  }
  output_due_ns_ = now + 1'000'000'000u;
  const auto change = sink_.look(now);
  if (!change) {
    return;
  }
  event::Notice notice{.operation = "output", .severity = "critical"};
  notice.message = fmt::format("{} was {}: it had {} bytes, and {} were found{}", sink_.name(), output::change_name(change->how), change->expected_bytes,
                               change->found_bytes, change->reopened ? "" : "; " + change->why);
  notice.fields = {{"success", "false"},
                   {"what", fmt::format("\"{}\"", output::change_name(change->how))},
                   {"file", output::json_string(sink_.name())},
                   {"expected_bytes", std::to_string(change->expected_bytes)},
                   {"found_bytes", std::to_string(change->found_bytes)},
                   {"restored", change->reopened ? "true" : "false"}};
  fmt::print(stderr, "warning: {}\n", notice.message);
  tell(std::move(notice));
}

// After a rotation.
void Pipeline::reopen_output() {
  if (auto written = flush(); !written) {
    return;  // told when it is tried next
  }
  const auto reopened = sink_.reopen();
  if (!reopened) {
    fmt::print(stderr, "warning: {}; what is written goes to the file that was open\n", reopened.error().message);
  } else if (*reopened) {
    tell({.operation = "output",
          .message = fmt::format("{} was opened again, as asked", sink_.name()),
          .fields = {{"success", "true"}, {"what", "\"reopened\""}, {"file", output::json_string(sink_.name())}}});
  }
}

Governor::Recorder Pipeline::recorder() {
  if (sentinel_) {
    sentinel_->before_change();
  }
  return {sensor_, options_.sensor, handler(), [this] { return consume_all(); }};
}

util::Result<void> Pipeline::reload() {
  manager_.reloading();
  reopen_output();
  const std::string refused = sentinel_ ? sentinel_->refuses_reload() : "";
  util::Result<void> done;
  if (refused.empty()) {
    done = options_.governor->reload(recorder());
  } else {
    done = util::fail(EX_NOPERM, refused);
  }
  after_change("reload", done);
  manager_.reloaded(done ? "watching" : "watching; the last reload was refused");
  if (!done) {
    fmt::print(stderr, "reload refused: {}; the policy in force stays\n", done.error().message);
    return done;
  }
  fmt::print(stderr, "policy {}: {} rules, reloaded\n", options_.governor->policy().file, options_.governor->policy().rules.size());
  return done;
}

util::Result<void> Pipeline::listen() {
  if (!options_.control || !options_.governor) {
    return {};
  }
  auto server = control::Server::open(options_.control->path, options_.control->group, [this](std::string_view request) {
    return answer(request, {*options_.governor, [this] { return recorder(); },
                            [this](std::string_view what, const util::Result<void>& done) { after_change(what, done); }, [this] { return reload(); },
                            [this] { return status(); }});
  });
  if (server) {
    server_.emplace(std::move(*server));
    return {};
  }
  if (options_.control->required) {
    return util::pass_on(server.error());
  }
  fmt::print(stderr, "note: no control socket: {}\n", server.error().message);
  return {};
}

std::string Pipeline::status() const {
  const auto [counters, total] = counts();
  utsname kernel{};
  uname(&kernel);
  const double seconds = static_cast<double>(util::clock_ns(CLOCK_MONOTONIC) - started_ns_) / 1e9;
  return fmt::format(
             R"("hook":"{}","kernel":"{}","seconds":{:.1f},"seen":{},"filtered":{},"aggregated":{},"emitted":{},"lost":{},"malformed":{},"written":{},)",
             event::hook_name(static_cast<unsigned>(sensor_->hook())), kernel.release, seconds, total.seen, total.filtered, total.aggregated, total.emitted,
             total.lost + sink_.dropped(), malformed_, written_) +
         (sentinel_ ? sentinel_->status() : "") + detection_status();
}

// Of each rule that has matched since it was loaded.
std::string Pipeline::detection_status() const {
  if (!detector_) {
    return {};
  }
  const detect::Detector& d = *detector_;
  const detect::Correlator::Counters& c = d.correlator().counters();
  std::string out = fmt::format(
      R"("detection":{{"rules":{},"correlations":{},"filters":{},"refused":{},"looked_at":{},"groups":{},"group_bytes":{},"late":{},"evicted":{},"left_out":{},"clock_steps":{},"matched":[)",
      d.rules().size(), d.correlations().size(), d.filters().size(), d.refused().size(), d.looked_at(), d.correlator().groups(), d.correlator().bytes(), c.late,
      c.evicted, c.left_out, c.clock_steps);
  for (std::size_t node = 0; node < d.counts().size(); ++node) {
    const detect::Detector::Count& count = d.counts()[node];
    if (count.matched > 0) {
      out += fmt::format(R"({{"rule":{},"severity":"{}","matched":{},"told":{},"held_back":{},"for_correlations":{}}},)",
                         output::json_string(d.head(node).label()), detect::severity_name(d.head(node).severity), count.matched, count.told, count.held_back,
                         count.taken);
    }
  }
  if (out.back() == ',') {
    out.pop_back();
  }
  return out + "]},";
}

util::Result<void> Pipeline::run() {
  started_ns_ = util::clock_ns(CLOCK_MONOTONIC);
  aggregates_due_ns_ = started_ns_ + nanoseconds(options_.aggregate);
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

  if (auto dropped = drop_capabilities(false); !dropped) {
    return dropped;
  }
  if (options_.hash) {
    processes_.digest_with(&digests_.emplace());
  }
  // First, so that it is asked last: the kernel calls the newest program of a hook first, and none after one that refused. What is refused
  // has been seen then.
  open_state();
  if (options_.agent && options_.governor) {
    sentinel_.emplace(*options_.governor, sensor_, [this](event::Notice notice) { tell(std::move(notice)); });
  }
  if (options_.governor) {
    if (auto attached = options_.governor->attach(); !attached) {
      return util::pass_on(with_hint(attached.error()));
    }
    options_.governor->direct(options_.sensor);
  }
  auto sensor = sensor::Sensor::open(options_.sensor, handler());
  if (!sensor) {
    return util::pass_on(with_hint(sensor.error()));
  }
  sensor_.emplace(std::move(*sensor));
  // The automaton and what loading took (the kernel's type information, the verifier's words) are not needed any more.
  options_.sensor.filter.automaton.clear();
  if (options_.governor) {
    options_.governor->loaded();
  }
  malloc_trim(0);
  if (auto attached = sensor_->attach(); !attached) {
    return util::pass_on(with_hint(attached.error()));
  }
  for (const sensor::Unserved& missing : sensor_->unserved(options_.sensor.filter.operations)) {
    fmt::print(stderr, "note: {} '{}': this kernel has no {}\n", missing.unseen ? "cannot see" : "sees only the caller's name, not the object, of",
               event::operation_name(missing.operation), missing.function);
  }
  if (enforcer() != nullptr) {
    for (const std::string& note : enforcer()->notes()) {
      fmt::print(stderr, "note: {}\n", note);
    }
  }
  take_detector();
  if (auto listening = listen(); !listening) {
    return listening;
  }
  if (std::holds_alternative<output::TextFormatter>(formatter_)) {
    sink_.buffer() += output::TextFormatter::header();
  }
  if (options_.agent) {
    clock_.emplace();
    exe_digest_ = guard::executable_digest();
    tell_last();
    tell_start();
  }
  if (sentinel_) {
    sentinel_->begin();
  }
  if (auto dropped = drop_capabilities(true); !dropped) {
    return dropped;
  }
  if (options_.sandbox) {
    if (auto restricted = guard::restrict_calls(); !restricted) {
      return restricted;
    }
  }
  utsname kernel{};
  uname(&kernel);
  fmt::print(stderr, "ready hook={} kernel={} pid={}\n", event::hook_name(static_cast<unsigned>(sensor_->hook())), kernel.release, getpid());
  util::give_back_memory();
  manager_.ready();
  auto looped = loop();
  if (!looped && looped.error().code == EPIPE) {
    // Nobody reads any more: no use in draining.
    sensor_->detach();
    if (state_) {
      state_->end();
    }
    summary();
    return looped;
  }
  auto finished = finish();
  summary();
  return !looped ? looped : finished;
}

}  // namespace

util::Result<int> run_pipeline(Options options) {
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
  if (auto done = pipeline.run(); !done) {
    return util::pass_on(done.error());
  }
  return pipeline.tampered() ? kExitTampered : 0;
}

}  // namespace vfsguard::daemon
