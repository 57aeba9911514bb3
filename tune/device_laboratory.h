// The laboratory on a real GPU: verifies and times variants in this process. A worker process owns one (worker.h), so
// that a variant that hangs or breaks the context costs a restart and not the run.
#pragma once

#include <map>
#include <memory>
#include <optional>

#include "clock_guard.h"
#include "compiler.h"
#include "laboratory.h"
#include "measure.h"
#include "verifier.h"
#include "workload_inputs.h"

namespace gla {

/// Which verification cases a laboratory uses.
enum class CaseSet { quick, full };

/// The share of chunks that left the fast path, of KernelArgs::path_counts: chunks on it, and blocks of those off it. Of a
/// backward variant its walk for dq counts them.
double share_off_fast_path(const std::vector<unsigned long long>& path_counts, int chunk);

class DeviceLaboratory : public Laboratory {
 public:
  static Result<std::unique_ptr<DeviceLaboratory>> create(int device, CubinCache& cache);

  Answer<Verdict> verify(const Problem& problem, const Variant& variant) override;
  Answer<std::vector<Timing>> measure(const Problem& problem, const Variant& variant,
                                      std::span<const MeasureRequest> requests) override;
  Answer<std::vector<Timing>> contest(const Problem& problem, const Workload& workload,
                                      std::span<const Variant> finalists) override;

  /// All cases, with what each showed.
  Answer<Verification> verify_fully(const Problem& problem, const Variant& variant);
  Result<double> measure_copy_bandwidth();

  /// False once a fault has made the context unusable.
  bool alive() const { return gpu_->synchronize().ok(); }

 private:
  struct Bench;  ///< a variant loaded for a workload, ready to be called

  DeviceLaboratory(std::unique_ptr<Gpu> gpu, Timer timer, CubinCache& cache)
      : gpu_(std::move(gpu)), timer_(std::move(timer)), cache_(&cache) {}
  /// Drops what belongs to another problem.
  Status turn_to(const Problem& problem);
  Result<Verifier*> verifier(CaseSet set);
  Result<const WorkloadInputs*> inputs(const Workload& workload);
  Result<Bench> bench(const Variant& variant, const LoadedKernels& kernels, const Workload& workload);
  Result<double> fallback_share(const Bench& bench);
  Result<Timing> time(Bench& bench, const MeasureRequest& request);

  std::unique_ptr<Gpu> gpu_;
  Timer timer_;
  CubinCache* cache_;
  std::optional<Problem> problem_;
  std::optional<Tools> tools_;
  std::optional<Tools> guard_tools_;
  std::optional<ClockGuard> guard_;
  std::map<CaseSet, Verifier> verifiers_;
  std::map<Workload, WorkloadInputs> inputs_;
};

}  // namespace gla
