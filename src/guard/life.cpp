// SPDX-License-Identifier: Apache-2.0
#include "guard/life.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "util/clock.h"
#include "util/read_file.h"
#include "util/sha256.h"

namespace vfsguard::guard {

namespace {

std::string this_boot() {
  std::string id = util::read_file("/proc/sys/kernel/random/boot_id").value_or("");
  while (!id.empty() && id.back() == '\n') {
    id.pop_back();
  }
  return id;
}

template <typename T>
bool number(std::string_view text, T& into) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), into);
  return error == std::errc{} && end == text.data() + text.size();
}

// "vfsguard-state 1", then a key and a value a line.
std::optional<Last> parse(std::string_view text) {
  if (!text.starts_with("vfsguard-state 1\n")) {
    return std::nullopt;
  }
  Last last;
  bool good = true;
  bool whole = false;
  for (std::size_t at = text.find('\n') + 1; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    const std::size_t space = line.find(' ');
    const std::string_view key = line.substr(0, space);
    const std::string_view value = space == std::string_view::npos ? "" : line.substr(space + 1);
    if (key == "state") {
      last.ended = value == "ended";
    } else if (key == "pid") {
      good = good && number(value, last.pid);
    } else if (key == "started") {
      good = good && number(value, last.started_ns);
    } else if (key == "seen") {
      good = good && number(value, last.seen_ns);
    } else if (key == "boot") {
      last.boot_id = value;
    } else if (key == "end") {
      whole = true;
      break;
    }
    at = end + 1;
  }
  return good && whole ? std::optional(last) : std::nullopt;
}

}  // namespace

util::Result<State> State::open(const std::string& file) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(file).parent_path(), error);
  util::UniqueFd fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) {
    return util::fail_errno(EX_CANTCREAT, fmt::format("cannot write '{}'", file));
  }
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return util::fail(EX_TEMPFAIL, fmt::format("another agent keeps '{}'", file));
  }
  State state(std::move(fd));
  std::string text;
  if (util::read_all(state.fd_.get(), text)) {
    state.last_ = parse(text);
  }
  state.started_ns_ = util::clock_ns(CLOCK_REALTIME);
  state.boot_id_ = this_boot();
  state.write(false);
  return state;
}

void State::write(bool ended) const {
  // Of one size while it runs, so that a write in place leaves nothing of the one before.
  const std::string text = fmt::format("vfsguard-state 1\nstate {}\npid {}\nstarted {}\nseen {}\nboot {}\nend\n", ended ? "ended" : "running", getpid(),
                                       started_ns_, util::clock_ns(CLOCK_REALTIME), boot_id_);
  if (pwrite(fd_.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size())) {
    (void)!ftruncate(fd_.get(), static_cast<off_t>(text.size()));
  }
}

void State::beat() {
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  if (now - beaten_ns_ >= kBeatNs) {
    beaten_ns_ = now;
    write(false);
  }
}

void State::end() { write(true); }

Clocks Clocks::now() { return {util::clock_ns(CLOCK_MONOTONIC), util::clock_ns(CLOCK_BOOTTIME), util::clock_ns(CLOCK_PROCESS_CPUTIME_ID)}; }

std::optional<Pause> PauseWatch::look(const Clocks& now, std::uint64_t waited_ns) {
  const Clocks before = std::exchange(last_, now);
  if (before.monotonic_ns == 0) {
    return std::nullopt;
  }
  const std::uint64_t passed = now.monotonic_ns - before.monotonic_ns;
  const std::uint64_t accounted = waited_ns + (now.cpu_ns - before.cpu_ns);
  if (passed <= kWorthTelling || passed <= accounted + kLate) {
    return std::nullopt;
  }
  const std::uint64_t with_suspension = now.boottime_ns - before.boottime_ns;
  return Pause{.up_to_ns = passed, .suspended_ns = with_suspension > passed ? with_suspension - passed : 0, .since_ns = before.boottime_ns};
}

std::string digest_of(std::vector<std::string> files) {
  std::ranges::sort(files);
  files.erase(std::ranges::unique(files).begin(), files.end());
  util::Sha256 all;
  for (const std::string& file : files) {
    all.update(file);
    all.update(std::string_view("\0", 1));
    all.update(util::sha256_of_file(file).value_or("unreadable"));
    all.update("\n");
  }
  const auto hex = all.hex();
  return hex ? std::string(hex->begin(), hex->end()) : "";
}

ClockWatch::ClockWatch() : timer_(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC)), difference_(difference()) { arm(); }

// Far away: what makes it readable is that the clock is set.
void ClockWatch::arm() const {
  itimerspec when{};
  when.it_value.tv_sec = static_cast<time_t>(util::clock_ns(CLOCK_REALTIME) / 1'000'000'000u) + 10L * 366 * 86400;
  (void)timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &when, nullptr);
}

std::int64_t ClockWatch::difference() {
  return static_cast<std::int64_t>(util::clock_ns(CLOCK_REALTIME)) - static_cast<std::int64_t>(util::clock_ns(CLOCK_BOOTTIME));
}

std::int64_t ClockWatch::take_step() {
  std::uint64_t expirations = 0;
  (void)!read(timer_.get(), &expirations, sizeof expirations);  // ECANCELED
  const std::int64_t now = difference();
  const std::int64_t step = now - difference_;
  difference_ = now;
  arm();
  return step;
}

}  // namespace vfsguard::guard
