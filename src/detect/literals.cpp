// SPDX-License-Identifier: Apache-2.0
#include "detect/literals.h"

#include <algorithm>
#include <deque>

namespace vfsguard::detect {

std::string folded(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), fold);
  return out;
}

void Literals::add(std::string_view literal, Where where, std::uint32_t id) {
  std::string text = folded(literal);
  if (where == Where::kEnd) {
    std::ranges::reverse(text);
  }
  Trie& trie = where == Where::kEnd ? ends_ : where == Where::kAnywhere ? anywhere_ : beginnings_;
  trie.literals.push_back({std::move(text), {id, where == Where::kWhole}});
  ++size_;
}

void Literals::build() {
  beginnings_.build(false);
  ends_.build(false);
  anywhere_.build(true);
}

// Level by level: a node stands for a range of the sorted literals, and its children are numbered together.
void Literals::Trie::build(bool with_failures) {
  if (literals.empty()) {
    return;
  }
  std::ranges::stable_sort(literals, {}, &Literal::text);
  struct Range {
    std::uint32_t node;
    std::size_t begin;
    std::size_t end;
    std::size_t depth;
  };
  std::deque<Range> waiting{{kRoot, 0, literals.size(), 0}};
  nodes.emplace_back();
  labels.push_back('\0');
  while (!waiting.empty()) {
    auto [node, begin, end, depth] = waiting.front();
    waiting.pop_front();
    nodes[node].outputs = static_cast<std::uint32_t>(outputs.size());
    for (; begin < end && literals[begin].text.size() == depth; ++begin) {
      outputs.push_back(literals[begin].output);
    }
    nodes[node].output_count = static_cast<std::uint32_t>(outputs.size()) - nodes[node].outputs;
    nodes[node].first = static_cast<std::uint32_t>(nodes.size());
    while (begin < end) {
      const char c = literals[begin].text[depth];
      std::size_t same = begin;
      while (same < end && literals[same].text[depth] == c) {
        ++same;
      }
      waiting.push_back({static_cast<std::uint32_t>(nodes.size()), begin, same, depth + 1});
      nodes.emplace_back();
      labels.push_back(c);
      ++nodes[node].count;
      begin = same;
    }
  }
  literals.clear();
  literals.shrink_to_fit();
  if (!with_failures) {
    return;
  }
  dense_end = 1 + nodes[kRoot].count;
  dense.assign(std::size_t{dense_end} * 256, kRoot);
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::uint32_t next = child(kRoot, static_cast<char>(byte));
    dense[byte] = next != kNone ? next : kRoot;
  }
  // In the order of their numbers, which is that of their depths: a node's failure is known before its children's.
  for (std::uint32_t node = 0; node < nodes.size(); ++node) {
    for (std::uint32_t i = nodes[node].first; i < nodes[node].first + nodes[node].count; ++i) {
      std::uint32_t fail = kRoot;
      if (node != kRoot) {
        std::uint32_t from = nodes[node].fail;
        std::uint32_t next = child(from, labels[i]);
        while (next == kNone && from != kRoot) {
          from = nodes[from].fail;
          next = child(from, labels[i]);
        }
        fail = next != kNone ? next : kRoot;
      }
      nodes[i].fail = fail;
      nodes[i].next = nodes[fail].output_count != 0 ? fail : nodes[fail].next;
    }
    if (node != kRoot && node < dense_end) {
      for (unsigned byte = 0; byte < 256; ++byte) {
        const std::uint32_t next = child(node, static_cast<char>(byte));
        dense[std::size_t{node} * 256 + byte] = next != kNone ? next : dense[byte];
      }
    }
  }
}

std::size_t Literals::bytes() const {
  std::size_t sum = 0;
  for (const Trie* t : {&beginnings_, &ends_, &anywhere_}) {
    sum += t->nodes.capacity() * sizeof(Node) + t->labels.capacity() + t->outputs.capacity() * sizeof(Output) + t->dense.capacity() * sizeof(std::uint32_t);
  }
  return sum;
}

}  // namespace vfsguard::detect
