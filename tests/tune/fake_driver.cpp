// A libcuda.so.1 without a GPU: memory is the host's, kernels do nothing but take an invented time, and the comparison
// tool finds every variant right. So gla-tune's whole path can be tested anywhere: worker, journal, table, resumption.
// With FAKE_DRIVER_FAULTS set, some variants (by a hash of their machine code) crash, fail to launch or are wrong.
#include <cuda.h>
#include <sys/mman.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "args.h"

namespace {

constexpr std::size_t kMemory = std::size_t{4} << 30;
constexpr std::size_t kLargestCopy = std::size_t{1} << 24;  // beyond this, nothing looks at the bytes

struct Module {
  std::uint64_t hash = 0;
  bool variant = false;  ///< not the tools
};

double now = 0;         ///< seconds on the stream
double capturing = -1;  ///< seconds captured so far, or none
bool last_variant_wrong = false;
bool broken = false;  ///< a sticky error
std::map<CUdeviceptr, std::size_t> allocations;
int object;  ///< whose address stands for contexts and streams

bool faults() {
  return std::getenv("FAKE_DRIVER_FAULTS") != nullptr;
}

void spend(double seconds) {
  (capturing >= 0 ? capturing : now) += seconds;
}

CUresult result() {
  return broken ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS;
}

}  // namespace

extern "C" {

/// NVRTC looks for a driver and asks it for private tables.
CUresult cuGetExportTable(const void**, const CUuuid*) {
  return CUDA_ERROR_NOT_FOUND;
}

CUresult cuInit(unsigned) {
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult, const char** text) {
  return *text = "a fake error", CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult, const char** text) {
  return *text = "CUDA_ERROR_FAKE", CUDA_SUCCESS;
}
CUresult cuDriverGetVersion(int* version) {
  return *version = 13000, CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  return *device = ordinal, CUDA_SUCCESS;
}
CUresult cuDeviceGetCount(int* count) {
  return *count = 1, CUDA_SUCCESS;
}
CUresult cuDeviceGetName(char* name, int size, CUdevice) {
  return std::strncpy(name, "Fake GPU", static_cast<std::size_t>(size)), CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9
           : attribute == CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE          ? 1 << 20
                                                                     : 0;
  return CUDA_SUCCESS;
}
CUresult cuDeviceTotalMem(std::size_t* bytes, CUdevice) {
  return *bytes = kMemory, CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  return *context = reinterpret_cast<CUcontext>(&object), CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice) {
  return CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent(CUcontext) {
  return CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent(CUcontext* context) {
  return *context = reinterpret_cast<CUcontext>(&object), CUDA_SUCCESS;
}
CUresult cuCtxSetCurrent(CUcontext) {
  return CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* context) {
  return *context = reinterpret_cast<CUcontext>(&object), CUDA_SUCCESS;
}
CUresult cuCtxSynchronize() {
  return result();
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  // The size of an ELF file is not passed: its first kilobytes with the symbols differ enough between variants.
  auto* made = new Module;
  const auto* bytes = static_cast<const unsigned char*>(image);
  for (int i = 0; i < 2048; ++i) made->hash = made->hash * 1099511628211ull + bytes[i];
  return *module = reinterpret_cast<CUmodule>(made), CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule module) {
  return delete reinterpret_cast<Module*>(module), CUDA_SUCCESS;
}

/// A function is its module, tagged with which tool it is: 0 a variant's kernel, 1 fill, 2 compare, 3 naive.
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  const std::string text = name;
  const std::uintptr_t tool = text == "fill" ? 1 : text == "compare" ? 2 : text == "naive" ? 3 : 0;
  return *function = reinterpret_cast<CUfunction>(reinterpret_cast<std::uintptr_t>(module) | tool),
         CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) {
  return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int* value, CUfunction_attribute, CUfunction) {
  return *value = 32, CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction, int, std::size_t) {
  return *blocks = 1, CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void**) {
  if (broken) return result();
  const unsigned blocks = config->gridDimX;
  const auto tagged = reinterpret_cast<std::uintptr_t>(function);
  const std::uintptr_t tool = tagged & 3u;
  const std::uint64_t hash = reinterpret_cast<const Module*>(tagged & ~std::uintptr_t{3})->hash;
  if (tool == 2) {
    const auto& args = *static_cast<const gla::CompareArgs*>(parameters[0]);
    for (unsigned i = 0; i < blocks; ++i)
      args.sums[i] = {.squared_error = last_variant_wrong ? 1.0 : 1e-9, .squared_reference = 1.0};
  }
  if (tool == 0) {
    last_variant_wrong = faults() && hash % 5 == 0;
    if (faults() && hash % 5 == 1) std::raise(SIGSEGV);
    if (faults() && hash % 5 == 2) broken = true;
  }
  spend(tool == 0 ? 1e-5 * (1 + static_cast<double>(hash % 97) / 97) : 4e-5);
  return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                const cuuint64_t*, const cuuint32_t*, const cuuint32_t*,
                                CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                CUtensorMapFloatOOBfill) {
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr* address, std::size_t bytes) {
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = reinterpret_cast<CUdeviceptr>(memory);
  allocations[*address] = bytes;
  return result();
}
CUresult cuMemFree(CUdeviceptr address) {
  munmap(reinterpret_cast<void*>(address), allocations.at(address));
  allocations.erase(address);
  return CUDA_SUCCESS;
}
CUresult cuMemGetInfo(std::size_t* free, std::size_t* total) {
  return *free = *total = kMemory, CUDA_SUCCESS;
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, std::size_t bytes, CUstream stream) {
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;  // no stream here waits for the default one
  return std::memcpy(reinterpret_cast<void*>(to), from, bytes), result();
}
CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, std::size_t bytes) {
  return std::memcpy(to, reinterpret_cast<void*>(from), bytes), result();
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream) {
  if (bytes <= kLargestCopy) std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
  spend(2.0 * static_cast<double>(bytes) / 3e12);
  return result();
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t bytes, CUstream) {
  if (bytes <= kLargestCopy) std::memset(reinterpret_cast<void*>(to), value, bytes);
  return result();
}
CUresult cuMemsetD32Async(CUdeviceptr, unsigned, std::size_t, CUstream) {
  return result();
}
CUresult cuMemHostAlloc(void** address, std::size_t bytes, unsigned) {
  return *address = std::malloc(bytes), CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void* address) {
  return std::free(address), CUDA_SUCCESS;
}
CUresult cuMemHostGetDevicePointer(CUdeviceptr* device, void* host, unsigned) {
  return *device = reinterpret_cast<CUdeviceptr>(host), CUDA_SUCCESS;
}
CUresult cuPointerGetAttribute(void*, CUpointer_attribute, CUdeviceptr) {
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuStreamCreate(CUstream* stream, unsigned) {
  return *stream = reinterpret_cast<CUstream>(&object), CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream) {
  return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream) {
  return result();
}
CUresult cuStreamWaitValue32(CUstream, CUdeviceptr, cuuint32_t, unsigned) {
  return CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned) {
  return CUDA_SUCCESS;
}
CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return *least = 0, *greatest = -5, CUDA_SUCCESS;
}
CUresult cuStreamGetCtx(CUstream, CUcontext* context) {
  return *context = reinterpret_cast<CUcontext>(&object), CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
  return *status = capturing >= 0 ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE,
         CUDA_SUCCESS;
}
CUresult cuStreamBeginCapture(CUstream, CUstreamCaptureMode) {
  return capturing = 0, result();
}
CUresult cuStreamEndCapture(CUstream, CUgraph* graph) {
  *graph = reinterpret_cast<CUgraph>(new double(capturing));
  return capturing = -1, result();
}
CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode*) {
  return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
  return *executable = reinterpret_cast<CUgraphExec>(new double(*reinterpret_cast<double*>(graph))),
         CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec executable, CUstream) {
  return spend(*reinterpret_cast<double*>(executable)), result();
}
CUresult cuGraphDestroy(CUgraph graph) {
  return delete reinterpret_cast<double*>(graph), CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(CUgraphExec executable) {
  return delete reinterpret_cast<double*>(executable), CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* event, unsigned) {
  return *event = reinterpret_cast<CUevent>(new double(0)), CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent event) {
  return delete reinterpret_cast<double*>(event), CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent event, CUstream) {
  return *reinterpret_cast<double*>(event) = now, result();
}
CUresult cuEventSynchronize(CUevent) {
  return result();
}
CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  *milliseconds =
      static_cast<float>(1e3 * (*reinterpret_cast<double*>(end) - *reinterpret_cast<double*>(start)));
  return result();
}

}  // extern "C"
