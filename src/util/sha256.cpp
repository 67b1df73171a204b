// SPDX-License-Identifier: Apache-2.0
#include "util/sha256.h"

#include <fcntl.h>
#include <unistd.h>

#include "util/fd.h"

namespace vfsguard::util {

Sha256::Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
  // No texts of errors, which nobody prints, and no configuration, which could load other code into this process.
  static const int started = OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CRYPTO_STRINGS | OPENSSL_INIT_NO_LOAD_CONFIG, nullptr);
  (void)started;
  good_ = context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1;
}

void Sha256::update(std::string_view bytes) { good_ = good_ && EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1; }

bool Sha256::update_from(int fd) {
  std::array<char, 65536> chunk;
  ssize_t n = 0;
  while ((n = read(fd, chunk.data(), chunk.size())) > 0) {
    update({chunk.data(), static_cast<std::size_t>(n)});
  }
  return n == 0;
}

std::optional<std::array<char, 64>> Sha256::hex() {
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::array<unsigned char, 32> digest;
  if (!good_ || EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) != 1) {
    return std::nullopt;
  }
  std::array<char, 64> hex;
  for (std::size_t i = 0; i < digest.size(); ++i) {
    hex[2 * i] = kDigits[digest[i] >> 4];
    hex[2 * i + 1] = kDigits[digest[i] & 15];
  }
  return hex;
}

std::optional<std::string> sha256_of_file(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  Sha256 digest;
  if (!fd || !digest.update_from(fd.get())) {
    return std::nullopt;
  }
  const auto hex = digest.hex();
  return hex ? std::optional(std::string(hex->begin(), hex->end())) : std::nullopt;
}

}  // namespace vfsguard::util
