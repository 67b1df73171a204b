// SPDX-License-Identifier: Apache-2.0
// Compiles sets of globs into one deterministic automaton, the same tables for kernel and user space (bpf/abi/control.h, which
// describes the form). It reads paths from the last byte to the first: "wodahs/cte/" for /etc/shadow.
//
// Subset construction over the reversed globs (Rabin and Scott, 1959), byte classes, and row displacement with a fallback per state
// (Tarjan and Yao, 1979). Cost of a match: two table look-ups a byte, however many globs there are; most paths are ruled out by the
// first component. Limits: kMaxStates states,
// kMaxPositions positions in them; a set that needs more is refused with the number.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "abi/control.h"
#include "policy/glob.h"
#include "util/result.h"

namespace vfsguard::policy {

inline constexpr std::size_t kMaxStates = 1u << 20;
// Positions of globs in all states together: what a few dozen '?' behind a '*' multiply to.
inline constexpr std::size_t kMaxPositions = 4u << 20;

// Immutable once compiled; any number of threads may match.
struct Automaton {
  vg_tables head{};  // without the offsets
  std::vector<vg_dfa_state> states;
  std::vector<vg_dfa_edge> edges;

  [[nodiscard]] std::uint32_t step(std::uint32_t state, unsigned char byte) const;
  // The accept value for a whole path, from one of the head's start states.
  [[nodiscard]] std::uint32_t match(std::uint32_t start, std::string_view path) const;
  // Gives the memory back. Nothing matches any more; the head stays.
  void clear();
};

// Turns the indexes of the globs that match at once into an accept value; 0 means no match.
using Resolve = std::function<std::uint32_t(std::span<const std::uint32_t>)>;

struct PatternSet {
  std::vector<Glob> globs;
  Resolve resolve;
  // Per glob: those with the same number, from 1 on, are as good as each other: where one matches, resolve() says the same whichever others do. A path
  // that certainly will match one of them is then not looked at for the others, so that globs which match in the middle ("/**/a/**") do not multiply.
  // Empty, or 0: no such thing is known.
  std::vector<std::uint32_t> alike;
  // Per glob: where one of those with this number matches, it adds nothing to what resolve() says.
  std::vector<std::uint32_t> moot_with;
};

// The value of the kernel side's map `tables`, put together section by section: a head, then what is added, each aligned to its elements (a
// power of two in size, at least 16), the whole a power of two.
class TableImage {
 public:
  // Where the section begins.
  template <typename T>
  std::uint32_t add(std::span<T> elements) {
    return place(std::as_bytes(elements), std::max<std::size_t>(sizeof(T), 16));
  }
  std::vector<std::byte> finish(const vg_tables& head);

 private:
  std::uint32_t place(std::span<const std::byte> bytes, std::size_t alignment);
  std::vector<std::byte> bytes_ = std::vector<std::byte>(sizeof(vg_tables));
};

// Room that tables are given at least where another policy may take their place without loading anything anew.
inline constexpr std::size_t kTablesAtLeast = 64u << 10;

// The value of the kernel side's map `tables` (bpf/abi/control.h): the automaton, and the operations that each match set asks for. A power of
// two in size, at least a page.
std::vector<std::byte> kernel_tables(const Automaton& automaton, std::span<const std::uint64_t> set_operations);

// `paths` is entered at head.path_start, `executables` at head.exe_start.
util::Result<Automaton> compile(const PatternSet& paths, const PatternSet& executables);

// One automaton for several sets, each with a start state of its own; in their order.
struct Compilation {
  Automaton automaton;
  std::vector<std::uint32_t> starts;
};
util::Result<Compilation> compile(std::span<const PatternSet> sets);

}  // namespace vfsguard::policy
