// SPDX-License-Identifier: Apache-2.0
#include "enforce/link_scan.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <iterator>
#include <memory>
#include <new>
#include <optional>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "output/escape.h"
#include "util/fd.h"
#include "util/mountinfo.h"
#include "util/result.h"

namespace vfsguard::enforce {

namespace {

constexpr std::size_t kShownPath = 4096;    // bytes of a path in a report
constexpr std::size_t kSkippedAtMost = 64;  // file systems in a report
constexpr std::size_t kNotesOfAKind = 3;
constexpr std::size_t kPathsShown = 3;
constexpr std::size_t kFilesCounted = 65'536;  // below a start point; each takes memory
constexpr int kRetries = 5;                    // while the system is short of memory or descriptors
constexpr auto kRetryAfter = std::chrono::milliseconds(20);

// File systems that are not walked. `remote`: a server, or a FUSE process, answers for them; it may
// never do so. Of the others none holds files with several hard links, and some act when they are
// read. Names are those of mountinfo; FUSE adds a subtype to its own ("fuse.sshfs").
struct FileSystem {
  std::string_view name;
  std::uint32_t magic;  // of statfs(2); 0: none is known
  bool remote;
};
constexpr auto kNotWalked = std::to_array<FileSystem>({
    {"proc", 0x9fa0, false},
    {"sysfs", 0x62656572, false},
    {"debugfs", 0x64626720, false},
    {"tracefs", 0x74726163, false},
    {"securityfs", 0x73636673, false},
    {"selinuxfs", 0xf97cff8c, false},
    {"smackfs", 0x43415d53, false},
    {"apparmorfs", 0x5a3c69f0, false},
    {"cgroup", 0x27e0eb, false},
    {"cgroup2", 0x63677270, false},
    {"cpuset", 0x27e0eb, false},
    {"bpf", 0xcafe4a11, false},
    {"devpts", 0x1cd1, false},
    {"mqueue", 0x19800202, false},
    {"configfs", 0x62656570, false},
    {"fusectl", 0x65735543, false},
    {"binfmt_misc", 0x42494e4d, false},
    {"pstore", 0x6165676c, false},
    {"efivarfs", 0xde5e81e4, false},
    {"nsfs", 0x6e736673, false},
    {"rpc_pipefs", 0x67596969, false},
    {"nfsd", 0x6e667364, false},
    {"resctrl", 0x7655821, false},
    {"autofs", 0x187, false},
    {"nfs", 0x6969, true},
    {"nfs4", 0x6969, true},
    {"cifs", 0xff534d42, true},
    {"smb3", 0xfe534d42, true},
    {"smbfs", 0x517b, true},
    {"ceph", 0xc36400, true},
    {"9p", 0x01021997, true},
    {"afs", 0x5346414f, true},
    {"afs", 0x6b414653, true},
    {"coda", 0x73757245, true},
    {"lustre", 0x0bd00bd0, true},
    {"pvfs2", 0x20030528, true},
    {"beegfs", 0x19830326, true},
    {"gpfs", 0x47504653, true},
    {"vboxsf", 0x786f4256, true},
    {"fuseblk", 0x65735546, true},
    {"virtiofs", 0x65735546, true},
    {"fuse", 0x65735546, true},
});

const FileSystem* not_walked(std::string_view type) {
  const auto it = std::ranges::find_if(kNotWalked, [&](const FileSystem& fs) { return fs.name == type || (fs.name == "fuse" && type.starts_with("fuse.")); });
  return it == kNotWalked.end() ? nullptr : &*it;
}

const FileSystem* not_walked(std::uint32_t magic) {
  const auto it = std::ranges::find(kNotWalked, magic, &FileSystem::magic);
  return it == kNotWalked.end() ? nullptr : &*it;
}

// "/a/bb" before "/a/bb/c", and nothing that is not below it in between.
bool before_in_tree(std::string_view a, std::string_view b) {
  return std::ranges::lexicographical_compare(a, b, [](char x, char y) {
    const auto rank = [](char c) { return c == '/' ? 0 : 1 + static_cast<unsigned char>(c); };
    return rank(x) < rank(y);
  });
}

bool below(std::string_view path, std::string_view directory) { return path != directory && util::is_below(path, directory); }

std::string shortened(std::string_view path) {
  if (path.size() <= kShownPath) {
    return std::string(path);
  }
  constexpr std::string_view kCut = "[...]";
  constexpr std::size_t kHalf = (kShownPath - kCut.size()) / 2;
  std::string text(path.substr(0, kHalf));
  text += kCut;
  text += path.substr(path.size() - kHalf);
  return text;
}

bool short_of(int code) { return code == EMFILE || code == ENFILE || code == ENOMEM || code == EINTR || code == EAGAIN; }

bool is_gone(int code) { return code == ENOENT || code == ENOTDIR; }

struct Id {
  std::uint64_t dev = 0;
  std::uint64_t ino = 0;
  std::uint64_t mnt = 0;
  bool operator==(const Id&) const = default;
};

struct IdHash {
  std::size_t operator()(const Id& id) const { return (id.ino * 0x9e3779b97f4a7c15u) ^ (id.dev << 20) ^ id.mnt; }
};

struct Status {
  Id id;
  std::uint64_t nlink = 0;
  mode_t mode = 0;
};

// 0, or errno. Of a path that is "" the descriptor's own. Asks no server for fresh attributes.
int look_at(int directory, const char* name, Status& status) {
  struct statx raw{};
  const int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC | (*name == '\0' ? AT_EMPTY_PATH : 0);
  if (statx(directory, name, flags, STATX_TYPE | STATX_INO | STATX_NLINK | STATX_MNT_ID, &raw) != 0) {
    return errno;
  }
  status.id = {makedev(raw.stx_dev_major, raw.stx_dev_minor), raw.stx_ino, (raw.stx_mask & STATX_MNT_ID) != 0 ? raw.stx_mnt_id : 0};
  status.nlink = raw.stx_nlink;
  status.mode = raw.stx_mode;
  return 0;
}

// The mounts that this process sees, as far as the walk asks for them.
class Mounts {
 public:
  Mounts() : mountinfo_(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC)) { read(); }

  // Whether a remote file system is mounted at this very path. Told by the table, because even a
  // look-up at the mount point may wait for the server. Where it is hidden by a mount above it,
  // what is there now is taken for it.
  [[nodiscard]] const std::string* remote_at(std::string_view path, std::string_view name) const {
    if (!remote_names_.contains(name)) {
      return nullptr;
    }
    const auto it = remote_.find(path);
    return it == remote_.end() ? nullptr : &it->second;
  }

  // The mount point, on the way to a path, of a remote file system.
  [[nodiscard]] std::optional<std::string> remote_on_way(std::string_view path) const {
    for (const auto& [point, type] : remote_) {
      if (util::is_below(path, point)) {
        return point;
      }
    }
    return std::nullopt;
  }

  // The mount point of the automounter that a path lies on, where looking it up could trigger it.
  [[nodiscard]] std::optional<std::string> automounter_of(std::string_view path) const {
    const util::Mount* over = nullptr;  // of those at one place the last
    for (const util::Mount& mount : mounts_) {
      if (util::is_below(path, mount.point) && (over == nullptr || mount.point.size() >= over->point.size())) {
        over = &mount;
      }
    }
    return over != nullptr && over->type == "autofs" && below(path, over->point) ? std::optional(over->point) : std::nullopt;
  }

  [[nodiscard]] std::optional<std::string> type_of(std::uint64_t id) {
    for (int round = 0; round < 2; ++round) {
      const auto it = std::ranges::find(mounts_, id, &util::Mount::id);
      if (it != mounts_.end()) {
        return it->type;
      }
      read();  // mounted since
    }
    return std::nullopt;
  }

  // Mount points below `path` that can be walked and reached without asking a server, in order.
  [[nodiscard]] std::vector<std::string> walkable_below(std::string_view path) const {
    std::vector<std::string> points;
    for (const util::Mount& mount : mounts_) {
      if (below(mount.point, path) && not_walked(mount.type) == nullptr && !remote_on_way(mount.point)) {
        points.push_back(mount.point);
      }
    }
    std::ranges::sort(points, before_in_tree);
    return points;
  }

 private:
  void read() {
    mounts_ = mountinfo_ ? util::read_mountinfo(mountinfo_.get()) : std::vector<util::Mount>{};
    std::uint32_t root_dev = UINT32_MAX;
    for (const util::Mount& mount : mounts_) {
      if (mount.point == "/") {
        root_dev = mount.dev;
      }
    }
    remote_.clear();
    remote_names_.clear();
    for (const util::Mount& mount : mounts_) {
      // Waiting for the root's server cannot be avoided: the agent itself runs from there.
      const FileSystem* fs = not_walked(mount.type);
      if (fs != nullptr && fs->remote && mount.dev != root_dev) {
        remote_[mount.point] = mount.type;
        remote_names_.insert(mount.point.substr(mount.point.rfind('/') + 1));
      } else {
        remote_.erase(mount.point);  // hidden by what was mounted over it
      }
    }
  }

  util::UniqueFd mountinfo_;
  std::vector<util::Mount> mounts_;
  std::map<std::string, std::string, std::less<>> remote_;  // mount point to type
  std::set<std::string, std::less<>> remote_names_;         // their last components
};

// A directory on the way down. Its entries are read at once, so that nothing depends on a position
// in it when it has to be opened again.
struct Level {
  util::UniqueFd fd;  // closed while there are too many
  Id id;
  std::string pending;  // names of directories that are to be walked, each with its '\0'
  std::size_t next = 0;
  std::size_t path_size = 0;  // of path_, up to here
};

class Walk {
 public:
  Walk(const OnFound& each, const ScanOptions& options) : each_(each), options_(options) {}

  ScanReport run(std::vector<std::string> starts) {
    try {
      std::ranges::sort(starts, before_in_tree);
      queue_.assign(starts.begin(), starts.end());
      starts_ = std::move(starts);
      std::string last;  // of the directories that were walked
      while (!queue_.empty()) {
        start_ = path_ = queue_.front();
        if (ended()) {
          break;
        }
        queue_.pop_front();
        const bool covered = !last.empty() && util::is_below(start_, last);
        if ((covered && !behind_obstacle_.contains(start_)) || !walked_.insert(start_).second) {
          continue;
        }
        if (from(start_) && !covered) {
          last = start_;
        }
      }
    } catch (const std::bad_alloc&) {
      levels_.clear();
      give_up("out of memory");
    }
    levels_.clear();
    return std::move(report_);
  }

 private:
  // Walks one start point. False: what lies below it was not walked.
  bool from(const std::string& start) {
    if (const auto point = mounts_.remote_on_way(start)) {
      skip(*point, *mounts_.remote_at(*point, std::string_view(*point).substr(point->rfind('/') + 1)));
      return false;
    }
    if (const auto point = mounts_.automounter_of(start)) {
      skip(*point, "autofs");
      return false;
    }
    util::UniqueFd object = open_start(start);
    if (!object) {
      const int code = errno;
      if (!is_gone(code)) {
        unread(start, code);
      }
      return false;
    }
    Status status;
    if (const int code = look_at(object.get(), "", status); code != 0) {
      unread(start, code);
      return false;
    }
    ++report_.entries;
    if (S_ISLNK(status.mode)) {
      unread(start, ELOOP);
    }
    if (!S_ISDIR(status.mode)) {
      if (status.nlink > 1) {
        pass_on(status, object.get());
      }
      return true;
    }
    if (!may_walk(object.get(), status, nullptr)) {
      return false;
    }
    util::UniqueFd directory = open_directory(object.get(), ".");
    if (!directory) {
      unread(start, errno);
      return false;
    }
    object.reset();
    enter(std::move(directory), status.id);
    while (!levels_.empty() && !ended()) {
      step();
    }
    levels_.clear();
    open_from_ = 1;
    chain_.clear();
    return true;
  }

  // One directory further down, or one level up.
  void step() {
    Level& level = levels_.back();
    path_.resize(level.path_size);
    if (level.next == level.pending.size()) {
      leave();
      return;
    }
    // Entered by the name as it is in `pending`, which stays where it is in memory meanwhile.
    const char* name = level.pending.c_str() + level.next;
    const std::size_t size = std::char_traits<char>::length(name);
    level.next += size + 1;
    append(name, size);
    descend(level, name);
  }

  void descend(const Level& level, const char* name) {
    if (const std::string* type = mounts_.remote_at(path_, name)) {
      skip(path_, *type);
      return;
    }
    Status status;
    const int code = retried([&] { return look_at(level.fd.get(), name, status); });
    if (code != 0) {
      failed(code);
      return;
    }
    if (!S_ISDIR(status.mode)) {
      consider(level.fd.get(), name, status);  // it has become something else
      return;
    }
    if (status.id.dev != level.id.dev || status.id.mnt != level.id.mnt) {
      // Without O_DIRECTORY this triggers no automount.
      const util::UniqueFd object = open_path(level.fd.get(), name);
      Status now;
      if (!object || look_at(object.get(), "", now) != 0) {
        failed(errno);
        return;
      }
      if (!may_walk(object.get(), now, &level.id)) {
        return;
      }
    }
    util::UniqueFd directory = open_directory(level.fd.get(), name);
    if (!directory) {
      failed(errno);
      return;
    }
    Status opened;
    if (const int again = look_at(directory.get(), "", opened); again != 0) {
      failed(again);
      return;
    }
    if (opened.id != status.id && !may_walk(directory.get(), opened, &level.id)) {
      return;  // something was mounted there at this moment
    }
    enter(std::move(directory), opened.id);
  }

  void enter(util::UniqueFd directory, const Id& id) {
    if (!chain_.insert(id).second) {
      unread(path_, EUCLEAN);  // a directory within itself
      return;
    }
    levels_.push_back({.fd = std::move(directory), .id = id, .path_size = path_.size()});
    // The start's stays open: from there every directory of the chain can be found again.
    const std::size_t at_most = std::max(options_.max_open, 3u);
    while (levels_.size() - open_from_ >= at_most && open_from_ + 1 < levels_.size()) {
      levels_[open_from_++].fd.reset();
    }
    read_entries(levels_.back());
    path_.resize(levels_.back().path_size);
  }

  // The level above is opened again where it was closed: by "..", and if that is another one now,
  // by the names that led here.
  void leave() {
    const util::UniqueFd child = std::move(levels_.back().fd);
    chain_.erase(levels_.back().id);
    levels_.pop_back();
    open_from_ = std::min(open_from_, std::max<std::size_t>(levels_.size(), 1));
    if (levels_.empty() || levels_.back().fd) {
      return;
    }
    Level& parent = levels_.back();
    Status status;
    util::UniqueFd directory = child ? open_directory(child.get(), "..") : util::UniqueFd();
    if (!directory || look_at(directory.get(), "", status) != 0 || status.id != parent.id) {
      directory = open_from_start(levels_.size() - 1);
    }
    if (directory) {
      parent.fd = std::move(directory);
      open_from_ = levels_.size() - 1;
      return;
    }
    if (parent.next < parent.pending.size()) {
      path_.resize(parent.path_size);
      unread(path_, ESTALE);
    }
    parent.next = parent.pending.size();
  }

  util::UniqueFd open_from_start(std::size_t target) {
    util::UniqueFd at;
    for (std::size_t i = 1; i <= target; ++i) {
      const std::size_t from = levels_[i - 1].path_size;
      std::string name = path_.substr(from, levels_[i].path_size - from);
      name.erase(0, name.find_first_not_of('/'));
      util::UniqueFd next = open_directory(i == 1 ? levels_.front().fd.get() : at.get(), name.c_str());
      Status status;
      if (!next || look_at(next.get(), "", status) != 0 || status.id != levels_[i].id) {
        return {};
      }
      at = std::move(next);
    }
    return at;
  }

  void read_entries(Level& level) {
    ++report_.directories;
    while (!ended()) {
      long n = 0;
      const int code = retried([&] {
        n = syscall(SYS_getdents64, level.fd.get(), buffer_.data(), buffer_.size());
        return n < 0 ? errno : 0;
      });
      if (code != 0) {
        path_.resize(level.path_size);
        failed(code);
        return;
      }
      if (n == 0) {
        return;
      }
      for (long at = 0; at < n;) {
        const auto* entry = reinterpret_cast<const dirent64*>(buffer_.data() + at);
        at += entry->d_reclen;
        const std::string_view name(entry->d_name);
        if (name == "." || name == "..") {
          continue;
        }
        if (!take(level, entry->d_type, name)) {
          return;
        }
      }
    }
  }

  // One entry of a directory. False: there is no use in further ones.
  bool take(Level& level, unsigned char type, std::string_view name) {
    if (ended()) {
      return false;
    }
    ++report_.entries;
    const auto defer = [&] { level.pending.append(name).push_back('\0'); };
    if (type == DT_DIR) {
      defer();
      return true;
    }
    path_.resize(level.path_size);
    append(name.data(), name.size());
    if (mounts_.remote_at(path_, name) != nullptr) {
      defer();
      return true;
    }
    Status status;
    const int code = retried([&] { return look_at(level.fd.get(), name.data(), status); });
    if (code == EACCES) {
      path_.resize(level.path_size);
      failed(code);  // it can be listed and not searched: so for each of its entries
      return false;
    }
    if (code != 0) {
      failed(code);
    } else if (S_ISDIR(status.mode)) {
      defer();
    } else {
      consider(level.fd.get(), name.data(), status);
    }
    return true;
  }

  void consider(int directory, const char* name, const Status& listed) {
    if (listed.nlink < 2) {
      return;
    }
    const util::UniqueFd object = open_path(directory, name);
    Status status;
    if (!object || look_at(object.get(), "", status) != 0) {
      failed(errno);
      return;
    }
    if (!S_ISDIR(status.mode) && status.nlink > 1) {
      pass_on(status, object.get());
    }
  }

  void pass_on(const Status& status, int fd) {
    ++report_.linked;
    each_({.dev = status.id.dev, .ino = status.id.ino, .nlink = status.nlink, .mode = status.mode, .path = path_, .start = start_, .fd = fd});
  }

  // Whether a directory on another device or mount than the one above it is walked; `above` is null
  // for a start point. Another device on the same mount is a subvolume of btrfs.
  bool may_walk(int fd, const Status& status, const Id* above) {
    if (above != nullptr && above->mnt != 0 && above->mnt == status.id.mnt) {
      return true;
    }
    const FileSystem* fs = nullptr;
    const auto type = status.id.mnt != 0 ? mounts_.type_of(status.id.mnt) : std::nullopt;
    if (type) {
      fs = not_walked(*type);
    } else if (struct statfs about{}; fstatfs(fd, &about) == 0) {
      fs = not_walked(static_cast<std::uint32_t>(about.f_type));
    }
    if (fs == nullptr || status.id.dev == root_dev()) {
      return true;
    }
    skip(path_, type.value_or(std::string(fs->name)));
    return false;
  }

  std::uint64_t root_dev() {
    if (!root_dev_) {
      Status root;
      root_dev_ = look_at(AT_FDCWD, "/", root) == 0 ? root.id.dev : UINT64_MAX;
    }
    return *root_dev_;
  }

  // A start point, by a path without symbolic links: only such paths are protected. A path that is
  // longer than the kernel takes is opened in parts.
  util::UniqueFd open_start(const std::string& path) {
    constexpr std::size_t kPart = 4000;
    util::UniqueFd at;
    std::string_view rest = path;
    while (true) {
      std::string part(rest);
      if (rest.size() > kPart) {
        part.resize(std::max<std::size_t>(rest.rfind('/', kPart), 1));
      }
      rest.remove_prefix(std::min(rest.find_first_not_of('/', part.size()), rest.size()));
      const int directory = at ? at.get() : AT_FDCWD;
      util::UniqueFd next;
      const int code = retried([&] {
        open_how how{};
        how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
        how.resolve = RESOLVE_NO_SYMLINKS;
        long fd = syscall(SYS_openat2, directory, part.c_str(), &how, sizeof how);
        if (fd < 0 && (errno == ENOSYS || errno == EPERM)) {
          fd = openat(directory, part.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC);
        }
        next.reset(static_cast<int>(fd));
        return next ? 0 : errno;
      });
      if (code == 0 && !rest.empty() && is_symlink(next.get())) {
        errno = ELOOP;
        return {};
      }
      at = std::move(next);
      if (code != 0 || rest.empty()) {
        errno = code;
        return at;
      }
    }
  }

  static bool is_symlink(int fd) {
    Status status;
    return look_at(fd, "", status) == 0 && S_ISLNK(status.mode);
  }

  util::UniqueFd open_path(int directory, const char* name) { return open_retried(directory, name, O_PATH | O_NOFOLLOW); }

  // Only the owner of a directory, or who has CAP_FOWNER, may leave its access time as it is.
  util::UniqueFd open_directory(int directory, const char* name) {
    constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK;
    util::UniqueFd fd = open_retried(directory, name, kFlags | O_NOATIME);
    return fd || errno != EPERM ? std::move(fd) : open_retried(directory, name, kFlags);
  }

  util::UniqueFd open_retried(int directory, const char* name, int flags) {
    util::UniqueFd fd;
    const int code = retried([&] {
      fd.reset(openat(directory, name, flags | O_CLOEXEC));
      return fd ? 0 : errno;
    });
    errno = code;
    return fd;
  }

  // What the system is short of, others may give back; descriptors are given back here first.
  template <typename Try>
  int retried(const Try& attempt) {
    int code = attempt();
    for (int i = 0; i < kRetries && code != 0 && short_of(code); ++i) {
      if ((code == EMFILE || code == ENFILE) && close_upper()) {
        --i;
      } else if (code != EINTR) {
        std::this_thread::sleep_for(kRetryAfter);
      }
      code = attempt();
    }
    return code;
  }

  // Not the start's, and not the two lowest, which whoever asks is using.
  bool close_upper() {
    if (open_from_ + 2 >= levels_.size()) {
      return false;
    }
    levels_[open_from_++].fd.reset();
    return true;
  }

  // It could not be read, at path_.
  void failed(int code) {
    if (is_gone(code)) {
      ++report_.vanished;
    } else {
      unread(path_, code);
    }
  }

  void unread(std::string_view path, int code) {
    ++report_.unread_total;
    if (report_.unread.size() < options_.max_reported) {
      report_.unread.push_back({shortened(path), code, util::errno_text(code)});
    }
    // Perhaps those that were given below it can be: they come next in order.
    for (auto it = std::ranges::upper_bound(starts_, path, before_in_tree); it != starts_.end() && below(*it, path); ++it) {
      walk_behind(*it, path);
    }
  }

  void skip(const std::string& path, const std::string& type) {
    const FileSystem* fs = not_walked(type);
    const bool remote = fs != nullptr && fs->remote;
    if (report_.skipped.size() < kSkippedAtMost && skipped_.insert(path).second) {
      report_.skipped.push_back({shortened(path), type, remote});
    }
    if (!remote) {
      for (const std::string& point : mounts_.walkable_below(path)) {
        if (util::is_below(point, start_)) {
          walk_behind(point, path);
        }
      }
    }
  }

  // What lies below something that is not walked is walked from there; unless it is reached from
  // what is queued already.
  void walk_behind(const std::string& path, std::string_view obstacle) {
    const bool reached = std::ranges::any_of(behind_obstacle_, [&](const std::string& other) { return util::is_below(path, other) && below(other, obstacle); });
    if (!reached) {
      behind_obstacle_.insert(path);
      queue_.push_back(path);
    }
  }

  void give_up(const char* why) {
    if (!report_.gave_up) {
      report_.gave_up = true;
      report_.why = why;
      report_.where = shortened(path_);
    }
  }

  bool ended() {
    if (!report_.gave_up) {
      if (options_.stop != nullptr && options_.stop->load(std::memory_order_relaxed)) {
        give_up("it was told to stop");
      } else if (options_.deadline != std::chrono::steady_clock::time_point::max() && ++asked_ % 32 == 1 &&
                 std::chrono::steady_clock::now() >= options_.deadline) {
        give_up("its time was over");
      }
    }
    return report_.gave_up;
  }

  void append(const char* name, std::size_t size) {
    if (!path_.ends_with('/')) {
      path_ += '/';
    }
    path_.append(name, size);
  }

  const OnFound& each_;
  const ScanOptions& options_;
  ScanReport report_;
  Mounts mounts_;
  std::deque<std::string> queue_;
  std::vector<std::string> starts_;
  std::set<std::string> behind_obstacle_;
  std::set<std::string> walked_;  // start points
  std::set<std::string> skipped_;
  std::string start_;
  std::string path_;           // of what is looked at
  std::deque<Level> levels_;   // references stay valid while levels are added
  std::size_t open_from_ = 1;  // levels_[0] and those from here on are open
  std::unordered_set<Id, IdHash> chain_;
  std::optional<std::uint64_t> root_dev_;
  std::uint64_t asked_ = 0;
  alignas(dirent64) std::array<char, 65536> buffer_;
};

}  // namespace

std::string fixed_part(const std::string& glob) {
  const std::size_t special = glob.find_first_of("*?[\\");
  if (special == std::string::npos) {
    return glob;
  }
  const std::size_t slash = glob.rfind('/', special);
  return slash == 0 ? "/" : glob.substr(0, slash);
}

std::vector<std::string> scan_starts(const policy::Policy& policy, const std::set<std::string>& known) {
  std::vector<std::string> all;
  for (const policy::Rule& rule : policy.rules) {
    if (rule.decides() && rule.enforce) {
      for (const policy::Glob& glob : rule.paths) {
        if (!known.contains(glob.text)) {
          all.push_back(fixed_part(glob.text));
        }
      }
    }
  }
  std::ranges::sort(all, before_in_tree);
  all.erase(std::ranges::unique(all).begin(), all.end());
  return all;
}

ScanReport scan(const std::vector<std::string>& starts, const OnFound& each, const ScanOptions& options) {
  const auto walk = std::make_unique<Walk>(each, options);  // large, for the stack of a thread
  return walk->run(starts);
}

ScanReport scan_until_stable(const std::vector<std::string>& starts, const std::function<std::uint64_t()>& changes, const OnFound& each,
                             const ScanOptions& options) {
  for (unsigned pass = 1;; ++pass) {
    const std::uint64_t before = changes();
    ScanReport report = scan(starts, each, options);
    report.passes = pass;
    report.stable = changes() == before;
    if (report.stable || report.gave_up || pass >= options.max_passes) {
      return report;
    }
  }
}

std::vector<std::string> describe(const ScanReport& report) {
  constexpr std::string_view kFollows = "are protected by their protected paths only, not by hard links that are older";
  std::vector<std::string> notes;
  const auto count_rest = [&](std::uint64_t all, std::string_view what) {
    if (all > kNotesOfAKind) {
      notes.push_back(fmt::format("the same is true of {} more {}", all - kNotesOfAKind, what));
    }
  };
  for (std::size_t i = 0; i < std::min(report.unread.size(), kNotesOfAKind); ++i) {
    const ScanReport::Unread& one = report.unread[i];
    if (one.code == ELOOP) {
      notes.push_back(
          fmt::format("{} is a symbolic link or lies below one, and was not scanned for "
                      "hard links: write the path of its target in the rule",
                      output::printable(one.path)));
      continue;
    }
    notes.push_back(fmt::format("cannot scan {} for hard links ({}): files there {}", output::printable(one.path), one.why, kFollows));
  }
  count_rest(report.unread_total, "paths");
  std::uint64_t remote = 0;
  for (const ScanReport::Skipped& one : report.skipped) {
    if (one.remote && ++remote <= kNotesOfAKind) {
      notes.push_back(
          fmt::format("{} was not scanned for hard links, because it is a remote or FUSE file "
                      "system ({}), which may not answer: files there {}",
                      output::printable(one.path), one.type, kFollows));
    }
  }
  count_rest(remote, "file systems");
  if (report.gave_up) {
    notes.push_back(
        fmt::format("the scan for hard links ended early at {}, after {} names, because {}: files "
                    "that it did not reach {}",
                    output::printable(report.where), report.entries, report.why, kFollows));
  }
  if (!report.stable) {
    notes.push_back(
        fmt::format("files were renamed or linked during each of {} scans for hard links: files that were "
                    "moved "
                    "below a protected path meanwhile may be protected there only, not by other hard links",
                    report.passes));
  }
  return notes;
}

void LinkedFiles::add(const Found& found) {
  auto it = starts_.find(found.start);
  if (it == starts_.end()) {
    it = starts_.emplace(found.start, Start{}).first;
  }
  Start& start = it->second;
  if (start.files.size() == kFilesCounted) {
    start.more = start.more || !start.files.contains({found.dev, found.ino});
    return;
  }
  if (start.files.emplace(found.dev, found.ino).second && start.paths.size() < kPathsShown) {
    start.paths.push_back(output::printable(shortened(found.path)));
  }
}

std::vector<std::string> LinkedFiles::describe() const {
  std::vector<std::string> notes;
  for (const auto& [path, start] : starts_) {
    const std::size_t n = start.files.size();
    const bool itself = n == 1 && start.paths.front() == output::printable(path);
    notes.push_back(fmt::format("{} {} other hard links: every name of {} is protected{}",
                                itself ? output::printable(path)
                                       : fmt::format("{}{} {} below {}", start.more ? "more than " : "", n, n == 1 ? "file" : "files", output::printable(path)),
                                n == 1 ? "has" : "have", n == 1 ? "it" : "them",
                                itself ? "" : fmt::format(" ({}{})", fmt::join(start.paths, ", "), n > start.paths.size() ? ", ..." : "")));
  }
  return notes;
}

std::chrono::steady_clock::time_point scan_deadline(bool at_start) { return std::chrono::steady_clock::now() + std::chrono::seconds(at_start ? 60 : 15); }

void add_notes(const LinkedFiles& linked, const ScanReport& report, std::vector<std::string>& notes) {
  std::ranges::copy(linked.describe(), std::back_inserter(notes));
  std::ranges::copy(describe(report), std::back_inserter(notes));
}

}  // namespace vfsguard::enforce
