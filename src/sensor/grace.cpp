// SPDX-License-Identifier: Apache-2.0
#include "sensor/grace.h"

#include <bpf/bpf.h>
#include <sysexits.h>

namespace vfsguard::sensor {

util::Result<Grace> Grace::open() {
  util::UniqueFd inner(bpf_map_create(BPF_MAP_TYPE_ARRAY, "grace_inner", sizeof(__u32), sizeof(__u32), 1, nullptr));
  if (!inner) {
    return util::fail_errno(EX_OSERR, "cannot create a map to wait by");
  }
  LIBBPF_OPTS(bpf_map_create_opts, options);
  options.inner_map_fd = static_cast<__u32>(inner.get());
  util::UniqueFd outer(bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "grace", sizeof(__u32), sizeof(__u32), 1, &options));
  if (!outer) {
    return util::fail_errno(EX_OSERR, "cannot create a map to wait by");
  }
  return Grace(std::move(outer), std::move(inner));
}

util::Result<void> Grace::wait() const {
  const __u32 zero = 0;
  const int inner = inner_.get();
  if (bpf_map_update_elem(outer_.get(), &zero, &inner, BPF_ANY) != 0) {
    return util::fail_errno(EX_OSERR, "cannot wait for the programs that run");
  }
  return {};
}

}  // namespace vfsguard::sensor
