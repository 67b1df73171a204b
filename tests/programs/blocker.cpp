// SPDX-License-Identifier: Apache-2.0
// Has many opens under way at once: blocker FIFO THREADS. Every thread opens FIFO for reading, which blocks until somebody opens it for
// writing. Prints "blocked" once all of them sleep in the call, and ends when all have returned.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: blocker FIFO THREADS\n");
    return 64;
  }
  const auto threads = static_cast<std::size_t>(std::atoi(argv[2]));
  std::vector<std::atomic<pid_t>> ids(threads);
  std::vector<std::thread> all;
  for (std::size_t i = 0; i < threads; ++i) {
    all.emplace_back([&, i] {
      ids[i] = gettid();
      close(open(argv[1], O_RDONLY));
    });
  }
  const auto sleeps = [](pid_t id) {
    std::string stat;
    std::getline(std::ifstream("/proc/self/task/" + std::to_string(id) + "/stat"), stat);
    const std::size_t after_name = stat.rfind(')');
    return after_name + 2 < stat.size() && stat[after_name + 2] == 'S';
  };
  for (const auto& id : ids) {
    while (id == 0 || !sleeps(id)) {
      usleep(1000);
    }
  }
  std::puts("blocked");
  std::fflush(stdout);
  for (std::thread& t : all) {
    t.join();
  }
}
