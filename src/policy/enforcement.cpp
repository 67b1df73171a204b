// SPDX-License-Identifier: Apache-2.0
#include "policy/enforcement.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <future>
#include <cctype>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace vfsguard::policy {

namespace {

enum : std::size_t { kPaths, kExecutables, kNames, kGroups, kAbove, kSetCount };

Glob literal(const std::string& text) {
  Glob glob{text, {}};
  for (const char c : text) {
    GlobToken token{GlobToken::Kind::kOne, {}};
    token.set.set(static_cast<unsigned char>(c));
    glob.tokens.push_back(token);
  }
  return glob;
}

// A control group that belongs to the container, and what lies below it.
std::array<std::string, 2> container_globs(const std::string& id) {
  std::string name;
  for (const char c : id) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) {
      name += '\\';
    }
    name += c;
  }
  return {fmt::format("/**/*{}*", name), fmt::format("/**/*{}*/**", name)};
}

// Builds the clauses and, beside them, the lists of values that their conditions name.
class Builder {
 public:
  explicit Builder(const Policy& policy) : policy_(policy) {}

  util::Result<Enforcement> build(const Before* before) {
    for (std::size_t r = 0; r < policy_.rules.size(); ++r) {
      if (policy_.rules[r].decides()) {
        if (auto ok = add_rule(static_cast<std::uint32_t>(r)); !ok) {
          return util::pass_on(ok.error());
        }
      }
    }
    ranges_.emplace_back();  // match set 0 means none
    resolve_sets();
    auto compilation = compile(patterns_);
    if (!compilation) {
      return util::pass_on(std::move(compilation.error()).context(policy_.file));
    }
    std::vector<std::uint32_t> enforcing;
    vg_u64 operations = 0;
    std::uint32_t kinds = 0;
    for (std::uint32_t i = 0; i < clauses_.size(); ++i) {
      operations |= clauses_[i].operations;
      kinds |= clauses_[i].only_kinds | clauses_[i].unless_kinds;
      if (clauses_[i].enforce != 0) {
        enforcing.push_back(i);
      }
    }
    const std::uint32_t any = add_range(enforcing);
    std::vector<std::uint32_t> translation;
    std::vector<std::uint32_t> exe_translation;
    if (before != nullptr) {
      translation = translate(*before);
      exe_translation = translate_executables(before->tables.exe_sets);
    }
    vg_tables head = compilation->automaton.head;
    head.path_start = compilation->starts[kPaths];
    head.exe_start = compilation->starts[kExecutables];
    head.comm_start = compilation->starts[kNames];
    head.cgroup_start = compilation->starts[kGroups];
    head.above_start = compilation->starts[kAbove];
    head.any_set = any;
    const auto is_ascii = [](const Glob& glob) { return std::ranges::all_of(glob.text, [](char c) { return static_cast<unsigned char>(c) < 0x80; }); };
    head.globs = std::ranges::all_of(patterns_[kPaths].globs, is_ascii) ? 0 : VG_GLOBS_NOT_ASCII;
    const std::vector<vg_member> members = hash_members();
    head.members_mask = static_cast<std::uint32_t>(members.size() - 1);
    TableImage image;
    head.states_at = image.add(std::span(compilation->automaton.states));
    head.edges_at = image.add(std::span(compilation->automaton.edges));
    head.ranges_at = image.add(std::span(ranges_));
    head.order_at = image.add(std::span(order_));
    head.clauses_at = image.add(std::span(clauses_));
    head.members_at = image.add(std::span(members));
    if (!translation.empty()) {
      head.translate_at = image.add(std::span(translation));
      head.translated = static_cast<vg_u32>(translation.size());
    }
    if (!exe_translation.empty()) {
      head.exe_translate_at = image.add(std::span(exe_translation));
      head.exes_translated = static_cast<vg_u32>(exe_translation.size());
    }
    Enforcement result;
    result.kinds = kinds;
    result.exe_sets.resize(subject_sets_[kExecutables].size() + 1);
    for (const auto& [globs, set] : subject_sets_[kExecutables]) {
      for (const std::uint32_t glob : globs) {
        result.exe_sets[set].push_back(patterns_[kExecutables].globs[glob].text);
      }
    }
    result.set_rules.resize(ranges_.size());
    for (const auto& [clauses, set] : path_sets_) {
      for (const std::uint32_t clause : clauses) {
        result.set_rules[set].push_back(clauses_[clause].rule);
      }
    }
    for (const std::uint32_t clause : enforcing) {
      result.set_rules[any].push_back(clauses_[clause].rule);
    }
    result.translation = std::move(translation);
    result.automaton = std::move(compilation->automaton);
    result.automaton.head = head;
    result.tables = image.finish(head);
    if (result.tables.size() > kMaxTableBytes) {
      return util::fail(EX_CONFIG, fmt::format("{}: its tables take {} MiB of kernel memory, more than {}; use fewer globs, or fewer '?' and '*' in them",
                                               policy_.file, result.tables.size() >> 20, kMaxTableBytes >> 20));
    }
    result.operations = operations;
    result.rules = static_cast<std::uint32_t>(policy_.rules.size());
    result.clauses = static_cast<std::uint32_t>(clauses_.size());
    result.sets = static_cast<std::uint32_t>(ranges_.size());
    return result;
  }

 private:
  using Lists = std::vector<std::uint32_t>;

  util::Result<void> add_rule(std::uint32_t index) {
    const Rule& rule = policy_.rules[index];
    vg_clause clause{};
    clause.operations = rule.operations;
    clause.rule = index;
    clause.verdict = rule.action == Action::kKill ? VG_VERDICT_KILL : VG_VERDICT_DENY;
    clause.code = static_cast<vg_u8>(rule.action == Action::kKill ? rule.signal : rule.error);
    clause.enforce = rule.enforce ? 1 : 0;
    clause.only_kinds = add_conditions(rule.only, clause.only);
    clause.unless_kinds = add_conditions(rule.unless, clause.unless);
    const auto place = static_cast<std::uint32_t>(clauses_.size());
    clauses_.push_back(clause);
    for (const Glob& glob : rule.paths) {
      patterns_[kPaths].globs.push_back(glob);
      clause_of_path_.push_back(place);
      if (!rule.enforce) {
        continue;
      }
      for (const std::string& directory : directories_above(glob.text)) {
        const auto [it, added] = above_.try_emplace(directory, patterns_[kAbove].globs.size());
        if (added) {
          auto parsed = parse_glob(directory);
          if (!parsed) {
            return util::fail(EX_SOFTWARE, fmt::format("{}: '{}' above '{}': {}", policy_.file, directory, glob.text, parsed.error().message));
          }
          patterns_[kAbove].globs.push_back(std::move(*parsed));
          clauses_of_above_.emplace_back();
        }
        clauses_of_above_[it->second].push_back(place);
      }
    }
    return {};
  }

  // A list by what it holds: the same condition of a thousand rules is one list. True as second: it is new.
  std::pair<std::uint32_t, bool> list_of(unsigned kind, const std::vector<std::string>& values) {
    std::string key = std::to_string(kind);
    for (const std::string& value : values) {
      key += '\0' + value;
    }
    const auto [it, added] = lists_.try_emplace(std::move(key), static_cast<std::uint32_t>(lists_.size() + 1));
    return {it->second, added};
  }

  void add_pattern(std::size_t set, Glob glob, std::uint32_t list) {
    const auto [it, added] = known_patterns_[set].try_emplace(glob.text, patterns_[set].globs.size());
    if (added) {
      patterns_[set].globs.push_back(std::move(glob));
      lists_of_pattern_[set].emplace_back();
    }
    lists_of_pattern_[set][it->second].push_back(list);
  }

  std::uint32_t add_conditions(const Subjects& subjects, vg_u32 (&lists)[VG_WHO_SLOTS]) {
    std::uint32_t kinds = 0;
    const auto use = [&](unsigned kind, const std::vector<std::string>& values) -> std::optional<std::uint32_t> {
      if (values.empty()) {
        return std::nullopt;
      }
      kinds |= 1u << kind;
      const auto [list, added] = list_of(kind, values);
      lists[kind] = list;
      return added ? std::optional(list) : std::nullopt;
    };
    for (const auto& [kind, ids] : {std::pair<unsigned, const std::vector<std::uint32_t>*>{VG_WHO_UID, &subjects.uids}, {VG_WHO_GID, &subjects.gids}}) {
      std::vector<std::string> texts;
      for (const std::uint32_t id : *ids) {
        texts.push_back(std::to_string(id));
      }
      if (const auto list = use(kind, texts)) {
        for (const std::uint32_t id : *ids) {
          members_.insert({*list, id});
        }
      }
    }
    const auto globs = [&](unsigned kind, std::size_t set, const std::vector<Glob>& of) {
      std::vector<std::string> texts;
      for (const Glob& glob : of) {
        texts.push_back(glob.text);
      }
      if (const auto list = use(kind, texts)) {
        for (const Glob& glob : of) {
          add_pattern(set, glob, *list);
        }
      }
    };
    globs(VG_WHO_EXE, kExecutables, subjects.exes);
    globs(VG_WHO_ANCESTOR, kExecutables, subjects.ancestors);
    globs(VG_WHO_CGROUP, kGroups, subjects.cgroups);
    if (const auto list = use(VG_WHO_COMM, subjects.comms)) {
      for (const std::string& comm : subjects.comms) {
        add_pattern(kNames, literal(comm), *list);
      }
    }
    if (const auto list = use(VG_WHO_CONTAINER, subjects.containers)) {
      for (const std::string& id : subjects.containers) {
        for (const std::string& glob : container_globs(id)) {
          if (auto parsed = parse_glob(glob)) {
            add_pattern(kGroups, std::move(*parsed), *list);
          }
        }
      }
    }
    return kinds;
  }

  std::uint32_t add_range(const std::vector<std::uint32_t>& clauses) {
    vg_range range{};
    range.first = static_cast<vg_u32>(order_.size());
    range.count = static_cast<vg_u32>(clauses.size());
    for (const std::uint32_t index : clauses) {
      range.operations |= clauses_[index].operations;
      range.kinds |= clauses_[index].only_kinds | clauses_[index].unless_kinds;
      order_.push_back(index);
    }
    ranges_.push_back(range);
    return static_cast<std::uint32_t>(ranges_.size() - 1);
  }

  static void make_unique(std::vector<std::uint32_t>& values) {
    std::ranges::sort(values);
    values.erase(std::ranges::unique(values).begin(), values.end());
  }

  void resolve_sets() {
    patterns_[kPaths].resolve = [this](std::span<const std::uint32_t> globs) {
      std::vector<std::uint32_t> clauses;
      for (const std::uint32_t glob : globs) {
        clauses.push_back(clause_of_path_[glob]);
      }
      make_unique(clauses);
      const auto [it, added] = path_sets_.try_emplace(clauses, 0);
      if (added) {
        it->second = add_range(clauses);
      }
      return it->second;
    };
    // What tells two places apart is which patterns lead on from them, not whose they are.
    patterns_[kAbove].resolve = [this](std::span<const std::uint32_t> globs) {
      std::vector<std::uint32_t> key(globs.begin(), globs.end());
      const auto [it, added] = above_sets_.try_emplace(std::move(key), 0);
      if (added) {
        std::vector<std::uint32_t> clauses;
        for (const std::uint32_t glob : globs) {
          clauses.insert(clauses.end(), clauses_of_above_[glob].begin(), clauses_of_above_[glob].end());
        }
        make_unique(clauses);
        it->second = add_range(clauses);
      }
      return it->second;
    };
    for (const std::size_t set : {std::size_t{kExecutables}, std::size_t{kNames}, std::size_t{kGroups}}) {
      patterns_[set].resolve = [this, set](std::span<const std::uint32_t> globs) {
        std::vector<std::uint32_t> key(globs.begin(), globs.end());
        const auto [it, added] = subject_sets_[set].try_emplace(std::move(key), static_cast<std::uint32_t>(subject_sets_[set].size() + 1));
        if (added) {
          for (const std::uint32_t glob : globs) {
            for (const std::uint32_t list : lists_of_pattern_[set][glob]) {
              members_.insert({list, it->second});
            }
          }
        }
        return it->second;
      };
    }
  }

  // What the sets of the policy before are in this one.
  std::vector<std::uint32_t> translate(const Before& before) {
    std::map<std::string_view, Lists> by_name;
    std::map<std::string_view, Lists> by_glob;
    for (std::uint32_t c = 0; c < clauses_.size(); ++c) {
      const Rule& rule = policy_.rules[clauses_[c].rule];
      by_name[rule.name].push_back(c);
      for (const Glob& glob : rule.paths) {
        by_glob[glob.text].push_back(c);
      }
    }
    std::vector<std::optional<Lists>> successors(before.policy.rules.size());
    const auto successors_of = [&](std::uint32_t index) -> const Lists& {
      auto& known = successors[index];
      if (!known) {
        known.emplace();
        const Rule& rule = before.policy.rules[index];
        if (const auto named = by_name.find(rule.name); named != by_name.end()) {
          known = named->second;
        } else {
          for (const Glob& glob : rule.paths) {
            if (const auto same = by_glob.find(glob.text); same != by_glob.end()) {
              known->insert(known->end(), same->second.begin(), same->second.end());
            }
          }
        }
      }
      return *known;
    };
    std::vector<std::uint32_t> translation;
    for (const std::vector<std::uint32_t>& rules : before.tables.set_rules) {
      Lists clauses;
      for (const std::uint32_t rule : rules) {
        const Lists& of_rule = successors_of(rule);
        clauses.insert(clauses.end(), of_rule.begin(), of_rule.end());
      }
      make_unique(clauses);
      if (clauses.empty()) {
        translation.push_back(0);
        continue;
      }
      const auto [it, added] = path_sets_.try_emplace(clauses, 0);
      if (added) {
        it->second = add_range(clauses);
      }
      translation.push_back(it->second);
    }
    return translation;
  }

  // An executable that matched these globs matches those of them that are asked for here; of the others nobody can say any more.
  std::vector<std::uint32_t> translate_executables(const std::vector<std::vector<std::string>>& before) {
    std::vector<std::uint32_t> translation;
    for (const std::vector<std::string>& globs : before) {
      std::vector<std::uint32_t> here;
      for (const std::string& glob : globs) {
        if (const auto known = known_patterns_[kExecutables].find(glob); known != known_patterns_[kExecutables].end()) {
          here.push_back(static_cast<std::uint32_t>(known->second));
        }
      }
      make_unique(here);
      translation.push_back(here.empty() ? 0 : patterns_[kExecutables].resolve(here));
    }
    return translation;
  }

  // Large enough for each entry to lie within VG_MEMBER_PROBES of its place.
  std::vector<vg_member> hash_members() const {
    for (std::size_t size = std::bit_ceil(std::max<std::size_t>(2 * members_.size(), 16));; size *= 2) {
      std::vector<vg_member> table(size, vg_member{0, 0});
      const bool fits = std::ranges::all_of(members_, [&](const std::pair<std::uint32_t, std::uint32_t>& member) {
        const std::uint32_t hash = VG_MEMBER_HASH(member.first, member.second);
        for (std::uint32_t i = 0; i < VG_MEMBER_PROBES; ++i) {
          vg_member& slot = table[(hash + i) & (size - 1)];
          if (slot.list == 0) {
            slot = {member.first, member.second};
            return true;
          }
        }
        return false;
      });
      if (fits) {
        return table;
      }
    }
  }

  const Policy& policy_;
  std::array<PatternSet, kSetCount> patterns_;
  std::vector<vg_clause> clauses_;
  std::vector<vg_range> ranges_;
  std::vector<vg_u32> order_;
  std::vector<std::uint32_t> clause_of_path_;
  std::map<std::string, std::size_t> above_;
  std::vector<Lists> clauses_of_above_;
  std::map<std::vector<std::uint32_t>, std::uint32_t> path_sets_;
  std::map<std::vector<std::uint32_t>, std::uint32_t> above_sets_;
  std::map<std::string, std::uint32_t> lists_;
  std::array<std::map<std::string, std::size_t>, kSetCount> known_patterns_;
  std::array<std::vector<Lists>, kSetCount> lists_of_pattern_;
  std::array<std::map<std::vector<std::uint32_t>, std::uint32_t>, kSetCount> subject_sets_;
  std::set<std::pair<std::uint32_t, std::uint32_t>> members_;  // list, value
};

}  // namespace

std::vector<std::string> directories_above(const std::string& glob) {
  std::vector<std::string> directories;
  for (std::size_t i = glob.find('/', 1); i != std::string::npos; i = glob.find('/', i + 1)) {
    directories.push_back(glob.substr(0, i));
  }
  if (glob.ends_with("/**")) {
    directories.push_back(glob);
  }
  return directories;
}

util::Result<Enforcement> compile_enforcement(const Policy& policy, const Before* before) { return Builder(policy).build(before); }

util::Result<Tables> compile_tables(const Policy& policy, bool enforcement, const Before* before, const Watched* watched, bool only_deciding) {
  constexpr std::size_t kManyRules = 500;  // fewer take less than a thread is worth
  std::future<util::Result<Enforcement>> beside;
  if (enforcement) {
    beside = std::async(policy.rules.size() >= kManyRules ? std::launch::async : std::launch::deferred, compile_enforcement, std::cref(policy), before);
  }
  auto compiled = only_deciding ? compile_deciding(policy) : compile_policy(policy, watched);
  Tables tables;
  if (enforcement) {
    auto built = beside.get();
    if (compiled && !built) {
      return util::pass_on(built.error());
    }
    if (built) {
      tables.enforcement = std::move(*built);
    }
  }
  if (!compiled) {
    return util::pass_on(compiled.error());
  }
  tables.compiled = std::move(*compiled);
  return tables;
}

}  // namespace vfsguard::policy
