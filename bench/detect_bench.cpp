// SPDX-License-Identifier: Apache-2.0
// What detection costs an event, by the number of rules: on recorded events (JSON Lines, VFSGUARD_EVENTS), one core.
//
//   VFSGUARD_EVENTS=events.jsonl [VFSGUARD_SIGMA=DIR] build/bench/detect_bench
//
// `rules/N`: N rules of the kinds that the public ones are made of, each with words of its own, so that hardly any matches. `files/...`: the rules of
// rules/ and of VFSGUARD_SIGMA, as they are. `load/...`: reading and indexing them. `correlation/.../G`: a match of a rule that a correlation is about, a
// millisecond after the one before, of G groups in turn; none fires.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <new>
#include <random>

#include <fmt/format.h>

#include "detect/detector.h"
#include "output/recorded.h"

namespace {

std::size_t allocations = 0;

}  // namespace

#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
// Counted, so that "none per event" is a figure.
void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) {
    return memory;
  }
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace vfsguard::detect {
namespace {

const std::vector<event::Operation>& events() {
  static const auto all = [] {
    static output::Recorded recorded;  // lends names
    std::vector<event::Operation> read;
    const char* file = std::getenv("VFSGUARD_EVENTS");
    const auto done = recorded.read(file != nullptr ? file : "", [&](event::Operation& operation) {
      if (read.size() < 200'000) {
        read.push_back(operation);
      }
    });
    if (!done || read.empty()) {
      fmt::print(stderr, "VFSGUARD_EVENTS names no recorded events{}\n", done ? "" : ": " + done.error().message);
      std::exit(64);
    }
    return read;
  }();
  return all;
}

std::string word(std::mt19937& random) {
  static constexpr const char* kParts[] = {"net", "cat", "sys", "run", "pro", "log", "key", "tun", "mod", "exp", "dae", "ker", "sha", "cro", "sud", "zip"};
  std::string out;
  for (int i = 0; i < 3; ++i) {
    out += kParts[random() % std::size(kParts)];
  }
  return out;
}

std::vector<Rule> made(std::size_t count) {
  std::mt19937 random(7);
  RuleSet set;
  std::string yaml;
  for (std::size_t i = 0; i < count; ++i) {
    if (i % 1000 == 999) {
      parse_rules("made", yaml, {}, set);
      yaml.clear();
    }
    yaml += fmt::format("---\ntitle: r{}\n", i);
    switch (random() % 6) {
      case 0:
        yaml += fmt::format(
            "logsource: {{ category: process_creation }}\ndetection: {{ s: {{ Image|endswith: '/{}', CommandLine|contains: [' -{} ', '{}'] }}, condition: s "
            "}}\n",
            word(random), word(random), word(random));
        break;
      case 1:
        yaml += fmt::format(
            "logsource: {{ category: process_creation }}\ndetection: {{ s: {{ CommandLine|contains|all: ['{}', '{}'] }}, f: {{ User: root }}, condition: s and "
            "not f }}\n",
            word(random), word(random));
        break;
      case 2:
        yaml += fmt::format(
            "logsource: {{ category: file_event }}\ndetection: {{ s: {{ TargetFilename|startswith: ['/etc/{}', '/var/lib/{}/'] }}, condition: s }}\n",
            word(random), word(random));
        break;
      case 3:
        yaml += fmt::format(
            "logsource: {{ category: file_access }}\ndetection: {{ s: {{ TargetFilename|endswith: ['/.{}', '/{}.conf'] }}, f: {{ Image|endswith: '/{}' }}, "
            "condition: s and not f }}\n",
            word(random), word(random), word(random));
        break;
      case 4:
        yaml += fmt::format(
            "logsource: {{ category: file_access }}\ndetection: {{ s: {{ TargetFilename|contains: '/{}/', Image|contains: '{}' }}, condition: s }}\n",
            word(random), word(random));
        break;
      default:
        yaml +=
            fmt::format("logsource: {{ category: file_event }}\ndetection: {{ s: {{ TargetFilename|re: '/{}[0-9]+\\.so$' }}, condition: s }}\n", word(random));
    }
  }
  parse_rules("made", yaml, {}, set);
  return std::move(set.rules);
}

void look_at_all(benchmark::State& state, const std::vector<Rule>& rules) {
  Engine engine(rules);
  const auto& all = events();
  std::uint64_t matched = 0;
  // Once, for what is remembered of processes.
  for (const event::Operation& operation : all) {
    benchmark::DoNotOptimize(engine.match(operation));
  }
  const std::size_t before = allocations;
  const std::uint64_t evaluated = engine.evaluated();
  std::uint64_t seen = 0;
  for (auto _ : state) {
    for (const event::Operation& operation : all) {
      matched += engine.match(operation).size();
    }
    seen += all.size();
  }
  const auto per_event = [&](double count) { return count / static_cast<double>(seen); };
  state.SetItemsProcessed(static_cast<std::int64_t>(seen));
  state.counters["time/event"] = benchmark::Counter(static_cast<double>(seen), benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.counters["KiB"] = static_cast<double>(engine.bytes() >> 10);
  state.counters["evaluated/event"] = per_event(static_cast<double>(engine.evaluated() - evaluated));
  state.counters["matched/event"] = per_event(static_cast<double>(matched));
  state.counters["allocations/event"] = per_event(static_cast<double>(allocations - before));
}

void BM_rules(benchmark::State& state) { look_at_all(state, made(static_cast<std::size_t>(state.range(0)))); }
BENCHMARK(BM_rules)->Name("rules")->Arg(1)->Arg(10)->Arg(100)->Arg(1000)->Arg(10000)->Unit(benchmark::kMillisecond);

std::vector<std::string> files() {
  std::vector<std::string> all{VFSGUARD_RULES};
  if (const char* public_rules = std::getenv("VFSGUARD_SIGMA")) {
    all.emplace_back(public_rules);
  }
  return all;
}

RuleSet read_files() {
  RuleSet set;
  Lists lists;
  for (const std::string& path : files()) {
    (void)load_lists(path, lists);
  }
  for (const std::string& path : files()) {
    (void)load_rules(path, lists, set);
  }
  return set;
}

void BM_files(benchmark::State& state) {
  const RuleSet set = read_files();
  state.counters["rules"] = static_cast<double>(set.rules.size());
  look_at_all(state, set.rules);
}
BENCHMARK(BM_files)->Name("files")->Unit(benchmark::kMillisecond);

void BM_load(benchmark::State& state) {
  std::size_t rules = 0;
  for (auto _ : state) {
    const RuleSet set = read_files();
    const Engine engine(set.rules, set.filters);
    benchmark::DoNotOptimize(engine.tests());
    rules = set.rules.size();
  }
  state.counters["rules"] = static_cast<double>(rules);
}
BENCHMARK(BM_load)->Name("load")->Unit(benchmark::kMillisecond);

void BM_correlation(benchmark::State& state, const char* correlation) {
  RuleSet set;
  std::string yaml;
  for (const char* name : {"a", "b", "c"}) {
    yaml += fmt::format("title: {0}\nname: {0}\nlogsource: {{ category: file_event }}\ndetection: {{ s: {{ uid: 1 }}, condition: s }}\n---\n", name);
  }
  parse_rules("made", fmt::format("{}title: c\ncorrelation: {{ group-by: [group], timespan: 1m, {} }}\n", yaml, correlation), {}, set);
  auto correlator = Correlator::open(set.rules, set.correlations, {.memory = 256u << 20});
  if (!set.refused.empty() || !correlator) {
    state.SkipWithError(set.refused.empty() ? correlator.error().message.c_str() : set.refused.front().message.c_str());
    return;
  }
  const auto groups = static_cast<std::uint64_t>(state.range(0));
  std::uint64_t at = 0;
  std::vector<Fired> fired;
  const auto note = [&] {
    const std::uint64_t of_group = at / groups;
    const Correlator::Field field = [&](std::string_view name) -> std::optional<std::string> {
      return std::to_string(name == "group" ? at % groups : of_group * 7919 % 900);
    };
    correlator->advance(at * 1'000'000, fired);
    correlator->note(of_group % 4 == 3 ? 1 : 0, at * 1'000'000, at, 0, field, fired);
    ++at;
  };
  while (at < std::max<std::uint64_t>(3 * groups, 70'000)) {
    note();  // until what it keeps is what it will keep
  }
  for (auto _ : state) {
    note();
  }
  if (!fired.empty()) {
    state.SkipWithError("it fired");
  }
  state.counters["bytes/group"] = static_cast<double>(correlator->bytes()) / static_cast<double>(std::max<std::size_t>(correlator->groups(), 1));
}
#define CORRELATION(name, text) BENCHMARK_CAPTURE(BM_correlation, name, text)->Name("correlation/" #name)->Arg(1)->Arg(10'000)
CORRELATION(event_count, "type: event_count, rules: [a, b], condition: { gte: 100000 }");
CORRELATION(value_count, "type: value_count, rules: [a, b], condition: { field: v, gte: 1000 }");
CORRELATION(value_sum, "type: value_sum, rules: [a, b], condition: { field: v, gte: 1000000000 }");
CORRELATION(value_percentile, "type: value_percentile, rules: [a, b], condition: { field: v, percentile: 95, gte: 1000 }");
CORRELATION(temporal, "type: temporal, rules: [a, b, c]");
CORRELATION(temporal_ordered, "type: temporal_ordered, rules: [a, b, c]");
CORRELATION(temporal_not, "type: temporal, rules: [a, b], condition: a and not b");

}  // namespace
}  // namespace vfsguard::detect

BENCHMARK_MAIN();
