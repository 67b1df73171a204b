// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "util/mapping.h"
#include "util/result.h"

namespace vfsguard::sensor {

/// The consumer's side of a BPF ring buffer (BPF_MAP_TYPE_RINGBUF; layout and protocol: kernel/bpf/ringbuf.c and
/// Documentation/bpf/ringbuf.rst), through a window: of the ring's pages only those about to be read are mapped. A ring that is mapped as a
/// whole, twice in a row as the kernel offers it, counts in this process with all its pages two times over from the start.
///
/// One reads at a time. Records are handed out in the order in which they were reserved, each whole, from the kernel's own memory.
class Ring {
 public:
  /// Of the map `map`, which must be of `size` bytes and stay open as long as this is used.
  [[nodiscard]] static util::Result<Ring> open(int map, std::size_t size);

  /// Calls `each(std::span<const std::byte>)` for what is there, until it answers false or no record is left; what was handed out is free for
  /// the kernel afterwards. `each` does not call this of the same ring.
  template <typename Each>
  [[nodiscard]] util::Result<void> consume(Each&& each) {
    find_position();
    for (bool more = true; more;) {
      const auto record = next();
      if (!record) {
        return util::pass_on(record.error());
      }
      if (record->data() == nullptr) {
        break;
      }
      more = each(*record);
      release();
    }
    return {};
  }

  /// How many bytes have been reserved in it, and how many of these read, since the ring was made.
  [[nodiscard]] std::uint64_t reserved() const;
  [[nodiscard]] std::uint64_t read() const;

  /// Readable by poll(2) when records are there; the map's own.
  [[nodiscard]] int fd() const { return map_; }

 private:
  Ring() = default;
  /// Others may have read since: a reload opens the ring anew while the one before still reads.
  void find_position();
  /// The next record that is complete, past those that were discarded; without data when there is none.
  util::Result<std::span<const std::byte>> next();
  void release();
  /// Where `bytes` of the ring from `position` on are mapped.
  util::Result<const std::byte*> at(std::uint64_t position, std::size_t bytes);
  int map_ = -1;
  std::size_t size_ = 0;
  util::Mapping consumer_;  // its position: a page of its own, which the kernel reads
  util::Mapping producer_;  // likewise, which it writes
  util::Mapping window_;    // of the data
  std::size_t window_begin_ = 0;
  std::uint64_t position_ = 0;  // of the next record, since the ring was made
  std::size_t length_ = 0;      // of the record that is handed out, with its header
};

}  // namespace vfsguard::sensor
