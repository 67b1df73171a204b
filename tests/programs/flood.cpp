// SPDX-License-Identifier: Apache-2.0
// Opens and closes files as fast as it can: flood DIRECTORY THREADS OPENS-PER-THREAD [MISSING-EVERY [RATE]].
// RATE holds every thread to so many opens a second. Prints what it did, by its own
// count: "opened=N failed=N nanoseconds=N". Used by the accounting tests and by the bench.
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: flood DIRECTORY THREADS OPENS [MISSING-EVERY [RATE]]\n");
    return 64;
  }
  const std::string directory = argv[1];
  const int threads = std::atoi(argv[2]);
  const long opens = std::atol(argv[3]);
  const long missing_every = argc > 4 ? std::atol(argv[4]) : 0;
  const long rate = argc > 5 ? std::atol(argv[5]) : 0;
  const std::string present = directory + "/flood";
  const std::string missing = directory + "/missing";
  close(open(present.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0600));
  std::atomic<long> opened{1};
  std::atomic<long> failed{0};
  timespec start{};
  timespec end{};
  clock_gettime(CLOCK_MONOTONIC, &start);
  std::vector<std::thread> all;
  for (int t = 0; t < threads; ++t) {
    all.emplace_back([&] {
      long good = 0;
      long bad = 0;
      for (long i = 0; i < opens; ++i) {
        if (rate > 0 && i % 64 == 0) {
          timespec now{};
          do {
            clock_gettime(CLOCK_MONOTONIC, &now);
          } while ((now.tv_sec - start.tv_sec) * 1000000000L + now.tv_nsec - start.tv_nsec < i * (1000000000L / rate));
        }
        const bool absent = missing_every > 0 && i % missing_every == 0;
        const int fd = open((absent ? missing : present).c_str(), O_RDONLY);
        if (fd >= 0) {
          ++good;
          close(fd);
        } else {
          ++bad;
        }
      }
      opened += good;
      failed += bad;
    });
  }
  for (std::thread& t : all) {
    t.join();
  }
  clock_gettime(CLOCK_MONOTONIC, &end);
  std::printf("opened=%ld failed=%ld nanoseconds=%ld\n", opened.load(), failed.load(), (end.tv_sec - start.tv_sec) * 1000000000L + end.tv_nsec - start.tv_nsec);
}
