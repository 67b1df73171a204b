// SPDX-License-Identifier: Apache-2.0
#include "event/names.h"

#include <array>
#include <cstring>

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>

#include <fmt/format.h>

#include "abi/events.h"

namespace vfsguard::event {

namespace {

constexpr std::array<std::string_view, VG_OP_COUNT> kOperations{"", "open", "exec"};
constexpr std::array<std::string_view, VG_CALL_COUNT> kCalls{"", "open", "openat", "openat2", "creat", "open_by_handle_at", "execve", "execveat"};
constexpr std::array<std::string_view, 4> kVia{"syscall", "compat32", "io_uring", "x32"};
constexpr std::array<std::string_view, 4> kHooks{"", "tracepoint", "kprobe", "lsm"};

// Values of x86-64 (include/uapi/asm-generic/fcntl.h); glibc's O_LARGEFILE is 0 there and its O_SYNC two bits.
struct FlagName {
  std::uint64_t bits;
  std::string_view name;
};
constexpr FlagName kOpenFlags[] = {
    {0100, "O_CREAT"},        {0200, "O_EXCL"},        {0400, "O_NOCTTY"},      {01000, "O_TRUNC"},      {02000, "O_APPEND"},      {04000, "O_NONBLOCK"},
    {04010000, "O_SYNC"},     {010000, "O_DSYNC"},     {020000, "O_ASYNC"},     {040000, "O_DIRECT"},    {0100000, "O_LARGEFILE"}, {020200000, "O_TMPFILE"},
    {0200000, "O_DIRECTORY"}, {0400000, "O_NOFOLLOW"}, {01000000, "O_NOATIME"}, {02000000, "O_CLOEXEC"}, {010000000, "O_PATH"},
};
constexpr FlagName kAtFlags[] = {{AT_EMPTY_PATH, "AT_EMPTY_PATH"}, {AT_SYMLINK_NOFOLLOW, "AT_SYMLINK_NOFOLLOW"}, {0x10000, "AT_EXECVE_CHECK"}};
constexpr FlagName kResolveFlags[] = {{RESOLVE_NO_XDEV, "RESOLVE_NO_XDEV"},         {RESOLVE_NO_MAGICLINKS, "RESOLVE_NO_MAGICLINKS"},
                                      {RESOLVE_NO_SYMLINKS, "RESOLVE_NO_SYMLINKS"}, {RESOLVE_BENEATH, "RESOLVE_BENEATH"},
                                      {RESOLVE_IN_ROOT, "RESOLVE_IN_ROOT"},         {RESOLVE_CACHED, "RESOLVE_CACHED"}};

// include/linux/errno.h: never seen by the caller, but by whoever looks at the exit of the call.
constexpr struct {
  int code;
  std::string_view name;
} kKernelErrors[] = {{512, "ERESTARTSYS"}, {513, "ERESTARTNOINTR"}, {514, "ERESTARTNOHAND"}, {516, "ERESTART_RESTARTBLOCK"}, {517, "EPROBE_DEFER"},
                     {518, "EOPENSTALE"},  {521, "EBADHANDLE"},     {524, "ENOTSUPP"},       {530, "ERECALLCONFLICT"}};

template <std::size_t N>
std::string_view at(const std::array<std::string_view, N>& names, unsigned index) {
  return index < N ? names[index] : std::string_view{};
}

void append_named(std::uint64_t flags, const FlagName* names, std::size_t count, std::string& out) {
  bool first = out.empty();
  const auto add = [&](std::string_view name) {
    if (!first) {
      out += '|';
    }
    first = false;
    out += name;
  };
  for (std::size_t i = 0; i < count; ++i) {
    if ((flags & names[i].bits) == names[i].bits) {
      add(names[i].name);
      flags &= ~names[i].bits;
    }
  }
  if (flags != 0) {
    add(fmt::format("0x{:x}", flags));
  }
}

}  // namespace

std::string_view operation_name(unsigned operation) { return at(kOperations, operation); }
std::string_view call_name(unsigned call) { return at(kCalls, call); }
std::string_view via_name(unsigned via) { return at(kVia, via); }
std::string_view hook_name(unsigned hook) { return at(kHooks, hook); }

std::optional<unsigned> operation_from_name(std::string_view name) {
  for (unsigned i = 1; i < kOperations.size(); ++i) {
    if (kOperations[i] == name) {
      return i;
    }
  }
  return std::nullopt;
}

std::string operation_list() {
  std::string list;
  for (unsigned i = 1; i < kOperations.size(); ++i) {
    list += (i > 1 ? ", " : "");
    list += kOperations[i];
  }
  return list;
}

std::string_view file_type_name(std::uint32_t imode) {
  switch (imode & S_IFMT) {
    case S_IFREG: return "regular";
    case S_IFDIR: return "directory";
    case S_IFLNK: return "symlink";
    case S_IFIFO: return "fifo";
    case S_IFSOCK: return "socket";
    case S_IFCHR: return "char_device";
    case S_IFBLK: return "block_device";
    default: return {};
  }
}

std::string error_name(int code) {
  if (const char* name = strerrorname_np(code)) {
    return name;
  }
  for (const auto& known : kKernelErrors) {
    if (known.code == code) {
      return std::string(known.name);
    }
  }
  return std::to_string(code);
}

void append_open_flags(std::uint64_t flags, std::string& out) {
  switch (flags & O_ACCMODE) {
    case O_RDONLY: out += "O_RDONLY"; break;
    case O_WRONLY: out += "O_WRONLY"; break;
    case O_RDWR: out += "O_RDWR"; break;
    default: out += "O_ACCMODE";
  }
  flags &= ~static_cast<std::uint64_t>(O_ACCMODE);
  if (flags != 0) {
    append_named(flags, kOpenFlags, std::size(kOpenFlags), out);
  }
}

void append_at_flags(std::uint64_t flags, std::string& out) {
  if (flags == 0) {
    out += '0';
    return;
  }
  append_named(flags, kAtFlags, std::size(kAtFlags), out);
}

void append_resolve_flags(std::uint64_t flags, std::string& out) { append_named(flags, kResolveFlags, std::size(kResolveFlags), out); }

std::string_view fmode_name(std::uint32_t fmode, std::uint64_t flags) {
  constexpr std::uint32_t kRead = 1;
  constexpr std::uint32_t kWrite = 2;
  constexpr std::uint32_t kExec = 0x20;
  constexpr std::uint32_t kPath = 1u << 14;
  if ((fmode & kPath) != 0 || (flags & O_PATH) != 0) {
    return "path";
  }
  if ((fmode & kExec) != 0) {
    return "rx";
  }
  switch (fmode & (kRead | kWrite)) {
    case kRead: return "r";
    case kWrite: return "w";
    case kRead | kWrite: return "rw";
    default: return "none";
  }
}

}  // namespace vfsguard::event
