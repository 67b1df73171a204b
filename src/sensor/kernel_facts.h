// SPDX-License-Identifier: Apache-2.0
// What the running kernel has, out of its own type information.
#pragma once

#include <string>
#include <unordered_set>

#include "util/result.h"

namespace vfsguard::sensor {

// What decides which programs fit this kernel; features, never version numbers.
struct KernelFacts {
  const char* submit = nullptr;  // the tracepoint of an io_uring submission
  bool complete_cqe = false;     // io_uring_complete(ctx, req, cqe) since 6.16
  bool rdonly_cast = false;
  bool uring = false;
  bool fprobe = false;               // many functions by one link (kprobe.multi)
  bool setattr_takes_idmap = false;  // lsm/inode_setattr(idmap, dentry, attr) since 6.9
  int lsm_file_open = -1;
  int overlay_upper = 0;                      // from struct ovl_inode's vfs_inode to __upperdentry; 0: overlayfs is not loaded
  std::unordered_set<std::string> functions;  // those that we may probe

  [[nodiscard]] bool has(const std::string& function) const { return functions.contains(function); }
};

// One pass over the kernel's type information. Fails where there is none (CONFIG_DEBUG_INFO_BTF).
util::Result<KernelFacts> kernel_facts();

// Where LSM programs are refused as such there is no need to load everything first.
bool lsm_programs_load(const KernelFacts& facts);

// EX_NOPERM where this process may load nothing.
util::Result<void> may_load();

// From here on libbpf's warnings are kept instead of printed; why() is the one line of them, and of the verifier's, that says why.
void keep_libbpf_words();
std::string why();

}  // namespace vfsguard::sensor
