// SPDX-License-Identifier: Apache-2.0
// Sigma files to rules. A document that cannot be evaluated as it stands is refused, with file:line:column, why, and what to do; the others of the
// file are read all the same, and the caller decides whether that will do.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "detect/sigma.h"
#include "util/result.h"

namespace vfsguard::detect {

// What |expand puts in the place of %name%.
using Lists = std::map<std::string, std::vector<std::string>>;

// Adds the documents of one file. What is refused is in RuleSet::refused.
void parse_rules(const std::string& file, const std::string& text, const Lists& lists, RuleSet& into);

// Adds the lists that belong to rules: those of the file lists.yml in the directory, or for a file in its own or one of the two above it. None is no
// error. A list that is there already stays.
util::Result<void> load_lists(const std::string& path, Lists& into);

// Adds a file, or the .yml and .yaml files of a directory and of those below it, in the order of their names; lists.yml is
// left to load_lists(). EX_NOINPUT: there is nothing to read.
util::Result<void> load_rules(const std::string& path, const Lists& lists, RuleSet& into);

// After everything was added: no id and no name stands twice. What does is refused, the later one.
void refuse_duplicates(RuleSet& rules);

// The events of a logsource; EX_CONFIG: there are none here, and why.
util::Result<Source> source_of(const std::string& category, const std::string& product, const std::string& service);

}  // namespace vfsguard::detect
