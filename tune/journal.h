// The journal of a tuning run: one JSON object a line, each on disk before the run goes on, so that a run that was
// interrupted at any moment resumes where it stopped.
#pragma once

#include <map>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "gla/generator/problem.h"
#include "gla/generator/status.h"
#include "gla/generator/variant.h"
#include "json.h"
#include "laboratory.h"

namespace gla {

/// What the results hold for. A journal of another identity is not resumed.
struct JournalIdentity {
  std::string device;
  std::string templates_hash;
  std::string nvrtc;
  bool operator==(const JournalIdentity&) const = default;
};

struct WorkloadTiming {
  Workload workload;
  Timing timing;
};

class Journal {
 public:
  /// Opens or creates the file. Records of the same identity are read; a journal of another identity is renamed to
  /// "<path>.old" (note() says so); a torn last line is dropped. One that another run has open is an `io` status.
  static Result<Journal> open(const std::string& path, const JournalIdentity& identity);
  Journal(Journal&& other) noexcept;
  Journal& operator=(Journal&& other) noexcept;
  ~Journal();

  const std::string& note() const { return note_; }
  std::size_t records() const { return verdicts_.size() + timings_.size() + refusals_.size(); }

  /// The variants of a problem that something is known of.
  std::vector<Variant> variants(const Problem& problem) const;
  /// What is known of a variant, or null.
  const Verdict* verdict(const Problem& problem, const Variant& variant) const;
  const Refusal* refusal(const Problem& problem, const Variant& variant) const;
  const Timing* timing(const Problem& problem, const Variant& variant, const Workload& workload) const;

  /// Each returns once its lines are on disk.
  Status add(const Problem& problem, const Variant& variant, const Verdict& verdict);
  Status add(const Problem& problem, const Variant& variant, const Refusal& refusal);
  Status add(const Problem& problem, const Variant& variant, std::span<const WorkloadTiming> timings);
  /// The search on a problem is over: a resumed run takes its results as they are.
  Status finish(const Problem& problem);
  bool finished(const Problem& problem) const;

 private:
  using VariantKey = std::pair<std::string, std::string>;
  using TimingKey = std::tuple<std::string, std::string, std::string>;

  Journal() = default;
  Status open_file();  ///< and locks it
  void read(const std::string& text);
  void remember(const Json& line);
  Status append(std::span<const Json> lines);

  std::string path_, note_;
  int file_ = -1;
  std::set<std::string> finished_;
  std::map<VariantKey, Verdict> verdicts_;
  std::map<VariantKey, Refusal> refusals_;
  std::map<TimingKey, Timing> timings_;
};

}  // namespace gla
