// SPDX-License-Identifier: Apache-2.0
#include "sensor/loaded.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <sysexits.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace vfsguard::sensor {

namespace {

util::UniqueFd own(int fd) { return util::UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

}  // namespace

util::Result<Loaded> Loaded::of(const bpf_object* object) {
  Loaded loaded;
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object) {
    if (const int fd = bpf_program__fd(program); fd >= 0) {
      const auto& added = loaded.programs_.emplace_back(bpf_program__name(program), bpf_program__section_name(program),
                                                        static_cast<std::uint32_t>(bpf_program__type(program)), own(fd));
      if (!added.fd) {
        return util::fail_errno(EX_OSERR, "cannot keep a program's descriptor");
      }
    }
  }
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    const int fd = bpf_map__fd(map);
    if (fd < 0) {
      continue;
    }
    std::string name = bpf_map__name(map);
    if (bpf_map__is_internal(map)) {
      name.erase(0, std::min(name.find('.'), name.size()));  // libbpf puts the object's name before it
    }
    const auto& added = loaded.maps_.emplace_back(std::move(name), static_cast<std::uint32_t>(bpf_map__type(map)), bpf_map__key_size(map),
                                                  bpf_map__value_size(map), bpf_map__max_entries(map), bpf_map__is_internal(map), own(fd));
    if (!added.fd) {
      return util::fail_errno(EX_OSERR, "cannot keep a map's descriptor");
    }
    for (const auto& [section, memory] : {std::pair(".bss", &loaded.bss_), std::pair(".data", &loaded.data_)}) {
      if (!added.section || added.name != section) {
        continue;
      }
      *memory = util::Mapping(added.fd.get(), added.value_size, PROT_READ | PROT_WRITE);
      if (!*memory) {
        return util::fail_errno(EX_OSERR, fmt::format("cannot map {}", added.name));
      }
    }
  }
  return loaded;
}

const Loaded::Program& Loaded::program(std::string_view name) const {
  const auto found = std::ranges::find(programs_, name, &Program::name);
  static const Program kNone;
  return found == programs_.end() ? kNone : *found;
}

const Loaded::Map& Loaded::map(std::string_view name) const {
  const auto found = std::ranges::find(maps_, name, &Map::name);
  static const Map kNone;
  return found == maps_.end() ? kNone : *found;
}

bool Loaded::run(std::string_view name, void* context, std::size_t size) const {
  LIBBPF_OPTS(bpf_test_run_opts, run);
  run.ctx_in = context;  // and out again, by the same address
  run.ctx_size_in = static_cast<__u32>(size);
  return bpf_prog_test_run_opts(program_fd(name), &run) == 0 && run.retval == 0;
}

}  // namespace vfsguard::sensor
