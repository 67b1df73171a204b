// SPDX-License-Identifier: Apache-2.0
#include "sensor/inventory.h"

#include <bpf/bpf.h>

#include <charconv>
#include <string_view>
#include <utility>
#include <optional>

#include <fmt/format.h>

#include "abi/guard.h"
#include "sensor/loaded.h"
#include "util/read_file.h"
#include "util/result.h"

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

std::map<std::uint64_t, std::string> ids_of(const Inventory& inventory) {
  constexpr std::pair<std::string_view, std::uint32_t> kKinds[] = {{"map ", VG_GUARDED_MAP}, {"program ", VG_GUARDED_PROGRAM}, {"link ", VG_GUARDED_LINK}};
  constexpr std::string_view kId = "id ";
  std::map<std::uint64_t, std::string> ids;
  for (const auto& [name, value] : inventory) {
    for (const auto& [prefix, kind] : kKinds) {
      std::uint32_t id = 0;
      if (name.starts_with(prefix) && value.starts_with(kId) && std::from_chars(value.data() + kId.size(), value.data() + value.size(), id).ec == std::errc{}) {
        ids.emplace(VG_GUARDED_KEY(kind, id), name);
      }
    }
  }
  return ids;
}

}  // namespace vfsguard::sensor
