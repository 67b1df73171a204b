// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bpf/libbpf.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "util/fd.h"
#include "util/mapping.h"
#include "util/result.h"

struct bpf_object;

namespace vfsguard::sensor {

/// An object of bpftool's skeleton, until it is loaded: `Skeleton<x_bpf>(x_bpf__open(), x_bpf__destroy)`.
template <typename Object>
using Skeleton = std::unique_ptr<Object, void (*)(Object*)>;

/// Opens the skeleton NAME of one of its two variants: the object itself where the kernel has bpf_rdonly_cast, else
/// NAME_probe, compiled of the same source and so with the same programs, maps and sections. Null: errno says why.
#define VFSGUARD_OPEN_VARIANT(name, direct) ::vfsguard::sensor::open_variant<name##_bpf>(name##_bpf__create_skeleton, name##_probe_bpf__elf_bytes, (direct))

template <typename Object>
Object* open_variant(int (*create)(Object*), const void* (*probe_bytes)(std::size_t*), bool direct) {
  static_assert(std::is_trivial_v<Object>);
  auto* object = static_cast<Object*>(std::calloc(1, sizeof(Object)));
  if (object == nullptr) {
    return nullptr;
  }
  if (const int code = create(object); code != 0) {
    std::free(object);
    errno = -code;
    return nullptr;
  }
  if (!direct) {
    std::size_t size = 0;
    object->skeleton->data = const_cast<void*>(probe_bytes(&size));
    object->skeleton->data_sz = size;
  }
  if (const int code = bpf_object__open_skeleton(object->skeleton, nullptr); code != 0) {
    bpf_object__destroy_skeleton(object->skeleton);
    std::free(object);
    errno = -code;
    return nullptr;
  }
  return object;
}

/// What is used of a BPF object once it is in the kernel: its programs and maps, by descriptors of its own, and the sections that it shares with
/// its programs. libbpf's object, with type information, relocations and the instructions of every program well over a megabyte, can be closed
/// then. Descriptors close with this; what is attached or pinned stays in the kernel without them.
class Loaded {
 public:
  struct Program {
    std::string name;
    std::string section;
    std::uint32_t type = 0;  // enum bpf_prog_type
    util::UniqueFd fd;
  };
  struct Map {
    std::string name;
    std::uint32_t type = 0;  // enum bpf_map_type
    std::uint32_t key_size = 0;
    std::uint32_t value_size = 0;
    std::uint32_t max_entries = 0;
    bool section = false;  // .bss, .data, .rodata
    util::UniqueFd fd;
  };

  /// Of an object that libbpf has loaded; what it was told not to load or create is left out.
  [[nodiscard]] static util::Result<Loaded> of(const bpf_object* object);

  [[nodiscard]] const std::vector<Program>& programs() const { return programs_; }
  [[nodiscard]] const std::vector<Map>& maps() const { return maps_; }
  /// By name; one without a descriptor when there is none.
  [[nodiscard]] const Program& program(std::string_view name) const;
  [[nodiscard]] const Map& map(std::string_view name) const;
  /// Descriptors of these.
  [[nodiscard]] int program_fd(std::string_view name) const { return program(name).fd.get(); }
  [[nodiscard]] int map_fd(std::string_view name) const { return map(name).fd.get(); }
  /// Runs a SEC("syscall") program on this context, which it reads and may write. False: it could not be run, or did not return 0.
  template <typename Context>
  [[nodiscard]] bool run(std::string_view name, Context& context) const {
    return run(name, &context, sizeof context);
  }

  /// The sections as bpftool's skeleton declares them, shared with the kernel. No `const` of its own: whoever may read these may write them.
  template <typename Bss>
  [[nodiscard]] Bss& bss() const {
    return *bss_.as<Bss>();
  }
  template <typename Data>
  [[nodiscard]] Data& data() const {
    return *data_.as<Data>();
  }

 private:
  [[nodiscard]] bool run(std::string_view name, void* context, std::size_t size) const;

  std::vector<Program> programs_;
  std::vector<Map> maps_;
  util::Mapping bss_;
  util::Mapping data_;
};

}  // namespace vfsguard::sensor
