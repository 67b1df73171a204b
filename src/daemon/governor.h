// SPDX-License-Identifier: Apache-2.0
// The policy that the agent goes by, and the change to another one while it runs: compiled, loaded and checked first, then put in force at one
// moment, in the kernel's tables for enforcement and for recording; where anything fails before that, the old one stands as it did.
//
// Events that were begun by an older version are told by the one in force; who refused what is told as it was.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "detect/detector.h"
#include "enforce/enforcer.h"
#include "enforce/pins.h"
#include "policy/enforcement.h"
#include "policy/policy.h"
#include "policy/secrets.h"
#include "sensor/sensor.h"
#include "util/result.h"

namespace vfsguard::daemon {

struct PolicySource {
  std::string config;          // file or directory
  std::string protected_file;  // policy/secrets.h
  bool enforce = true;         // else rules that deny or kill are only recorded
  enforce::Mechanism mechanism = enforce::Mechanism::kAuto;
  std::string detection;           // configuration of detection; empty: none
  std::vector<std::string> rules;  // of detection, beside those that it names
  bool keep_going = false;         // leave out rules of detection that are refused
  policy::Watched always;          // what is to be recorded in any case
  // Asked with the policy, before anything is loaded; an error ends the start.
  std::function<util::Result<void>(const policy::Policy&)> before_loading;
  std::string pins = enforce::kPins;  // where enforcement stands that is to outlive the agent, of this one and of the one before
};

class Governor {
 public:
  // Reads, compiles and loads; attaches nothing yet. What an earlier agent left in force stays so until attach() has put this one's in its place.
  static util::Result<Governor> open(PolicySource source);

  // From here on it is enforced.
  util::Result<void> attach();
  // What is to be recorded for it.
  void direct(sensor::Options& options) const;
  // The kernel has all of it: what only the kernel needs goes.
  void loaded();

  // Names the event's rules; false: none asks for it.
  bool attribute(event::Operation& operation) const;

  // How the recording side goes along with a change.
  struct Recorder {
    std::optional<sensor::Sensor>& sensor;
    const sensor::Options& options;  // as it was opened
    sensor::Sensor::Handler handler;
    std::function<util::Result<void>()> consume_all;
  };
  util::Result<void> reload(const Recorder& recorder);
  // Changes the protected files: the file, and what is in force.
  util::Result<void> protect(policy::Secret secret, const Recorder& recorder);
  util::Result<void> unprotect(const std::string& path, const Recorder& recorder);
  // Refuses an object to everybody, until the next reload. EX_UNAVAILABLE: nothing is enforced here.
  util::Result<void> deny_object(const std::string& path, const std::string& why, const Recorder& recorder);
  [[nodiscard]] const std::vector<policy::Secret>& secrets() const { return secrets_; }

  [[nodiscard]] const policy::Policy& policy() const { return now_->policy; }
  // The rules of detection in force; null: none. Another one after each reload, and after no other change.
  [[nodiscard]] const std::shared_ptr<detect::Detector>& detector() const { return now_->detector; }
  [[nodiscard]] std::uint64_t changes() const { return changes_; }
  [[nodiscard]] enforce::Enforcer* enforcer() { return enforcer_.get(); }
  [[nodiscard]] const enforce::Enforcer* enforcer() const { return enforcer_.get(); }
  // What it stops stays stopped when the agent ends.
  [[nodiscard]] bool persists() const { return persists_; }
  [[nodiscard]] const PolicySource& source() const { return source_; }

 private:
  struct Version {
    policy::Policy policy;
    // Without what only the kernel needs, once it is there.
    policy::Compiled compiled;
    policy::Enforcement tables;
    std::shared_ptr<detect::Detector> detector;
    bool whole = false;      // `compiled` has all rules, and the places that the detector names
    policy::Compiled alone;  // then, of a change: the rules without these, for events that were recorded by another version
  };

  explicit Governor(PolicySource source) : source_(std::move(source)) {}
  util::Result<void> take_pins(bool make);
  util::Result<void> settle_pins(const Version& version);
  util::Result<std::shared_ptr<Version>> compile(policy::Policy policy, std::shared_ptr<detect::Detector> detector) const;
  util::Result<void> record_all(Version& version, const Recorder* meanwhile) const;
  util::Result<void> refuse_by(std::shared_ptr<Version> next);
  util::Error go_back(util::Error why);
  [[nodiscard]] util::Result<std::shared_ptr<detect::Detector>> read_rules() const;
  util::Result<void> put_in_force(
      std::shared_ptr<Version> next, const Recorder& recorder, const std::function<util::Result<void>()>& keep = [] { return util::Result<void>{}; });
  util::Result<policy::Policy> read(const std::vector<policy::Secret>& secrets) const;
  util::Result<void> take_anew(const Recorder& recorder);
  util::Result<void> change_secrets(std::vector<policy::Secret> secrets, const Recorder& recorder);
  void direct(const Version& version, const enforce::Enforcer* enforcer, sensor::Filter& filter) const;
  void settle(std::shared_ptr<Version> version);
  void keep_names(std::uint16_t version);

  PolicySource source_;
  std::vector<policy::Secret> secrets_;
  std::vector<policy::Rule> denied_;  // in response to what was detected
  std::shared_ptr<Version> now_;
  std::shared_ptr<Version> refusing_;  // whose tables decide: now_, except while the next one's recording side is made
  std::optional<enforce::Pins> pins_;
  std::unique_ptr<enforce::Standing> standing_;  // what an earlier agent left, until attach()
  std::unique_ptr<enforce::Enforcer> enforcer_;
  bool persists_ = false;
  std::uint64_t changes_ = 0;
  std::uint32_t recorded_by_ = VG_FIRST_VERSION;  // the sensor's version whose match sets are those of now_
  struct Past {
    std::uint16_t version;  // of the enforcer
    std::uint64_t replaced_ns;
    std::vector<policy::Refusal> refusals;  // by place
  };
  std::deque<Past> past_;  // whose refusals may still be on their way
};

}  // namespace vfsguard::daemon
