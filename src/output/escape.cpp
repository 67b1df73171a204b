// SPDX-License-Identifier: Apache-2.0
#include "output/escape.h"

#include <array>
#include <cstdint>
#include <cstring>

namespace vfsguard::output {

namespace {

constexpr char kHex[] = "0123456789abcdef";

// Bytes that go into a JSON string as they are.
constexpr auto kPlain = [] {
  std::array<bool, 256> plain{};
  for (unsigned c = 0x20; c < 0x7f; ++c) {
    plain[c] = c != '"' && c != '\\';
  }
  return plain;
}();

struct Decoded {
  std::uint32_t point;
  std::size_t size;  // 0: not UTF-8
};

// One code point, by the table of well-formed sequences (The Unicode Standard, table 3-7).
Decoded decode(std::string_view s) {
  const auto byte = [&](std::size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0u; };
  const auto tail = [&](std::size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const unsigned b0 = byte(0);
  if (b0 < 0x80) {
    return {b0, 1};
  }
  if (b0 >= 0xc2 && b0 <= 0xdf && tail(1)) {
    return {(b0 & 0x1f) << 6 | (byte(1) & 0x3f), 2};
  }
  if (b0 >= 0xe0 && b0 <= 0xef && tail(1) && tail(2)) {
    const std::uint32_t point = (b0 & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
    if (point >= 0x800 && (point < 0xd800 || point > 0xdfff)) {
      return {point, 3};
    }
  }
  if (b0 >= 0xf0 && b0 <= 0xf4 && tail(1) && tail(2) && tail(3)) {
    const std::uint32_t point = (b0 & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f);
    if (point >= 0x10000 && point <= 0x10ffff) {
      return {point, 4};
    }
  }
  return {0, 0};
}

// Code points that a terminal or a reader could be misled with.
bool harmful(std::uint32_t p) {
  return p < 0x20 || (p >= 0x7f && p <= 0x9f) || p == 0x061c || (p >= 0x200b && p <= 0x200f) || (p >= 0x2028 && p <= 0x202e) || (p >= 0x2060 && p <= 0x206f) ||
         p == 0xfeff || (p >= 0xfff9 && p <= 0xfffb);
}

void append_unicode(std::uint32_t p, std::string& out) {
  out += "\\u";
  out += kHex[p >> 12 & 15];
  out += kHex[p >> 8 & 15];
  out += kHex[p >> 4 & 15];
  out += kHex[p & 15];
}

void append_byte(unsigned char byte, std::string& out) {
  out += "\\x";
  out += kHex[byte >> 4];
  out += kHex[byte & 15];
}

}  // namespace

bool append_json(std::string_view bytes, std::string& out) {
  bool exact = true;
  std::size_t at = 0;
  while (at < bytes.size()) {
    std::size_t end = at;
    while (end < bytes.size() && kPlain[static_cast<unsigned char>(bytes[end])]) {
      ++end;
    }
    out.append(bytes, at, end - at);
    at = end;
    if (at == bytes.size()) {
      break;
    }
    const Decoded d = decode(bytes.substr(at));
    if (d.size == 0) {
      out += "\\ufffd";
      exact = false;
      ++at;
      continue;
    }
    if (d.point == '"' || d.point == '\\') {
      out += '\\';
      out += static_cast<char>(d.point);
    } else if (d.point == '\n') {
      out += "\\n";
    } else if (d.point == '\t') {
      out += "\\t";
    } else if (d.point == '\r') {
      out += "\\r";
    } else if (harmful(d.point)) {
      append_unicode(d.point, out);
    } else {
      out.append(bytes, at, d.size);
    }
    at += d.size;
  }
  return exact;
}

std::string json_string(std::string_view bytes) {
  std::string out = "\"";
  append_json(bytes, out);
  return out + "\"";
}

std::string json_list(const std::vector<std::string>& values) {
  std::string out = "[";
  for (const std::string& value : values) {
    out += (out.size() > 1 ? "," : "") + json_string(value);
  }
  return out + "]";
}

void append_text(std::string_view bytes, std::string& out) {
  std::size_t at = 0;
  while (at < bytes.size()) {
    const Decoded d = decode(bytes.substr(at));
    if (d.size == 0) {
      append_byte(static_cast<unsigned char>(bytes[at++]), out);
      continue;
    }
    if (d.point == '\\') {
      out += "\\\\";
    } else if (d.point == '\n') {
      out += "\\n";
    } else if (d.point == '\t') {
      out += "\\t";
    } else if (harmful(d.point)) {
      for (std::size_t i = 0; i < d.size; ++i) {
        append_byte(static_cast<unsigned char>(bytes[at + i]), out);
      }
    } else {
      out.append(bytes, at, d.size);
    }
    at += d.size;
  }
}

std::string printable(std::string_view bytes) {
  std::string out;
  append_text(bytes, out);
  return out;
}

void append_hex(std::string_view bytes, std::string& out) {
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    out += kHex[byte >> 4];
    out += kHex[byte & 15];
  }
}

std::string join_arguments(const std::string* begin, const std::string* end) {
  constexpr std::string_view kSafe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  std::string out;
  for (const std::string* a = begin; a != end; ++a) {
    if (a != begin) {
      out += ' ';
    }
    if (!a->empty() && a->find_first_not_of(kSafe) == std::string::npos) {
      out += *a;
      continue;
    }
    out += '\'';
    for (const char c : *a) {
      if (c == '\'') {
        out += "'\\''";
      } else {
        out += c;
      }
    }
    out += '\'';
  }
  return out;
}

std::vector<std::string> split_arguments(std::string_view joined) {
  std::vector<std::string> all;
  bool quoted = false;
  bool begun = false;
  for (std::size_t i = 0; i < joined.size(); ++i) {
    const char c = joined[i];
    if (c == ' ' && !quoted) {
      begun = false;
      continue;
    }
    if (!begun) {
      all.emplace_back();
      begun = true;
    }
    if (c == '\'') {
      quoted = !quoted;
    } else if (c == '\\' && !quoted && i + 1 < joined.size()) {
      all.back() += joined[++i];
    } else {
      all.back() += c;
    }
  }
  return all;
}

std::shared_ptr<const event::CommandLine> command_line(const std::vector<std::string>& arguments) {
  auto line = std::make_shared<event::CommandLine>();
  line->shell = join_arguments(arguments.data(), arguments.data() + arguments.size());
  std::string plain;
  for (const std::string& argument : arguments) {
    if (&argument != &arguments.front()) {
      plain += ' ';
    }
    plain += argument;
  }
  if (plain != line->shell) {
    line->between_spaces = std::move(plain);
  }
  return line;
}

}  // namespace vfsguard::output
