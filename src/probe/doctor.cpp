// SPDX-License-Identifier: Apache-2.0
#include "probe/doctor.h"

#include <iterator>

#include <fmt/format.h>

#include "output/escape.h"

namespace vfsguard::probe {

namespace {

void quoted(std::string_view text, std::string& out) {
  out += '"';
  output::append_json(text, out);
  out += '"';
}

void outcome_json(const Outcome& outcome, std::string& out) {
  out += outcome.works ? "{\"works\":true" : "{\"works\":false";
  if (!outcome.without.empty()) {
    out += ",\"without\":[";
    for (const std::string& operation : outcome.without) {
      out += &operation == &outcome.without.front() ? "" : ",";
      quoted(operation, out);
    }
    out += ']';
  }
  if (!outcome.works) {
    out += ",\"reason\":";
    quoted(outcome.reason, out);
    if (!outcome.mend.empty()) {
      out += ",\"mend\":";
      quoted(outcome.mend, out);
    }
  }
}

void named(std::string_view name, const Outcome& outcome, std::string& out) {
  quoted(name, out);
  out += ':';
  outcome_json(outcome, out);
  out += '}';
}

void outcome_text(std::string_view name, const Outcome& outcome, std::string_view detail, bool colour, std::string& out) {
  const std::string_view mark = outcome.works ? "works" : "no";
  const std::string_view begin = !colour ? "" : outcome.works ? "\033[32m" : "\033[31m";
  fmt::format_to(std::back_inserter(out), "  {:<18} {}{:<5}{}", name, begin, mark, colour ? "\033[0m" : "");
  if (outcome.works && !detail.empty()) {
    out += "  ";
    output::append_text(detail, out);
  }
  out += '\n';
  if (!outcome.without.empty()) {
    fmt::format_to(std::back_inserter(out), "      without: {}\n", fmt::join(outcome.without, ", "));
  }
  if (!outcome.works) {
    out += "      why:  ";
    output::append_text(outcome.reason, out);
    out += '\n';
    if (!outcome.mend.empty()) {
      out += "      mend: ";
      output::append_text(outcome.mend, out);
      out += '\n';
    }
  }
}

}  // namespace

std::string to_json(const Report& report) {
  std::string out = "{\"kernel\":";
  quoted(report.kernel, out);
  out += ",\"observe\":{";
  named("lsm", report.observe_lsm, out);
  out += ',';
  named("kprobe", report.observe_kprobe, out);
  out += ',';
  named("tracepoint", report.observe_tracepoint, out);
  out += "},\"enforce\":{";
  named("lsm", report.enforce_lsm, out);
  out += ',';
  named("override", report.enforce_override, out);
  out += ',';
  named("signal", report.enforce_signal, out);
  out += ',';
  named("fanotify", report.enforce_fanotify, out);
  out += "},\"checks\":[";
  bool first = true;
  for (const Check& check : report.checks) {
    out += first ? "" : ",";
    first = false;
    outcome_json(check.outcome, out);
    out += ",\"name\":";
    quoted(check.name, out);
    if (!check.detail.empty()) {
      out += ",\"detail\":";
      quoted(check.detail, out);
    }
    out += '}';
  }
  out += "]}\n";
  return out;
}

std::string to_text(const Report& report, bool colour) {
  std::string out = fmt::format("kernel {}\n\nobserve (vfsguard trace, run)\n", report.kernel);
  outcome_text("lsm", report.observe_lsm, "", colour, out);
  outcome_text("kprobe", report.observe_kprobe, "", colour, out);
  outcome_text("tracepoint", report.observe_tracepoint, "", colour, out);
  out += "\nenforce (not used by this version)\n";
  outcome_text("lsm", report.enforce_lsm, "", colour, out);
  outcome_text("override", report.enforce_override, "", colour, out);
  outcome_text("signal", report.enforce_signal, "", colour, out);
  outcome_text("fanotify", report.enforce_fanotify, "", colour, out);
  out += "\nchecks\n";
  for (const Check& check : report.checks) {
    outcome_text(check.name, check.outcome, check.detail, colour, out);
  }
  out += '\n';
  if (!report.can_observe()) {
    out += "Nothing here can observe file access.\n";
  } else {
    fmt::format_to(std::back_inserter(out), "vfsguard will use --hook {} here.\n",
                   report.observe_lsm.works      ? "lsm"
                   : report.observe_kprobe.works ? "kprobe"
                                                 : "tracepoint");
  }
  return out;
}

}  // namespace vfsguard::probe
