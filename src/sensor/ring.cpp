// SPDX-License-Identifier: Apache-2.0
#include "sensor/ring.h"

#include <linux/bpf.h>
#include <sysexits.h>
#include <unistd.h>

#include <algorithm>

namespace vfsguard::sensor {

namespace {

constexpr std::size_t kWindow = std::size_t{64} << 10;

std::size_t page_size() {
  static const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

}  // namespace

util::Result<Ring> Ring::open(int map, std::size_t size) {
  Ring ring;
  ring.map_ = map;
  ring.size_ = size;
  // The consumer's position, the producer's, the data, the data once more.
  ring.consumer_ = util::Mapping(map, page_size(), PROT_READ | PROT_WRITE);
  ring.producer_ = util::Mapping(map, page_size(), PROT_READ, page_size());
  if (!ring.consumer_ || !ring.producer_) {
    return util::fail_errno(EX_OSERR, "cannot map the ring buffer");
  }
  return ring;
}

util::Result<const std::byte*> Ring::at(std::uint64_t position, std::size_t bytes) {
  const std::size_t offset = position & (size_ - 1);
  if (!window_ || offset < window_begin_ || offset + bytes > window_begin_ + window_.size()) {
    window_begin_ = offset & ~(page_size() - 1);
    const std::size_t whole = (offset - window_begin_ + bytes + page_size() - 1) & ~(page_size() - 1);
    const std::size_t size = std::max(whole, std::min(kWindow, size_));  // the data is there twice: what begins in it once does not end behind it
    window_ = util::Mapping(map_, size, PROT_READ, 2 * page_size() + window_begin_);
    if (!window_) {
      return util::fail_errno(EX_OSERR, "cannot map the ring buffer");
    }
  }
  return window_.as<const std::byte>() + (offset - window_begin_);
}

std::uint64_t Ring::reserved() const { return __atomic_load_n(producer_.as<const std::uint64_t>(), __ATOMIC_ACQUIRE); }

std::uint64_t Ring::read() const { return __atomic_load_n(consumer_.as<const std::uint64_t>(), __ATOMIC_ACQUIRE); }

void Ring::find_position() { position_ = read(); }

util::Result<std::span<const std::byte>> Ring::next() {
  // Read again behind every record: the kernel wakes nobody for what it adds while a reader has not caught up.
  while (position_ != reserved()) {
    const auto header = at(position_, BPF_RINGBUF_HDR_SZ);
    if (!header) {
      return util::pass_on(header.error());
    }
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): records are aligned to 8 bytes and begin with this
    const std::uint32_t word = __atomic_load_n(reinterpret_cast<const std::uint32_t*>(*header), __ATOMIC_ACQUIRE);
    if ((word & BPF_RINGBUF_BUSY_BIT) != 0) {
      break;
    }
    const std::size_t bytes = word & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
    length_ = (BPF_RINGBUF_HDR_SZ + bytes + 7) & ~std::size_t{7};
    if ((word & BPF_RINGBUF_DISCARD_BIT) != 0) {
      release();
      continue;
    }
    const auto record = at(position_, length_);
    if (!record) {
      return util::pass_on(record.error());
    }
    return std::span(*record + BPF_RINGBUF_HDR_SZ, bytes);
  }
  return std::span<const std::byte>();
}

void Ring::release() {
  position_ += length_;
  __atomic_store_n(consumer_.as<std::uint64_t>(), position_, __ATOMIC_RELEASE);
}

}  // namespace vfsguard::sensor
