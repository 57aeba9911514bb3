// What the tuner asks of a GPU, and what it hears back. The worker process answers on real hardware; tests answer with
// invented times.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "gla/generator/problem.h"
#include "gla/generator/status.h"
#include "gla/generator/variant.h"
#include "json.h"

namespace gla {

/// Why a variant is out. `reason` is one of a few words that tallies count by; `detail` is for the person who looks.
struct Refusal {
  std::string reason;  ///< "compile", "launch", "wrong", "timeout", "crash", "slow"
  std::string detail;
};

/// A verified variant: which accuracy classes it reaches, and its worst relative errors.
struct Verdict {
  bool standard = false;
  bool fast = false;
  double error_o = 0;       ///< of o; of a backward operation the worst of the gradients by q, k, v and gk
  double error_state = 0;   ///< of the final state, or of the gradient by the initial one
  std::string detail = {};  ///< what kept it out of a class

  bool reaches(Accuracy accuracy) const { return accuracy == Accuracy::standard ? standard : fast; }
};

/// One workload, timed.
struct Timing {
  double seconds = 0;
  double noise = 0;
  double fallback_share = 0;  ///< chunks off the fast path
  int samples = 0;
};

/// The answer for a variant: a value, or a refusal.
template <class T>
struct Answer {
  T value{};
  Refusal refusal;
  bool refused() const { return !refusal.reason.empty(); }
};

struct MeasureRequest {
  Workload workload;
  double hopeless_above_seconds = 0;  ///< stop early above this; 0: never
};

class Laboratory {
 public:
  virtual ~Laboratory() = default;

  virtual Answer<Verdict> verify(const Problem& problem, const Variant& variant) = 0;
  virtual Answer<std::vector<Timing>> measure(const Problem& problem, const Variant& variant,
                                              std::span<const MeasureRequest> requests) = 0;
  /// Times finalists interleaved, A B A B, so that drift touches all alike.
  virtual Answer<std::vector<Timing>> contest(const Problem& problem, const Workload& workload,
                                              std::span<const Variant> finalists) = 0;
  /// Not ok once the laboratory can answer nothing any more: the run ends, and can be resumed.
  virtual Status health() const { return {}; }
};

Json to_json(const Verdict& verdict);
Json to_json(const Timing& timing);
Json to_json(const Refusal& refusal);
Verdict verdict_from_json(const Json& json);
Timing timing_from_json(const Json& json);
Refusal refusal_from_json(const Json& json);

}  // namespace gla
