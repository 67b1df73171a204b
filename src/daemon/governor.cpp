// SPDX-License-Identifier: Apache-2.0
#include "daemon/governor.h"

#include <algorithm>
#include <chrono>
#include <future>

#include <fmt/format.h>

#include "sensor/grace.h"
#include "util/clock.h"
#include "util/memory.h"

namespace vfsguard::daemon {

namespace {

// A refusal is told within moments; a thread that is stopped between the two can take longer.
constexpr std::size_t kPastVersions = 64;
constexpr std::uint64_t kPastNs = 10'000'000'000u;

policy::Refusal refusal_by(const policy::Policy& policy, std::uint32_t place) {
  const policy::Rule& rule = policy.rules[place];
  return {place, rule.name, rule.severity, rule.action};
}

}  // namespace

util::Result<policy::Policy> Governor::read(const std::vector<policy::Secret>& secrets) const {
  auto policy = source_.config.empty() ? util::Result<policy::Policy>(policy::Policy{}) : policy::load(source_.config);
  if (!policy) {
    return policy;
  }
  auto whole = policy::with_secrets(std::move(*policy), source_.protected_file, secrets);
  if (whole) {
    whole->rules.insert(whole->rules.begin(), denied_.begin(), denied_.end());
  }
  if (whole && !source_.enforce) {
    for (policy::Rule& rule : whole->rules) {
      rule.enforce = false;
    }
  }
  return whole;
}

util::Result<std::shared_ptr<detect::Detector>> Governor::read_rules() const {
  if (source_.detection.empty() && source_.rules.empty()) {
    return nullptr;
  }
  auto config = source_.detection.empty() ? util::Result<detect::Config>(detect::Config{}) : detect::load_config(source_.detection);
  if (!config) {
    return util::pass_on(config.error());
  }
  auto detector = detect::Detector::open(*config, {.keep_going = source_.keep_going, .rules = source_.rules});
  if (!detector) {
    return util::pass_on(detector.error());
  }
  for (const util::Error& refused : (*detector)->refused()) {
    fmt::print(stderr, "left out: {}\n", refused.message);
  }
  return std::shared_ptr<detect::Detector>(std::move(*detector));
}

namespace {

util::Result<policy::Watched> watched_for(const detect::Detector& detector, policy::Watched watched) {
  const detect::AllNeeds& needs = detector.needs();
  watched.operations |= needs.operations;
  watched.anywhere |= needs.anywhere | (needs.opens_that_write ? VG_ANYWHERE_WRITES : 0);
  for (const detect::AllNeeds::Place& place : needs.places) {
    auto glob = policy::parse_glob(place.glob);
    if (!glob) {
      return util::pass_on(std::move(glob.error()).context("a path of a detection rule"));
    }
    watched.places.push_back({std::move(*glob), place.operations});
  }
  return watched;
}

}  // namespace

// Of what is to be recorded beside detection only the rules that decide: record_all() makes it whole.
util::Result<std::shared_ptr<Governor::Version>> Governor::compile(policy::Policy policy, std::shared_ptr<detect::Detector> detector) const {
  auto version = std::make_shared<Version>();
  version->policy = std::move(policy);
  version->detector = std::move(detector);
  const auto before = refusing_   ? std::optional(policy::Before{refusing_->policy, refusing_->tables})
                      : standing_ ? std::optional(policy::Before{standing_->policy, standing_->tables})
                                  : std::nullopt;
  auto tables = policy::compile_tables(version->policy, enforcer_ != nullptr || policy::enforces(version->policy), before ? &*before : nullptr, &source_.always,
                                       version->detector != nullptr);
  if (!tables) {
    return util::pass_on(tables.error());
  }
  version->compiled = std::move(tables->compiled);
  version->tables = std::move(tables->enforcement);
  return version;
}

// What detection names can be many times what the policy does. `meanwhile`: events are read while that is compiled. Once a version.
util::Result<void> Governor::record_all(Version& version, const Recorder* meanwhile) const {
  if (!version.detector || std::exchange(version.whole, true)) {
    return {};
  }
  auto watched = watched_for(*version.detector, source_.always);
  if (!watched) {
    return util::pass_on(watched.error());
  }
  if (meanwhile == nullptr) {
    auto compiled = policy::compile_policy(version.policy, &*watched);
    if (!compiled) {
      return util::pass_on(compiled.error());
    }
    version.compiled = std::move(*compiled);
    return {};
  }
  constexpr auto kPause = std::chrono::milliseconds(4);
  auto compiling = std::async(std::launch::async, [&] {
    auto alone = policy::compile_policy(version.policy);
    if (!alone) {
      return alone;
    }
    version.alone = std::move(*alone);
    return policy::compile_policy(version.policy, &*watched);
  });
  util::Result<void> consumed;
  while (compiling.wait_for(kPause) != std::future_status::ready) {
    if (consumed) {
      consumed = meanwhile->consume_all();
    }
  }
  auto compiled = compiling.get();
  if (!consumed) {
    return consumed;
  }
  if (!compiled) {
    return util::pass_on(compiled.error());
  }
  version.compiled = std::move(*compiled);
  return {};
}

// `make`: there must be such a directory. Whoever has it is the agent of what stands there.
util::Result<void> Governor::take_pins(bool make) {
  if (make && source_.mechanism == enforce::Mechanism::kFanotify) {
    return util::fail(EX_CONFIG, "'persist: true' cannot be held by fanotify: the kernel allows everything as soon as the agent has ended");
  }
  if (pins_) {
    return {};
  }
  auto pins = enforce::Pins::take(source_.pins, make);
  if (!pins) {
    // Somebody else's, and this one needs none.
    return make || pins.error().exit_code != EX_TEMPFAIL ? util::pass_on(pins.error()) : util::Result<void>{};
  }
  pins_ = std::move(*pins);
  if (pins_) {
    pins_->become_agent();
  }
  return {};
}

util::Result<Governor> Governor::open(PolicySource source) {
  Governor governor(std::move(source));
  if (auto ok = governor.take_pins(false); !ok) {
    return util::pass_on(ok.error());
  }
  if (governor.pins_) {
    std::vector<std::string> notes;
    governor.standing_ = governor.pins_->standing(notes);
    for (const std::string& note : notes) {
      fmt::print(stderr, "note: {}\n", note);
    }
  }
  auto secrets = policy::read_secrets(governor.source_.protected_file);
  if (!secrets) {
    return util::pass_on(secrets.error());
  }
  governor.secrets_ = std::move(*secrets);
  auto policy = governor.read(governor.secrets_);
  if (!policy) {
    return util::pass_on(policy.error());
  }
  if (governor.source_.before_loading) {
    if (auto ok = governor.source_.before_loading(*policy); !ok) {
      return util::pass_on(ok.error());
    }
  }
  const bool enforces = policy::enforces(*policy);
  if (enforces && policy->persist) {
    if (auto ok = governor.take_pins(true); !ok) {
      return util::pass_on(ok.error());
    }
  }
  auto detector = governor.read_rules();
  if (!detector) {
    return util::pass_on(detector.error());
  }
  auto version = governor.compile(std::move(*policy), std::move(*detector));
  if (!version) {
    return util::pass_on(version.error());
  }
  if (auto ok = governor.record_all(**version, nullptr); !ok) {
    return util::pass_on(ok.error());
  }
  if (enforces) {
    const Version& v = **version;
    const auto heritage = governor.standing_ ? std::optional(governor.standing_->heritage()) : std::nullopt;
    auto enforcer = enforce::Enforcer::open(v.policy, v.compiled, v.tables, governor.source_.mechanism, heritage ? &*heritage : nullptr);
    if (!enforcer) {
      util::Error error = enforcer.error();
      if (error.exit_code == EX_UNAVAILABLE) {
        error.message += "; --enforce off records what would have been stopped";
      }
      return util::pass_on(error);
    }
    governor.enforcer_ = std::move(*enforcer);
    fmt::print(stderr, "enforcing by {}: {} of {} rules, {} KiB of tables\n", mechanism_name(governor.enforcer_->mechanism()), v.tables.clauses,
               v.policy.rules.size(), v.tables.tables.size() >> 10);
  }
  governor.now_ = std::move(*version);
  governor.refusing_ = governor.now_;
  if (!governor.source_.config.empty()) {
    fmt::print(stderr, "policy {}: {} rules\n", governor.now_->policy.file, governor.now_->policy.rules.size());
  }
  if (const detect::Detector* d = governor.now_->detector.get()) {
    fmt::print(stderr, "detection: {} rules, {} correlations, {} filters\n", d->rules().size(), d->correlations().size(), d->filters().size());
  }
  return governor;
}

util::Result<void> Governor::attach() {
  if (enforcer_) {
    if (auto attached = enforcer_->attach(now_->policy, now_->tables); !attached) {
      return attached;
    }
    if (standing_) {
      // The newest is asked first, and none after it refused; what the one before had begun is over now.
      if (auto grace = sensor::Grace::open(); grace) {
        (void)grace->wait();
      }
      const enforce::Counts counts = standing_->counts();
      (void)enforcer_->take_over(counts, now_->policy, now_->tables);  // it is not pinned yet
      fmt::print(stderr, "took over what stood in force since {}, by {}: {} stopped so far\n", util::wall_time_text(standing_->description.since_ns),
                 standing_->description.by, counts.stopped());
    }
  }
  auto settled = settle_pins(*now_);
  if (standing_ && !enforcer_) {
    fmt::print(stderr, "note: what {} left in force is lifted: this policy stops nothing\n", standing_->description.by);
  }
  standing_.reset();
  return settled;
}

// What is in force now stands by itself, if its policy says so; what stood by itself before does no more.
util::Result<void> Governor::settle_pins(const Version& version) {
  if (!pins_) {
    return {};
  }
  persists_ = enforcer_ && version.policy.persist && policy::enforces(version.policy);
  if (!persists_) {
    if (enforcer_) {
      enforcer_->unpin();
    }
    pins_->drop_all_but("");
    pins_.reset();
    return {};
  }
  if (enforcer_->pinned().empty()) {
    if (auto pinned = enforcer_->pin(pins_->next(), version.policy, version.tables); !pinned) {
      return util::pass_on(std::move(pinned.error()).context("the policy is in force, and will not be when the agent ends"));
    }
  }
  pins_->drop_all_but(enforcer_->pinned());
  return {};
}

void Governor::direct(const Version& version, const enforce::Enforcer* enforcer, sensor::Filter& filter) const {
  filter.by_path = true;
  filter.operations = version.compiled.operations;
  filter.automaton = version.compiled.automaton;
  filter.set_operations = version.compiled.set_operations;
  if (enforcer != nullptr) {
    filter.refusals = enforcer->refusals();
    filter.worker_refusals = enforcer->worker_refusals();
    filter.killing = enforcer->mechanism() != enforce::Mechanism::kLsm;
  }
}

void Governor::direct(sensor::Options& options) const {
  direct(*now_, enforcer_.get(), options.filter);
  options.tables_at_least = policy::kTablesAtLeast;
}

bool Governor::attribute(event::Operation& operation) const {
  const bool is_recent = operation.raw.policy_version == recorded_by_;
  const policy::Compiled& compiled = is_recent || !now_->whole ? now_->compiled : now_->alone;
  if (!is_recent) {
    policy::match_paths(compiled, operation);
  }
  if (operation.raw.verdict == VG_VERDICT_NONE) {
    return policy::attribute(now_->policy, compiled, operation);
  }
  if (enforcer_ && operation.raw.rule_version != static_cast<std::uint16_t>(enforcer_->version())) {
    const auto past = std::ranges::find(past_, operation.raw.rule_version, &Past::version);
    if (past == past_.end()) {
      return policy::attribute(now_->policy, compiled, operation);
    }
    const auto refusal = std::ranges::lower_bound(past->refusals, operation.raw.rule, {}, &policy::Refusal::place);
    const bool known = refusal != past->refusals.end() && refusal->place == operation.raw.rule;
    return policy::attribute(now_->policy, compiled, operation, known ? &*refusal : nullptr);
  }
  if (operation.raw.rule >= refusing_->policy.rules.size()) {
    return policy::attribute(now_->policy, compiled, operation);
  }
  const policy::Refusal refusal = refusal_by(refusing_->policy, operation.raw.rule);
  return policy::attribute(now_->policy, compiled, operation, &refusal);
}

// The policy in force, of this version of the enforcer's, was replaced.
void Governor::keep_names(std::uint16_t version) {
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  Past& past = past_.emplace_back(version, now, std::vector<policy::Refusal>{});
  const policy::Policy& policy = refusing_->policy;
  for (std::uint32_t place = 0; place < policy.rules.size(); ++place) {
    if (policy.rules[place].decides() && policy.rules[place].enforce) {
      past.refusals.push_back(refusal_by(policy, place));
    }
  }
  while (past_.size() > kPastVersions || (past_.size() > 1 && past_.front().replaced_ns + kPastNs < now)) {
    past_.pop_front();
  }
}

void Governor::loaded() {
  util::free_memory_of(now_->tables.tables);
  now_->tables.automaton.clear();
  if (now_->whole) {
    now_->compiled.automaton.clear();
  }
}

void Governor::settle(std::shared_ptr<Version> version) {
  now_ = std::move(version);
  refusing_ = now_;
  loaded();
  util::give_back_memory();
}

// Decides from here on; what it replaced is still told of by its names.
util::Result<void> Governor::refuse_by(std::shared_ptr<Version> next) {
  const auto last = static_cast<std::uint16_t>(enforcer_->version());
  if (auto replaced = enforcer_->replace(next->policy, next->compiled, next->tables); !replaced) {
    return replaced;
  }
  keep_names(last);
  refusing_ = std::move(next);
  return {};
}

// The policy that is recorded by decides again.
util::Error Governor::go_back(util::Error why) {
  auto undone = std::make_shared<Version>();
  undone->policy = now_->policy;
  undone->detector = now_->detector;
  undone->whole = now_->whole;
  const policy::Before before{refusing_->policy, refusing_->tables};
  auto tables = policy::compile_tables(undone->policy, true, &before, nullptr, true);
  auto replaced = tables ? util::Result<void>{} : util::Result<void>(util::pass_on(tables.error()));
  if (replaced) {
    undone->compiled = std::move(tables->compiled);
    undone->tables = std::move(tables->enforcement);
    replaced = refuse_by(undone);
    undone->compiled = now_->compiled;  // that which is recorded by
    undone->alone = now_->alone;
  }
  if (!replaced) {
    return std::move(why).context(fmt::format("what it refuses is in force and the policy before could not be put back ({})", replaced.error().message));
  }
  settle(std::move(undone));
  return why;
}

// `keep` is called as soon as the policy decides: what takes a disk's time must not hold it up. Where that fails nothing has changed.
util::Result<void> Governor::put_in_force(std::shared_ptr<Version> next, const Recorder& recorder, const std::function<util::Result<void>()>& keep) {
  const bool enforces = policy::enforces(next->policy);
  const bool loads = enforces && (!enforcer_ || !enforcer_->fits(next->tables));
  sensor::Options options = recorder.options;
  std::unique_ptr<enforce::Enforcer> enforcer;
  if (enforces && next->policy.persist) {
    if (auto ok = take_pins(true); !ok) {
      return ok;
    }
  }
  const bool refuses_first = !loads && enforcer_ != nullptr;
  if (refuses_first) {
    if (auto replaced = refuse_by(next); !replaced) {
      return replaced;
    }
    if (auto kept = keep(); !kept) {
      return util::pass_on(go_back(std::move(kept.error())));
    }
  }
  if (auto watched = record_all(*next, &recorder); !watched) {
    return refuses_first ? util::pass_on(go_back(std::move(watched.error()))) : watched;
  }
  if (loads) {
    const auto heritage = enforcer_ ? std::optional(enforcer_->heritage()) : std::nullopt;
    auto opened = enforce::Enforcer::open(next->policy, next->compiled, next->tables, source_.mechanism, heritage ? &*heritage : nullptr);
    if (!opened) {
      return util::pass_on(opened.error());
    }
    enforcer = std::move(*opened);
  }
  const enforce::Enforcer* const enforcing = enforcer ? enforcer.get() : enforcer_.get();
  direct(*next, enforcing, options.filter);
  // What refuses must be attached before what records: the kernel calls the newest first, and none after one that refused.
  std::optional<sensor::Sensor> sensor;
  if (loads || !recorder.sensor->fits(options.filter)) {
    options.hook = recorder.sensor->hook();
    options.tables_at_least = policy::kTablesAtLeast;
    options.filter.operations |= recorder.sensor->operations();  // so that going back needs no loading
    options.follows = &*recorder.sensor;
    auto opened = sensor::Sensor::open(options, recorder.handler);
    if (!opened) {
      return util::pass_on(refuses_first ? go_back(std::move(opened.error())) : std::move(opened.error()));
    }
    sensor = std::move(*opened);
  }
  if (enforcer) {
    if (auto attached = enforcer->attach(next->policy, next->tables); !attached) {
      return attached;
    }
  }
  if (!refuses_first) {
    if (auto kept = keep(); !kept) {
      return kept;
    }
  }
  util::Result<void> recorded;
  if (sensor) {
    recorder.sensor->detach();
    recorded = recorder.consume_all();
    if (recorded) {
      recorded = sensor->attach();
    }
    if (recorded) {
      recorder.sensor = std::move(sensor);
    } else {
      (void)recorder.sensor->attach();
    }
  } else {
    recorded = recorder.sensor->replace(options.filter);
  }
  if (!recorded) {
    // What was loaded goes again, and the one before has never ceased.
    return refuses_first ? util::pass_on(go_back(std::move(recorded.error()))) : recorded;
  }
  std::unique_ptr<enforce::Enforcer> last_enforcer;
  if (enforcer) {
    if (enforcer_) {
      keep_names(static_cast<std::uint16_t>(enforcer_->version()));
    }
    last_enforcer = std::exchange(enforcer_, std::move(enforcer));
  }
  auto stands = settle_pins(*next);
  if (last_enforcer) {
    last_enforcer->cease();
    if (auto told = enforcer_->take_over(last_enforcer->counts(), next->policy, next->tables); !told && stands) {
      stands = std::move(told);
    }
    last_enforcer.reset();
  }
  settle(std::move(next));
  ++changes_;
  recorded_by_ = recorder.sensor->version();
  for (const std::string& note : enforcer_ ? enforcer_->notes() : std::vector<std::string>{}) {
    fmt::print(stderr, "note: {}\n", note);
  }
  return stands;
}

util::Result<void> Governor::reload(const Recorder& recorder) {
  // What was refused in response goes with what is replaced, and stays with it.
  auto denied = std::exchange(denied_, {});
  auto done = take_anew(recorder);
  if (!done) {
    denied_ = std::move(denied);
  }
  return done;
}

util::Result<void> Governor::take_anew(const Recorder& recorder) {
  auto secrets = policy::read_secrets(source_.protected_file);
  if (!secrets) {
    return util::pass_on(secrets.error());
  }
  auto policy = read(*secrets);
  if (!policy) {
    return util::pass_on(policy.error());
  }
  auto detector = read_rules();
  if (!detector) {
    return util::pass_on(detector.error());
  }
  auto next = compile(std::move(*policy), std::move(*detector));
  if (!next) {
    return util::pass_on(next.error());
  }
  if (auto ok = record_all(**next, &recorder); !ok) {
    return ok;
  }
  if (auto done = put_in_force(std::move(*next), recorder); !done) {
    return done;
  }
  secrets_ = std::move(*secrets);
  return {};
}

util::Result<void> Governor::deny_object(const std::string& path, const std::string& why, const Recorder& recorder) {
  constexpr std::size_t kMost = 256;
  if (!source_.enforce) {
    return util::fail(EX_UNAVAILABLE, "nothing is enforced (--enforce off)");
  }
  policy::Rule rule;
  rule.file = "response";
  rule.line = static_cast<int>(denied_.size()) + 1;
  rule.name = fmt::format("{} {}", why, path);
  const bool known = std::ranges::any_of(denied_, [&](const policy::Rule& other) { return other.name == rule.name; });
  if (known) {
    return {};
  }
  if (denied_.size() >= kMost) {
    return util::fail(EX_UNAVAILABLE, fmt::format("{} objects are refused in response already; a reload lifts them", kMost));
  }
  auto parsed = policy::parse_glob(policy::literal_glob(path));
  if (!parsed) {
    return util::pass_on(parsed.error());
  }
  rule.paths.push_back(std::move(*parsed));
  rule.action = policy::Action::kDeny;
  rule.degraded = true;
  rule.severity = "high";
  denied_.push_back(std::move(rule));
  auto policy = read(secrets_);
  auto next = policy ? compile(std::move(*policy), now_->detector) : util::Result<std::shared_ptr<Version>>(util::pass_on(policy.error()));
  auto done = next ? put_in_force(std::move(*next), recorder) : util::Result<void>(util::pass_on(next.error()));
  if (!done) {
    denied_.pop_back();
  }
  return done;
}

util::Result<void> Governor::change_secrets(std::vector<policy::Secret> secrets, const Recorder& recorder) {
  auto policy = read(secrets);
  if (!policy) {
    return util::pass_on(policy.error());
  }
  auto next = compile(std::move(*policy), now_->detector);
  if (!next) {
    return util::pass_on(next.error());
  }
  bool written = false;
  const auto keep = [&] {
    auto done = policy::write_secrets(source_.protected_file, secrets);
    written = done.has_value();
    return done;
  };
  if (auto done = put_in_force(std::move(*next), recorder, keep); !done) {
    if (written) {
      (void)policy::write_secrets(source_.protected_file, secrets_);
    }
    return done;
  }
  secrets_ = std::move(secrets);
  return {};
}

util::Result<void> Governor::protect(policy::Secret secret, const Recorder& recorder) {
  if (auto ok = policy::check_secret(secret); !ok) {
    return ok;
  }
  std::vector<policy::Secret> secrets = secrets_;
  const auto known = std::ranges::find(secrets, secret.paths.front(), [](const policy::Secret& s) { return s.paths.front(); });
  if (known != secrets.end()) {
    *known = std::move(secret);
  } else {
    secrets.push_back(std::move(secret));
  }
  return change_secrets(std::move(secrets), recorder);
}

util::Result<void> Governor::unprotect(const std::string& path, const Recorder& recorder) {
  std::vector<policy::Secret> secrets = secrets_;
  const auto known = std::ranges::find(secrets, path, [](const policy::Secret& s) { return s.paths.front(); });
  if (known == secrets.end()) {
    const bool by_policy = std::ranges::any_of(now_->policy.rules, [&](const policy::Rule& rule) { return rule.name == "secret " + path; });
    return util::fail(EX_DATAERR, by_policy ? fmt::format("'{}' is protected by the policy {}, not by vfsguard protect; change it there", path, source_.config)
                                            : fmt::format("'{}' is not among the protected files; vfsguard protected lists them", path));
  }
  secrets.erase(known);
  return change_secrets(std::move(secrets), recorder);
}

}  // namespace vfsguard::daemon
