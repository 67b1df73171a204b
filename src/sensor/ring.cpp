// SPDX-License-Identifier: Apache-2.0
#include "sensor/ring.h"

#include <linux/bpf.h>
#include <sys/mman.h>
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

void* map_of(int map, std::size_t size, int rights, std::size_t offset) { return mmap(nullptr, size, rights, MAP_SHARED, map, static_cast<off_t>(offset)); }

}  // namespace

util::Result<Ring> Ring::open(int map, std::size_t size) {
  Ring ring;
  ring.map_ = map;
  ring.size_ = size;
  // The consumer's position, the producer's, the data, the data once more.
  if (void* page = map_of(map, page_size(), PROT_READ | PROT_WRITE, 0); page != MAP_FAILED) {
    ring.consumer_ = static_cast<std::uint64_t*>(page);
  }
  if (void* page = map_of(map, page_size(), PROT_READ, page_size()); page != MAP_FAILED) {
    ring.producer_ = static_cast<const std::uint64_t*>(page);
  }
  if (ring.consumer_ == nullptr || ring.producer_ == nullptr) {
    return util::fail_errno(EX_OSERR, "cannot map the ring buffer");
  }
  return ring;
}

Ring::Ring(Ring&& other) noexcept { *this = std::move(other); }

Ring& Ring::operator=(Ring&& other) noexcept {
  if (this != &other) {
    unmap();
    map_ = std::exchange(other.map_, -1);
    size_ = other.size_;
    consumer_ = std::exchange(other.consumer_, nullptr);
    producer_ = std::exchange(other.producer_, nullptr);
    position_ = other.position_;
    length_ = other.length_;
    window_ = std::exchange(other.window_, nullptr);
    window_begin_ = other.window_begin_;
    window_size_ = std::exchange(other.window_size_, 0);
  }
  return *this;
}

Ring::~Ring() { unmap(); }

void Ring::unmap() {
  if (consumer_ != nullptr) {
    munmap(consumer_, page_size());
  }
  if (producer_ != nullptr) {
    munmap(const_cast<std::uint64_t*>(producer_), page_size());  // NOLINT(cppcoreguidelines-pro-type-const-cast): it takes an address
  }
  if (window_ != nullptr) {
    munmap(window_, window_size_);
  }
}

util::Result<const std::byte*> Ring::at(std::uint64_t position, std::size_t bytes) {
  const std::size_t offset = position & (size_ - 1);
  if (window_ == nullptr || offset < window_begin_ || offset + bytes > window_begin_ + window_size_) {
    const std::size_t begin = offset & ~(page_size() - 1);
    const std::size_t whole = (offset - begin + bytes + page_size() - 1) & ~(page_size() - 1);
    if (window_ != nullptr) {
      munmap(std::exchange(window_, nullptr), window_size_);
    }
    window_size_ = std::max(whole, std::min(kWindow, size_));  // the data is there twice: what begins in it once does not end behind it
    window_begin_ = begin;
    void* window = map_of(map_, window_size_, PROT_READ, 2 * page_size() + begin);
    if (window == MAP_FAILED) {
      return util::fail_errno(EX_OSERR, "cannot map the ring buffer");
    }
    window_ = static_cast<std::byte*>(window);
  }
  return window_ + (offset - window_begin_);
}

void Ring::find_position() { position_ = __atomic_load_n(consumer_, __ATOMIC_ACQUIRE); }

util::Result<std::span<const std::byte>> Ring::next() {
  // Read again behind every record: the kernel wakes nobody for what it adds while a reader has not caught up.
  while (position_ != __atomic_load_n(producer_, __ATOMIC_ACQUIRE)) {
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
  __atomic_store_n(consumer_, position_, __ATOMIC_RELEASE);
}

}  // namespace vfsguard::sensor
