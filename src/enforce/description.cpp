// SPDX-License-Identifier: Apache-2.0
#include "enforce/description.h"

#include <cstring>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

namespace vfsguard::enforce {

namespace {

// One list of members for both ways.
template <typename Archive, typename D>
void transfer(Archive& archive, D& d) {
  archive(d.abi);
  if (d.abi != VG_ABI_VERSION) {
    return;
  }
  archive(d.version);
  archive(d.version_at);
  archive(d.capacity);
  archive(d.mechanism);
  archive(d.since_ns);
  archive(d.by);
  archive.list(d.rules, [&](auto& rule) {
    archive(rule.name);
    archive.list(rule.globs, [&](auto& glob) { archive(glob); });
  });
  archive.list(d.set_rules, [&](auto& set) { archive.list(set, [&](auto& rule) { archive(rule); }); });
  archive.list(d.translation, [&](auto& set) { archive(set); });
  archive.list(d.exe_sets, [&](auto& set) { archive.list(set, [&](auto& glob) { archive(glob); }); });
  archive(d.forks);
  archive.list(d.globs, [&](auto& glob) { archive(glob); });
  archive(d.before.total);
}

class Writer {
 public:
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  void operator()(const T& value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    out.insert(out.end(), bytes, bytes + sizeof value);
  }
  void operator()(const std::string& text) {
    (*this)(static_cast<std::uint32_t>(text.size()));
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    out.insert(out.end(), bytes, bytes + text.size());
  }
  template <typename T>
  void list(const std::vector<T>& values, auto&& each) {
    (*this)(static_cast<std::uint32_t>(values.size()));
    for (const T& value : values) {
      each(value);
    }
  }
  std::vector<std::byte> out;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> from) : from_(from) {}
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  void operator()(T& value) {
    if (take(sizeof value)) {
      std::memcpy(&value, from_.data() - sizeof value, sizeof value);
    }
  }
  void operator()(std::string& text) {
    std::uint32_t size = 0;
    (*this)(size);
    if (take(size)) {
      text.assign(reinterpret_cast<const char*>(from_.data() - size), size);
    }
  }
  template <typename T>
  void list(std::vector<T>& values, auto&& each) {
    std::uint32_t size = 0;
    (*this)(size);
    for (std::uint32_t i = 0; i < size && !bad; ++i) {  // each takes a byte at least, so it ends with them
      each(values.emplace_back());
    }
  }
  bool bad = false;

 private:
  // What was taken lies just before what is left.
  bool take(std::size_t size) {
    bad = bad || size > from_.size();
    if (!bad) {
      from_ = from_.subspan(size);
    }
    return !bad;
  }
  std::span<const std::byte> from_;
};

}  // namespace

std::vector<std::byte> encode(const Description& description) {
  Writer writer;
  transfer(writer, description);
  // Last, so that it can be written again in the room it has: its names are there from the start.
  writer(static_cast<std::uint32_t>(description.before.rules.size()));
  for (const auto& [name, counts] : description.before.rules) {
    writer(name);
    writer(counts);
  }
  return std::move(writer.out);
}

util::Result<Description> decode(std::span<const std::byte> bytes) {
  Description description;
  Reader reader(bytes);
  transfer(reader, description);
  if (!reader.bad && description.abi != VG_ABI_VERSION) {
    return util::fail(EX_DATAERR, fmt::format("it is of another version of vfsguard (interface {}, here {})", description.abi, VG_ABI_VERSION));
  }
  std::uint32_t counted = 0;
  reader(counted);
  for (std::uint32_t i = 0; i < counted && !reader.bad; ++i) {
    std::string name;
    vg_rule_counts counts{};
    reader(name);
    reader(counts);
    description.before.rules[name] = counts;
  }
  if (reader.bad) {
    return util::fail(EX_DATAERR, "its description is not understood");
  }
  return description;
}

}  // namespace vfsguard::enforce
