// SPDX-License-Identifier: Apache-2.0
// What the ways to a protected object have in common. Each is a function that a process of its own
// runs in a directory of its own.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

constexpr unsigned kUser = 1234;

// What a way has to work with. All paths are absolute; `a` is the object.
struct Place {
  std::string dir, a, x, s, b, prog, alias, link, dirlink, above, deep;
  std::string free;     // a directory that no rule is about
  int old = -1;         // opened before the policy, read and write: a
  int old_b = -1;       // the only name of a file in a protected directory
  int old_x = -1;       // a file that no rule is about
  int old_dir = -1;     // of dir
  int old_s = -1;       // of s
  char* low = nullptr;  // a page below 4 GiB
  // What `prepare` of a way leaves for it.
  int fd = -1;
  char* map = nullptr;
  std::string handle;
  int ask = -1, answer = -1;  // of a helper process
};

struct Way {
  const char* name;
  std::function<int(const Place&)> tries;        // returns 0 or an errno
  bool capable = false;                          // keeps root's capabilities
  std::function<void(const Place&)> first = {};  // by root, just before
  std::function<void(Place&)> prepare = {};      // by root, before the policy
  std::function<void()> enter = {};              // by root, in the process that tries
  std::function<void(const Place&)> clean = {};  // by root, afterwards
  // Whatever it is about, it may be refused: its neighbour is tried before the policy.
  bool fails_closed = false;
};

std::vector<Way> basic_ways();
std::vector<Way> overlay_ways();
std::vector<Way> mount_ways();
std::vector<Way> identity_ways();
std::vector<Way> name_ways();
std::vector<Way> ioctl_ways();
std::vector<Way> innocent_ways();

// How many directories deep the deep ones are: --levels.
extern int levels;

[[noreturn]] void die(const std::string& what);
void must(bool ok, const std::string& what);
// 0, or the errno of a call that returned less than 0.
int of(long result);
int opens(const std::string& path, int flags);
// 0 if a byte can be read there, or an errno.
int reads(int fd);
int opens_and_reads(int dir, const std::string& name);
void write_file(const std::string& path, mode_t mode, const std::string& content = "content");
void make_directory(const std::string& path);
void copy_file(const std::string& from, const std::string& to);
void become_nobody(bool capable);
// In namespaces of its own, where nothing is shared; a user namespace has the user's own number.
int in_namespaces(int flags, const std::function<int()>& then);
int in_user_namespace(const std::function<int()>& then);
// By the user, in a process of its own, which must succeed.
void by_user(const std::function<int()>& does);
// What became of a child; whoever had it killed kills this process too.
int result_of(pid_t child);
// By SCM_RIGHTS: 0 or an errno; and the descriptor, -1 where it was cut off the message.
int send_descriptor(int socket, int fd);
int receive_descriptor(int socket);
void drop_dentries();
std::string own_program();
// `ways --helper ...`: what other images of this program do (identity.cpp).
int helper(const std::vector<std::string>& words);
