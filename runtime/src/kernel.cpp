#include "kernel.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "relaxed_capture.h"
#include "tensor_maps.h"

namespace gla {
namespace {

constexpr int kStreamCaptureKeepsEarlyStarts = 12030;  // CUDA 12.3

}  // namespace

Result<LoadedKernels> LoadedKernels::load(const Cubin& cubin, const std::vector<EntryShape>& shapes) {
  const Result<const driver::Api*> opened = driver::api();
  if (!opened.ok()) return opened.status();
  const driver::Api& api = **opened;
  const driver::RelaxedCapture relaxed(api);
  LoadedKernels loaded;
  loaded.api_ = &api;
  for (const std::string& image : cubin.images) {
    CUmodule& module = loaded.modules_.emplace_back();
    if (Status status = check(api, api.cuModuleLoadData(&module, image.data()), "cuModuleLoadData");
        !status.ok()) {
      loaded.modules_.pop_back();
      return status;
    }
  }
  for (std::size_t i = 0; i < cubin.entries.size(); ++i) {
    CUfunction function = nullptr;
    const CUmodule module = loaded.modules_[cubin.image_of(i)];
    const char* name = cubin.entries[i].c_str();
    if (Status status = check(api, api.cuModuleGetFunction(&function, module, name), name); !status.ok())
      return status;
    if (const std::size_t bytes = i < shapes.size() ? shapes[i].shared_bytes : 0; bytes > 0) {
      if (Status status =
              check(api,
                    api.cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                           static_cast<int>(bytes)),
                    fmt::format("{} with {} bytes of shared memory", name, bytes).c_str());
          !status.ok())
        return status;
    }
    // Reading an attribute completes lazy loading here, where it may allocate, and not in the first launch.
    int registers = 0;
    if (Status status =
            check(api, api.cuFuncGetAttribute(&registers, CU_FUNC_ATTRIBUTE_NUM_REGS, function), name);
        !status.ok())
      return status;
    loaded.functions_.push_back(function);
  }
  if (loaded.functions_.empty()) return loaded;
  // All are of one architecture, which has early starts from 90 on.
  int driver_version = 0, architecture = 0;
  Status status = check(api, api.cuDriverGetVersion(&driver_version), "cuDriverGetVersion");
  if (status.ok()) {
    status = check(
        api,
        api.cuFuncGetAttribute(&architecture, CU_FUNC_ATTRIBUTE_BINARY_VERSION, loaded.functions_.front()),
        "CU_FUNC_ATTRIBUTE_BINARY_VERSION");
  }
  if (!status.ok()) return status;
  loaded.side_streams_ = std::make_unique<SideStreams>(api);
  const Result<int> priority = loaded.side_streams_->high_priority();
  if (!priority.ok()) return priority.status();
  loaded.high_priority_ = *priority;
  loaded.start_early_ = architecture >= 90 && driver_version >= kStreamCaptureKeepsEarlyStarts;
  return loaded;
}

LoadedKernels::LoadedKernels(LoadedKernels&& other) noexcept
    : api_(other.api_),
      modules_(std::exchange(other.modules_, {})),
      functions_(std::move(other.functions_)),
      side_streams_(std::move(other.side_streams_)),
      high_priority_(other.high_priority_),
      start_early_(other.start_early_) {}

LoadedKernels& LoadedKernels::operator=(LoadedKernels&& other) noexcept {
  std::swap(api_, other.api_);
  std::swap(modules_, other.modules_);
  std::swap(functions_, other.functions_);
  std::swap(side_streams_, other.side_streams_);
  std::swap(high_priority_, other.high_priority_);
  std::swap(start_early_, other.start_early_);
  return *this;
}

LoadedKernels::~LoadedKernels() {
  for (const CUmodule module : modules_) (void)api_->cuModuleUnload(module);
}

Status LoadedKernels::launch(const LaunchPlan& plan, const KernelArgs& args, CUstream stream) const {
  const unsigned needed = needed_by(args);
  if (plan.boxes.rows == 0) return launch_raw(plan, needed, &args, counters_of(args), stream);
  TensorArgs with_maps{args, {}};
  if (Status status = encode_maps(*api_, mapped_tensors(plan.boxes, with_maps)); !status.ok()) return status;
  return launch_raw(plan, needed, &with_maps, counters_of(args), stream);
}

Status LoadedKernels::launch(const LaunchPlan& plan, const BackwardArgs& args, CUstream stream) const {
  const unsigned needed = needed_by(args);
  if (plan.boxes.rows == 0) return launch_raw(plan, needed, &args, counters_of(args), stream);
  BackwardTensorArgs with_maps{args, {}, {}};
  if (Status status = encode_maps(*api_, mapped_tensors(plan.boxes, with_maps)); !status.ok()) return status;
  return launch_raw(plan, needed, &with_maps, counters_of(args), stream);
}

Status LoadedKernels::launch_raw(const LaunchPlan& plan, unsigned needed, const void* args,
                                 const void* counters, CUstream stream) const {
  void* parameters[] = {const_cast<void*>(args)};  // the driver copies what it points to
  // All are checked before the first is enqueued.
  for (const Launch& launch : plan.launches) {
    if (launch.is_for(needed) && (launch.grid < 0 || launch.grid > std::numeric_limits<int>::max())) {
      return {StatusCode::unsupported,
              fmt::format("the call needs a grid of {} blocks; CUDA accepts {}. Split the batch", launch.grid,
                          std::numeric_limits<int>::max())};
    }
  }
  if (plan.counters_bytes > 0) {
    const CUresult result =
        api_->cuMemsetD8Async(reinterpret_cast<CUdeviceptr>(counters), 0, plan.counters_bytes, stream);
    if (result != CUDA_SUCCESS) return driver::check(*api_, result, "cuMemsetD8Async");
  }
  const auto is_made = [&](const Launch& launch) { return launch.grid != 0 && launch.is_for(needed); };
  const auto counted = [&](bool aside) {
    return std::count_if(plan.launches.begin(), plan.launches.end(),
                         [&](const Launch& launch) { return is_made(launch) && launch.aside == aside; });
  };
  const SideStream* side = nullptr;
  if (counted(true) > 0 && counted(false) > 0) {
    const Result<const SideStream*> found = side_streams_->of(stream);
    if (!found.ok()) return found.status();
    side = *found;
    if (Status status = side->begin_behind(stream); !status.ok()) return status;
  }
  Status status;
  for (const Launch& launch : plan.launches) {
    if (!is_made(launch)) continue;
    const bool aside = side != nullptr && launch.aside;
    status = launch_one(launch, parameters,
                        {.early = start_early_ && !aside, .high_priority = side != nullptr && !aside},
                        aside ? side->get() : stream);
    if (!status.ok()) break;
  }
  if (side == nullptr) return status;
  const Status joined = side->end_before(stream);
  return status.ok() ? joined : status;
}

Status LoadedKernels::launch_one(const Launch& launch, void** parameters, const Manner& manner,
                                 CUstream stream) const {
  CUlaunchAttribute attributes[2] = {};
  CUlaunchConfig config{};
  config.attrs = attributes;
  if (manner.early) {
    CUlaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute.value.programmaticStreamSerializationAllowed = 1;
  }
  if (manner.high_priority) {
    CUlaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = CU_LAUNCH_ATTRIBUTE_PRIORITY;
    attribute.value.priority = high_priority_;
  }
  config.gridDimX = static_cast<unsigned>(launch.grid);
  config.blockDimX = static_cast<unsigned>(launch.threads);
  config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1;
  config.sharedMemBytes = static_cast<unsigned>(launch.shared_bytes);
  config.hStream = stream;
  const CUresult result = api_->cuLaunchKernelEx(&config, function(launch.entry), parameters, nullptr);
  return result == CUDA_SUCCESS ? Status{} : driver::check(*api_, result, "cuLaunchKernelEx");
}

}  // namespace gla
