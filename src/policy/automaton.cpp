// SPDX-License-Identifier: Apache-2.0
#include "policy/automaton.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <iterator>
#include <map>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "util/memory.h"

namespace vfsguard::policy {

namespace {

// A position automaton over the reversed tokens: state = index into `nodes`.
struct Node {
  enum class Kind { kOne, kMany, kOptionalDirs, kInsideDirs, kAccept };
  Kind kind;
  std::uint32_t set = 0;   // index into Builder::sets (kOne, kMany)
  std::uint32_t next = 0;  // the node behind
  std::uint32_t glob = 0;  // kAccept
};

struct StateSetHash {
  std::size_t operator()(const std::vector<std::uint32_t>& v) const {
    std::size_t h = 1469598103934665603ull;
    for (const std::uint32_t x : v) {
      h = (h ^ x) * 1099511628211ull;
    }
    return h;
  }
};

using Positions = std::vector<std::uint32_t>;  // numbers of nodes

class Builder {
 public:
  // Returns the first node of the glob.
  std::uint32_t add(const Glob& glob, std::uint32_t index, std::uint32_t alike, std::uint32_t moot_with) {
    alike_now_ = alike;
    moot_now_ = moot_with;
    const std::size_t begin = nodes_.size();
    std::uint32_t next = push({Node::Kind::kAccept, 0, 0, index});
    // Reversed reading: the first token is read last, so chain from the front.
    for (const GlobToken& token : glob.tokens) {
      switch (token.kind) {
        case GlobToken::Kind::kOne: next = push({Node::Kind::kOne, set_index(token.set), next, 0}); break;
        case GlobToken::Kind::kMany: next = push({Node::Kind::kMany, set_index(token.set), next, 0}); break;
        case GlobToken::Kind::kDirectories: {
          // Reversed: nothing, or '/' and then anything.
          const std::uint32_t inside = push({Node::Kind::kInsideDirs, 0, next, 0});
          next = push({Node::Kind::kOptionalDirs, inside, next, 0});
          // "/**/..." : from here on it matches whatever comes, for every path begins with a slash.
          if (alike != 0 && inside == begin + 2) {
            sure_.push_back(inside);
            sure_of_.try_emplace(alike, inside);
          }
          break;
        }
      }
    }
    return next;
  }

  void make_classes() {
    ByteSet slash;
    slash.set('/');
    set_index(slash);  // the only byte that kOptionalDirs tells from the others
    std::map<std::vector<bool>, std::uint8_t> known;
    for (unsigned byte = 0; byte < 256; ++byte) {
      std::vector<bool> signature(sets_.size());
      for (std::size_t i = 0; i < sets_.size(); ++i) {
        signature[i] = sets_[i].test(byte);
      }
      const auto [it, added] = known.try_emplace(signature, static_cast<std::uint8_t>(known.size()));
      if (added) {
        representative_.push_back(static_cast<unsigned char>(byte));
      }
      class_of_[byte] = it->second;
    }
  }

  // Subset construction from `starts`; returns the DFA state.
  //
  // What ends in "/**" begins, read backwards, with any bytes: its first position never goes away, and what a byte makes of it is always the
  // same. So a state is kept as what is there in any case (`always_`), what its last byte makes of that (`after_`), and the rest: N globs of
  // that form are N positions a level, not N positions a state.
  util::Result<std::uint32_t> determinize(const std::vector<std::uint32_t>& starts, const Resolve& resolve) {
    states_by_set_.clear();
    states_by_set_.reserve(std::min(nodes_.size(), kMaxStates));
    Positions rest = closure(starts);
    begin_common(rest);
    remove(rest, always_);
    const std::uint32_t start = intern(0, rest, resolve);
    for (std::size_t i = pending_from_; i < members_.size(); ++i) {
      const Positions members = std::exchange(members_[i], {});
      for (std::size_t c = 0; c < representative_.size(); ++c) {
        const std::uint32_t after = after_of_[c];
        move_and_close(members, representative_[c], rest);
        // Nothing but what is common: the same for every state that came by the same byte.
        std::uint32_t* const known =
            rest.empty() ? &common_targets_.try_emplace(members_after_[i] * representative_.size() + c, kUnknownTarget).first->second : nullptr;
        if (known != nullptr && *known != kUnknownTarget) {
          row(i)[c] = *known;
          continue;
        }
        if (const Positions& common = moved_common(members_after_[i], c); !common.empty()) {
          rest.insert(rest.end(), common.begin(), common.end());
          std::ranges::sort(rest);
          rest.erase(std::ranges::unique(rest).begin(), rest.end());
        }
        remove(rest, always_);
        remove(rest, after_[after]);
        const bool nothing = rest.empty() && after_[after].empty() && always_.empty();
        const std::uint32_t target = nothing ? 0 : intern(after, rest, resolve);
        row(i)[c] = target;
        if (known != nullptr) {
          *known = target;
        }
        if (members_.size() > kMaxStates || positions_ > kMaxPositions) {
          return util::fail(EX_CONFIG,
                            fmt::format("the globs multiply: more than {} automaton states; use fewer '?' and sets behind a '*' or '**', or fewer globs",
                                        std::min(members_.size() - 1, kMaxStates)));
        }
      }
    }
    pending_from_ = members_.size();
    return start;
  }

  void prepare() {
    rows_.assign(representative_.size(), 0);
    members_.emplace_back();
    members_after_.push_back(0);
    accepts_.push_back(0);
    pending_from_ = 1;
  }

  Automaton finish() {
    Automaton a;
    std::copy(class_of_.begin(), class_of_.end(), a.head.class_of);
    a.states.resize(members_.size());
    mark_final(a);
    displace(a);
    return a;
  }

 private:
  std::uint32_t push(Node node) {
    nodes_.push_back(node);
    alike_.push_back(alike_now_);
    moot_with_.push_back(moot_now_);
    return static_cast<std::uint32_t>(nodes_.size() - 1);
  }

  std::uint32_t set_index(const ByteSet& set) {
    const auto [it, added] = set_ids_.try_emplace(set, static_cast<std::uint32_t>(sets_.size()));
    if (added) {
      sets_.push_back(set);
    }
    return it->second;
  }

  std::span<std::uint32_t> row(std::size_t state) { return std::span(rows_).subspan(state * representative_.size(), representative_.size()); }
  [[nodiscard]] std::span<const std::uint32_t> row(std::size_t state) const {
    return std::span(rows_).subspan(state * representative_.size(), representative_.size());
  }

  // Sorted, without duplicates, with everything that is reached without reading.
  Positions closure(Positions from) const {
    Positions all;
    close(from, all);
    return all;
  }

  // Empties `from`.
  void close(Positions& from, Positions& all) const {
    all.clear();
    while (!from.empty()) {
      const std::uint32_t id = from.back();
      from.pop_back();
      all.push_back(id);
      const Node& node = nodes_[id];
      if (node.kind != Node::Kind::kOne && node.kind != Node::Kind::kAccept) {
        from.push_back(node.next);
      }
    }
    std::ranges::sort(all);
    all.erase(std::ranges::unique(all).begin(), all.end());
  }

  void move_and_close(const Positions& members, unsigned char byte, Positions& all) {
    Positions& to = moved_;
    to.clear();
    for (const std::uint32_t id : members) {
      const Node& node = nodes_[id];
      switch (node.kind) {
        case Node::Kind::kOne:
          if (sets_[node.set].test(byte)) {
            to.push_back(node.next);
          }
          break;
        case Node::Kind::kMany:
          if (sets_[node.set].test(byte)) {
            to.push_back(id);
          }
          break;
        case Node::Kind::kOptionalDirs:
          if (byte == '/') {
            to.push_back(node.set);
          }
          break;
        case Node::Kind::kInsideDirs: to.push_back(id); break;
        case Node::Kind::kAccept: break;
      }
    }
    close(to, all);
  }

  // Both are sorted. `some` is often much the larger.
  static void remove(Positions& all, const Positions& some) {
    if (all.empty() || some.empty() || some.back() < all.front() || all.back() < some.front()) {
      return;
    }
    if (some.size() > 16 * all.size()) {
      std::erase_if(all, [&](std::uint32_t id) { return std::ranges::binary_search(some, id); });
      return;
    }
    auto at = some.begin();
    std::erase_if(all, [&](std::uint32_t id) {
      while (at != some.end() && *at < id) {
        ++at;
      }
      return at != some.end() && *at == id;
    });
  }

  void add_globs(std::vector<std::uint32_t>& globs, const std::vector<std::uint32_t>& of) const {
    for (const std::uint32_t id : of) {
      if (nodes_[id].kind == Node::Kind::kAccept) {
        globs.push_back(nodes_[id].glob);
      }
    }
  }

  // What every state from this start has, and what each byte makes of it.
  void begin_common(const std::vector<std::uint32_t>& first) {
    std::vector<std::uint32_t> loops;
    for (const std::uint32_t id : first) {
      if (nodes_[id].kind == Node::Kind::kMany && sets_[nodes_[id].set].all()) {
        loops.push_back(id);
      }
    }
    always_ = closure(std::move(loops));
    after_.assign(1, {});  // of the start: no byte was read
    after_of_.clear();
    moved_common_.clear();
    common_targets_.clear();
    std::map<std::vector<std::uint32_t>, std::uint32_t> known{{{}, 0}};
    for (const unsigned char byte : representative_) {
      Positions made;
      move_and_close(always_, byte, made);
      remove(made, always_);
      const auto [it, added] = known.try_emplace(made, static_cast<std::uint32_t>(after_.size()));
      if (added) {
        positions_ += made.size();
        after_.push_back(std::move(made));
      }
      after_of_.push_back(it->second);
    }
    common_globs_.assign(after_.size(), {});
    for (std::size_t i = 0; i < after_.size(); ++i) {
      add_globs(common_globs_[i], always_);
      add_globs(common_globs_[i], after_[i]);
    }
  }

  const std::vector<std::uint32_t>& moved_common(std::uint32_t after, std::size_t c) {
    const auto [it, added] = moved_common_.try_emplace(after * representative_.size() + c);
    if (added) {
      move_and_close(after_[after], representative_[c], it->second);
    }
    return it->second;
  }

  // Of globs that are alike, one that is sure to match stands for all. `rest` is sorted.
  void remove_rivals(Positions& rest) const {
    Positions settled;
    for (const std::uint32_t id : rest) {
      if (std::ranges::binary_search(sure_, id) && std::ranges::find(settled, alike_[id]) == settled.end()) {
        settled.push_back(alike_[id]);
      }
    }
    if (settled.empty()) {
      return;
    }
    for (const std::uint32_t alike : settled) {
      const std::uint32_t sure = sure_of_.at(alike);
      const bool accepts = std::ranges::any_of(rest, [&](std::uint32_t id) { return alike_[id] == alike && nodes_[id].kind == Node::Kind::kAccept; });
      std::erase_if(rest, [&](std::uint32_t id) { return alike_[id] == alike || moot_with_[id] == alike; });
      rest.push_back(sure);
      rest.push_back(nodes_[sure].next);
      if (accepts) {
        rest.push_back(nodes_[nodes_[sure].next].next);
      }
    }
    std::ranges::sort(rest);
  }

  // `rest` is sorted; what of it is sure not to matter goes.
  std::uint32_t intern(std::uint32_t after, Positions& rest, const Resolve& resolve) {
    remove_rivals(rest);
    key_.assign(1, after);
    key_.insert(key_.end(), rest.begin(), rest.end());
    const auto [it, added] = states_by_set_.try_emplace(key_, static_cast<std::uint32_t>(members_.size()));
    if (added) {
      std::vector<std::uint32_t> globs = common_globs_[after];
      add_globs(globs, rest);
      std::ranges::sort(globs);
      accepts_.push_back(globs.empty() ? 0 : resolve(globs));
      rows_.resize(rows_.size() + representative_.size(), 0);
      positions_ += rest.size();
      members_.push_back(rest);
      members_after_.push_back(after);
    }
    return it->second;
  }

  // A state is final when every path that goes on from it gives the same answer as it does now. Paths go on by whole components, so
  // only the states behind a '/' count. Greatest fixed point over {unknown, one answer, several}.
  void mark_final(Automaton& a) const {
    constexpr std::uint64_t kUnknown = ~0ull;
    constexpr std::uint64_t kSeveral = ~0ull - 1;
    const std::uint8_t slash = class_of_['/'];
    const std::size_t states = members_.size();
    std::vector<std::uint64_t> answer(states, kUnknown);
    // Who leads to whom: callers[first[t]] to callers[first[t + 1]].
    std::vector<std::uint32_t> first(states + 1, 0);
    std::vector<std::uint32_t> last_caller(states, ~0u);
    const auto each_caller = [&](const auto& call) {
      std::ranges::fill(last_caller, ~0u);
      for (std::uint32_t s = 0; s < states; ++s) {
        for (const std::uint32_t t : row(s)) {
          if (std::exchange(last_caller[t], s) != s) {
            call(s, t);
          }
        }
      }
    };
    each_caller([&](std::uint32_t, std::uint32_t t) { ++first[t + 1]; });
    std::partial_sum(first.begin(), first.end(), first.begin());
    std::vector<std::uint32_t> callers(first.back());
    std::vector<std::uint32_t> filled(first.begin(), first.end() - 1);
    each_caller([&](std::uint32_t s, std::uint32_t t) { callers[filled[t]++] = s; });
    const auto join = [&](std::uint64_t x, std::uint64_t y) { return x == kUnknown ? y : y == kUnknown || x == y ? x : kSeveral; };
    std::vector<std::uint32_t> work;
    for (std::size_t s = 0; s < states; ++s) {
      answer[s] = accepts_[row(s)[slash]];
      work.push_back(static_cast<std::uint32_t>(s));
    }
    while (!work.empty()) {
      const std::uint32_t t = work.back();
      work.pop_back();
      for (std::uint32_t i = first[t]; i < first[t + 1]; ++i) {
        const std::uint32_t s = callers[i];
        const std::uint64_t joined = join(answer[s], answer[t]);
        if (joined != answer[s]) {
          answer[s] = joined;
          work.push_back(s);
        }
      }
    }
    for (std::size_t s = 0; s < states; ++s) {
      a.states[s].accept = accepts_[s];
      if (answer[s] == accepts_[s]) {
        a.states[s].flags = VG_STATE_FINAL | (accepts_[s] == 0 ? VG_STATE_DEAD : 0);
      }
    }
  }

  // First fit; rows with the most entries first, because they are the hardest to place.
  void displace(Automaton& a) const {
    struct Row {
      std::uint32_t state;
      std::uint32_t first;  // of its classes
      std::uint32_t count;
    };
    std::vector<Row> rows;
    std::vector<std::uint8_t> all_classes;
    const auto classes_of = [&](const Row& one) { return std::span<const std::uint8_t>(all_classes).subspan(one.first, one.count); };
    std::vector<std::uint32_t> targets;
    for (std::size_t s = 0; s < members_.size(); ++s) {
      // The target that most bytes lead to; of several the lowest.
      targets.assign(row(s).begin(), row(s).end());
      std::ranges::sort(targets);
      std::uint32_t most = targets.front();
      std::size_t count = 0;
      for (std::size_t from = 0, to = 0; from < targets.size(); from = to) {
        while (to < targets.size() && targets[to] == targets[from]) {
          ++to;
        }
        if (to - from > count) {
          count = to - from;
          most = targets[from];
        }
      }
      a.states[s].fallback = most;
      const auto begin = static_cast<std::uint32_t>(all_classes.size());
      for (std::size_t c = 0; c < row(s).size(); ++c) {
        if (row(s)[c] != most) {
          all_classes.push_back(static_cast<std::uint8_t>(c));
        }
      }
      if (all_classes.size() > begin) {
        rows.push_back({static_cast<std::uint32_t>(s), begin, static_cast<std::uint32_t>(all_classes.size()) - begin});
      }
    }
    std::ranges::stable_sort(rows, [](const Row& x, const Row& y) { return x.count > y.count; });
    constexpr std::uint32_t kFree = ~0u;
    std::size_t first_free = 0;
    // Where a row of the same classes went last: what did not fit before that will not fit now.
    std::map<std::string, std::size_t> tried;
    for (const Row& one : rows) {
      const std::span<const std::uint8_t> classes = classes_of(one);
      std::size_t& hint = tried[std::string(classes.begin(), classes.end())];
      std::size_t base = std::max(hint, first_free > classes[0] ? first_free - classes[0] : 0);
      const auto fits = [&](std::size_t at) {
        return std::ranges::all_of(classes, [&](std::uint8_t c) { return at + c >= a.edges.size() || a.edges[at + c].check == kFree; });
      };
      while (!fits(base)) {
        ++base;
      }
      const std::size_t need = base + classes.back() + 1;
      if (a.edges.size() < need) {
        a.edges.resize(need, {kFree, 0});
      }
      for (const std::uint8_t c : classes) {
        a.edges[base + c] = {one.state, row(one.state)[c]};
      }
      a.states[one.state].base = static_cast<std::uint32_t>(base);
      hint = base;
      while (first_free < a.edges.size() && a.edges[first_free].check != kFree) {
        ++first_free;
      }
    }
    // A base plus any class stays within the table, so that a look-up outside never has to be told from a miss.
    a.edges.resize(a.edges.size() + representative_.size(), {kFree, 0});
  }

  std::vector<std::uint32_t> alike_;  // per node: of its glob
  std::uint32_t alike_now_ = 0;
  std::vector<std::uint32_t> moot_with_;  // likewise
  std::uint32_t moot_now_ = 0;
  std::vector<std::uint32_t> sure_;                           // nodes from which a glob matches whatever comes; ascending
  std::unordered_map<std::uint32_t, std::uint32_t> sure_of_;  // of those that are alike, the one that stands for all
  std::vector<Node> nodes_;
  std::vector<ByteSet> sets_;
  std::unordered_map<ByteSet, std::uint32_t> set_ids_;
  std::array<std::uint8_t, 256> class_of_{};
  std::vector<unsigned char> representative_;
  std::unordered_map<std::vector<std::uint32_t>, std::uint32_t, StateSetHash> states_by_set_;
  std::vector<std::uint32_t> rows_;           // state x class -> state; state 0 is dead
  std::vector<Positions> members_;            // one a state: the rest of its positions, until its row is filled
  std::vector<std::uint32_t> members_after_;  // which of `after_` they come on top of
  std::vector<std::uint32_t> always_;
  std::vector<std::vector<std::uint32_t>> after_;
  std::vector<std::uint32_t> after_of_;                   // by class
  std::vector<std::vector<std::uint32_t>> common_globs_;  // that `always_` and each of `after_` accept
  std::unordered_map<std::size_t, std::vector<std::uint32_t>> moved_common_;
  static constexpr std::uint32_t kUnknownTarget = ~0u;
  std::unordered_map<std::size_t, std::uint32_t> common_targets_;
  std::vector<std::uint32_t> accepts_;
  Positions moved_;  // of move_and_close, empty between
  Positions key_;    // of intern
  std::size_t pending_from_ = 0;
  std::size_t positions_ = 0;
};

}  // namespace

std::uint32_t Automaton::step(std::uint32_t state, unsigned char byte) const {
  const vg_dfa_state& s = states[state];
  const std::size_t index = s.base + head.class_of[byte];
  if (index < edges.size() && edges[index].check == state) {
    return edges[index].next;
  }
  return s.fallback;
}

std::uint32_t Automaton::match(std::uint32_t start, std::string_view path) const {
  if (states.empty()) {
    return 0;
  }
  std::uint32_t state = start;
  for (std::size_t i = path.size(); i-- > 0;) {
    state = step(state, static_cast<unsigned char>(path[i]));
  }
  return states[state].accept;
}

void Automaton::clear() {
  util::free_memory_of(states);
  util::free_memory_of(edges);
}

std::vector<std::byte> kernel_tables(const Automaton& automaton, std::span<const std::uint64_t> set_operations) {
  vg_tables head = automaton.head;
  TableImage image;
  head.states_at = image.add(std::span(automaton.states));
  head.edges_at = image.add(std::span(automaton.edges));
  head.sets_at = image.add(set_operations);
  return image.finish(head);
}

std::uint32_t TableImage::place(std::span<const std::byte> bytes, std::size_t alignment) {
  const std::size_t at = (bytes_.size() + alignment - 1) / alignment * alignment;
  bytes_.resize(at);
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  return static_cast<std::uint32_t>(at);
}

std::vector<std::byte> TableImage::finish(const vg_tables& head) {
  bytes_.resize(std::bit_ceil(std::max<std::size_t>(bytes_.size(), 4096)));
  std::memcpy(bytes_.data(), &head, sizeof head);
  return std::move(bytes_);
}

util::Result<Compilation> compile(std::span<const PatternSet> sets) {
  Builder builder;
  const auto number_of = [](const std::vector<std::uint32_t>& numbers, std::size_t i) { return i < numbers.size() ? numbers[i] : 0; };
  std::vector<std::vector<std::uint32_t>> starts(sets.size());
  for (std::size_t s = 0; s < sets.size(); ++s) {
    for (std::size_t i = 0; i < sets[s].globs.size(); ++i) {
      starts[s].push_back(builder.add(sets[s].globs[i], static_cast<std::uint32_t>(i), number_of(sets[s].alike, i), number_of(sets[s].moot_with, i)));
    }
  }
  builder.make_classes();
  builder.prepare();
  Compilation compilation;
  for (std::size_t s = 0; s < sets.size(); ++s) {
    const auto start = builder.determinize(starts[s], sets[s].resolve);
    if (!start) {
      return util::pass_on(start.error());
    }
    compilation.starts.push_back(*start);
  }
  compilation.automaton = builder.finish();
  return compilation;
}

util::Result<Automaton> compile(const PatternSet& paths, const PatternSet& executables) {
  const std::array<PatternSet, 2> sets{paths, executables};
  auto compilation = compile(sets);
  if (!compilation) {
    return util::pass_on(compilation.error());
  }
  compilation->automaton.head.path_start = compilation->starts[0];
  compilation->automaton.head.exe_start = compilation->starts[1];
  return std::move(compilation->automaton);
}

}  // namespace vfsguard::policy
