// SPDX-License-Identifier: Apache-2.0
// Bytes to text that can be neither misread nor misused: a name cannot end a line, a string or a colour.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "event/event.h"

namespace vfsguard::output {

// Appends `bytes` as the inside of a JSON string. Control characters (C0, DEL, C1), line and paragraph separators and everything
// that changes text direction are written as \uXXXX; a byte that is not UTF-8 becomes U+FFFD. Returns false if there was one: the
// caller then writes the exact bytes beside it.
bool append_json(std::string_view bytes, std::string& out);

// A whole JSON string, and a list of them.
std::string json_string(std::string_view bytes);
std::string json_list(const std::vector<std::string>& values);

// Appends `bytes` for a terminal: what append_json would escape, and every byte that is not UTF-8, as \xNN; a backslash doubled.
void append_text(std::string_view bytes, std::string& out);

// The same, as a string of its own.
std::string printable(std::string_view bytes);

void append_hex(std::string_view bytes, std::string& out);

// Joins arguments as a shell would have to be given them.
std::string join_arguments(const std::string* begin, const std::string* end);
// What join_arguments() made one text of.
std::vector<std::string> split_arguments(std::string_view joined);

std::shared_ptr<const event::CommandLine> command_line(const std::vector<std::string>& arguments);

}  // namespace vfsguard::output
