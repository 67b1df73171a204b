// SPDX-License-Identifier: Apache-2.0
// Any bytes as a record out of the ring: decoded or refused, and what is decoded can be written.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "event/decode.h"
#include "output/format.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vfsguard;
  static output::JsonFormatter json(output::ClockKind::kBoottime, "fuzz");
  static output::TextFormatter text(output::ClockKind::kBoottime, false);
  const std::span<const std::byte> record(reinterpret_cast<const std::byte*>(data), size);
  const auto kind = event::record_kind(record);
  if (!kind) {
    return 0;
  }
  event::Operation operation;
  if (event::decode_operation(record, operation)) {
    std::string out;
    json.append(operation, out);
    if (out.find('\n') != out.size() - 1) {
      __builtin_trap();
    }
    out.clear();
    text.append(operation, out);
  }
  (void)event::decode_process(record);
  (void)event::decode_exit(record);
  return 0;
}

// Random bytes rarely make a valid header: begin from one, and let lengths and flags vary.
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned int seed) {
  size = LLVMFuzzerMutate(data, size, max_size);
  if (size >= sizeof(vg_event) && seed % 4 != 0) {
    auto* e = reinterpret_cast<vg_event*>(data);
    e->head.size = static_cast<vg_u32>(size);
    e->head.kind = static_cast<vg_u8>(1 + seed % 3);
    e->head.version = VG_ABI_VERSION;
    const std::size_t strings = size - sizeof(vg_event);
    e->path_len = static_cast<vg_u16>(strings / 3);
    e->raw_len = static_cast<vg_u16>(strings / 6);
    e->path2_len = static_cast<vg_u16>(strings / 4);
    e->raw2_len = static_cast<vg_u16>(strings / 8);
    e->cwd_len = static_cast<vg_u16>(strings - e->path_len - e->raw_len - e->path2_len - e->raw2_len);
  }
  return size;
}
