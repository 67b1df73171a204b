// SPDX-License-Identifier: Apache-2.0
#include "sensor/inventory.h"

#include <bpf/bpf.h>

#include <optional>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "sensor/loaded.h"
#include "util/read_file.h"
#include "util/result.h"
#include "util/sha256.h"

namespace vfsguard::sensor {

namespace {

// Since 5.2 the kernel says so in fdinfo, and only there.
bool is_frozen(int fd) {
  const std::string info = util::read_file(fmt::format("/proc/self/fdinfo/{}", fd)).value_or("");
  return info.find("\nfrozen:\t1") != std::string::npos;
}

template <typename Info>
std::optional<Info> info_of(int fd) {
  Info info{};
  __u32 size = sizeof info;
  return bpf_obj_get_info_by_fd(fd, &info, &size) == 0 ? std::optional(info) : std::nullopt;
}

std::string why() { return fmt::format("the kernel does not say: {}", util::errno_text(errno)); }

}  // namespace

void add_program(Inventory& inventory, const std::string& owner, const std::string& name, int fd) {
  const auto info = info_of<bpf_prog_info>(fd);
  std::string& value = inventory[fmt::format("program {}/{}", owner, name)];
  if (!info) {
    value = why();
    return;
  }
  value = fmt::format("id {} tag ", info->id);
  for (const unsigned byte : info->tag) {
    value += fmt::format("{:02x}", byte);
  }
}

void add_link(Inventory& inventory, const std::string& owner, const std::string& name, int fd) {
  const auto info = info_of<bpf_link_info>(fd);
  std::string& value = inventory[fmt::format("link {}/{}", owner, name)];
  value = info ? fmt::format("id {} type {} program {}", info->id, info->type, info->prog_id) : why();
  if (info && info->type == BPF_LINK_TYPE_TRACING) {
    value += fmt::format(" at {}/{}", info->tracing.target_obj_id, info->tracing.target_btf_id);
  }
}

void add_object(Inventory& inventory, const std::string& owner, const Loaded& object) {
  for (const Loaded::Program& program : object.programs()) {
    add_program(inventory, owner, program.name, program.fd.get());
  }
  for (const Loaded::Map& map : object.maps()) {
    const auto info = info_of<bpf_map_info>(map.fd.get());
    inventory[fmt::format("map {}/{}", owner, map.name)] = info ? fmt::format("id {}{}", info->id, is_frozen(map.fd.get()) ? ", frozen" : "") : why();
  }
}

void add_contents(Inventory& inventory, const std::string& owner, int map_fd, std::uint32_t index, std::size_t value_size) {
  std::vector<char> value(value_size);
  std::string& digest = inventory["tables " + owner];
  if (bpf_map_lookup_elem(map_fd, &index, value.data()) != 0) {
    digest = why();
    return;
  }
  util::Sha256 sha;
  sha.update({value.data(), value.size()});
  const auto hex = sha.hex();
  digest = hex ? fmt::format("sha256:{}", std::string_view(hex->data(), hex->size())) : "no digest";
}

}  // namespace vfsguard::sensor
