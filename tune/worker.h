// The worker: a child process that owns the GPU laboratory, and the laboratory that talks to it. A hang, a sticky CUDA
// error or a crash costs the variant that caused it and a restart.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "child_process.h"
#include "laboratory.h"
#include "verifier.h"

namespace gla {

struct WorkerOptions {
  std::string executable;  ///< gla-tune itself
  int device = 0;
  std::string cache_folder;
};

/// What the hidden subcommand `worker` does: answers requests from stdin on stdout until stdin ends.
int serve_laboratory(int device, const std::string& cache_folder);

class WorkerLaboratory : public Laboratory {
 public:
  /// Starts the worker and hears that its GPU works.
  static Result<std::unique_ptr<WorkerLaboratory>> start(WorkerOptions options);

  Answer<Verdict> verify(const Problem& problem, const Variant& variant) override;
  Answer<std::vector<Timing>> measure(const Problem& problem, const Variant& variant,
                                      std::span<const MeasureRequest> requests) override;
  Answer<std::vector<Timing>> contest(const Problem& problem, const Workload& workload,
                                      std::span<const Variant> finalists) override;
  Status health() const override { return health_; }

  Answer<Verification> verify_fully(const Problem& problem, const Variant& variant);
  Result<double> measure_copy_bandwidth();
  int restarts() const { return restarts_; }

 private:
  explicit WorkerLaboratory(WorkerOptions options) : options_(std::move(options)) {}
  Status launch();
  Answer<Json> ask(const Json& request, double timeout_seconds);

  WorkerOptions options_;
  ChildProcess child_;
  Status health_;
  int restarts_ = 0;
};

}  // namespace gla
