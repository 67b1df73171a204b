// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <utility>

namespace vfsguard::util {

// Owns shared memory that a descriptor stands for. The mapping stays when the descriptor is closed.
class Mapping {
 public:
  Mapping() = default;
  // Empty, with errno, where it cannot be mapped.
  Mapping(int fd, std::size_t size, int rights, std::size_t offset = 0)
      : at_(mmap(nullptr, size, rights, MAP_SHARED, fd, static_cast<off_t>(offset))), size_(size) {
    if (at_ == MAP_FAILED) {
      at_ = nullptr;
    }
  }
  Mapping(Mapping&& other) noexcept : at_(std::exchange(other.at_, nullptr)), size_(other.size_) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(at_, other.at_);
    std::swap(size_, other.size_);
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (at_ != nullptr) {
      munmap(at_, size_);
    }
  }

  explicit operator bool() const { return at_ != nullptr; }
  [[nodiscard]] std::size_t size() const { return size_; }
  // As what lies at its beginning.
  template <typename T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(at_);
  }

 private:
  void* at_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace vfsguard::util
