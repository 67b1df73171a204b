// SPDX-License-Identifier: Apache-2.0
// Rules, correlations, configuration and throttle together: operations in, alerts out. The same for events as they happen and for recorded ones.
//
// One thread. A Detector is built whole and replaced whole; its counters begin anew then.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "detect/config.h"
#include "detect/correlate.h"
#include "detect/engine.h"
#include "detect/sigma.h"
#include "event/event.h"

namespace vfsguard::detect {

// What the kernel side has to tell of for all rules together.
struct AllNeeds {
  std::uint64_t operations = 0;
  std::uint64_t anywhere = 0;     // of these, whatever the path
  bool opens_that_write = false;  // ... of opens only those
  struct Place {
    std::string glob;
    std::uint64_t operations = 0;
  };
  std::vector<Place> places;
};

// A response that is due. Carried out by who owns the detector.
struct Action {
  std::uint32_t node = 0;  // whose
  Response response;
  std::uint32_t pid = 0;
  std::uint64_t start_ns = 0;  // of that process
  std::string exe;             // empty: not known
  std::string path;            // of the object; empty: it has none
  std::uint64_t time_ns = 0;
};

class Detector {
 public:
  struct Options {
    bool keep_going = false;         // leave out what is refused, instead of refusing everything
    std::vector<std::string> rules;  // more files and directories
  };
  // Everything that the configuration names. EX_CONFIG: rules are refused, one line each.
  static util::Result<std::unique_ptr<Detector>> open(const Config& config, const Options& options);
  // What was left out, where that was asked for.
  [[nodiscard]] const std::vector<util::Error>& refused() const { return refused_; }

  // Evaluates one operation. What matched is in operation.detected; it stays empty where nothing did, or where all of it is held back. Records of
  // their own (correlations that fired, ends of throttled times) are appended. The operation is as it is told: user, paths, wall_ns.
  void look(event::Operation& operation, std::vector<event::Alert>& alerts);
  // The same of what was held back, or waited to be decided, once its time is over. Returns whether there is any left that will have to be told.
  // `caught_up`: every event until now has been looked at.
  bool expire(std::uint64_t now_ns, bool caught_up, std::vector<event::Alert>& alerts);
  // Responses that became due since this was asked last.
  std::vector<Action> take_actions() { return std::exchange(actions_, {}); }
  [[nodiscard]] bool responds() const { return responds_; }
  // What was held back until now and not told yet.
  void finish(std::vector<event::Alert>& alerts);

  struct Count {
    std::uint64_t matched = 0;
    std::uint64_t told = 0;
    std::uint64_t held_back = 0;  // by the throttle
    std::uint64_t taken = 0;      // by correlations
  };
  // Rules, then correlations.
  [[nodiscard]] const std::vector<Count>& counts() const { return counts_; }
  [[nodiscard]] const Head& head(std::size_t node) const {
    return node < rules_.size() ? rules_[node].head : correlator_.correlations()[node - rules_.size()].head;
  }
  [[nodiscard]] const std::vector<Rule>& rules() const { return rules_; }
  [[nodiscard]] const std::vector<Correlation>& correlations() const { return correlator_.correlations(); }
  [[nodiscard]] const std::vector<Filter>& filters() const { return filters_; }
  [[nodiscard]] const Correlator& correlator() const { return correlator_; }
  [[nodiscard]] Engine& engine() { return engine_; }
  [[nodiscard]] const AllNeeds& needs() const { return needs_; }
  [[nodiscard]] std::uint64_t looked_at() const { return looked_at_; }
  // All files that it was made of.
  [[nodiscard]] std::vector<std::string> files() const;
  // What is in the configuration but of no rule, and rules that can never match, a line each. `blindness`: on a machine with this mechanism.
  [[nodiscard]] std::vector<std::string> review(const Blindness& blindness = {}, std::string_view mechanism = {}) const;
  // The rules of these that only the mechanism keeps from matching.
  [[nodiscard]] std::vector<std::string> never_match(const Blindness& blindness) const;
  // Whether a rule looks at executables' digests, which are only computed on request.
  [[nodiscard]] bool wants_digests() const;
  // Gives back the conditions as they were read, which review() and the two above go by: they are not to be called any more.
  void forget_conditions();

 private:
  // One rule's alerts of one kind within a time.
  struct Window {
    std::uint32_t node = 0;
    std::uint64_t begins_ns = 0;
    std::uint32_t told = 0;
    std::uint64_t held_back = 0;
    std::uint64_t first_ns = 0;  // of what was held back
    std::uint64_t last_ns = 0;
    std::uint64_t ends_ns = 0;
  };

  Detector(std::vector<Rule> rules, std::vector<Filter> filters, Correlator correlator, const Config& config);
  bool passes(std::uint32_t node, std::uint64_t now_ns, const Correlator::Field& field, std::vector<event::Alert>& alerts);
  void close(const Window& window, std::vector<event::Alert>& alerts) const;
  [[nodiscard]] AllNeeds find_needs() const;
  void decide_late(std::uint64_t now_ns, std::vector<event::Alert>& alerts);
  // `last`: what completed it; null: its time was over.
  void tell(const Fired& fired, const event::Operation* last, std::vector<event::Alert>& alerts);
  void respond(std::uint32_t node, const event::Operation& operation);
  [[nodiscard]] const Throttle* throttle_of(std::uint32_t node) const { return throttles_[node].alerts > 0 ? &throttles_[node] : nullptr; }

  std::vector<Rule> rules_;
  std::vector<Filter> filters_;
  Engine engine_;
  Correlator correlator_;
  Config config_;
  std::vector<util::Error> refused_;
  std::vector<Throttle> throttles_;  // by node
  std::unordered_map<std::string, Window> windows_;
  std::vector<Count> counts_;
  std::vector<Fired> fired_;
  std::vector<Response> responses_;  // by node
  std::vector<Action> actions_;
  AllNeeds needs_;
  bool responds_ = false;
  std::uint64_t looked_at_ = 0;
};

// %Field% filled in; what is absent reads as a dash.
std::string fill_message(std::string_view message, const Correlator::Field& field);
// The text of a field, by any name that rules know; none: the event has no such field.
std::optional<std::string> field_text(const event::Operation& operation, std::string_view name, Dialect dialect);

}  // namespace vfsguard::detect
