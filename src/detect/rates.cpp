// SPDX-License-Identifier: Apache-2.0
#include "detect/rates.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace vfsguard::detect {

namespace {

constexpr std::size_t kIndexAtLeast = 16;

std::uint32_t largest(std::size_t count_size) { return count_size == 4 ? ~0u : (1u << (8 * count_size)) - 1; }

}  // namespace

Rates::Rates(std::uint64_t width_ns, double most)
    : width_ns_(std::max<std::uint64_t>(width_ns, 1)),
      count_size_(most < largest(1)   ? 1
                  : most < largest(2) ? 2
                                      : 4),  // a part that is full is more than `most` by itself
      stride_(sizeof(Slot) + kBuckets * count_size_) {}

Rates::Slot& Rates::at(std::uint32_t slot) const { return *std::launder(reinterpret_cast<Slot*>(blocks_[slot / kBlock].get() + slot % kBlock * stride_)); }

std::byte* Rates::counts(std::uint32_t slot) const { return blocks_[slot / kBlock].get() + slot % kBlock * stride_ + sizeof(Slot); }

std::uint32_t Rates::get(std::uint32_t slot, std::size_t part) const {
  std::uint32_t value = 0;  // x86-64: the lowest byte comes first
  std::memcpy(&value, counts(slot) + part * count_size_, count_size_);
  return value;
}

void Rates::set(std::uint32_t slot, std::size_t part, std::uint32_t value) { std::memcpy(counts(slot) + part * count_size_, &value, count_size_); }

// Where the key's slot number stands in the index, or would.
std::size_t Rates::find(const Key& key) const {
  std::size_t place = home(key);
  while (index_[place] != kNone && at(index_[place]).key != key) {
    place = (place + 1) & (index_.size() - 1);
  }
  return place;
}

void Rates::grow() {
  std::vector<std::uint32_t> before(std::max(index_.size() * 2, kIndexAtLeast), kNone);
  before.swap(index_);
  for (const std::uint32_t slot : before) {
    if (slot != kNone) {
      index_[find(at(slot).key)] = slot;
    }
  }
}

void Rates::unchain(std::uint32_t slot) {
  const Slot& s = at(slot);
  (s.newer == kNone ? newest_ : at(s.newer).older) = s.older;
  (s.older == kNone ? oldest_ : at(s.older).newer) = s.newer;
}

void Rates::chain(std::uint32_t slot) {
  Slot& s = at(slot);
  s.newer = kNone;
  s.older = newest_;
  (newest_ == kNone ? oldest_ : at(newest_).newer) = slot;
  newest_ = slot;
}

std::uint32_t Rates::make(const Key& key, std::uint64_t time_ns) {
  if (free_ == kNone) {
    const auto first = static_cast<std::uint32_t>(blocks_.size() * kBlock);
    blocks_.push_back(std::make_unique_for_overwrite<std::byte[]>(kBlock * stride_));
    for (std::uint32_t i = kBlock; i-- > 0;) {
      new (blocks_.back().get() + i * stride_) Slot{.older = free_};
      free_ = first + i;
    }
  }
  const std::uint32_t slot = free_;
  free_ = at(slot).older;
  at(slot) = Slot{.key = key, .newest = number(time_ns)};
  std::memset(counts(slot), 0, kBuckets * count_size_);
  ++used_;
  return slot;
}

std::uint32_t Rates::touch(const Key& key, std::uint64_t time_ns) {
  if (used_ + 1 > index_.size() / 4 * 3) {
    grow();
  }
  const std::size_t place = find(key);
  std::uint32_t slot = index_[place];
  if (slot != kNone) {
    unchain(slot);
  } else {
    slot = make(key, time_ns);
    index_[place] = slot;
  }
  chain(slot);
  return slot;
}

void Rates::count(std::uint32_t slot, std::uint64_t time_ns) {
  Slot& s = at(slot);
  const std::uint32_t now = number(time_ns);
  const auto ahead = static_cast<std::int32_t>(now - s.newest);
  if (ahead >= static_cast<std::int32_t>(kBuckets)) {
    std::memset(counts(slot), 0, kBuckets * count_size_);
  }
  for (std::int32_t i = 1; i <= ahead && ahead < static_cast<std::int32_t>(kBuckets); ++i) {
    set(slot, (s.newest + static_cast<std::uint32_t>(i)) % kBuckets, 0);
  }
  if (ahead > 0) {
    s.newest = now;
  }
  if (ahead > -static_cast<std::int32_t>(kBuckets)) {
    const std::uint32_t before = get(slot, now % kBuckets);
    set(slot, now % kBuckets, before + (before < largest(count_size_) ? 1 : 0));
  }
}

std::uint64_t Rates::total(std::uint32_t slot) const {
  std::uint64_t sum = 0;
  for (std::size_t part = 0; part < kBuckets; ++part) {
    sum += get(slot, part);
  }
  return sum;
}

std::uint64_t Rates::newest_ns(std::uint32_t slot, std::uint64_t now_ns) const {
  const auto behind = static_cast<std::int32_t>(number(now_ns) - at(slot).newest);
  const std::uint64_t begin = now_ns / width_ns_ * width_ns_;
  return behind < 0 ? begin : begin - std::min<std::uint64_t>(begin, static_cast<std::uint64_t>(behind) * width_ns_);
}

// What stood behind it because its own place was taken moves up (Knuth, The Art of Computer Programming 3, 6.4, algorithm R).
void Rates::erase(std::uint32_t slot) {
  std::size_t hole = find(at(slot).key);
  index_[hole] = kNone;
  for (std::size_t place = (hole + 1) & (index_.size() - 1); index_[place] != kNone; place = (place + 1) & (index_.size() - 1)) {
    const std::size_t from_home = (place - home(at(index_[place]).key)) & (index_.size() - 1);
    if (from_home >= ((place - hole) & (index_.size() - 1))) {
      index_[hole] = std::exchange(index_[place], kNone);
      hole = place;
    }
  }
  unchain(slot);
  at(slot).older = free_;
  free_ = slot;
  --used_;
}

void Rates::clear() {
  blocks_.clear();
  index_.clear();
  used_ = 0;
  free_ = newest_ = oldest_ = kNone;
}

}  // namespace vfsguard::detect
