// SPDX-License-Identifier: Apache-2.0
#include "sensor/attach.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <unistd.h>

#include <iterator>

#include <fmt/format.h>

#include "sensor/kernel_facts.h"
#include "util/fd.h"

namespace vfsguard::sensor {

namespace {

util::Result<void> attach_one(bpf_program* program, const Probe& probe, bool returns, KprobeEvents& events, std::vector<Link>& links) {
  auto perf = events.add({probe.symbol, returns, probe.cookie});
  if (!perf) {
    return util::pass_on(perf.error());
  }
  LIBBPF_OPTS(bpf_perf_event_opts, options);
  options.bpf_cookie = probe.cookie;
  const int fd = fcntl(perf->get(), F_DUPFD_CLOEXEC, 0);  // the link takes one over
  bpf_link* link = bpf_program__attach_perf_event_opts(program, fd, &options);
  if (link == nullptr) {
    const int code = errno;
    close(fd);
    return util::fail_errno(EX_UNAVAILABLE, fmt::format("cannot attach to {}", probe.symbol), code);
  }
  links.emplace_back(link);
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

util::Result<void> attach_probes(bpf_program* program, const std::vector<Probe>& probes, bool returns, bool fprobe, KprobeEvents& events,
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
  LIBBPF_OPTS(bpf_kprobe_multi_opts, options);
  options.syms = symbols.data();
  options.cookies = cookies.data();
  options.cnt = symbols.size();
  options.retprobe = returns;
  bpf_link* link = bpf_program__attach_kprobe_multi_opts(program, nullptr, &options);
  if (link == nullptr) {
    return util::fail_errno(EX_UNAVAILABLE, fmt::format("cannot attach {} to {} functions", bpf_program__name(program), probes.size()));
  }
  links.emplace_back(link);
  return {};
}

}  // namespace vfsguard::sensor
