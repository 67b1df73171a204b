// SPDX-License-Identifier: Apache-2.0
// Opens FILE by a request of io_uring: ringopen FILE. Ends with the errno of what failed, 0 for none.
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: ringopen FILE\n");
    return 64;
  }
  io_uring_params params{};
  const int ring = static_cast<int>(syscall(SYS_io_uring_setup, 4, &params));
  if (ring < 0) {
    return errno;
  }
  const auto map = [&](std::size_t size, off_t offset) {
    return static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, offset));
  };
  char* submissions = map(params.sq_off.array + params.sq_entries * sizeof(std::uint32_t), IORING_OFF_SQ_RING);
  char* completions = map(params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe), IORING_OFF_CQ_RING);
  auto* entries = reinterpret_cast<io_uring_sqe*>(map(params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES));
  if (submissions == MAP_FAILED || completions == MAP_FAILED || entries == MAP_FAILED) {
    return errno;
  }
  std::memset(entries, 0, sizeof *entries);
  entries->opcode = IORING_OP_OPENAT;
  entries->fd = AT_FDCWD;
  entries->addr = reinterpret_cast<std::uint64_t>(argv[1]);
  entries->open_flags = O_RDONLY;
  reinterpret_cast<std::uint32_t*>(submissions + params.sq_off.array)[0] = 0;
  std::atomic_ref(*reinterpret_cast<std::uint32_t*>(submissions + params.sq_off.tail)).store(1);
  if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, nullptr, 0) < 0) {
    return errno;
  }
  const auto* done = reinterpret_cast<const io_uring_cqe*>(completions + params.cq_off.cqes);
  return done->res < 0 ? -done->res : 0;
}
