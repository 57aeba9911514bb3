#include "tools.h"

#include <algorithm>

#include "gla/generator/render.h"
#include "outputs.h"

namespace gla {
namespace {

enum Entry : int { kFill = 0, kCompare = 1, kNaive = 2 };
constexpr std::int64_t kElementsPerThread = 16;
constexpr int kWarpSize = 32;

std::int64_t divide_up(std::int64_t value, std::int64_t by) {
  return (value + by - 1) / by;
}

}  // namespace

Result<Tools> Tools::load(const Gpu& gpu, CubinCache& cache, const Problem& problem) {
  const auto cubin = cache.get(render_tools(problem), gpu.architecture());
  if (!cubin.ok()) return cubin.status();
  auto kernels = LoadedKernels::load(*cubin, tool_shapes());
  if (!kernels.ok()) return kernels.status();
  return Tools(gpu, problem, *std::move(kernels));
}

template <class Args>
Status Tools::launch(int entry, std::int64_t grid, const Args& args) const {
  const EntryShape shape = tool_shapes()[static_cast<std::size_t>(entry)];
  LaunchPlan plan;
  plan.launches.add(
      {.entry = entry, .grid = grid, .threads = shape.threads, .shared_bytes = shape.shared_bytes});
  return kernels_.launch(plan, args, gpu_->stream());
}

Status Tools::fill(const FillArgs& args) const {
  const int threads = tool_shapes()[kFill].threads;
  return launch(kFill, std::max<std::int64_t>(1, divide_up(args.count, threads * kElementsPerThread)), args);
}

Status Tools::naive(const BackwardArgs& args) const {
  const int warps = tool_shapes()[kNaive].threads / kWarpSize;
  const std::int64_t states = args.sequences * args.heads;
  const std::int64_t dim_k = problem_.head_dim_k, dim_v = problem_.head_dim_v;
  // A warp per value channel of a state, of a backward problem also one per key channel.
  if (is_backward(problem_.operation))
    return launch(kNaive, divide_up(states * (dim_k + dim_v), warps), args);
  return launch(kNaive, divide_up(states * dim_v, warps), static_cast<const KernelArgs&>(args));
}

Result<std::vector<CompareSums>> Tools::compare(CompareArgs args) const {
  std::vector<CompareSums> sums(static_cast<std::size_t>(args.sequences * args.heads));
  auto buffer = DeviceBuffer::allocate(*gpu_, sums.size() * sizeof(CompareSums));
  if (!buffer.ok()) return buffer.status();
  args.sums = static_cast<CompareSums*>(buffer->data());
  GLA_RETURN_IF_ERROR(launch(kCompare, args.sequences * args.heads, args));
  GLA_RETURN_IF_ERROR(buffer->download(sums.data(), sums.size() * sizeof(CompareSums)));
  return sums;
}

Status launch(const LoadedKernels& kernels, const Problem& problem, const LaunchPlan& plan,
              const BackwardArgs& args, CUstream stream) {
  if (is_backward(problem.operation)) return kernels.launch(plan, args, stream);
  return kernels.launch(plan, static_cast<const KernelArgs&>(args), stream);
}

Result<LoadedKernels> load_variant(CubinCache& cache, const Architecture& architecture,
                                   const Problem& problem, const Variant& variant) {
  const auto cubin = cache.get(render(problem, variant), architecture);
  if (!cubin.ok()) return cubin.status();
  return LoadedKernels::load(*cubin, entry_shapes(problem, variant));
}

}  // namespace gla
