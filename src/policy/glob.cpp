// SPDX-License-Identifier: Apache-2.0
#include "policy/glob.h"

#include <fmt/format.h>

namespace vfsguard::policy {

namespace {

constexpr std::size_t kMaxGlob = 4096;

std::unexpected<util::Error> bad(std::string_view text, std::size_t at, std::string_view why) {
  return util::fail(EX_USAGE, fmt::format("glob '{}', column {}: {}", text, at + 1, why));
}

ByteSet single(unsigned char byte) {
  ByteSet set;
  set.set(byte);
  return set;
}

ByteSet all_but_slash() {
  ByteSet set;
  set.set();
  set.reset('/');
  return set;
}

ByteSet everything() {
  ByteSet set;
  set.set();
  return set;
}

// Parses "[...]" that begins at `at`; leaves `at` behind the closing bracket.
util::Result<ByteSet> parse_set(std::string_view text, std::size_t& at) {
  const std::size_t start = at++;
  bool negated = false;
  if (at < text.size() && (text[at] == '!' || text[at] == '^')) {
    negated = true;
    ++at;
  }
  ByteSet set;
  bool first = true;
  while (true) {
    if (at >= text.size()) {
      return bad(text, start, "'[' is never closed; write ']' behind the set, or '\\[' for the character itself");
    }
    if (text[at] == ']' && !first) {
      ++at;
      break;
    }
    first = false;
    auto take = [&]() -> util::Result<unsigned char> {
      if (text[at] == '\\') {
        if (++at >= text.size()) {
          return bad(text, start, "'[' is never closed; write ']' behind the set");
        }
      }
      if (text[at] == '/') {
        return bad(text, at, "a set cannot hold '/': it matches within one component");
      }
      return static_cast<unsigned char>(text[at++]);
    };
    auto low = take();
    if (!low) {
      return util::pass_on(low.error());
    }
    if (at + 1 < text.size() && text[at] == '-' && text[at + 1] != ']') {
      const std::size_t dash = at++;
      auto high = take();
      if (!high) {
        return util::pass_on(high.error());
      }
      if (*high < *low) {
        return bad(text, dash, "the range is backwards");
      }
      for (unsigned byte = *low; byte <= *high; ++byte) {
        set.set(byte);
      }
    } else {
      set.set(*low);
    }
  }
  if (negated) {
    set.flip();
  }
  set.reset('/');
  set.reset(0);
  return set;
}

// What a component may not be, because no canonical path has it.
util::Result<void> check_component(std::string_view text, std::size_t start, std::size_t end) {
  const std::string_view component = text.substr(start, end - start);
  if (component.empty()) {
    if (end == text.size()) {
      return bad(text, start, "a slash at the end matches nothing; write '/**' for everything below, or leave it out for the directory");
    }
    return bad(text, start, "an empty component ('//') matches nothing");
  }
  if (component == "." || component == "..") {
    return bad(text, start, fmt::format("'{}' matches nothing: canonical paths hold no such component", component));
  }
  return {};
}

}  // namespace

util::Result<Glob> parse_glob(std::string_view text) {
  Glob glob{std::string(text), {}};
  if (text.empty()) {
    return util::fail(EX_USAGE, "glob '': empty; write an absolute path such as /etc/** ");
  }
  if (text.size() > kMaxGlob) {
    return util::fail(EX_USAGE, fmt::format("glob of {} bytes: longer than {}", text.size(), kMaxGlob));
  }
  if (text.find('\0') != std::string_view::npos) {
    return bad(text, text.find('\0'), "a path holds no NUL byte");
  }
  if (text[0] != '/') {
    return bad(text, 0, fmt::format("not absolute; write '/**/{0}' for any place, or '/{0}'", text));
  }
  if (text == "/") {
    glob.tokens.push_back({GlobToken::Kind::kOne, single('/')});
    return glob;
  }
  std::size_t at = 0;
  bool slash_taken = false;
  while (at < text.size()) {
    // `at` stands on a '/', which kDirectories before it may have taken.
    if (!slash_taken) {
      glob.tokens.push_back({GlobToken::Kind::kOne, single('/')});
    }
    slash_taken = false;
    const std::size_t start = ++at;
    while (at < text.size() && text[at] != '/') {
      switch (text[at]) {
        case '*':
          if (at + 1 < text.size() && text[at + 1] == '*') {
            const bool alone = at == start && (at + 2 == text.size() || text[at + 2] == '/');
            if (!alone) {
              return bad(text, at, "'**' must stand alone between slashes; write '*' for any bytes within a component");
            }
            at += 2;
            if (at == text.size()) {
              glob.tokens.push_back({GlobToken::Kind::kMany, everything()});
              return glob;
            }
            glob.tokens.push_back({GlobToken::Kind::kDirectories, everything()});
            break;
          }
          ++at;
          glob.tokens.push_back({GlobToken::Kind::kMany, all_but_slash()});
          break;
        case '?':
          ++at;
          glob.tokens.push_back({GlobToken::Kind::kOne, all_but_slash()});
          break;
        case '[': {
          auto set = parse_set(text, at);
          if (!set) {
            return util::pass_on(set.error());
          }
          glob.tokens.push_back({GlobToken::Kind::kOne, *set});
          break;
        }
        case '\\':
          if (at + 1 >= text.size() || text[at + 1] == '/') {
            return bad(text, at, "'\\' escapes nothing; write '\\\\' for the character itself");
          }
          glob.tokens.push_back({GlobToken::Kind::kOne, single(static_cast<unsigned char>(text[at + 1]))});
          at += 2;
          break;
        default: glob.tokens.push_back({GlobToken::Kind::kOne, single(static_cast<unsigned char>(text[at]))}); ++at;
      }
    }
    if (auto ok = check_component(text, start, at); !ok) {
      return util::pass_on(ok.error());
    }
    // "/**/x": the '/' behind the stars belongs to them.
    if (glob.tokens.back().kind == GlobToken::Kind::kDirectories) {
      std::size_t next = at + 1;
      while (text.substr(next).starts_with("**/")) {
        next += 3;  // "/**/**/" says the same as "/**/"
      }
      if (text.substr(next) == "**") {
        glob.tokens.back() = {GlobToken::Kind::kMany, everything()};
        return glob;
      }
      if (next >= text.size()) {
        return bad(text, at, "a slash at the end matches nothing; write '/**' for everything below");
      }
      at = next - 1;
      slash_taken = true;
    }
  }
  return glob;
}

namespace {

bool match_from(const std::vector<GlobToken>& tokens, std::size_t token, std::string_view path) {
  if (token == tokens.size()) {
    return path.empty();
  }
  const GlobToken& t = tokens[token];
  const auto fits = [&](std::size_t i) { return t.set.test(static_cast<unsigned char>(path[i])); };
  switch (t.kind) {
    case GlobToken::Kind::kOne: return !path.empty() && fits(0) && match_from(tokens, token + 1, path.substr(1));
    case GlobToken::Kind::kMany:
      for (std::size_t n = 0;; ++n) {
        if (match_from(tokens, token + 1, path.substr(n))) {
          return true;
        }
        if (n == path.size() || !fits(n)) {
          return false;
        }
      }
    case GlobToken::Kind::kDirectories:
      for (std::size_t n = 0; n <= path.size(); ++n) {
        if ((n == 0 || path[n - 1] == '/') && match_from(tokens, token + 1, path.substr(n))) {
          return true;
        }
      }
      return false;
  }
  return false;
}

}  // namespace

bool reference_match(const Glob& glob, std::string_view path) { return match_from(glob.tokens, 0, path); }

std::string literal_glob(std::string_view path) {
  std::string glob;
  for (const char c : path) {
    if (c == '*' || c == '?' || c == '[' || c == '\\') {
      glob += '\\';
    }
    glob += c;
  }
  return glob;
}

}  // namespace vfsguard::policy
