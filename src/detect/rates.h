// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace vfsguard::detect {

/// Moving counts, one a key: how often each happened within the last `kBuckets` parts of a timespan. A key takes 48, 64 or 96 bytes, by how far
/// it has to be counted, and 5 to 11 of the index: slots of one size in blocks, found by an open-addressed table of their numbers (linear probing),
/// and chained by when they were touched. Not for several threads.
class Rates {
 public:
  static constexpr std::size_t kBuckets = 16;
  static constexpr std::uint32_t kNone = ~0u;

  /// 128 bits stand for what the key is.
  struct Key {
    std::uint64_t high = 0;
    std::uint64_t low = 0;
    bool operator==(const Key&) const = default;
  };

  /// Parts of `width_ns` nanoseconds (at least one). Counts above `most` need not be exact.
  Rates(std::uint64_t width_ns, double most);

  /// The slot of a key, the latest touched from here on; made where there is none. Slots keep their numbers until they are erased.
  std::uint32_t touch(const Key& key, std::uint64_t time_ns);
  /// One more at this time; what is older than the parts reach is not counted.
  void count(std::uint32_t slot, std::uint64_t time_ns);
  /// In all parts together.
  [[nodiscard]] std::uint64_t total(std::uint32_t slot) const;
  void erase(std::uint32_t slot);
  void clear();

  /// What was touched longest ago; kNone where there is nothing.
  [[nodiscard]] std::uint32_t oldest() const { return oldest_; }
  /// When its newest part began, as seen from `now_ns`, which lies within 2^31 parts of it.
  [[nodiscard]] std::uint64_t newest_ns(std::uint32_t slot, std::uint64_t now_ns) const;

  /// A number of the caller's; 0 in a slot that was made.
  [[nodiscard]] std::uint32_t& mark(std::uint32_t slot) { return at(slot).mark; }

  [[nodiscard]] std::size_t size() const { return used_; }
  [[nodiscard]] std::size_t bytes() const { return used_ * stride_ + index_.size() * sizeof(std::uint32_t); }

 private:
  struct Slot {  // followed by the parts' counts
    Key key;
    std::uint32_t newer = kNone;
    std::uint32_t older = kNone;  // of a free one: the next free one
    std::uint32_t newest = 0;     // number of the newest part, the lowest 32 bits of it
    std::uint32_t mark = 0;
  };
  static constexpr std::size_t kBlock = 1024;  // slots

  [[nodiscard]] Slot& at(std::uint32_t slot) const;
  [[nodiscard]] std::byte* counts(std::uint32_t slot) const;
  [[nodiscard]] std::uint32_t get(std::uint32_t slot, std::size_t part) const;
  void set(std::uint32_t slot, std::size_t part, std::uint32_t value);
  [[nodiscard]] std::uint32_t number(std::uint64_t time_ns) const { return static_cast<std::uint32_t>(time_ns / width_ns_); }
  [[nodiscard]] std::size_t home(const Key& key) const { return (key.high ^ key.low >> 32) & (index_.size() - 1); }
  [[nodiscard]] std::size_t find(const Key& key) const;
  std::uint32_t make(const Key& key, std::uint64_t time_ns);
  void grow();
  void unchain(std::uint32_t slot);
  void chain(std::uint32_t slot);

  std::uint64_t width_ns_;
  std::size_t count_size_;  // bytes: 1, 2, 4
  std::size_t stride_;
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
  std::vector<std::uint32_t> index_;
  std::size_t used_ = 0;
  std::uint32_t free_ = kNone;
  std::uint32_t newest_ = kNone;
  std::uint32_t oldest_ = kNone;
};

}  // namespace vfsguard::detect
