// SPDX-License-Identifier: Apache-2.0
#include "policy/secrets.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <set>

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include "util/fd.h"

namespace vfsguard::policy {

namespace {

std::vector<std::string> texts(const YAML::Node& node) { return node.IsSequence() ? node.as<std::vector<std::string>>() : std::vector{node.Scalar()}; }

// Double-quoted, so that no value means anything but itself.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string list(const std::vector<std::string>& values) {
  std::string out = "[";
  for (const std::string& value : values) {
    out += (out.size() > 1 ? ", " : "") + quoted(value);
  }
  return out + "]";
}

util::Result<void> write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0) {
      return util::fail_errno(EX_IOERR, "write");
    }
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

}  // namespace

util::Result<std::vector<Secret>> read_secrets(const std::string& file) {
  std::vector<Secret> secrets;
  if (std::error_code error; !std::filesystem::exists(file, error)) {
    return secrets;
  }
  auto policy = load(file);  // says what is wrong with it, and where
  if (!policy) {
    return util::pass_on(policy.error());
  }
  try {
    const YAML::Node root = YAML::LoadFile(file);
    if (root["rules"] || root["include"] || root["mode"] || root["persist"]) {
      return util::fail(EX_CONFIG,
                        fmt::format("{}:1:1: this file is for 'secrets' alone, as vfsguard protect writes them; other rules belong into the policy", file));
    }
    for (const YAML::Node& node : root["secrets"]) {
      if (node["mode"] || node["severity"]) {
        return util::fail(EX_CONFIG, fmt::format("{}:{}:1: a secret of this file has 'path', 'level' and 'unless'; others belong into the policy", file,
                                                 node.Mark().line + 1));
      }
      Secret secret;
      secret.paths = texts(node["path"]);
      secret.level = node["level"] ? node["level"].as<std::uint32_t>() : 1;
      secret.degraded = node["degraded"] && node["degraded"].Scalar() == "accept";
      for (const auto& condition : node["unless"]) {
        secret.unless.emplace_back(condition.first.Scalar(), texts(condition.second));
      }
      secrets.push_back(std::move(secret));
    }
  } catch (const YAML::Exception& e) {
    return util::fail(EX_CONFIG, fmt::format("{}:{}:{}: {}", file, e.mark.line + 1, e.mark.column + 1, e.msg));
  }
  return secrets;
}

std::string secrets_text(const std::vector<Secret>& secrets) {
  std::string text =
      "# Written by vfsguard protect and unprotect. The agent reads it when it starts and on reload.\n"
      "version: 1\n"
      "secrets:\n";
  for (const Secret& secret : secrets) {
    text += fmt::format("  - path: {}\n    level: {}\n", list(secret.paths), secret.level);
    if (secret.degraded) {
      text += "    degraded: accept\n";
    }
    if (!secret.unless.empty()) {
      text += "    unless: { ";
      for (std::size_t i = 0; i < secret.unless.size(); ++i) {
        text += fmt::format("{}{}: {}", i > 0 ? ", " : "", secret.unless[i].first, list(secret.unless[i].second));
      }
      text += " }\n";
    }
  }
  return text;
}

util::Result<void> write_secrets(const std::string& file, const std::vector<Secret>& secrets) {
  const std::string directory = std::filesystem::path(file).parent_path().string();
  if (std::error_code error; !directory.empty() && !std::filesystem::is_directory(directory, error) && mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST) {
    return util::fail_errno(EX_CANTCREAT, fmt::format("cannot make '{}'", directory));
  }
  if (secrets.empty()) {
    if (unlink(file.c_str()) != 0 && errno != ENOENT) {
      return util::fail_errno(EX_IOERR, fmt::format("cannot remove '{}'", file));
    }
    return {};
  }
  const std::string fresh = file + ".new";
  const auto cannot = [&](int code) { return util::fail_errno(EX_CANTCREAT, fmt::format("cannot write '{}'", fresh), code); };
  unlink(fresh.c_str());
  util::UniqueFd fd(open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) {
    return cannot(errno);
  }
  if (auto written = write_all(fd.get(), secrets_text(secrets)); !written || fsync(fd.get()) != 0) {
    const int code = written ? errno : written.error().code;
    unlink(fresh.c_str());
    return cannot(code);
  }
  if (rename(fresh.c_str(), file.c_str()) != 0) {
    const int code = errno;
    unlink(fresh.c_str());
    return cannot(code);
  }
  const util::UniqueFd above(open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  (void)fsync(above.get());
  return {};
}

util::Result<void> check_secret(const Secret& secret) {
  for (const auto& [key, values] : secret.unless) {
    if (key.empty() || key.find_first_not_of("abcdefghijklmnopqrstuvwxyz") != std::string::npos) {
      return util::fail(EX_CONFIG, fmt::format("'{}' is no condition; one is uid, gid, user, group, exe, comm, ancestor, cgroup or container", key));
    }
  }
  const std::string kNowhere = "protect";
  auto policy = parse(kNowhere, secrets_text({secret}));
  if (policy) {
    return {};
  }
  util::Error error = policy.error();
  if (error.message.starts_with(kNowhere + ":")) {
    const std::size_t place = error.message.find(": ");
    error.message.erase(0, place == std::string::npos ? 0 : place + 2);
  }
  return util::pass_on(error);
}

util::Result<std::vector<std::pair<std::string, std::vector<std::string>>>> parse_conditions(const std::string& text) {
  std::vector<std::pair<std::string, std::vector<std::string>>> conditions;
  std::size_t at = 0;
  while (at <= text.size()) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    const std::string one = text.substr(at, end - at);
    at = end + 1;
    const std::size_t equals = one.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == one.size()) {
      return util::fail(EX_USAGE, fmt::format("'{}' is no condition; one is KEY=VALUE, as in uid=0,exe=/usr/sbin/sshd", one));
    }
    const std::string key = one.substr(0, equals);
    auto known = std::ranges::find(conditions, key, [](const auto& c) { return c.first; });
    if (known == conditions.end()) {
      known = conditions.insert(conditions.end(), {key, {}});
    }
    known->second.push_back(one.substr(equals + 1));
  }
  return conditions;
}

util::Result<Policy> with_secrets(Policy policy, const std::string& protected_file, const std::vector<Secret>& secrets) {
  if (secrets.empty()) {
    return policy;
  }
  auto first = parse(protected_file, secrets_text(secrets));
  if (!first) {
    return first;
  }
  std::set<std::string> names;
  for (const Rule& rule : first->rules) {
    names.insert(rule.name);
  }
  std::erase_if(policy.rules, [&](const Rule& rule) { return names.contains(rule.name); });
  policy.rules.insert(policy.rules.begin(), std::make_move_iterator(first->rules.begin()), std::make_move_iterator(first->rules.end()));
  return policy;
}

}  // namespace vfsguard::policy
