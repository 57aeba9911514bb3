// A shape through the public runtime API: device time, host time, and how close to the floor.
#pragma once

#include <memory>
#include <string>

#include "accuracy.h"
#include "compiler.h"
#include "gla/gla.hpp"
#include "measure.h"
#include "outputs.h"
#include "shape.h"
#include "workload_inputs.h"

namespace gla {

struct BenchOptions {
  Accuracy accuracy = Accuracy::standard;
  Gates gates = Gates::sixteenth;
  bool states = false;  ///< with initial and final state, or their gradients (decode always has them)
  bool check = false;   ///< compare with the fp64 reference
  double budget_seconds = 1;
};

struct BenchResult {
  Choice choice;
  Summary device;            ///< seconds per call
  double host_seconds = 0;   ///< per call, enqueueing only
  double first_seconds = 0;  ///< the first call: compilation or loading included
  double floor_seconds = 0;  ///< at the measured copy bandwidth
  std::size_t workspace_bytes = 0;
  int throttled_rounds = 0;
  PerOutput<ErrorReport> errors;  ///< if checked
};

/// Times shapes on one device.
class Bench {
 public:
  static Result<std::unique_ptr<Bench>> create(const Gpu& gpu, Context& context, CubinCache& cache);

  Result<BenchResult> run(const Shape& shape, const BenchOptions& options);
  double copy_bandwidth() const { return copy_bandwidth_; }

 private:
  Bench(const Gpu& gpu, Context& context, CubinCache& cache, Timer timer)
      : gpu_(&gpu), context_(&context), cache_(&cache), timer_(std::move(timer)) {}
  Result<double> host_seconds(const RotatingCall& call) const;
  Status compare(const Tools& tools, const Shape& shape, const BackwardArgs& args, BenchResult& result) const;

  const Gpu* gpu_;
  Context* context_;
  CubinCache* cache_;
  Timer timer_;
  double copy_bandwidth_ = 0;
};

}  // namespace gla
