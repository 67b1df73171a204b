// SPDX-License-Identifier: Apache-2.0
// User names from /etc/passwd, as of its last change. The file only, no directory service: a look-up must never wait for a network.
#pragma once

#include <cstdint>
#include <ctime>
#include <string>
#include <string_view>
#include <unordered_map>

namespace vfsguard::enrich {

class Users {
 public:
  explicit Users(std::string file = "/etc/passwd") : file_(std::move(file)) {}

  // Empty where the file has no such user. Valid until the next call.
  std::string_view name(std::uint32_t uid);

 private:
  void read_again_where_changed();

  std::string file_;
  std::uint64_t looked_ns_ = 0;
  timespec changed_{};
  std::unordered_map<std::uint32_t, std::string> names_;
};

}  // namespace vfsguard::enrich
