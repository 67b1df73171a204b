// SPDX-License-Identifier: Apache-2.0
// Whole files, of procfs: what says its size nowhere.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace vfsguard::util {

// From where the descriptor stands to the end. False where a read failed; `text` has what came before that.
bool read_all(int fd, std::string& text);

// None where it cannot be opened, or read to its end.
std::optional<std::string> read_file(const std::string& path);

// Of a file that is read as text: what goes beyond `limit` is cut somewhere behind it, by which it is known to be too large. None where it cannot be opened
// (errno).
std::optional<std::string> read_text(const std::string& path, std::size_t limit);

}  // namespace vfsguard::util
