// SPDX-License-Identifier: Apache-2.0
#include "enforce/link_check.h"

#include <chrono>
#include <utility>

namespace vfsguard::enforce {

namespace {

constexpr auto kAtMost = std::chrono::minutes(5);

}  // namespace

LinkCheck::LinkCheck(std::vector<std::string> starts, Changes changes, Protect protect) : changes_(std::move(changes)) {
  thread_ = std::thread([this, starts = std::move(starts), protect = std::move(protect)] { run(starts, protect); });
}

LinkCheck::~LinkCheck() {
  stop_.store(true);
  thread_.join();
}

void LinkCheck::run(const std::vector<std::string>& starts, const Protect& protect) {
  const ScanOptions options{.stop = &stop_, .deadline = std::chrono::steady_clock::now() + kAtMost};
  const auto before_a_pass = [this] { return seen_ = changes_(); };
  report_ = scan_until_stable(
      starts, before_a_pass,
      [&](const Found& found) {
        if (const auto key = protect(found.fd)) {
          named_.insert(*key);
        }
      },
      options);
  done_.store(true);
}

bool LinkCheck::is_complete() const { return report_.stable && !report_.gave_up && report_.unread_total == 0 && changes_() == seen_; }

}  // namespace vfsguard::enforce
