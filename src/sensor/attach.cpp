// SPDX-License-Identifier: Apache-2.0
#include "sensor/attach.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "sensor/kernel_facts.h"
#include "util/fd.h"

namespace vfsguard::sensor {

namespace {

util::Result<void> attach_one(const Loaded::Program& program, const Probe& probe, bool returns, KprobeEvents& events, std::vector<Link>& links) {
  auto perf = events.add({probe.symbol, returns, probe.cookie});
  if (!perf) {
    return util::pass_on(perf.error());
  }
  LIBBPF_OPTS(bpf_link_create_opts, options);
  options.perf_event.bpf_cookie = probe.cookie;
  Link link(bpf_link_create(program.fd.get(), perf->get(), BPF_PERF_EVENT, &options));  // it holds the event
  if (!link || ioctl(perf->get(), PERF_EVENT_IOC_ENABLE, 0) != 0) {
    return util::fail_errno(EX_UNAVAILABLE, fmt::format("cannot attach to {}", probe.symbol));
  }
  links.push_back(std::move(link));
  return {};
}

}  // namespace

bool kprobes_usable(const KernelFacts& facts) {
  return facts.fprobe || (KprobeEvents::tracefs() && access((*KprobeEvents::tracefs() + "/kprobe_events").c_str(), W_OK) == 0);
}

bool overrides_load() {
  const bpf_insn program[] = {
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_2, .src_reg = 0, .off = 0, .imm = 0},
      {.code = BPF_JMP | BPF_CALL, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = BPF_FUNC_override_return},
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .src_reg = 0, .off = 0, .imm = 0},
      {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0},
  };
  return static_cast<bool>(util::UniqueFd(bpf_prog_load(BPF_PROG_TYPE_KPROBE, "override", "Dual BSD/GPL", program, std::size(program), nullptr)));
}

void fit_to_kprobes(bpf_program* program, bool fprobe) {
  if (bpf_program__type(program) == BPF_PROG_TYPE_KPROBE && !fprobe) {
    bpf_program__set_expected_attach_type(program, static_cast<bpf_attach_type>(0));  // one kprobe at a time
  }
}

util::Result<Link> attach_program(const Loaded::Program& program, const char* tracepoint) {
  if (program.type == BPF_PROG_TYPE_RAW_TRACEPOINT && tracepoint == nullptr) {
    tracepoint = program.section.c_str() + program.section.find('/') + 1;
  }
  Link link(bpf_raw_tracepoint_open(tracepoint, program.fd.get()));
  if (!link) {
    return util::fail_errno(EX_UNAVAILABLE, fmt::format("cannot attach {}", program.name));
  }
  return link;
}

util::Result<void> attach_probes(const Loaded::Program& program, const std::vector<Probe>& probes, bool returns, bool fprobe, KprobeEvents& events,
                                 std::vector<Link>& links) {
  if (!fprobe) {
    for (const Probe& probe : probes) {
      if (auto done = attach_one(program, probe, returns, events, links); !done) {
        return done;
      }
    }
    return {};
  }
  if (probes.empty()) {
    return {};
  }
  std::vector<const char*> symbols;
  std::vector<__u64> cookies;
  for (const Probe& probe : probes) {
    symbols.push_back(probe.symbol.c_str());
    cookies.push_back(probe.cookie);
  }
  LIBBPF_OPTS(bpf_link_create_opts, options);
  options.kprobe_multi.syms = symbols.data();
  options.kprobe_multi.cookies = cookies.data();
  options.kprobe_multi.cnt = static_cast<__u32>(symbols.size());
  options.kprobe_multi.flags = returns ? BPF_F_KPROBE_MULTI_RETURN : 0;
  Link link(bpf_link_create(program.fd.get(), 0, BPF_TRACE_KPROBE_MULTI, &options));
  if (!link) {
    return util::fail_errno(EX_UNAVAILABLE, fmt::format("cannot attach {} to {} functions", program.name, probes.size()));
  }
  links.push_back(std::move(link));
  return {};
}

}  // namespace vfsguard::sensor
