// SPDX-License-Identifier: Apache-2.0
// Enforcement by BPF programs: LSM, bpf_override_return, bpf_send_signal (bpf/enforce.bpf.c). Hands them the compiled policy, and keeps them informed of
// what only user space can list: where file systems were mounted here, and which protected files have several names already.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "enforce.skel.h"
#include "enforce_probe.skel.h"
#include "enforce/enforcer.h"
#include "enforce/hooks.h"
#include "enforce/link_check.h"
#include "sensor/attach.h"
#include "sensor/call_functions.h"
#include "sensor/grace.h"
#include "sensor/kernel_facts.h"
#include "sensor/loaded.h"
#include "sensor/map_access.h"
#include "util/fd.h"

namespace vfsguard::enforce {

class BpfEnforcer final : public Enforcer {
 public:
  // As Enforcer::open(), of one mechanism that this kernel has (mechanism_for()). `attachable`: else for try_out().
  struct Opening {
    const policy::Policy& policy;
    const policy::Compiled& compiled;
    const policy::Enforcement& tables;
    const sensor::KernelFacts& facts;
    const Heritage* before = nullptr;
    bool attachable = true;
  };
  static util::Result<std::unique_ptr<Enforcer>> open(Mechanism mechanism, const Opening& opening);

  ~BpfEnforcer() override;

  util::Result<void> attach(const policy::Policy& policy, const policy::Enforcement& tables) override;
  util::Result<void> replace(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables) override;
  [[nodiscard]] bool fits(const policy::Enforcement& tables) const override;
  [[nodiscard]] Heritage heritage() const override;
  util::Result<void> pin(const std::string& directory, const policy::Policy& policy, const policy::Enforcement& tables) override;
  void unpin() override;
  void cease() override;
  util::Result<void> take_over(const Counts& before, const policy::Policy& policy, const policy::Enforcement& tables) override;
  [[nodiscard]] int refusals() const override;
  [[nodiscard]] int worker_refusals() const override;
  void look_after() override;
  void mounts_changed() override { remember_mount_points(); }
  [[nodiscard]] Counts counts() const override;
  [[nodiscard]] std::uint64_t table_bytes() const override { return 2 * table_size_; }
  [[nodiscard]] sensor::Inventory inventory() const override;
  void register_state(guard::KernelState& state) override;
  void state_restored() override;

 protected:
  [[nodiscard]] std::string weakness() const override;
  [[nodiscard]] std::uint64_t missing() const override { return missing_; }

 private:
  explicit BpfEnforcer(Mechanism mechanism) : Enforcer(mechanism) {}

  // bpf_enforcer.cpp
  void choose(const sensor::KernelFacts& facts);
  void choose_programs(enforce_bpf& skeleton, const sensor::KernelFacts& facts);
  util::Result<void> load(const policy::Enforcement& tables, const sensor::KernelFacts& facts, const Heritage* before);
  util::Result<void> fill(const policy::Enforcement& tables, std::uint32_t of_version);
  util::Result<std::vector<RuleState>> prove(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables,
                                             std::uint32_t of_version) const;
  util::Result<void> carry_ancestries(std::uint32_t to_version);
  util::Result<std::size_t> attach_calls(std::span<const sensor::Probe> some);
  void remember(const policy::Policy& policy, const policy::Enforcement& tables);
  [[nodiscard]] std::map<std::string, vg_rule_counts> rule_counts(std::uint32_t of_version) const;
  util::Result<void> describe(const policy::Policy& policy, const policy::Enforcement& tables, std::uint32_t of_version);

  // bpf_objects.cpp
  std::optional<vg_look> look(const std::string& path);
  std::optional<vg_look> look(int fd);
  [[nodiscard]] std::optional<InodeKey> protect_named(int fd) const;
  void for_each_protected(const std::function<void(const vg_inode_key&, const vg_protection&)>& each);
  void end_protection(const std::set<InodeKey>& named);
  [[nodiscard]] bool can_protect(const std::string& point) const;
  void remember_mount_points();
  void note_protected();
  void find_links(const policy::Policy& policy, const policy::Enforcement& tables, std::uint32_t for_version);
  [[nodiscard]] bool protect(const vg_inode_key& object, std::uint32_t for_version, std::uint32_t set);
  void carry_protected(const policy::Enforcement& tables, const std::vector<std::uint32_t>& last, std::uint32_t from_version);

  [[nodiscard]] enforce_bpf::enforce_bpf__bss& bss() const { return object_.bss<enforce_bpf::enforce_bpf__bss>(); }
  [[nodiscard]] enforce_bpf::enforce_bpf__data& data() const { return object_.data<enforce_bpf::enforce_bpf__data>(); }

  sensor::Loaded object_;
  sensor::KprobeEvents probes_;  // without fprobes; they go after the links that hold them
  std::vector<sensor::Link> links_;
  std::vector<std::string> programs_;  // to attach
  std::optional<sensor::Grace> grace_;
  std::vector<const EnforcedHook*> hooks_;  // that this kernel has
  std::uint64_t missing_ = beyond_hooks();  // operations that none of them stops
  std::uint32_t capacity_ = 0;              // rules that there is room to count
  std::size_t table_size_ = 0;              // of one version
  std::set<const EnforcedHook*> loaded_;
  std::vector<sensor::Probe> objects_;  // where enforce_at goes
  std::vector<sensor::Probe> calls_;    // where enforce_call goes
  std::uint64_t operations_ = 0;        // that these were chosen for
  bool fprobe_ = false;
  bool scanned_all_ = true;                 // for the other names of protected files
  bool in_force_ = false;                   // it decides
  bool forgot_mount_points_ = false;        // and has said so
  bool forks_ = false;                      // note_fork is among the programs
  bool at_return_ = false;                  // no kprobes: signals come by enforce_return
  std::vector<std::string> names_;          // of the rules
  std::vector<std::string> starts_;         // directories that protected paths lie in
  std::set<std::string> globs_;             // whose files were looked at for other names
  std::vector<std::uint32_t> translation_;  // from the version before into this one
  std::uint64_t checked_ = 0;               // names_to_check, as of the last check that was begun
  std::unique_ptr<LinkCheck> check_;        // the last member: it uses the others

  // What others could write to, as it is known to be (register_state).
  std::array<sensor::Image, 2> images_;  // of both versions of the tables
  guard::Entries known_protected_{sizeof(vg_inode_key), sizeof(vg_protection)};
  guard::Entries known_mount_points_{sizeof(vg_mount_point_key), sizeof(vg_mount_point)};
  sensor::HashEntries protected_entries_;
  sensor::HashEntries mount_point_entries_;
  std::uint64_t decided_ = 0;
  std::uint64_t forks_noted_since_ = 0;
  std::uint64_t freed_seen_ = 0;
  std::uint32_t tgid_ = 0;
  std::uint64_t start_ = 0;
  std::uint32_t generation_seen_ = 0;
};

}  // namespace vfsguard::enforce
