// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <fstream>

#include <fmt/format.h>

#include "scenario.h"

namespace vfsguard::scenario {

namespace {

util::Result<std::vector<std::string>> split(const std::string& text, const std::string& where) {
  std::vector<std::string> words;
  std::string word;
  bool in_word = false;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '"') {
        quoted = false;
      } else if (c == '\\' && i + 1 < text.size()) {
        const char e = text[++i];
        switch (e) {
          case 'n': word += '\n'; break;
          case 't': word += '\t'; break;
          case 'x':
            word += static_cast<char>(std::stoi(text.substr(i + 1, 2), nullptr, 16));
            i += 2;
            break;
          default: word += e;
        }
      } else {
        word += c;
      }
      continue;
    }
    if (c == '"') {
      quoted = in_word = true;
    } else if (c == '#' && !in_word) {
      break;
    } else if (c == ' ' || c == '\t') {
      if (in_word) {
        words.push_back(word);
        word.clear();
        in_word = false;
      }
    } else {
      word += c;
      in_word = true;
    }
  }
  if (quoted) {
    return util::fail(EX_DATAERR, where + ": a quote is never closed");
  }
  if (in_word) {
    words.push_back(word);
  }
  return words;
}

Condition condition(const std::string& word) {
  for (const char* relation : {"!=", ">=", "^=", "*=", "="}) {
    const std::size_t at = word.find(relation);
    if (at != std::string::npos && at > 0) {
      Condition c{word.substr(0, at), relation, word.substr(at + std::string_view(relation).size()), {}};
      // KEY@HOOK+HOOK: on these mechanisms only.
      if (const std::size_t sign = c.key.find('@'); sign != std::string::npos) {
        for (std::size_t begin = sign + 1; begin <= c.key.size();) {
          const std::size_t end = std::min(c.key.find('+', begin), c.key.size());
          c.hooks.push_back(c.key.substr(begin, end - begin));
          begin = end + 1;
        }
        c.key.resize(sign);
      }
      return c;
    }
  }
  return {word, "?", "", {}};
}

}  // namespace

std::vector<const Expectation*> Scenario::for_hook(const std::string& hook) const {
  std::vector<const Expectation*> wanted;
  for (const Expectation& e : expectations) {
    if (e.hooks.empty() || std::ranges::find(e.hooks, hook) != e.hooks.end()) {
      wanted.push_back(&e);
    }
  }
  return wanted;
}

util::Result<std::vector<Scenario>> parse_scenarios(const std::string& file) {
  std::ifstream in(file);
  if (!in) {
    return util::fail_errno(EX_NOINPUT, file);
  }
  std::vector<Scenario> all;
  std::string text;
  for (int number = 1; std::getline(in, text); ++number) {
    const std::string where = fmt::format("{}:{}", file, number);
    auto words = split(text, where);
    if (!words) {
      return util::pass_on(words.error());
    }
    if (words->empty()) {
      continue;
    }
    std::vector<std::string> hooks;
    if ((*words)[0].starts_with('@')) {
      std::string list = (*words)[0].substr(1) + ",";
      for (std::size_t at = 0; at < list.size();) {
        const std::size_t comma = list.find(',', at);
        hooks.push_back(list.substr(at, comma - at));
        at = comma + 1;
      }
      words->erase(words->begin());
    }
    const std::string verb = words->empty() ? "" : (*words)[0];
    std::vector<std::string> rest(words->begin() + (words->empty() ? 0 : 1), words->end());
    if (verb == "scenario") {
      if (rest.size() != 1) {
        return util::fail(EX_DATAERR, where + ": scenario NAME");
      }
      all.push_back({});
      all.back().file = file;
      all.back().line = number;
      all.back().name = rest[0];
      continue;
    }
    if (all.empty()) {
      return util::fail(EX_DATAERR, where + ": before the first 'scenario'");
    }
    Scenario& s = all.back();
    if (verb == "setup") {
      s.setup.push_back({number, rest});
    } else if (verb == "do") {
      s.steps.push_back({number, rest});
    } else if (verb == "needs") {
      s.needs.insert(s.needs.end(), rest.begin(), rest.end());
    } else if (verb == "watch") {
      s.watch = rest;
    } else if (verb == "alike") {
      s.alike = rest;
    } else if (verb == "unordered") {
      s.unordered = true;
    } else if (verb == "reader-stopped") {
      s.reader_stopped = true;
    } else if (verb == "varies") {
      s.varies = true;
    } else if (verb == "expect") {
      Expectation e;
      e.line = number;
      e.hooks = hooks;
      if (rest.empty()) {
        return util::fail(EX_DATAERR, where + ": expect CALL [key=value...]");
      }
      e.call = rest[0];
      for (std::size_t i = 1; i < rest.size(); ++i) {
        e.conditions.push_back(condition(rest[i]));
        if (!e.conditions.back().hooks.empty()) {
          s.varies = true;
        }
        if (e.conditions.back().relation == "?") {
          return util::fail(EX_DATAERR, fmt::format("{}: '{}' is no condition", where, rest[i]));
        }
      }
      if (!hooks.empty()) {
        s.varies = true;
      }
      s.expectations.push_back(std::move(e));
    } else {
      return util::fail(EX_DATAERR, fmt::format("{}: unknown word '{}'", where, verb));
    }
  }
  return all;
}

std::string substitute(const std::string& text, const std::map<std::string, std::string>& variables) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '$') {
      out += text[i];
      continue;
    }
    std::size_t begin = i + 1;
    std::size_t end = begin;
    bool braces = false;
    if (begin < text.size() && text[begin] == '{') {
      braces = true;
      end = text.find('}', begin);
      ++begin;
    } else {
      while (end < text.size() && (isalnum(static_cast<unsigned char>(text[end])) || text[end] == '_')) {
        ++end;
      }
    }
    const std::string name = text.substr(begin, end - begin);
    const auto it = variables.find(name);
    if (it == variables.end()) {
      out += text.substr(i, end - i);
    } else {
      out += it->second;
    }
    i = braces ? end : end - 1;
  }
  return out;
}

}  // namespace vfsguard::scenario
