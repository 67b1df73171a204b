// SPDX-License-Identifier: Apache-2.0
#include "event/decode.h"

#include <gtest/gtest.h>

#include <cstring>

namespace vfsguard::event {
namespace {

std::string path_of(std::string_view walk, bool rooted = true) {
  std::string out = "stale";
  walk_to_path(walk, rooted, out);
  return out;
}

TEST(Walk, ComponentsAreTurnedRound) {
  EXPECT_EQ(path_of(std::string_view("shadow\0etc\0", 11)), "/etc/shadow");
  EXPECT_EQ(path_of(std::string_view("a\0", 2)), "/a");
  EXPECT_EQ(path_of(""), "/");
  EXPECT_EQ(path_of(std::string_view("memfd:x\0", 8), false), "memfd:x");
  EXPECT_EQ(path_of(std::string_view("b\0a\0", 4), false), "a/b");
  EXPECT_EQ(path_of("", false), "");
}

std::string resolved(std::string_view directory, std::string_view name) {
  std::string out;
  resolve_by_text(directory, name, out);
  return out;
}

TEST(ResolveByText, DropsDotsAndClimbs) {
  EXPECT_EQ(resolved("/home/u", "a"), "/home/u/a");
  EXPECT_EQ(resolved("/home/u", "./a//b/."), "/home/u/a/b");
  EXPECT_EQ(resolved("/home/u", "../x/../y"), "/home/y");
  EXPECT_EQ(resolved("/", "../../a"), "/a");
  EXPECT_EQ(resolved("/", "/etc/shadow"), "/etc/shadow");
  EXPECT_EQ(resolved("/home", ".."), "/");
}

TEST(ResolveByText, AChrootIsNotLeftByAnAbsoluteName) {
  EXPECT_EQ(resolved("/jail", "/../../etc"), "/jail/etc");
  EXPECT_EQ(resolved("/jail", "../etc"), "/etc");
}

TEST(Container, IsReadOffTheCgroup) {
  const std::string id(64, 'a');
  EXPECT_EQ(container_of("/system.slice/docker-" + id + ".scope").id, id);
  EXPECT_EQ(container_of("/docker/" + id).id, id);
  EXPECT_EQ(container_of("/machine.slice/libpod-" + id + ".scope/container").id, id);
  EXPECT_EQ(container_of("/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id + ".scope").id, id);
  EXPECT_EQ(container_of("/kubepods.slice/crio-" + id + ".scope").id, id);
  EXPECT_EQ(container_of("/lxc.payload.web/init.scope").name, "web");
  EXPECT_EQ(container_of("/lxc/web").runtime, "lxc");
  EXPECT_EQ(container_of("/machine.slice/machine-db\\x2d1.scope").name, "db-1");
  EXPECT_EQ(container_of("/machine.slice/machine-db.scope/payload").runtime, "systemd-nspawn");
  EXPECT_EQ(container_of("/docker/" + id).runtime, "docker");
  EXPECT_EQ(container_of("/kubepods.slice/crio-" + id + ".scope").runtime, "cri-o");
  EXPECT_EQ(container_of("/machine.slice/libpod-" + id + ".scope/container").runtime, "podman");
  EXPECT_EQ(container_of("/user.slice/user-0.slice").id, "");
  EXPECT_EQ(container_of("/").id, "");
}

std::vector<std::byte> event_record(std::string_view walk, std::string_view raw, std::uint32_t flags) {
  vg_event e{};
  e.head = {static_cast<vg_u32>(sizeof e + walk.size() + raw.size()), 0, VG_RECORD_EVENT, VG_ABI_VERSION};
  e.path_flags = flags;
  e.path_len = static_cast<vg_u16>(walk.size());
  e.raw_len = static_cast<vg_u16>(raw.size());
  std::vector<std::byte> data(e.head.size);
  std::memcpy(data.data(), &e, sizeof e);
  std::memcpy(data.data() + sizeof e, walk.data(), walk.size());
  std::memcpy(data.data() + sizeof e + walk.size(), raw.data(), raw.size());
  return data;
}

TEST(DecodeOperation, AnObjectHasItsOwnPathAndAFailureTheCallers) {
  Operation operation;
  auto data = event_record(std::string_view("a\0tmp\0", 6), "./a", VG_PATH_OBJECT | VG_RAW_PRESENT);
  ASSERT_TRUE(decode_operation(data, operation));
  EXPECT_EQ(operation.path, "/tmp/a");
  EXPECT_EQ(operation.path_raw, "./a");
  data = event_record(std::string_view("tmp\0", 4), "x/../a", VG_RAW_PRESENT);
  ASSERT_TRUE(decode_operation(data, operation));
  EXPECT_EQ(operation.path, "/tmp/a");
}

TEST(DecodeOperation, ASecondPathIsToldLikeTheFirst) {
  vg_event e{};
  const std::string strings(
      "a\0tmp\0"
      "a"
      "tmp\0"
      "tmp\0"
      "./b",
      6 + 1 + 4 + 4 + 3);
  e.head = {static_cast<vg_u32>(sizeof e + strings.size()), 0, VG_RECORD_EVENT, VG_ABI_VERSION};
  e.operation = VG_OP_RENAME;
  e.call = VG_CALL_RENAME;
  e.path_flags = VG_PATH_OBJECT | VG_RAW_PRESENT;
  e.path2_flags = VG_RAW_PRESENT;
  e.path_len = 6;
  e.raw_len = 1;
  e.cwd_len = 4;
  e.path2_len = 4;
  e.raw2_len = 3;
  std::vector<std::byte> data(e.head.size);
  std::memcpy(data.data(), &e, sizeof e);
  std::memcpy(data.data() + sizeof e, strings.data(), strings.size());
  Operation operation;
  ASSERT_TRUE(decode_operation(data, operation));
  EXPECT_EQ(operation.path, "/tmp/a");
  EXPECT_EQ(operation.cwd, "/tmp");
  EXPECT_EQ(operation.dst_path, "/tmp/b");
  EXPECT_EQ(operation.dst_raw, "./b");
  // A link's target is no path of ours.
  e.call = VG_CALL_SYMLINK;
  std::memcpy(data.data(), &e, sizeof e);
  ASSERT_TRUE(decode_operation(data, operation));
  EXPECT_FALSE(operation.dst_path);
  EXPECT_EQ(operation.dst_raw, "./b");
}

TEST(DecodeOperation, WhatIsNotKnownIsAbsent) {
  Operation operation;
  ASSERT_TRUE(decode_operation(event_record("", "", VG_RAW_FAULT), operation));
  EXPECT_FALSE(operation.path);
  EXPECT_FALSE(operation.path_raw);
  ASSERT_TRUE(decode_operation(event_record("", "a", VG_RAW_PRESENT | VG_BASE_UNKNOWN), operation));
  EXPECT_FALSE(operation.path);
  EXPECT_EQ(operation.path_raw, "a");
  ASSERT_TRUE(decode_operation(event_record("", "", VG_PATH_OBJECT | VG_PATH_DISCONNECTED), operation));
  EXPECT_FALSE(operation.path);
}

TEST(Decode, RefusesRecordsThatLieAboutTheirSize) {
  Operation operation;
  auto data = event_record(std::string_view("a\0", 2), "a", VG_RAW_PRESENT);
  EXPECT_TRUE(record_kind(data));
  EXPECT_FALSE(decode_operation(std::span(data).first(sizeof(vg_event) - 1), operation));
  auto longer = data;
  longer[0] = std::byte{0xff};
  EXPECT_FALSE(record_kind(longer));
  EXPECT_FALSE(record_kind(std::span(data).first(4)));
  auto foreign = data;
  foreign[7] = std::byte{99};
  EXPECT_FALSE(record_kind(foreign));
}

}  // namespace
}  // namespace vfsguard::event
