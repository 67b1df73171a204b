// SPDX-License-Identifier: Apache-2.0
#include "enrich/digests.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "util/fd.h"
#include "util/sha256.h"

namespace vfsguard::enrich {

namespace {

constexpr std::size_t kMaxJobs = 4096;  // more are not taken: their executables stay without a digest

bool sha256(int fd, std::array<char, 64>& hex) {
  util::Sha256 digest;
  if (!digest.update_from(fd)) {
    return false;
  }
  const auto digits = digest.hex();
  if (digits) {
    hex = *digits;
  }
  return digits.has_value();
}

}  // namespace

Digests::Digests() : thread_([this](const std::stop_token& stop) { work(stop); }) {}

Digests::~Digests() {
  thread_.request_stop();
  wake_.notify_all();
}

std::shared_ptr<const event::Digest> Digests::of(std::uint32_t pid, std::uint64_t ino) {
  auto digest = std::make_shared<event::Digest>();
  {
    const std::lock_guard lock(mutex_);
    if (jobs_.size() < kMaxJobs) {
      jobs_.push_back({pid, ino, digest});
    }
  }
  wake_.notify_one();
  return digest;
}

void Digests::work(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      if (!wake_.wait(lock, stop, [this] { return !jobs_.empty(); })) {
        return;
      }
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    settle(job);
  }
}

void Digests::settle(const Job& job) {
  const util::UniqueFd fd(open(fmt::format("/proc/{}/exe", job.pid).c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status{};
  // Another program by now, or another process with that number: the inode tells.
  if (!fd || fstat(fd.get(), &status) != 0 || status.st_ino != job.ino) {
    return;
  }
  const Identity identity{status.st_dev,          status.st_ino,         status.st_size,        status.st_mtim.tv_sec,
                          status.st_mtim.tv_nsec, status.st_ctim.tv_sec, status.st_ctim.tv_nsec};
  auto it = known_.find(identity);
  if (it == known_.end()) {
    std::array<char, 64> hex;
    if (!sha256(fd.get(), hex)) {
      return;
    }
    if (known_.size() >= kMaxDigests) {
      known_.clear();
    }
    it = known_.emplace(identity, hex).first;
  }
  job.digest->hex = it->second;
  job.digest->ready.store(true, std::memory_order_release);
}

}  // namespace vfsguard::enrich
