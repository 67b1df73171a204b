// SPDX-License-Identifier: Apache-2.0
// Finds the files below protected paths that have several hard links.
//
// A path protects a file by that name only; whoever enforces tags the inode, so that its other hard
// links are protected too. Which inodes these are only a walk of the file system can say.
//
// The walk goes by descriptors and keeps at most ScanOptions::max_open of them, at any depth and
// any length of path. It follows no symbolic link, triggers no automount and asks no server: remote
// and FUSE file systems are skipped, except for the one that the root directory is on. What could
// not be read is in the report; nothing ends a scan silently.
//
// Runs in the calling thread, which may be one of its own. No state outlives a call.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "policy/policy.h"

namespace vfsguard::enforce {

// The directory that every path which the glob matches lies in, or the path itself.
std::string fixed_part(const std::string& glob);

// Where to scan for a policy: the fixed parts of the globs of rules that deny or kill and are
// enforced, none below another. Globs in `known` are left out.
std::vector<std::string> scan_starts(const policy::Policy& policy, const std::set<std::string>& known);

// A file of any type but a directory with more than one hard link, by one of its names.
struct Found {
  dev_t dev = 0;
  ino_t ino = 0;
  std::uint64_t nlink = 0;
  mode_t mode = 0;
  std::string_view path;   // whole, even where it is longer than PATH_MAX
  std::string_view start;  // that it was found below
  int fd = -1;             // O_PATH, of this very inode; open during the call
};

struct ScanReport {
  struct Unread {
    std::string path;  // shortened in the middle beyond 4,096 bytes
    int code = 0;      // errno; ELOOP: a start point that a symbolic link leads to
    std::string why;
  };
  struct Skipped {
    std::string path;
    std::string type;
    bool remote = false;  // or FUSE; else a file system that holds no files of its own
  };

  std::uint64_t entries = 0;      // names that were looked at, in all directories
  std::uint64_t directories = 0;  // that were read
  std::uint64_t linked = 0;       // names that were passed on
  std::uint64_t vanished = 0;     // removed between being listed and being looked at: no error
  std::vector<Unread> unread;     // the first of them
  std::uint64_t unread_total = 0;
  std::vector<Skipped> skipped;  // each once
  bool gave_up = false;          // before everything was looked at
  std::string why;               // it gave up
  std::string where;             // it was then
  unsigned passes = 1;           // of scan_until_stable()
  bool stable = true;            // no name changed during the last of them
};

struct ScanOptions {
  const std::atomic<bool>* stop = nullptr;  // set by another thread to end the scan
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  unsigned max_open = 64;         // directories that are open at the same time, at least 3
  std::size_t max_reported = 16;  // of the unread
  unsigned max_passes = 3;        // of scan_until_stable()
};

using OnFound = std::function<void(const Found&)>;

ScanReport scan(const std::vector<std::string>& starts, const OnFound& each, const ScanOptions& options = {});

// Scans again while names changed during a pass: a file that moves from a directory which is not
// read yet into one that is would be missed. `changes` counts renames and links, as the caller sees
// them; `each` is called again for what was found before. At most options.max_passes passes, then
// the report is not `stable`. Its counts are those of the last pass.
ScanReport scan_until_stable(const std::vector<std::string>& starts, const std::function<std::uint64_t()>& changes, const OnFound& each,
                             const ScanOptions& options = {});

// Notes for the user: what was not scanned, and what follows from it. Empty: everything was.
std::vector<std::string> describe(const ScanReport& report);

// Collects what was found, for a note.
class LinkedFiles {
 public:
  void add(const Found& found);
  // "3 files below /etc/app have other hard links: every name of them is protected (/etc/app/a,
  // ...)"
  [[nodiscard]] std::vector<std::string> describe() const;

 private:
  struct Start {
    std::set<std::pair<dev_t, ino_t>> files;
    std::vector<std::string> paths;  // the first of them
    bool more = false;               // than were counted
  };
  std::map<std::string, Start, std::less<>> starts_;
};

// For those who start to enforce. A start may take about a minute before systemd ends it, a reload
// less than the watchdog's 30 s, since nothing else is done meanwhile.
std::chrono::steady_clock::time_point scan_deadline(bool at_start);
void add_notes(const LinkedFiles& linked, const ScanReport& report, std::vector<std::string>& notes);

}  // namespace vfsguard::enforce
