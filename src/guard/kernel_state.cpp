// SPDX-License-Identifier: Apache-2.0
#include "guard/kernel_state.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>

#include <fmt/format.h>

namespace vfsguard::guard {

namespace {

// Numbers as such; what is longer by how much of it differs.
std::string as_text(std::span<const std::byte> value) {
  std::uint64_t number = 0;
  if (value.size() > sizeof number) {
    return fmt::format("{} bytes", value.size());
  }
  std::memcpy(&number, value.data(), value.size());
  return number > 0xffff'ffff ? fmt::format("{:#x}", number) : std::to_string(number);
}

std::string found_text(std::span<const std::byte> expected, std::span<const std::byte> found) {
  if (found.size() <= sizeof(std::uint64_t)) {
    return as_text(found);
  }
  std::size_t differ = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    differ += found[i] != expected[i] ? 1 : 0;
  }
  return fmt::format("{} of them changed", differ);
}

}  // namespace

void Entries::sort(Bytes& entries) const {
  const std::size_t size = entry_size();
  const std::size_t count = entries.size() / size;
  std::vector<std::uint32_t> order(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    order[i] = i;
  }
  std::ranges::sort(order, [&](std::uint32_t a, std::uint32_t b) { return std::memcmp(&entries[a * size], &entries[b * size], key_size_) < 0; });
  Bytes sorted;
  sorted.reserve(count * size);
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::byte* const entry = &entries[order[i] * size];
    // A map that is being filled can hand out an entry twice.
    if (!sorted.empty() && std::memcmp(&sorted[sorted.size() - size], entry, key_size_) == 0) {
      continue;
    }
    sorted.insert(sorted.end(), entry, entry + size);
  }
  entries = std::move(sorted);
}

void Entries::take(Bytes all) {
  sort(all);
  all.shrink_to_fit();
  known_ = std::move(all);
}

void Entries::set(std::span<const std::byte> key, std::span<const std::byte> value) {
  const std::size_t size = entry_size();
  std::size_t at = 0;
  while (at < known_.size() && std::memcmp(&known_[at], key.data(), key_size_) < 0) {
    at += size;
  }
  if (at == known_.size() || std::memcmp(&known_[at], key.data(), key_size_) != 0) {
    known_.insert(known_.begin() + static_cast<std::ptrdiff_t>(at), size, std::byte{0});
    std::memcpy(&known_[at], key.data(), key_size_);
  }
  std::memcpy(&known_[at + key_size_], value.data(), value_size_);
}

util::Result<Entries::Found> Entries::compare(MapEntries& map, const MayChange& may_change) {
  auto read = map.read();
  if (!read) {
    return util::pass_on(read.error());
  }
  Bytes now = std::move(*read);
  sort(now);
  Found found;
  const std::size_t size = entry_size();
  const auto key = [&](const std::byte* entry) { return std::span(entry, key_size_); };
  const auto value = [&](const std::byte* entry) { return std::span(entry + key_size_, value_size_); };
  const auto repair = [&](const util::Result<void>& done) {
    if (!done) {
      found.restored = false;
      found.why = done.error().message;
    }
  };
  Bytes merged;
  merged.reserve(std::max(now.size(), known_.size()));
  const auto keep = [&](const std::byte* entry) { merged.insert(merged.end(), entry, entry + size); };
  std::size_t a = 0;  // in known_
  std::size_t b = 0;  // in now
  while (a < known_.size() || b < now.size()) {
    const std::byte* const before = a < known_.size() ? &known_[a] : nullptr;
    const std::byte* const there = b < now.size() ? &now[b] : nullptr;
    const int order = before == nullptr ? 1 : there == nullptr ? -1 : std::memcmp(before, there, key_size_);
    if (order < 0) {
      a += size;
      if (may_change && may_change(before + key_size_, nullptr)) {
        continue;
      }
      ++found.gone;
      repair(map.put(key(before), value(before)));
      keep(before);
    } else if (order > 0) {
      b += size;
      if (may_change) {
        keep(there);
      } else {
        ++found.added;
        repair(map.remove(key(there)));
      }
    } else {
      a += size;
      b += size;
      const bool same = std::memcmp(before + key_size_, there + key_size_, value_size_) == 0;
      if (same || (may_change && may_change(before + key_size_, there + key_size_))) {
        keep(there);
      } else {
        ++found.changed;
        repair(map.put(key(before), value(before)));
        keep(before);
      }
    }
  }
  known_ = std::move(merged);
  return found;
}

void KernelState::add_memory(std::string_view map, std::string_view name, void* at, std::span<const std::byte> expected) {
  items_.push_back({Depth::kWords, [map = std::string(map), name = std::string(name), at, expected = Bytes(expected.begin(), expected.end())] {
                      Bytes found(expected.size());
                      std::memcpy(found.data(), at, found.size());
                      if (found == expected) {
                        return std::optional<Change>();
                      }
                      std::memcpy(at, expected.data(), expected.size());
                      return std::optional(Change{.map = map,
                                                  .what = "word " + name,
                                                  .expected = as_text(expected),
                                                  .found = found_text(expected, found),
                                                  .restored = std::memcmp(at, expected.data(), expected.size()) == 0});
                    }});
}

void KernelState::add_counter(std::string_view map, std::string_view name, std::uint32_t& word, std::uint32_t& seen) {
  items_.push_back({Depth::kWords, [map = std::string(map), name = std::string(name), &word, &seen] {
                      const std::atomic_ref now(word);
                      const std::uint32_t found = now.load();
                      if (found >= seen) {
                        seen = found;
                        return std::optional<Change>();
                      }
                      Change change{.map = map, .what = "word " + name, .expected = fmt::format("at least {}", seen), .found = std::to_string(found)};
                      ++seen;
                      now.store(seen);
                      change.restored = now.load() >= seen;
                      return std::optional(std::move(change));
                    }});
}

void KernelState::add_contents(std::string_view map, std::string_view name, Contents contents) {
  items_.push_back({Depth::kAll, [map = std::string(map), name = std::string(name), contents = std::move(contents)] {
                      std::string found = contents.digest();
                      if (found == contents.expected) {
                        return std::optional<Change>();
                      }
                      Change change{.map = map, .what = name, .expected = contents.expected, .found = std::move(found)};
                      if (auto done = contents.restore(); !done) {
                        change.why = done.error().message;
                      } else {
                        change.restored = contents.digest() == contents.expected;
                      }
                      return std::optional(std::move(change));
                    }});
}

void KernelState::add_entries(std::string_view map, Entries& known, MapEntries& entries, Entries::MayChange may_change) {
  items_.push_back({Depth::kAll, [map = std::string(map), &known, &entries, may_change = std::move(may_change)] {
                      Change change{.map = map, .what = "entries " + map, .expected = fmt::format("{} entries", known.size())};
                      auto found = known.compare(entries, may_change);
                      if (!found) {
                        change.found = found.error().message;
                        return std::optional(std::move(change));
                      }
                      if (!found->any()) {
                        return std::optional<Change>();
                      }
                      change.found = fmt::format("{} gone, {} changed, {} added", found->gone, found->changed, found->added);
                      change.restored = found->restored;
                      change.why = found->why;
                      return std::optional(std::move(change));
                    }});
}

std::vector<Change> KernelState::check(Depth depth) const {
  std::vector<Change> changes;
  for (const Item& item : items_) {
    if (item.depth > depth) {
      continue;
    }
    if (auto change = item.look()) {
      changes.push_back(std::move(*change));
    }
  }
  return changes;
}

namespace {

constexpr std::uint64_t kMillisecond = 1'000'000;
// The last one is repeated for as long as somebody may write.
constexpr std::array<std::uint64_t, 3> kAfter{50 * kMillisecond, 500 * kMillisecond, 1000 * kMillisecond};

}  // namespace

void Followups::begin(std::uint64_t now_ns) {
  // Whoever opens maps all the time does not keep the agent busy with comparing.
  due_ns_ = due_ns_ == 0 || step_ > 1 ? now_ns : std::min(due_ns_, now_ns + kAfter[0]);
  step_ = 0;
}

void Followups::done(std::uint64_t now_ns, bool may_write) {
  if (due_ns_ == 0 || now_ns < due_ns_) {
    return;
  }
  if (step_ >= kAfter.size() - 1 && !may_write) {
    due_ns_ = 0;
    return;
  }
  due_ns_ = now_ns + kAfter[std::min(step_, kAfter.size() - 1)];
  ++step_;
}

}  // namespace vfsguard::guard
