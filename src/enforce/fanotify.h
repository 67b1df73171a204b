// SPDX-License-Identifier: Apache-2.0
// Enforcement by fanotify permission events (fanotify(7)), the weakest of the mechanisms: the kernel asks this process about opens, executions and reads on
// the file systems that protected paths lie on, and waits for its answer. Decided here, by the matcher of the offline tools.
//
// A thread of its own answers, so that nobody waits for the output or for a reload, and this process can open files there itself. It opens nothing but
// files of procfs, which is never marked. What it cannot find out about a caller is decided as if every condition held against it.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "enforce/enforcer.h"
#include "enrich/mounts.h"
#include "sensor/loaded.h"
#include "util/fd.h"

namespace vfsguard::enforce {

class FanotifyEnforcer final : public Enforcer {
 public:
  static util::Result<std::unique_ptr<Enforcer>> open(const policy::Policy& policy, const policy::Compiled& compiled, const Heritage* before);
  ~FanotifyEnforcer() override;

  util::Result<void> attach(const policy::Policy& policy, const policy::Enforcement& tables) override;
  util::Result<void> replace(const policy::Policy& policy, const policy::Compiled& compiled, const policy::Enforcement& tables) override;
  [[nodiscard]] bool fits(const policy::Enforcement& /*tables*/) const override { return true; }
  [[nodiscard]] Heritage heritage() const override;
  // Refused: the kernel lets everything pass when its group is closed.
  util::Result<void> pin(const std::string& directory, const policy::Policy& policy, const policy::Enforcement& tables) override;
  void unpin() override {}
  void cease() override;
  [[nodiscard]] int refusals() const override;
  [[nodiscard]] int worker_refusals() const override;
  void mounts_changed() override { mark_file_systems(); }
  [[nodiscard]] Counts counts() const override;
  [[nodiscard]] std::uint64_t table_bytes() const override { return 0; }
  [[nodiscard]] sensor::Inventory inventory() const override;

 protected:
  [[nodiscard]] std::string weakness() const override;
  [[nodiscard]] std::uint64_t missing() const override;

 private:
  // One policy, as the answering thread goes by it.
  struct Version;
  struct Asked;
  struct Answer;

  FanotifyEnforcer() : Enforcer(Mechanism::kFanotify) {}
  util::Result<void> take(const policy::Policy& policy, const policy::Compiled& compiled);
  void mark_file_systems();
  void answer_all();
  [[nodiscard]] Answer decide(const Asked& asked);
  [[nodiscard]] std::vector<std::string> names_of(const Asked& asked, const Version& version);
  void note(const Asked& asked, std::uint32_t rule, const Version& version) const;
  [[nodiscard]] std::shared_ptr<Version> current() const;

  sensor::Loaded object_;  // for the maps in which refusals are noted, and the program `look`
  util::UniqueFd group_;
  util::UniqueFd stop_;  // eventfd
  std::thread thread_;
  enrich::Mounts mounts_;  // the thread's
  mutable std::mutex mutex_;
  std::shared_ptr<Version> now_;  // under mutex_
  std::set<std::string> marked_;  // mount points
  std::atomic<std::uint64_t> asked_{0};
  std::atomic<std::uint64_t> unreadable_{0};
  std::atomic<std::uint64_t> canaries_{0};  // this process's own, as they are asked about
};

}  // namespace vfsguard::enforce
