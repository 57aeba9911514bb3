// What gla-tune verify finds: failures are told as they come, problems when they are done, the sum at the end.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "commands/exit_code.h"
#include "judgement.h"
#include "progress.h"

namespace gla {

/// A problem, and the variants of it that are to be verified.
struct Subject {
  Problem problem;
  std::vector<Variant> variants;
};

/// What a report says, besides the results, of how they were made.
struct VerifiedOn {
  std::string device;  ///< the GPU's name, or "emulator"
  std::string architecture;
  unsigned seed = 1;
};

/// Several OS threads may report at once.
class VerifyReport {
 public:
  enum class Form { text, every_case, json };

  /// `subjects` and `progress` outlive the report.
  VerifyReport(const std::vector<Subject>& subjects, Form form, double budget_seconds, Progress& progress);

  /// Draws the progress line.
  void now_at(std::size_t subject);
  void add(std::size_t subject, const Variant& variant, Answer<Verification> answer);
  /// Nothing more of this subject will come.
  void close(std::size_t subject);
  /// Prints the sum. A check has failed if a variant has, and if none was verified at all.
  ExitCode finish(const VerifiedOn& on);

 private:
  struct Verified {
    Variant variant;
    Answer<Verification> answer;
    std::string fault;  ///< empty: it passed
  };
  static Json to_json(const Problem& problem, const Verified& verified);
  static void print_cases(const Problem& problem, const Verified& verified);

  const std::vector<Subject>& subjects_;
  Form form_;
  double budget_seconds_;
  Progress& progress_;
  std::mutex mutex_;
  std::vector<std::vector<Verified>> results_;  ///< per subject
  std::size_t total_ = 0, done_ = 0, failures_ = 0;
};

}  // namespace gla
