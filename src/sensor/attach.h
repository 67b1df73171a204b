// SPDX-License-Identifier: Apache-2.0
// Kprobe programs on many functions at once: by one link where the kernel has fprobes, else by a kprobe event each.
#pragma once

#include <bpf/libbpf.h>

#include <memory>
#include <vector>

#include "sensor/call_functions.h"
#include "sensor/kprobe_events.h"
#include "util/result.h"

namespace vfsguard::sensor {

struct LinkDeleter {
  void operator()(bpf_link* link) const { bpf_link__destroy(link); }
};
using Link = std::unique_ptr<bpf_link, LinkDeleter>;

struct KernelFacts;

// Whether programs can be put on functions at all.
bool kprobes_usable(const KernelFacts& facts);

// Whether the kernel lets kprobe programs answer for a function (CONFIG_BPF_KPROBE_OVERRIDE): tried by loading one. libbpf's own probe of helpers goes by
// the verifier's words, which changed.
bool overrides_load();

// To be called before loading: a program of SEC("kprobe.multi") for a kernel without fprobes.
void fit_to_kprobes(bpf_program* program, bool fprobe);

// Adds to `links` (and to `events`, without fprobes) what holds the program there.
util::Result<void> attach_probes(bpf_program* program, const std::vector<Probe>& probes, bool returns, bool fprobe, KprobeEvents& events,
                                 std::vector<Link>& links);

}  // namespace vfsguard::sensor
