// SPDX-License-Identifier: Apache-2.0
// Path globs. A glob is absolute and matches whole canonical paths, byte by byte:
//
//   *      any bytes within one component (dot files too)     ?   one byte of a component
//   [a-z]  one byte of a set, [!a-z] or [^a-z] any other      \x  x itself
//   /**/   any number of directories, none included           /** at the end: everything below ("/**" alone: everything)
//
// `**` stands alone between slashes. What could never match a canonical path ("//", "/../", a slash at the end) is refused.
#pragma once

#include <bitset>
#include <string>
#include <string_view>
#include <vector>

#include "util/result.h"

namespace vfsguard::policy {

using ByteSet = std::bitset<256>;

struct GlobToken {
  enum class Kind {
    kOne,          // one byte of `set`
    kMany,         // any number of bytes of `set`
    kDirectories,  // nothing, or anything that ends in '/'
  };
  Kind kind;
  ByteSet set;
};

struct Glob {
  std::string text;
  std::vector<GlobToken> tokens;
};

// On failure the message names the column (from 1) and what to write instead.
util::Result<Glob> parse_glob(std::string_view text);

// The glob that matches this path and no other.
std::string literal_glob(std::string_view path);

// The definition of a match, by backtracking over the tokens: slow and obvious. The automaton is tested against it.
bool reference_match(const Glob& glob, std::string_view path);

}  // namespace vfsguard::policy
