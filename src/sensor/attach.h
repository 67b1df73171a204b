// SPDX-License-Identifier: Apache-2.0
// What holds programs in their places: links, as descriptors. Without the last of its descriptors, unless it is pinned, a link goes.
#pragma once

#include <vector>

#include "sensor/call_functions.h"
#include "sensor/kprobe_events.h"
#include "sensor/loaded.h"
#include "util/fd.h"
#include "util/result.h"

struct bpf_program;

namespace vfsguard::sensor {

using Link = util::UniqueFd;

struct KernelFacts;

// Whether programs can be put on functions at all.
bool kprobes_usable(const KernelFacts& facts);

// Whether the kernel lets kprobe programs answer for a function (CONFIG_BPF_KPROBE_OVERRIDE): tried by loading one. libbpf's own probe of helpers goes by
// the verifier's words, which changed.
bool overrides_load();

// To be called before loading: a program of SEC("kprobe.multi") for a kernel without fprobes.
void fit_to_kprobes(bpf_program* program, bool fprobe);

// A program whose section names its place: LSM hooks, tracepoints by type information, raw tracepoints (or, of these, another one).
util::Result<Link> attach_program(const Loaded::Program& program, const char* tracepoint = nullptr);

// A kprobe program on many functions at once: by one link where the kernel has fprobes, else by a kprobe event each. Adds to `links` (and to
// `events`, without fprobes) what holds it there.
util::Result<void> attach_probes(const Loaded::Program& program, const std::vector<Probe>& probes, bool returns, bool fprobe, KprobeEvents& events,
                                 std::vector<Link>& links);

}  // namespace vfsguard::sensor
