// SPDX-License-Identifier: Apache-2.0
// The local socket by which the running agent is asked and told things: one JSON object a line in, one a line out (docs/control.md).
//
// Root, and a group if one was named, by the credentials that the kernel gives for the other end (SO_PEERCRED, SO_PEERGROUPS). Nobody can make
// the agent wait, grow or work without bound: kMaxRequest bytes a request, kMaxConnections at once, each for kIdleSeconds without a word,
// kRequestsPerSecond for all of them together. One thread; nothing here blocks.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "util/fd.h"
#include "util/result.h"

namespace vfsguard::control {

inline constexpr const char* kDefaultSocket = "/run/vfsguard/control.sock";
inline constexpr std::size_t kMaxRequest = 64u << 10;
inline constexpr std::size_t kMaxReply = 8u << 20;
inline constexpr std::size_t kMaxConnections = 16;
inline constexpr unsigned kIdleSeconds = 10;
inline constexpr double kRequestsPerSecond = 100;

class Server {
 public:
  // The reply to a request, without the newline.
  using Handler = std::function<std::string(std::string_view request)>;

  // Makes the directory where it is missing, and takes the place of a socket that nobody listens on. EX_UNAVAILABLE: somebody does.
  static util::Result<Server> open(const std::string& path, std::optional<gid_t> group, Handler handler);

  Server(Server&&) noexcept = default;
  Server& operator=(Server&&) = delete;
  ~Server();

  // Readable when there is something to do; then call work(). work() too when due_in() milliseconds have passed; none: never.
  [[nodiscard]] int fd() const { return epoll_.get(); }
  void work();
  [[nodiscard]] std::optional<int> due_in() const;

 private:
  struct Connection {
    util::UniqueFd fd;
    std::string in;
    std::string out;
    std::uint64_t last_ns = 0;
    bool ending = false;  // nothing more is read; it ends when `out` is gone
  };

  Server(std::string path, util::UniqueFd listener, util::UniqueFd epoll, std::optional<gid_t> group, Handler handler);
  void accept_all();
  [[nodiscard]] bool is_welcome(int fd) const;
  bool read_from(Connection& connection);
  bool write_to(Connection& connection);
  void answer(Connection& connection, std::string_view request);
  bool may_answer();

  std::string path_;
  util::UniqueFd listener_;
  util::UniqueFd epoll_;
  std::optional<gid_t> group_;
  Handler handler_;
  std::map<int, Connection> connections_;
  double tokens_ = kRequestsPerSecond;
  std::uint64_t tokens_at_ns_ = 0;
};

// {"ok":false,"error":...,"exit_code":...}
std::string refusal(const util::Error& error);

// One request to the agent that listens there, and its reply. EX_UNAVAILABLE: none does. EX_NOPERM: not for us.
util::Result<std::string> ask(const std::string& path, std::string_view request);

}  // namespace vfsguard::control
