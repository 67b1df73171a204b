// SPDX-License-Identifier: Apache-2.0
#include "detect/literals.h"
#include "detect/sigma.h"

namespace vfsguard::detect {

Pattern parse_pattern(std::string_view text) {
  Pattern pattern;
  const auto byte = [](char c) { return static_cast<std::uint16_t>(static_cast<unsigned char>(c)); };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\' && i + 1 < text.size() && (text[i + 1] == '*' || text[i + 1] == '?' || text[i + 1] == '\\')) {
      pattern.push_back(byte(text[++i]));
    } else if (c == '*') {
      if (pattern.empty() || pattern.back() != kMany) {
        pattern.push_back(kMany);
      }
    } else {
      pattern.push_back(c == '?' ? kOne : byte(c));
    }
  }
  return pattern;
}

namespace {

// Bytes of the character that begins there.
std::size_t character(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const std::size_t wanted = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 1;
  if (wanted > text.size()) {
    return 1;
  }
  for (std::size_t i = 1; i < wanted; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) {
      return 1;
    }
  }
  return wanted;
}

}  // namespace

// After the last '*' only that one has to be tried again: what was matched before it may stay as it is.
bool matches(std::span<const std::uint16_t> pattern, std::string_view text, bool cased) {
  std::size_t p = 0;
  std::size_t t = 0;
  std::size_t star = std::string_view::npos;
  std::size_t from = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == kMany) {
      star = p++;
      from = t;
      continue;
    }
    if (p < pattern.size() && pattern[p] == kOne) {
      t += character(text.substr(t));
      ++p;
      continue;
    }
    if (p < pattern.size()) {
      const char wanted = static_cast<char>(pattern[p]);
      if (cased ? wanted == text[t] : fold(wanted) == fold(text[t])) {
        ++p;
        ++t;
        continue;
      }
    }
    if (star == std::string_view::npos) {
      return false;
    }
    p = star + 1;
    from += character(text.substr(from));
    t = from;
  }
  while (p < pattern.size() && pattern[p] == kMany) {
    ++p;
  }
  return p == pattern.size();
}

std::string longest_literal(std::span<const std::uint16_t> pattern) {
  std::string best;
  std::string run;
  for (const std::uint16_t piece : pattern) {
    if (piece < kOne) {
      run += static_cast<char>(piece);
      continue;
    }
    if (run.size() > best.size()) {
      best = run;
    }
    run.clear();
  }
  return run.size() > best.size() ? run : best;
}

}  // namespace vfsguard::detect
