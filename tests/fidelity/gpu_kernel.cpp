#include "fidelity/gpu_kernel.h"

#include <algorithm>
#include <map>
#include <stdexcept>

#define GLA_EMULATOR
#include "fidelity/primitives.cuh"
#include "tune/temporary_folder.h"

namespace gla::test {
namespace {

void must(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

template <class T>
T must(Result<T> result) {
  must(result.status());
  return *std::move(result);
}

/// Device copies of host memory.
class Mirror {
 public:
  explicit Mirror(const Gpu& gpu) : gpu_(gpu) {}

  /// The copy of `bytes` bytes; the same one for the same address. Null stays null.
  void* copy_of(const void* host, std::size_t bytes) {
    if (host == nullptr) return nullptr;
    const auto found = copies_.find(host);
    if (found != copies_.end()) return found->second.data();
    DeviceBuffer& copy = copies_[host] = must(DeviceBuffer::allocate(gpu_, bytes));
    must(copy.upload(host, bytes));
    return copy.data();
  }

  /// Brings back what the device has written over the copy.
  void fetch(void* host) const {
    if (host == nullptr) return;
    const DeviceBuffer& copy = copies_.at(host);
    must(copy.download(host, copy.size()));
  }

 private:
  const Gpu& gpu_;
  std::map<const void*, DeviceBuffer> copies_;
};

/// The arguments over device copies of the tensors that they point to.
KernelArgs mirrored(const KernelArgs& args, const Problem& problem, const Workload& workload,
                    Mirror& mirror) {
  const std::int64_t rows = (workload.packed ? 1 : workload.sequences) * workload.tokens * workload.heads;
  const auto move = [&](Tensor tensor, std::int64_t row_elements, DType dtype) {
    tensor.data = mirror.copy_of(tensor.data, static_cast<std::size_t>(rows * row_elements) * size_of(dtype));
    return tensor;
  };
  const int dim_k = problem.head_dim_k, dim_v = problem.head_dim_v;
  const std::size_t state_bytes =
      static_cast<std::size_t>(workload.sequences * workload.heads * dim_k * dim_v) *
      size_of(problem.state_dtype);
  KernelArgs moved = args;
  moved.q = move(args.q, problem.group * dim_k, problem.dtype);
  moved.k = move(args.k, dim_k, problem.dtype);
  moved.v = move(args.v, dim_v, problem.dtype);
  moved.gk = move(args.gk, dim_k, problem.gate_dtype);
  moved.gv = move(args.gv, dim_v, problem.gate_dtype);
  moved.o = move(args.o, problem.group * dim_v, problem.dtype);
  moved.initial_state = mirror.copy_of(args.initial_state, state_bytes);
  moved.final_state = mirror.copy_of(args.final_state, state_bytes);
  moved.cu_seqlens = mirror.copy_of(args.cu_seqlens, static_cast<std::size_t>(workload.sequences + 1) *
                                                         (args.cu_seqlens_is_int64 != 0 ? 8 : 4));
  moved.path_counts = static_cast<unsigned long long*>(
      mirror.copy_of(args.path_counts, kPathCounters * sizeof *args.path_counts));
  return moved;
}

}  // namespace

struct GpuUnderTest::Machine {
  TemporaryFolder folder;
  std::unique_ptr<Gpu> gpu = must(Gpu::open(0));
  CubinCache cache{folder / "cubins"};
};

GpuUnderTest::GpuUnderTest() : machine_(std::make_shared<Machine>()) {}

LaunchKernel GpuUnderTest::kernel_of(const Problem& problem, const Variant& variant) const {
  const auto kernels = std::make_shared<LoadedKernels>(
      must(load_variant(machine_->cache, machine_->gpu->architecture(), problem, variant)));
  return [machine = machine_, kernels, problem, variant](const KernelArgs& args, const Workload& workload,
                                                         const RunOptions& options) {
    const Gpu& gpu = *machine->gpu;
    const LaunchPlan launches = plan(problem, variant, workload, options.relaying);
    const std::vector<unsigned char> poison(launches.workspace_bytes, 0xff);
    const DeviceBuffer workspace = must(uploaded(gpu, poison));
    Mirror mirror(gpu);
    KernelArgs moved = mirrored(args, problem, workload, mirror);
    place_workspace(moved, launches, workspace.data());
    must(kernels->launch(launches, moved, gpu.stream()));
    must(gpu.synchronize());
    for (void* output : {args.o.data, args.final_state, static_cast<void*>(args.path_counts)})
      mirror.fetch(output);
  };
}

const Architecture& GpuUnderTest::architecture() const {
  return machine_->gpu->architecture();
}

RunPrimitive GpuUnderTest::primitives(const Source& source) const {
  const Cubin cubin = must(machine_->cache.get(source, machine_->gpu->architecture()));
  const auto kernels = std::make_shared<LoadedKernels>(must(LoadedKernels::load(cubin, {})));
  return [machine = machine_, kernels, entries = source.entries](const PrimitiveCall& call) {
    const Gpu& gpu = *machine->gpu;
    std::vector<Word> out(call.out_words, ~Word{0});
    const DeviceBuffer in = must(uploaded(gpu, call.in)), result = must(uploaded(gpu, out));
    const PrimitiveArgs args{static_cast<const Bits32*>(in.data()), static_cast<Bits32*>(result.data()),
                             call.count};
    const auto entry = std::find(entries.begin(), entries.end(), call.entry) - entries.begin();
    LaunchPlan launches;
    launches.launches.add({static_cast<int>(entry), call.shape.grid, call.shape.threads,
                           call.shape.shared_bytes, call.shape.cluster});
    must(kernels->launch(launches, args, gpu.stream()));
    must(result.download(out.data(), out.size() * sizeof(Word)));
    return out;
  };
}

}  // namespace gla::test
