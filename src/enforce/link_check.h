// SPDX-License-Identifier: Apache-2.0
// Looks, in a thread of its own, which files below protected paths have a protected name among their
// hard links: after one of them was removed, or a directory came in.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "abi/control.h"
#include "enforce/link_scan.h"

namespace vfsguard::enforce {

using InodeKey = std::tuple<std::uint64_t, std::uint32_t, std::uint32_t>;  // of vg_inode_key
inline InodeKey key_of(const vg_inode_key& object) { return {object.ino, object.dev, object.generation}; }

class LinkCheck {
 public:
  // Both are called in the thread. `protect`: protects the object of this descriptor by the name that
  // it was opened by; none: no rule is about that name.
  using Protect = std::function<std::optional<InodeKey>(int fd)>;
  using Changes = std::function<std::uint64_t()>;  // as of scan_until_stable()

  LinkCheck(std::vector<std::string> starts, Changes changes, Protect protect);
  LinkCheck(const LinkCheck&) = delete;
  LinkCheck& operator=(const LinkCheck&) = delete;
  ~LinkCheck();  // ends the scan

  [[nodiscard]] bool done() const { return done_.load(); }
  // Once it is done: everything was looked at, and no name changed since before the last pass.
  [[nodiscard]] bool is_complete() const;
  [[nodiscard]] const std::set<InodeKey>& named() const { return named_; }

 private:
  void run(const std::vector<std::string>& starts, const Protect& protect);

  Changes changes_;
  std::uint64_t seen_ = 0;  // changes before the last pass
  ScanReport report_;
  std::set<InodeKey> named_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace vfsguard::enforce
