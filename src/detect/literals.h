// SPDX-License-Identifier: Apache-2.0
// Many literals looked for in one text at once: at its beginning, at its end, as the whole of it, or anywhere in it.
//
// What stands anywhere is found by the automaton of Aho and Corasick (Communications of the ACM, 1975), whose root and first level are full tables:
// most bytes of most texts are settled there. What is bound to an end of the text is a walk down a trie that stops at the first byte which nothing goes
// on with. Letters A to Z are looked for in either case. Immutable once built; any number of threads may search.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vfsguard::detect {

constexpr char fold(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; }
std::string folded(std::string_view text);

class Literals {
 public:
  enum class Where : std::uint8_t { kWhole, kBeginning, kEnd, kAnywhere };

  // `id` is what search() says where the literal is found; several may have one. The literal is not empty.
  void add(std::string_view literal, Where where, std::uint32_t id);
  // After the last add() and before the first search().
  void build();

  // Calls found(id) for each occurrence; one that stands there several times may be told several times.
  template <typename Found>
  void search(std::string_view text, Found&& found) const;

  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] std::size_t bytes() const;

 private:
  static constexpr std::uint32_t kRoot = 0;
  static constexpr std::uint32_t kNone = ~0u;

  struct Node {
    std::uint32_t first = 0;  // its children stand beside each other
    std::uint32_t count = 0;
    std::uint32_t fail = kRoot;
    std::uint32_t outputs = 0;  // the first of them
    std::uint32_t output_count = 0;
    std::uint32_t next = kNone;  // the nearest node with outputs on the way of failures
  };
  struct Output {
    std::uint32_t id = 0;
    bool whole = false;  // only where the text is at its end
  };
  struct Literal {
    std::string text;
    Output output;
  };
  struct Trie {
    std::vector<Literal> literals;  // until it is built
    std::vector<Node> nodes;
    std::vector<char> labels;  // of the edge that leads to a node
    std::vector<Output> outputs;
    std::vector<std::uint32_t> dense;  // root and first level: 256 each, a row a node
    std::uint32_t dense_end = 0;       // the nodes before this one have a row

    void build(bool with_failures);
    [[nodiscard]] std::uint32_t child(std::uint32_t node, char c) const {
      const Node& n = nodes[node];
      for (std::uint32_t i = n.first; i < n.first + n.count; ++i) {
        if (labels[i] == c) {
          return i;
        }
      }
      return kNone;
    }
  };

  Trie beginnings_;
  Trie ends_;  // from the last byte to the first
  Trie anywhere_;
  std::size_t size_ = 0;
};

template <typename Found>
void Literals::search(std::string_view text, Found&& found) const {
  if (!beginnings_.nodes.empty()) {
    std::uint32_t at = kRoot;
    for (std::size_t i = 0; i < text.size(); ++i) {
      at = beginnings_.child(at, fold(text[i]));
      if (at == kNone) {
        break;
      }
      const Node& n = beginnings_.nodes[at];
      for (std::uint32_t o = n.outputs; o < n.outputs + n.output_count; ++o) {
        if (!beginnings_.outputs[o].whole || i + 1 == text.size()) {
          found(beginnings_.outputs[o].id);
        }
      }
    }
  }
  if (!ends_.nodes.empty()) {
    std::uint32_t at = kRoot;
    for (std::size_t i = text.size(); i > 0; --i) {
      at = ends_.child(at, fold(text[i - 1]));
      if (at == kNone) {
        break;
      }
      const Node& n = ends_.nodes[at];
      for (std::uint32_t o = n.outputs; o < n.outputs + n.output_count; ++o) {
        found(ends_.outputs[o].id);
      }
    }
  }
  if (!anywhere_.nodes.empty()) {
    const Trie& t = anywhere_;
    std::uint32_t at = kRoot;
    for (const char byte : text) {
      const char c = fold(byte);
      std::uint32_t next = kNone;
      while (at >= t.dense_end) {
        next = t.child(at, c);
        if (next != kNone) {
          break;
        }
        at = t.nodes[at].fail;
      }
      at = at >= t.dense_end ? next : t.dense[at * 256 + static_cast<unsigned char>(c)];
      for (std::uint32_t with = t.nodes[at].output_count != 0 ? at : t.nodes[at].next; with != kNone; with = t.nodes[with].next) {
        const Node& n = t.nodes[with];
        for (std::uint32_t o = n.outputs; o < n.outputs + n.output_count; ++o) {
          found(t.outputs[o].id);
        }
      }
    }
  }
}

}  // namespace vfsguard::detect
