// SPDX-License-Identifier: Apache-2.0
#include "detect/engine.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <re2/filtered_re2.h>
#include <re2/re2.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <ctime>
#include <limits>

namespace vfsguard::detect {

namespace {

constexpr std::size_t kImages = 1024;  // power of two
constexpr int kShortestGate = 3;       // of a literal that a regular expression cannot match without
constexpr std::uint32_t kGate = 1u << 31;
constexpr double kNever = std::numeric_limits<double>::infinity();

RE2::Options regex_options() {
  RE2::Options options(RE2::Quiet);
  options.set_encoding(RE2::Options::EncodingLatin1);
  options.set_max_mem(8 << 20);
  return options;
}

// Literals of which a text that matches holds one, in lower case; none: it cannot be told.
std::vector<std::string> gates_of(const std::string& pattern) {
  re2::FilteredRE2 filter(kShortestGate);
  int id = 0;
  std::vector<std::string> literals;
  if (filter.Add(pattern, regex_options(), &id) != RE2::NoError) {
    return {};
  }
  filter.Compile(&literals);
  std::vector<int> without;
  filter.AllPotentials({}, &without);
  return without.empty() ? literals : std::vector<std::string>{};
}

std::size_t hash_of(const Atom& atom) {
  std::size_t hash = std::hash<std::string>{}(atom.text);
  const auto mix = [&](std::size_t more) { hash = (hash ^ more) * 0x9e3779b97f4a7c15u; };
  mix(static_cast<std::size_t>(atom.field.field) << 16 | static_cast<std::size_t>(atom.field.index) << 8 | static_cast<std::size_t>(atom.test));
  mix(std::hash<double>{}(atom.number));
  for (const std::uint16_t piece : atom.pattern) {
    mix(piece);
  }
  return hash;
}

bool is_text_test(Test test) { return test == Test::kWhole || test == Test::kBeginning || test == Test::kEnd || test == Test::kAnywhere; }

Literals::Where where_of(Test test) {
  switch (test) {
    case Test::kWhole: return Literals::Where::kWhole;
    case Test::kBeginning: return Literals::Where::kBeginning;
    case Test::kEnd: return Literals::Where::kEnd;
    default: return Literals::Where::kAnywhere;
  }
}

bool equal_folded(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) { return fold(x) == fold(y); });
}

bool stands(Test how, std::string_view in, std::string_view what, bool cased) {
  const auto same = [&](std::string_view a, std::string_view b) { return cased ? a == b : equal_folded(a, b); };
  switch (how) {
    case Test::kWhole: return same(in, what);
    case Test::kBeginning: return in.size() >= what.size() && same(in.substr(0, what.size()), what);
    case Test::kEnd: return in.size() >= what.size() && same(in.substr(in.size() - what.size()), what);
    default:
      for (std::size_t at = 0; at + what.size() <= in.size(); ++at) {
        if (same(in.substr(at, what.size()), what)) {
          return true;
        }
      }
      return false;
  }
}

bool compares(Test test, double left, double right) {
  switch (test) {
    case Test::kLess: return left < right;
    case Test::kLessOrEqual: return left <= right;
    case Test::kGreater: return left > right;
    case Test::kGreaterOrEqual: return left >= right;
    default: return left == right;
  }
}

double part_of(TimePart part, std::int64_t seconds) {
  const auto time = static_cast<std::time_t>(seconds);
  std::tm t{};
  gmtime_r(&time, &t);
  switch (part) {
    case TimePart::kMinute: return t.tm_min;
    case TimePart::kHour: return t.tm_hour;
    case TimePart::kDay: return t.tm_mday;
    case TimePart::kWeek: {
      char week[4];
      std::strftime(week, sizeof week, "%V", &t);
      return std::strtod(week, nullptr);
    }
    case TimePart::kMonth: return t.tm_mon + 1;
    case TimePart::kYear: return t.tm_year + 1900;
    case TimePart::kNone: break;
  }
  return static_cast<double>(seconds);
}

bool lies_in(const Atom& network, std::string_view text) {
  std::array<unsigned char, 16> bytes{};
  char address[INET6_ADDRSTRLEN];
  if (text.size() >= sizeof address) {
    return false;
  }
  address[text.copy(address, sizeof address - 1)] = '\0';
  const bool four = network.text.size() == 4;
  if (inet_pton(four ? AF_INET : AF_INET6, address, bytes.data()) != 1) {
    // ::ffff:10.0.0.1 is 10.0.0.1.
    static constexpr std::array<unsigned char, 12> kMapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (!four || inet_pton(AF_INET6, address, bytes.data()) != 1 || !std::equal(kMapped.begin(), kMapped.end(), bytes.begin())) {
      return false;
    }
    std::copy(bytes.begin() + 12, bytes.end(), bytes.begin());
  }
  const auto bits = static_cast<unsigned>(network.number);
  for (unsigned bit = 0; bit < bits; bit += 8) {
    const unsigned mask = bits - bit >= 8 ? 0xffu : 0xffu << (8 - (bits - bit)) & 0xffu;
    if (((bytes[bit / 8] ^ static_cast<unsigned char>(network.text[bit / 8])) & mask) != 0) {
      return false;
    }
  }
  return true;
}

// How often it may be expected to hold: a guess, by which the rarest test of a condition is chosen.
double weight_of(const Atom& atom) {
  static constexpr std::string_view kCommon[] = {"/bash", "/sh", "/dash", "/zsh", "/python", "/python3", "/perl", "bash", "sh", "root", "/", "-c", "http"};
  switch (atom.field.field) {
    // Of these there are few values, and each is common.
    case Field::kOperation:
    case Field::kCall:
    case Field::kVia:
    case Field::kSuccess:
    case Field::kSuccessWord:
    case Field::kFileType:
    case Field::kFileSystem:
    case Field::kOpenMode:
    case Field::kInitiated:
    case Field::kIsIpv6:
    case Field::kAddressFamily:
    case Field::kUser:
    case Field::kUid:
    case Field::kEuid:
    case Field::kRecordTypes:
    case Field::kNameType: return 20;
    default: break;
  }
  if (atom.test == Test::kEqual) {
    return 0.3;
  }
  const std::string literal = atom.test == Test::kWildcards ? longest_literal(atom.pattern) : atom.text;
  double weight = 2.0 / (1.0 + static_cast<double>(literal.size()));
  if (std::ranges::find(kCommon, literal) != std::end(kCommon)) {
    weight += 3;
  }
  return atom.test == Test::kWhole ? weight / 2 : atom.test == Test::kRegex ? 0.5 : weight;
}

bool opens_to_write(const vg_event& e) {
  return (e.flags & O_ACCMODE) != O_RDONLY || (e.flags & O_TRUNC) != 0;  // as the kernel side has it (asks_for_write)
}

}  // namespace

Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

Engine::Engine(const std::vector<Rule>& rules, const std::vector<Filter>& filters) : images_(kImages) {
  for (const Rule& rule : rules) {
    const Kind kind{rule.source.operations, rule.source.succeeded, rule.source.writing, rule.source.networked};
    auto known = std::ranges::find(kinds_, kind);
    if (known == kinds_.end()) {
      known = kinds_.insert(kinds_.end(), kind);
    }
    const std::uint64_t source = std::uint64_t{1} << (known - kinds_.begin());
    const auto tests_for = [&](const std::vector<Atom>& atoms) {
      std::vector<std::uint32_t> tests;
      tests.reserve(atoms.size());
      for (const Atom& atom : atoms) {
        tests.push_back(test_of(atom, source));
      }
      return tests;
    };
    std::uint32_t root = compile(rule.condition, tests_for(rule.atoms));
    for (const Filter& filter : filters) {
      const bool meant = filter.rules.empty() ? (filter.source.category == rule.source.category && filter.source.service == rule.source.service)
                                              : std::ranges::any_of(filter.rules, [&](const std::string& reference) { return rule.head.is(reference); });
      if (!meant) {
        continue;
      }
      const std::uint32_t also = compile(filter.condition, tests_for(filter.atoms));
      nodes_.push_back({Expression::Kind::kAnd, 0, static_cast<std::uint32_t>(children_.size()), 2});
      children_.push_back(root);
      children_.push_back(also);
      root = static_cast<std::uint32_t>(nodes_.size() - 1);
    }
    rules_.push_back({root, source});
  }
  decltype(known_)().swap(known_);
  index();
}

std::uint32_t Engine::slot_of(FieldKey key, std::uint64_t sources) {
  for (std::uint32_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].key == key) {
      slots_[i].sources |= sources;
      return i;
    }
  }
  Slot& slot = slots_.emplace_back();
  slot.key = key;
  slot.of_process = is_of_process(key);
  slot.sources = sources;
  return static_cast<std::uint32_t>(slots_.size() - 1);
}

std::uint32_t Engine::test_of(const Atom& atom, std::uint64_t sources) {
  if (atom.test == Test::kKeyword) {
    for (const FieldKey key : searched_by_keywords()) {
      slot_of(key, 0);
    }
  }
  const std::uint32_t slot = atom.test == Test::kKeyword ? 0 : slot_of(atom.field, sources);
  const std::size_t hash = hash_of(atom);
  const auto [begin, end] = known_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    if (tests_[it->second].atom == atom) {
      return it->second;
    }
  }
  TestState test;
  test.atom = atom;
  test.slot = slot;
  if (atom.test == Test::kOtherField) {
    test.other_slot = slot_of(atom.other, 0);
  }
  if (atom.test == Test::kRegex) {
    test.regex = std::make_unique<RE2>(atom.text, regex_options());
  }
  tests_.push_back(std::move(test));
  const auto place = static_cast<std::uint32_t>(tests_.size() - 1);
  known_.emplace(hash, place);
  return place;
}

std::uint32_t Engine::compile(const Expression& expression, const std::vector<std::uint32_t>& tests) {
  Node node{expression.kind, expression.number, 0, 0};
  if (expression.kind == Expression::Kind::kAtom) {
    node.number = tests[expression.number];
  }
  std::vector<std::uint32_t> children;
  for (const Expression& child : expression.children) {
    children.push_back(compile(child, tests));
  }
  node.first = static_cast<std::uint32_t>(children_.size());
  node.count = static_cast<std::uint32_t>(children.size());
  children_.insert(children_.end(), children.begin(), children.end());
  nodes_.push_back(node);
  return static_cast<std::uint32_t>(nodes_.size() - 1);
}

void Engine::index() {
  for (std::uint32_t i = 0; i < tests_.size(); ++i) {
    TestState& test = tests_[i];
    const Atom& atom = test.atom;
    Slot& slot = slots_[test.slot];
    if (atom.test == Test::kEqual && atom.part == TimePart::kNone && is_number(atom.field) && std::abs(atom.number) < 9e15 &&
        atom.number == std::floor(atom.number)) {
      slot.numbers[static_cast<std::int64_t>(atom.number)].push_back(i);
      test.indexed = true;
    } else if (is_text_test(atom.test) && !atom.text.empty() && !is_number(atom.field)) {
      slot.literals.add(atom.text, where_of(atom.test), i);
      test.indexed = true;
      test.verified = atom.cased;
    } else if (atom.test == Test::kWildcards && !is_number(atom.field)) {
      if (const std::string literal = longest_literal(atom.pattern); !literal.empty()) {
        slot.literals.add(literal, Literals::Where::kAnywhere, i);
        test.indexed = true;
        test.verified = true;
      }
    } else if (atom.test == Test::kRegex && !is_number(atom.field)) {
      for (const std::string& literal : gates_of(atom.text)) {
        slot.literals.add(literal, Literals::Where::kAnywhere, i | kGate);
        test.gated = true;
      }
    }
    slot.indexed = slot.indexed || test.indexed || test.gated;
  }
  for (Slot& slot : slots_) {
    slot.literals.build();
    process_slots_ = process_slots_ || (slot.of_process && slot.indexed);
  }
  for (std::uint32_t r = 0; r < rules_.size(); ++r) {
    std::vector<std::uint32_t> triggers;
    if (find_trigger(rules_[r].root, triggers) == kNever) {
      always_.push_back(r);
      continue;
    }
    for (const std::uint32_t test : triggers) {
      if (std::ranges::find(tests_[test].triggers, r) == tests_[test].triggers.end()) {
        tests_[test].triggers.push_back(r);
      }
    }
  }
  tests_.shrink_to_fit();
  nodes_.shrink_to_fit();
  children_.shrink_to_fit();
  true_in_.assign(tests_.size(), 0);
  known_in_.assign(tests_.size(), 0);
  due_in_.assign(rules_.size(), 0);
  due_.reserve(rules_.size());
  found_.reserve(rules_.size());
  hits_.reserve(tests_.size() + 64);
  kinds_of_operation_.assign(VG_OP_COUNT, 0);
  for (std::size_t k = 0; k < kinds_.size(); ++k) {
    for (unsigned operation = 0; operation < VG_OP_COUNT; ++operation) {
      if ((kinds_[k].operations >> operation & 1) != 0) {
        kinds_of_operation_[operation] |= std::uint64_t{1} << k;
      }
    }
  }
}

// Tests of which one must hold for the node to be true, and how often that may be; kNever: there are none such.
double Engine::find_trigger(std::uint32_t at, std::vector<std::uint32_t>& tests) const {
  const Node& node = nodes_[at];
  switch (node.kind) {
    case Expression::Kind::kAtom: {
      const TestState& test = tests_[node.number];
      if (!test.indexed && !test.gated) {
        return kNever;
      }
      tests.push_back(node.number);
      return weight_of(test.atom);
    }
    case Expression::Kind::kNot: return kNever;
    case Expression::Kind::kAnd: {
      double best = kNever;
      std::vector<std::uint32_t> rarest;
      for (std::uint32_t i = 0; i < node.count; ++i) {
        std::vector<std::uint32_t> some;
        const double weight = find_trigger(children_[node.first + i], some);
        if (weight < best) {
          best = weight;
          rarest = std::move(some);
        }
      }
      tests.insert(tests.end(), rarest.begin(), rarest.end());
      return best;
    }
    case Expression::Kind::kOr:
    case Expression::Kind::kAtLeast: {
      double sum = 0;
      for (std::uint32_t i = 0; i < node.count; ++i) {
        sum += find_trigger(children_[node.first + i], tests);
      }
      return sum;
    }
  }
  return kNever;
}

std::uint64_t Engine::sources_of(const event::Operation& operation) const {
  const vg_event& e = operation.raw;
  std::uint64_t sources = e.operation < kinds_of_operation_.size() ? kinds_of_operation_[e.operation] : 0;
  for (std::uint64_t left = sources; left != 0; left &= left - 1) {
    const std::uint64_t bit = left & -left;
    const Kind& kind = kinds_[static_cast<std::size_t>(std::countr_zero(left))];
    const bool failed = !operation.has_result() || !operation.success();
    if ((kind.succeeded && failed) || (kind.writing && e.operation == VG_OP_OPEN && !opens_to_write(e)) ||
        (kind.networked && (!operation.address || operation.address->ip.empty()))) {
      sources &= ~bit;
    }
  }
  return sources;
}

const Values& Engine::values_of(std::uint32_t index) {
  Slot& slot = slots_[index];
  if (slot.read_in != epoch_) {
    slot.read_in = epoch_;
    read_field(*operation_, slot.key, slot.buffer, slot.values);
  }
  return slot.values;
}

// What the index finds in one field: tests that hold, and regular expressions that may (kGate).
void Engine::search_slot(Slot& slot, std::vector<std::uint32_t>& hits) {
  const Values& values = values_of(static_cast<std::uint32_t>(&slot - slots_.data()));
  if (values.count == 0) {
    return;
  }
  if (is_number(slot.key)) {
    if (const auto tests = slot.numbers.find(values.number); tests != slot.numbers.end()) {
      hits.insert(hits.end(), tests->second.begin(), tests->second.end());
    }
    return;
  }
  for (std::size_t i = 0; i < values.count; ++i) {
    slot.literals.search(values.texts[i], [&](std::uint32_t hit) {
      if ((hit & kGate) == 0 && tests_[hit].verified && (true_in_[hit] == epoch_ || !look(tests_[hit]))) {
        return;
      }
      if ((hit & kGate) == 0) {
        if (true_in_[hit] == epoch_) {
          return;
        }
        true_in_[hit] = epoch_;
      }
      hits.push_back(hit);
    });
  }
}

const std::vector<std::uint32_t>& Engine::image_hits(const event::Operation& operation) {
  const auto& process = operation.process;
  Image& image = images_[(reinterpret_cast<std::uintptr_t>(process.get()) >> 6) & (kImages - 1)];
  const bool digested = process->digest && process->digest->ready.load(std::memory_order_acquire);
  if (image.key != process.get() || image.digested != digested || image.owner.expired()) {
    image.key = process.get();
    image.owner = process;
    image.digested = digested;
    image.hits.clear();
    for (Slot& slot : slots_) {
      if (slot.of_process && slot.indexed) {
        search_slot(slot, image.hits);
      }
    }
  }
  return image.hits;
}

void Engine::take(std::uint32_t hit) {
  const std::uint32_t test = hit & ~kGate;
  if ((hit & kGate) == 0) {
    true_in_[test] = epoch_;
  }
  for (const std::uint32_t rule : tests_[test].triggers) {
    if ((rules_[rule].source & sources_) != 0 && due_in_[rule] != epoch_) {
      due_in_[rule] = epoch_;
      due_.push_back(rule);
    }
  }
}

std::span<const std::uint32_t> Engine::match(const event::Operation& operation) {
  found_.clear();
  ++epoch_;
  sources_ = sources_of(operation);
  if (sources_ == 0) {
    return found_;
  }
  operation_ = &operation;
  due_.clear();
  if (process_slots_ && operation.process) {
    for (const std::uint32_t hit : image_hits(operation)) {
      take(hit);
    }
  }
  for (Slot& slot : slots_) {
    if (slot.of_process || !slot.indexed || (slot.sources & sources_) == 0) {
      continue;
    }
    hits_.clear();
    search_slot(slot, hits_);
    for (const std::uint32_t hit : hits_) {
      take(hit);
    }
  }
  for (const std::uint32_t rule : always_) {
    if ((rules_[rule].source & sources_) != 0) {
      due_.push_back(rule);
    }
  }
  for (const std::uint32_t rule : due_) {
    ++evaluated_;
    if (evaluate(rules_[rule].root)) {
      found_.push_back(rule);
    }
  }
  std::ranges::sort(found_);
  operation_ = nullptr;
  return found_;
}

bool Engine::evaluate(std::uint32_t at) {
  const Node& node = nodes_[at];
  switch (node.kind) {
    case Expression::Kind::kAtom: return holds(node.number);
    case Expression::Kind::kNot: return !evaluate(children_[node.first]);
    case Expression::Kind::kAnd:
      for (std::uint32_t i = 0; i < node.count; ++i) {
        if (!evaluate(children_[node.first + i])) {
          return false;
        }
      }
      return true;
    case Expression::Kind::kOr:
      for (std::uint32_t i = 0; i < node.count; ++i) {
        if (evaluate(children_[node.first + i])) {
          return true;
        }
      }
      return false;
    case Expression::Kind::kAtLeast: {
      std::uint32_t held = 0;
      for (std::uint32_t i = 0; i < node.count && held < node.number; ++i) {
        held += evaluate(children_[node.first + i]) ? 1 : 0;
      }
      return held >= node.number;
    }
  }
  return false;
}

bool Engine::holds(std::uint32_t index) {
  const TestState& test = tests_[index];
  if (test.indexed) {
    return true_in_[index] == epoch_;
  }
  if (known_in_[index] != epoch_) {
    known_in_[index] = epoch_;
    true_in_[index] = look(test) ? epoch_ : 0;
  }
  return true_in_[index] == epoch_;
}

bool Engine::look(const TestState& test) {
  const Atom& atom = test.atom;
  if (atom.test == Test::kKeyword) {
    return std::ranges::any_of(searched_by_keywords(), [&](FieldKey key) {
      const Values& values = values_of(slot_of(key, 0));  // there since it was built
      return std::any_of(values.texts.begin(), values.texts.begin() + static_cast<std::ptrdiff_t>(values.count),
                         [&](std::string_view text) { return matches(atom.pattern, text, atom.cased); });
    });
  }
  const Values& values = values_of(test.slot);
  if (atom.test == Test::kPresent || atom.test == Test::kAbsent) {
    return (values.count != 0) == (atom.test == Test::kPresent);
  }
  char digits[24];
  const auto text_of = [&](FieldKey key, const Values& of, std::size_t i) {
    if (!is_number(key)) {
      return of.texts[i];
    }
    return std::string_view(digits, static_cast<std::size_t>(std::to_chars(digits, digits + sizeof digits, of.number).ptr - digits));
  };
  for (std::size_t i = 0; i < values.count; ++i) {
    switch (atom.test) {
      case Test::kEqual:
      case Test::kLess:
      case Test::kLessOrEqual:
      case Test::kGreater:
      case Test::kGreaterOrEqual:
        if (is_number(atom.field) &&
            compares(atom.test, atom.part == TimePart::kNone ? static_cast<double>(values.number) : part_of(atom.part, values.number), atom.number)) {
          return true;
        }
        break;
      case Test::kRegex: {
        const std::string_view text = text_of(atom.field, values, i);
        if (RE2::PartialMatch({text.data(), text.size()}, *test.regex)) {
          return true;
        }
        break;
      }
      case Test::kNetwork:
        if (lies_in(atom, text_of(atom.field, values, i))) {
          return true;
        }
        break;
      case Test::kWildcards:
        if (matches(atom.pattern, text_of(atom.field, values, i), atom.cased)) {
          return true;
        }
        break;
      case Test::kOtherField: {
        const std::string first(text_of(atom.field, values, i));
        const Values& others = values_of(test.other_slot);
        for (std::size_t k = 0; k < others.count; ++k) {
          if (stands(atom.how, first, text_of(atom.other, others, k), atom.cased)) {
            return true;
          }
        }
        break;
      }
      default:
        if (stands(atom.test, text_of(atom.field, values, i), atom.text, atom.cased)) {
          return true;
        }
    }
  }
  return false;
}

std::size_t Engine::bytes() const {
  std::size_t sum = tests_.capacity() * sizeof(TestState) + nodes_.capacity() * sizeof(Node) + children_.capacity() * 4 + rules_.capacity() * sizeof(Compiled) +
                    (true_in_.capacity() + known_in_.capacity() + due_in_.capacity()) * 8 + images_.capacity() * sizeof(Image);
  for (const TestState& test : tests_) {
    sum += test.atom.text.capacity() + test.atom.pattern.capacity() * 2 + test.triggers.capacity() * 4;
  }
  for (const Slot& slot : slots_) {
    sum += sizeof slot + slot.literals.bytes() + slot.numbers.size() * 64;
  }
  return sum;
}

}  // namespace vfsguard::detect
