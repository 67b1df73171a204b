// SPDX-License-Identifier: Apache-2.0
#include "control/server.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <vector>

#include <fmt/format.h>

#include "output/escape.h"
#include "util/clock.h"

namespace vfsguard::control {

namespace {

constexpr std::uint64_t kSecond = 1'000'000'000u;

util::Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return util::fail(EX_USAGE, fmt::format("'{}' cannot be a socket's path: it has 1 to {} bytes", path, sizeof address.sun_path - 1));
  }
  path.copy(address.sun_path, path.size());
  return address;
}

const sockaddr* generic(const sockaddr_un& address) { return reinterpret_cast<const sockaddr*>(&address); }

// Who may put another socket in our place could be told what is meant for the agent.
util::Result<void> check_directory(const std::string& path) {
  const std::string directory = std::filesystem::path(path).parent_path().string();
  if (mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST) {
    return util::fail_errno(EX_CANTCREAT, fmt::format("cannot make '{}' for the control socket", directory));
  }
  struct stat status{};
  if (stat(directory.c_str(), &status) != 0) {
    return util::fail_errno(EX_CANTCREAT, fmt::format("'{}'", directory));
  }
  const bool shared = (status.st_mode & (S_IWGRP | S_IWOTH)) != 0 && (status.st_mode & S_ISVTX) == 0;
  if (!S_ISDIR(status.st_mode) || (status.st_uid != 0 && status.st_uid != geteuid()) || shared) {
    return util::fail(EX_NOPERM,
                      fmt::format("'{}', where the control socket is to lie, can be changed by others than root; choose another with --control", directory));
  }
  return {};
}

bool somebody_listens(const sockaddr_un& address) {
  const util::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return connect(fd.get(), generic(address), sizeof address) == 0 || errno == EAGAIN;
}

}  // namespace

std::string refusal(const util::Error& error) {
  std::string out = R"({"ok":false,"error":")";
  output::append_json(error.message, out);
  out += fmt::format("\",\"exit_code\":{}}}", error.exit_code);
  return out;
}

Server::Server(std::string path, util::UniqueFd listener, util::UniqueFd epoll, std::optional<gid_t> group, Handler handler)
    : path_(std::move(path)), listener_(std::move(listener)), epoll_(std::move(epoll)), group_(group), handler_(std::move(handler)) {
  tokens_at_ns_ = util::clock_ns(CLOCK_MONOTONIC);
}

Server::~Server() {
  if (listener_) {
    unlink(path_.c_str());
  }
}

util::Result<Server> Server::open(const std::string& path, std::optional<gid_t> group, Handler handler) {
  auto address = address_of(path);
  if (!address) {
    return util::pass_on(address.error());
  }
  if (auto ok = check_directory(path); !ok) {
    return util::pass_on(ok.error());
  }
  struct stat status{};
  if (lstat(path.c_str(), &status) == 0) {
    if (!S_ISSOCK(status.st_mode)) {
      return util::fail(EX_CANTCREAT, fmt::format("'{}' is there already, and no socket", path));
    }
    if (somebody_listens(*address)) {
      return util::fail(EX_UNAVAILABLE, fmt::format("another agent listens at '{}'; choose another socket with --control, or none with --control off", path));
    }
    unlink(path.c_str());
  }
  util::UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const mode_t before = umask(0177);  // never open to others, not for a moment
  const bool bound = listener && bind(listener.get(), generic(*address), sizeof *address) == 0;
  const int code = errno;
  umask(before);
  if (!bound) {
    return util::fail_errno(EX_CANTCREAT, fmt::format("cannot make the control socket '{}'", path), code);
  }
  if (group && (chown(path.c_str(), static_cast<uid_t>(-1), *group) != 0 || chmod(path.c_str(), 0660) != 0)) {
    return util::fail_errno(EX_CANTCREAT, fmt::format("cannot give '{}' to its group", path));
  }
  util::UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  epoll_event readable{};
  readable.events = EPOLLIN;
  readable.data.fd = listener.get();
  if (listen(listener.get(), static_cast<int>(kMaxConnections)) != 0 || !epoll || epoll_ctl(epoll.get(), EPOLL_CTL_ADD, listener.get(), &readable) != 0) {
    return util::fail_errno(EX_OSERR, fmt::format("cannot listen at '{}'", path));
  }
  return Server(path, std::move(listener), std::move(epoll), group, std::move(handler));
}

bool Server::is_welcome(int fd) const {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return false;
  }
  if (peer.uid == 0 || peer.uid == geteuid() || (group_ && peer.gid == *group_)) {
    return true;
  }
  if (!group_) {
    return false;
  }
  std::vector<gid_t> groups(256);
  size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
  if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size) != 0) {
    return false;
  }
  groups.resize(size / sizeof(gid_t));
  return std::ranges::find(groups, *group_) != groups.end();
}

void Server::accept_all() {
  for (;;) {
    util::UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) {
      return;
    }
    const int number = fd.get();
    if (connections_.size() >= kMaxConnections) {
      continue;  // closed at once
    }
    Connection connection;
    connection.fd = std::move(fd);
    connection.last_ns = util::clock_ns(CLOCK_MONOTONIC);
    if (!is_welcome(number)) {
      connection.out = refusal({"only root may ask this agent, and the group named by --control-group", EX_NOPERM, EPERM}) + "\n";
      connection.ending = true;
    }
    epoll_event wanted{};
    wanted.events = EPOLLIN | (connection.out.empty() ? 0u : static_cast<unsigned>(EPOLLOUT));
    wanted.data.fd = number;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, number, &wanted) == 0) {
      connections_.emplace(number, std::move(connection));
    }
  }
}

// A bucket that fills at the allowed rate.
bool Server::may_answer() {
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  tokens_ = std::min(kRequestsPerSecond, tokens_ + static_cast<double>(now - tokens_at_ns_) / static_cast<double>(kSecond) * kRequestsPerSecond);
  tokens_at_ns_ = now;
  if (tokens_ < 1) {
    return false;
  }
  tokens_ -= 1;
  return true;
}

void Server::answer(Connection& connection, std::string_view request) {
  if (!may_answer()) {
    connection.out += refusal({fmt::format("more than {} requests a second", kRequestsPerSecond), EX_TEMPFAIL, EAGAIN});
  } else {
    connection.out += handler_(request);
  }
  connection.out += '\n';
  connection.ending = connection.ending || connection.out.size() > kMaxReply;
}

// False: the connection is done.
bool Server::read_from(Connection& connection) {
  std::array<char, 4096> chunk;
  while (!connection.ending) {
    const ssize_t n = recv(connection.fd.get(), chunk.data(), chunk.size(), 0);
    if (n < 0) {
      return errno == EAGAIN || errno == EINTR;
    }
    if (n == 0) {
      connection.ending = true;
      break;
    }
    connection.last_ns = util::clock_ns(CLOCK_MONOTONIC);
    connection.in.append(chunk.data(), static_cast<std::size_t>(n));
    std::size_t begin = 0;
    for (std::size_t end = connection.in.find('\n'); end != std::string::npos && !connection.ending; end = connection.in.find('\n', begin)) {
      answer(connection, std::string_view(connection.in).substr(begin, end - begin));
      begin = end + 1;
    }
    connection.in.erase(0, begin);
    if (connection.in.size() > kMaxRequest) {
      connection.out += refusal({fmt::format("a request has at most {} bytes", kMaxRequest), EX_DATAERR, EMSGSIZE}) + "\n";
      connection.ending = true;
    }
  }
  return true;
}

bool Server::write_to(Connection& connection) {
  while (!connection.out.empty()) {
    const ssize_t n = send(connection.fd.get(), connection.out.data(), connection.out.size(), MSG_NOSIGNAL);
    if (n < 0) {
      return errno == EAGAIN || errno == EINTR;
    }
    connection.last_ns = util::clock_ns(CLOCK_MONOTONIC);
    connection.out.erase(0, static_cast<std::size_t>(n));
  }
  return !connection.ending;
}

void Server::work() {
  std::array<epoll_event, kMaxConnections + 1> events;
  const int count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
  for (int i = 0; i < count; ++i) {
    const int number = events[static_cast<std::size_t>(i)].data.fd;
    if (number == listener_.get()) {
      accept_all();
      continue;
    }
    const auto it = connections_.find(number);
    if (it == connections_.end()) {
      continue;
    }
    Connection& connection = it->second;
    const unsigned what = events[static_cast<std::size_t>(i)].events;
    bool stays = (what & EPOLLIN) == 0 || read_from(connection);
    stays = stays && write_to(connection) && (what & (EPOLLERR | EPOLLHUP)) == 0;
    if (!stays) {
      connections_.erase(it);
      continue;
    }
    epoll_event wanted{};
    wanted.events = (connection.ending ? 0u : static_cast<unsigned>(EPOLLIN)) | (connection.out.empty() ? 0u : static_cast<unsigned>(EPOLLOUT));
    wanted.data.fd = number;
    epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, number, &wanted);
  }
  const std::uint64_t now = util::clock_ns(CLOCK_MONOTONIC);
  std::erase_if(connections_, [&](const auto& entry) { return now - entry.second.last_ns > kIdleSeconds * kSecond; });
}

std::optional<int> Server::due_in() const {
  if (connections_.empty()) {
    return std::nullopt;
  }
  return static_cast<int>(kIdleSeconds * 1000);
}

util::Result<std::string> ask(const std::string& path, std::string_view request) {
  auto address = address_of(path);
  if (!address) {
    return util::pass_on(address.error());
  }
  const util::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd || connect(fd.get(), generic(*address), sizeof *address) != 0) {
    if (errno == EACCES || errno == EPERM) {
      return util::fail_errno(EX_NOPERM, fmt::format("'{}' is not for this user; ask as root", path));
    }
    if (errno == ENOENT || errno == ECONNREFUSED) {
      return util::fail(EX_UNAVAILABLE, fmt::format("no agent listens at '{}'; start one with vfsguard run, or name its socket with --control", path));
    }
    return util::fail_errno(EX_UNAVAILABLE, fmt::format("'{}'", path));
  }
  const timeval patience{.tv_sec = 60, .tv_usec = 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  std::string line(request);
  line += '\n';
  for (std::size_t sent = 0; sent < line.size();) {
    const ssize_t n = send(fd.get(), line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
    if (n < 0) {
      break;  // refused already: the reply says why
    }
    sent += static_cast<std::size_t>(n);
  }
  std::string reply;
  std::array<char, 4096> chunk;
  while (reply.size() <= kMaxReply) {
    const ssize_t n = recv(fd.get(), chunk.data(), chunk.size(), 0);
    if (n < 0) {
      return util::fail_errno(EX_UNAVAILABLE, "the agent does not answer");
    }
    if (n == 0) {
      break;
    }
    reply.append(chunk.data(), static_cast<std::size_t>(n));
    if (const std::size_t end = reply.find('\n'); end != std::string::npos) {
      reply.resize(end);
      return reply;
    }
  }
  return util::fail(EX_UNAVAILABLE, "the agent went away without an answer");
}

}  // namespace vfsguard::control
