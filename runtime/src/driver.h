// libcuda, opened at run time: nothing here needs a GPU, a driver or a toolkit until it is called.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <string>
#include <vector>

#include "gla/generator/architecture.h"
#include "gla/generator/status.h"

namespace gla::driver {

/// The driver functions in use, by their CUDA names. Filled by api().
struct Api {
// clang-format off
#define GLA_DRIVER_FUNCTIONS(X)                                                                     \
  X(cuInit) X(cuGetErrorString) X(cuGetErrorName) X(cuDriverGetVersion)                             \
  X(cuDeviceGet) X(cuDeviceGetCount) X(cuDeviceGetName) X(cuDeviceGetAttribute) X(cuDeviceTotalMem) \
  X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease)                                          \
  X(cuCtxPushCurrent) X(cuCtxPopCurrent) X(cuCtxSetCurrent) X(cuCtxGetCurrent) X(cuCtxSynchronize)  \
  X(cuModuleLoadData) X(cuModuleUnload) X(cuModuleGetFunction)                                      \
  X(cuFuncSetAttribute) X(cuFuncGetAttribute) X(cuOccupancyMaxActiveBlocksPerMultiprocessor)        \
  X(cuLaunchKernelEx) X(cuTensorMapEncodeTiled)                                                     \
  X(cuMemAlloc) X(cuMemFree) X(cuMemGetInfo) X(cuMemcpyDtoH)                                        \
  X(cuMemcpyHtoDAsync) X(cuMemcpyDtoDAsync) X(cuMemsetD8Async) X(cuMemsetD32Async)                  \
  X(cuMemHostAlloc) X(cuMemFreeHost) X(cuMemHostGetDevicePointer) X(cuPointerGetAttribute)          \
  X(cuStreamCreate) X(cuStreamDestroy) X(cuStreamSynchronize) X(cuStreamWaitValue32)                \
  X(cuStreamWaitEvent) X(cuCtxGetStreamPriorityRange)                                               \
  X(cuStreamGetCtx) X(cuStreamIsCapturing) X(cuStreamBeginCapture) X(cuStreamEndCapture)            \
  X(cuThreadExchangeStreamCaptureMode)                                                              \
  X(cuGraphInstantiateWithFlags) X(cuGraphLaunch) X(cuGraphDestroy) X(cuGraphExecDestroy)           \
  X(cuEventCreate) X(cuEventDestroy) X(cuEventRecord) X(cuEventSynchronize) X(cuEventElapsedTime)
// clang-format on
#define GLA_DECLARE(name) decltype(&::name) name = nullptr;
  GLA_DRIVER_FUNCTIONS(GLA_DECLARE)
#undef GLA_DECLARE
};

/// The driver, or why there is none ("libcuda.so.1 not found: ..."). Opened once, thread-safe.
Result<const Api*> api();

/// Ok, or a cuda Status: "cuLaunchKernelEx: CUDA_ERROR_INVALID_VALUE: invalid argument".
Status check(const Api& api, CUresult result, const char* what);

struct Device {
  int ordinal = 0;
  std::string name;
  int compute_capability = 0;  ///< 90
  int driver_version = 0;      ///< 13000: the CUDA version that the driver supports
  std::size_t memory_bytes = 0;
  Architecture architecture;  ///< limits read off the device; without a name where no architecture serves it
};
Result<std::vector<Device>> devices();
/// `unsupported` if no architecture of the generator serves the device.
Result<Device> device(int ordinal);

/// "13.0" for 13000.
std::string version_text(int driver_version);

/// Holds a device's primary context; a Scope makes it current, at the cost of one query where it already is.
class PrimaryContext {
 public:
  static Result<PrimaryContext> retain(int ordinal);
  PrimaryContext(PrimaryContext&& other) noexcept;
  PrimaryContext& operator=(PrimaryContext&& other) noexcept;
  ~PrimaryContext();
  CUcontext get() const { return context_; }

  class Scope {
   public:
    explicit Scope(const PrimaryContext& context);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    const Api* api_ = nullptr;  ///< null: nothing to pop
  };

 private:
  PrimaryContext(int ordinal, CUcontext context) : ordinal_(ordinal), context_(context) {}
  int ordinal_ = -1;
  CUcontext context_ = nullptr;
};

}  // namespace gla::driver
