// SPDX-License-Identifier: Apache-2.0
// Access to whole maps of the kernel's, for comparing and writing back (guard/kernel_state.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "guard/kernel_state.h"
#include "sensor/loaded.h"
#include "util/fd.h"
#include "util/result.h"

namespace vfsguard::sensor {

// The entries of a hash map. Borrows the descriptor.
class HashEntries final : public guard::MapEntries {
 public:
  HashEntries() = default;
  explicit HashEntries(const Loaded::Map& map) : fd_(map.fd.get()), key_size_(map.key_size), value_size_(map.value_size) {}

  [[nodiscard]] util::Result<guard::Bytes> read() const override;
  util::Result<void> put(std::span<const std::byte> key, std::span<const std::byte> value) override;
  util::Result<void> remove(std::span<const std::byte> key) override;

 private:
  int fd_ = -1;
  std::size_t key_size_ = 0;
  std::size_t value_size_ = 0;
};

// What user space put at an index of an array, so that it can be put there again: its digest, and a
// copy in a map of its own that is frozen, which neither bpf(2) nor a program can write to.
class Image {
 public:
  // `value` is padded with zeros to `value_size`. An image without a copy (the kernel had no room
  // for it) is compared and cannot be restored.
  static Image of(std::span<const std::byte> value, std::size_t value_size);

  void register_at(guard::KernelState& state, std::string_view map, std::string_view name, int map_fd, std::uint32_t index) const;

 private:
  [[nodiscard]] util::Result<void> restore(int map_fd, std::uint32_t index) const;

  std::string digest_;
  util::UniqueFd copy_;
  std::size_t copied_ = 0;
  std::size_t value_size_ = 0;
};

}  // namespace vfsguard::sensor
