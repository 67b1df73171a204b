// SPDX-License-Identifier: Apache-2.0
// Many processes: bomb N TOGETHER FILE. N children in all, TOGETHER of them at once, each of which opens FILE and waits for its group's end.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: bomb N TOGETHER FILE\n");
    return 64;
  }
  const long n = atol(argv[1]);
  const long together = atol(argv[2]);
  for (long done = 0; done < n; done += together) {
    int gate[2];
    if (pipe(gate) != 0) {
      return 1;
    }
    for (long i = 0; i < together; ++i) {
      const pid_t child = fork();
      if (child < 0) {
        perror("fork");
        return 1;
      }
      if (child == 0) {
        close(gate[1]);
        const int fd = open(argv[3], O_RDONLY);
        char c = 0;
        (void)!read(gate[0], &c, 1);
        _exit(fd < 0);
      }
    }
    close(gate[0]);
    close(gate[1]);
    while (wait(nullptr) > 0) {
    }
  }
  return 0;
}
