// SPDX-License-Identifier: Apache-2.0
// What decides in the kernel and can be written to by root through bpf(2): words in .bss and .data,
// values and entries of maps. Compared with what user space knows to be right, and written back.
//
// The objects that own the maps keep what is expected (an Entries, an image, their own members) and
// register it anew for each check, so a KernelState never outlives what it refers to. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "util/result.h"

namespace vfsguard::guard {

using Bytes = std::vector<std::byte>;

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

// The entries of a map, by system calls or, in tests, without.
class MapEntries {
 public:
  virtual ~MapEntries() = default;
  // Each key with its value behind it, in any order.
  [[nodiscard]] virtual util::Result<Bytes> read() const = 0;
  virtual util::Result<void> put(std::span<const std::byte> key, std::span<const std::byte> value) = 0;
  virtual util::Result<void> remove(std::span<const std::byte> key) = 0;
};

// What a map of fixed-size entries is known to hold, kept in user space.
class Entries {
 public:
  // Whether the programs themselves turned one value into the other; `now` null: removed the entry.
  using MayChange = std::function<bool(const std::byte* before, const std::byte* now)>;

  Entries(std::size_t key_size, std::size_t value_size) : key_size_(key_size), value_size_(value_size) {}

  // User space put this entry there.
  void set(std::span<const std::byte> key, std::span<const std::byte> value);
  // The map holds what it should now, after a change by user space.
  void take(Bytes all);
  [[nodiscard]] std::size_t size() const { return known_.size() / entry_size(); }

  struct Found {
    std::size_t gone = 0;
    std::size_t changed = 0;
    std::size_t added = 0;
    bool restored = true;
    std::string why;  // not restored
    [[nodiscard]] bool any() const { return gone + changed + added != 0; }
  };
  // Programs add entries, and change them as `may_change` allows: such entries are taken over.
  // Without it user space alone writes the map, and what else is there is removed.
  util::Result<Found> compare(MapEntries& map, const MayChange& may_change);

 private:
  [[nodiscard]] std::size_t entry_size() const { return key_size_ + value_size_; }
  void sort(Bytes& entries) const;

  std::size_t key_size_;
  std::size_t value_size_;
  Bytes known_;  // sorted by key
};

// Something was not as expected.
struct Change {
  std::string map;   // "enforce/.bss"
  std::string what;  // "word enforce/decided_operations"
  std::string expected;
  std::string found;
  bool restored = false;
  std::string why;  // not restored
};

class KernelState {
 public:
  enum class Depth {
    kWords,  // what lies in shared memory: no system call
    kAll,
  };

  // Memory that is shared with programs and that user space alone writes.
  void add_memory(std::string_view map, std::string_view name, void* at, std::span<const std::byte> expected);
  template <typename T>
  void add_word(std::string_view map, std::string_view name, T& word, std::type_identity_t<std::remove_volatile_t<T>> expected) {
    add_memory(map, name, const_cast<std::remove_volatile_t<T>*>(&word), bytes_of(expected));
  }
  // A word that programs raise and nobody lowers. `seen` is the owner's: the highest value so far.
  // Restored to one more than that, so that no value comes twice.
  void add_counter(std::string_view map, std::string_view name, std::uint32_t& word, std::uint32_t& seen);

  // A value that only user space writes, known by a digest. `restore` writes the right one.
  struct Contents {
    std::string expected;
    std::function<std::string()> digest;
    std::function<util::Result<void>()> restore;
  };
  void add_contents(std::string_view map, std::string_view name, Contents contents);

  // All entries of a map. Both belong to the owner.
  void add_entries(std::string_view map, Entries& known, MapEntries& entries, Entries::MayChange may_change = {});

  // Compares, writes back what is wrong, and says what it was.
  [[nodiscard]] std::vector<Change> check(Depth depth) const;
  [[nodiscard]] std::size_t size() const { return items_.size(); }

 private:
  struct Item {
    Depth depth = Depth::kWords;
    std::function<std::optional<Change>()> look;
  };
  std::vector<Item> items_;
};

// When to compare again after somebody else got a descriptor of a map: what is written through it
// comes after that, and may come much later.
class Followups {
 public:
  // Compare now.
  void begin(std::uint64_t now_ns);
  // A comparison was made. `may_write`: somebody may still have a descriptor.
  void done(std::uint64_t now_ns, bool may_write);
  // 0: nothing is due.
  [[nodiscard]] std::uint64_t due_ns() const { return due_ns_; }

 private:
  std::uint64_t due_ns_ = 0;
  std::size_t step_ = 0;
};

}  // namespace vfsguard::guard
