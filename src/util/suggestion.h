// SPDX-License-Identifier: Apache-2.0
// "did you mean", for words that are not known.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace vfsguard::util {

// The closest of the known words (up to two letters off, fewer in words of up to four), or all of them where none is close.
std::string suggestion(std::string_view word, std::span<const std::string_view> known);

}  // namespace vfsguard::util
