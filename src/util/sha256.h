// SPDX-License-Identifier: Apache-2.0
// SHA-256 (OpenSSL), of files and of texts, as 64 hexadecimal digits.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <openssl/evp.h>

namespace vfsguard::util {

class Sha256 {
 public:
  Sha256();
  void update(std::string_view bytes);
  // From where the descriptor stands to the end. False where a read failed.
  bool update_from(int fd);
  // Once. None: OpenSSL has failed.
  std::optional<std::array<char, 64>> hex();

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
  bool good_ = false;
};

// None where it cannot be read to its end.
std::optional<std::string> sha256_of_file(const std::string& path);

}  // namespace vfsguard::util
