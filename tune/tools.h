// The GPU tools of a problem (templates/verification.cuh), loaded: fill, compare, naive.
#pragma once

#include <vector>

#include "accuracy.h"
#include "backward_args.h"
#include "compiler.h"
#include "gpu.h"
#include "kernel.h"

namespace gla {

class Tools {
 public:
  static Result<Tools> load(const Gpu& gpu, CubinCache& cache, const Problem& problem);

  /// Enqueues on the Gpu's stream.
  Status fill(const FillArgs& args) const;
  /// Of a forward operation it takes the KernelArgs in them.
  Status naive(const BackwardArgs& args) const;

  /// Runs the comparison and fetches the sums [sequences, heads].
  Result<std::vector<CompareSums>> compare(CompareArgs args) const;

 private:
  Tools(const Gpu& gpu, Problem problem, LoadedKernels kernels)
      : gpu_(&gpu), problem_(problem), kernels_(std::move(kernels)) {}
  template <class Args>
  Status launch(int entry, std::int64_t grid, const Args& args) const;

  const Gpu* gpu_;
  Problem problem_;
  LoadedKernels kernels_;
};

/// Enqueues a variant: one of a forward problem takes the KernelArgs in `args`.
Status launch(const LoadedKernels& kernels, const Problem& problem, const LaunchPlan& plan,
              const BackwardArgs& args, CUstream stream);

/// The cubin of a variant or tool, loaded into the current context.
Result<LoadedKernels> load_variant(CubinCache& cache, const Architecture& architecture,
                                   const Problem& problem, const Variant& variant);

}  // namespace gla
