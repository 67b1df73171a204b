// SPDX-License-Identifier: Apache-2.0
// The fields that rules name, and what an event says in each: one table for Sigma's own names, auditd's, and the names of our events
// (docs/event-format.md). A field that an event does not have is absent, which is not the same as empty.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "event/event.h"

namespace vfsguard::detect {

// Which names a rule may use, by its logsource: everybody ours and Sigma's taxonomy, rules for auditd only auditd's.
enum class Dialect : std::uint8_t { kSigma, kAuditd };

enum class Field : std::uint8_t {
  kTarget,  // what is brought about: the second path of a rename or link, else the path
  kOrigin,  // what it comes from: the first path of a rename or link
  kPath,
  kPathInNamespace,
  kPathRaw,
  kPathFlags,
  kSecondPath,
  kSecondRaw,
  kCwd,
  kExe,
  kExeDeleted,
  kExeMemfd,
  kExeHash,
  kHashes,  // "SHA256=..."
  kCommandLine,
  kParentExe,
  kParentCommandLine,
  kAncestors,
  kComm,
  kParentComm,
  kUser,
  kPid,
  kTid,
  kParentPid,
  kUid,
  kGid,
  kEuid,
  kEgid,
  kLoginUid,
  kSession,
  kProcessId,
  kMountNamespace,
  kPidNamespace,
  kCgroup,
  kContainerId,
  kContainerName,
  kContainerRuntime,
  kOperation,
  kCall,
  kVia,
  kInode,
  kLinks,
  kFileType,
  kFileSystem,
  kOpenMode,  // fmode
  kSourceIp,
  kSourcePort,
  kTheirIp,
  kTheirPort,
  kTheirHost,  // nobody knows it: addresses are all that the kernel is told
  kIsIpv6,
  kInitiated,
  kAddressFamily,
  kAbstractName,
  kResult,  // retval
  kErrorCode,
  kError,
  kSuccess,
  kVerdict,
  kEnforced,
  kPolicies,
  kTimestamp,  // seconds since the epoch
  kCount,
  kReads,
  kWrites,
  kBytesRead,
  kBytesWritten,
  kCallField,      // what a call's own arguments are told as: FieldKey::index
  kRecordTypes,    // auditd: the types of the records that it would write of this event
  kRecordName,     // auditd: the paths of its PATH records
  kNameType,       // auditd: CREATE, DELETE or NORMAL
  kSuccessWord,    // auditd: yes or no
  kArgument,       // auditd: a0, a1, ...: FieldKey::index
  kArgumentCount,  // auditd: argc
};

struct FieldKey {
  Field field = Field::kPath;
  std::uint8_t index = 0;
  auto operator<=>(const FieldKey&) const = default;
};

std::optional<FieldKey> find_field(std::string_view name, Dialect dialect);
std::vector<std::string_view> field_names(Dialect dialect);
// As rules write it, for messages.
std::string field_name(FieldKey key, Dialect dialect);
// It says the same in all events of one process image.
bool is_of_process(FieldKey key);
// It is the object's own, not its name.
bool is_of_object(FieldKey key);
// Nothing that runs here ever tells it.
bool is_never_known(FieldKey key);
// Numbers are compared as numbers, and as the text that they are written as.
bool is_number(FieldKey key);
// The keywords of a rule are looked for in these.
std::span<const FieldKey> searched_by_keywords();

// What an event says in one field. The texts are the event's or the buffer's.
struct Values {
  static constexpr std::size_t kMost = VG_ANCESTORS_MAX;
  std::array<std::string_view, kMost> texts;
  std::size_t count = 0;
  std::int64_t number = 0;  // where is_number(), of the one value
};

// `buffer` keeps what had to be put together, until it is used again.
void read_field(const event::Operation& operation, FieldKey key, std::string& buffer, Values& out);

}  // namespace vfsguard::detect
