// SPDX-License-Identifier: Apache-2.0
#include "sensor/map_access.h"

#include <bpf/bpf.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "util/sha256.h"

namespace vfsguard::sensor {

namespace {

std::string digest_of(const guard::Bytes& value) {
  util::Sha256 sha;
  sha.update({reinterpret_cast<const char*>(value.data()), value.size()});
  const auto hex = sha.hex();
  return hex ? fmt::format("sha256:{}", std::string_view(hex->data(), hex->size())) : "no digest";
}

}  // namespace

util::Result<guard::Bytes> HashEntries::read() const {
  constexpr __u32 kAtOnce = 256;
  __u32 batch_size = kAtOnce;  // more where a bucket of the table holds more
  guard::Bytes keys;
  guard::Bytes values;
  guard::Bytes all;
  __u64 in = 0;
  __u64 out = 0;
  bool first = true;
  for (;;) {
    keys.resize(batch_size * key_size_);
    values.resize(batch_size * value_size_);
    __u32 count = batch_size;
    const int code = bpf_map_lookup_batch(fd_, first ? nullptr : &in, &out, keys.data(), values.data(), &count, nullptr);
    if (code == -ENOSPC && batch_size < 65536) {
      batch_size *= 2;
      continue;
    }
    if (code != 0 && code != -ENOENT) {
      return util::fail_errno(EX_OSERR, "cannot read the entries of a map", -code);
    }
    for (__u32 i = 0; i < count; ++i) {
      all.insert(all.end(), &keys[i * key_size_], &keys[i * key_size_] + key_size_);
      all.insert(all.end(), &values[i * value_size_], &values[i * value_size_] + value_size_);
    }
    if (code == -ENOENT) {
      return all;
    }
    in = out;
    first = false;
  }
}

util::Result<void> HashEntries::put(std::span<const std::byte> key, std::span<const std::byte> value) {
  const int code = bpf_map_update_elem(fd_, key.data(), value.data(), BPF_ANY);
  return code == 0 ? util::Result<void>{} : util::fail_errno(EX_OSERR, "cannot write an entry back", -code);
}

util::Result<void> HashEntries::remove(std::span<const std::byte> key) {
  const int code = bpf_map_delete_elem(fd_, key.data());
  return code == 0 || code == -ENOENT ? util::Result<void>{} : util::fail_errno(EX_OSERR, "cannot remove an entry", -code);
}

Image Image::of(std::span<const std::byte> value, std::size_t value_size) {
  Image image;
  guard::Bytes whole(value.begin(), value.begin() + static_cast<std::ptrdiff_t>(std::min(value.size(), value_size)));
  image.copied_ = std::max<std::size_t>(whole.size(), 1);
  image.value_size_ = value_size;
  whole.resize(image.copied_);
  LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = BPF_F_RDONLY_PROG);
  image.copy_.reset(bpf_map_create(BPF_MAP_TYPE_ARRAY, "vg_copy", sizeof(__u32), static_cast<__u32>(image.copied_), 1, &options));
  const __u32 zero = 0;
  if (image.copy_ && (bpf_map_update_elem(image.copy_.get(), &zero, whole.data(), BPF_ANY) != 0 || bpf_map_freeze(image.copy_.get()) != 0)) {
    image.copy_.reset();
  }
  whole.resize(value_size);
  image.digest_ = digest_of(whole);
  return image;
}

util::Result<void> Image::restore(int map_fd, std::uint32_t index) const {
  const __u32 zero = 0;
  // The kernel hands out values in multiples of 8 bytes.
  guard::Bytes whole(std::max(value_size_, (copied_ + 7) / 8 * 8));
  if (!copy_ || bpf_map_lookup_elem(copy_.get(), &zero, whole.data()) != 0) {
    return util::fail_errno(EX_OSERR, "there is no copy to restore it from", copy_ ? errno : ENOENT);
  }
  if (const int code = bpf_map_update_elem(map_fd, &index, whole.data(), BPF_ANY); code != 0) {
    return util::fail_errno(EX_OSERR, "cannot write it back", -code);
  }
  return {};
}

void Image::register_at(guard::KernelState& state, std::string_view map, std::string_view name, int map_fd, std::uint32_t index) const {
  state.add_contents(map, name,
                     {.expected = digest_,
                      .digest =
                          [this, map_fd, index] {
                            guard::Bytes value(value_size_);
                            const int code = bpf_map_lookup_elem(map_fd, &index, value.data());
                            return code == 0 ? digest_of(value) : fmt::format("the kernel does not say: {}", util::errno_text(-code));
                          },
                      .restore = [this, map_fd, index] { return restore(map_fd, index); }});
}

}  // namespace vfsguard::sensor
