// A libcuda.so.1 with two H100s that compute nothing, so that contexts can be tested without a GPU. Device memory is host
// memory, streams know their context and whether they are captured, launches are counted and may be watched, a tensor map is
// its tensor's address.
//
// cuda.h is not included: the symbols are defined under the names that its macros lead to, of CUDA 12 and 13.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

constexpr int kInvalidValue = 1;
constexpr int kInvalidContext = 201;
constexpr int kNotSupported = 801;

struct Stream {
  void* context;
  bool captured;
};

thread_local std::vector<void*> contexts;

void* context_of(int device) {
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(0x1000 + device));
}

/// CUdevice_attribute -> value; 0: unknown.
int attribute(int which) {
  switch (which) {
    case 16:
      return 132;  // multiprocessors
    case 75:
      return 9;  // compute capability, major
    default:
      return 0;
  }
}

}  // namespace

extern "C" {

std::atomic<long> fake_launches = 0;
std::atomic<long> fake_loads = 0;
/// Sees the only parameter of each launch.
std::atomic<void (*)(const void*)> fake_launch_observer = nullptr;
/// Sees what happens on a stream: "launch" with the launch's priority, "record" and "wait" with an event.
std::atomic<void (*)(const char* what, const void* stream, const void* event, int priority)>
    fake_stream_observer = nullptr;

int cuInit(unsigned) {
  return 0;
}
int cuGetErrorString(int, const char** text) {
  *text = "made up";
  return 0;
}
int cuGetErrorName(int, const char** text) {
  *text = "FAKE_ERROR";
  return 0;
}
int cuDriverGetVersion(int* version) {
  *version = 13000;
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = 2;
  return 0;
}
int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return 0;
}
int cuDeviceGetName(char* name, int size, int) {
  std::strncpy(name, "NVIDIA H100 80GB HBM3", static_cast<std::size_t>(size));
  return 0;
}
int cuDeviceGetAttribute(int* value, int which, int) {
  *value = attribute(which);
  return 0;
}
int cuDeviceTotalMem_v2(std::size_t* bytes, int) {
  *bytes = std::size_t{80} << 30;
  return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = context_of(device);
  return 0;
}
int cuDevicePrimaryCtxRelease_v2(int) {
  return 0;
}
int cuCtxGetCurrent(void** context) {
  *context = contexts.empty() ? nullptr : contexts.back();
  return 0;
}
int cuCtxPushCurrent_v2(void* context) {
  contexts.push_back(context);
  return 0;
}
int cuCtxPopCurrent_v2(void** context) {
  if (contexts.empty()) return kInvalidValue;
  *context = contexts.back();
  contexts.pop_back();
  return 0;
}
int cuModuleLoadData(void** module, const void* image) {
  if (contexts.empty() || std::memcmp(image,
                                      "\x7f"
                                      "ELF",
                                      4) != 0)
    return kInvalidValue;
  ++fake_loads;
  *module = reinterpret_cast<void*>(std::uintptr_t{0x2000});
  return 0;
}
int cuModuleUnload(void*) {
  --fake_loads;
  return 0;
}
int cuModuleGetFunction(void** function, void*, const char*) {
  *function = reinterpret_cast<void*>(std::uintptr_t{0x3000});
  return 0;
}
int cuFuncSetAttribute(void*, int, int) {
  return 0;
}
int cuFuncGetAttribute(int* value, int, void*) {
  *value = 32;
  return 0;
}
int cuLaunchKernelEx(const unsigned (*config)[7], void*, void** parameters, void**) {
  const auto& [x, y, z, threads, threads_y, threads_z, shared_bytes] =
      *config;  // how a CUlaunchConfig begins
  if (contexts.empty() || x == 0 || threads == 0 || parameters == nullptr) return kInvalidValue;
  ++fake_launches;
  if (const auto observer = fake_launch_observer.load()) observer(parameters[0]);
  if (const auto observer = fake_stream_observer.load()) {
    struct Attribute {
      int id;
      char padding[4];
      int value[16];
    };
    struct Rest {
      void* stream;
      const Attribute* attributes;
      unsigned count;
    };
    // Behind seven words and four bytes of padding.
    const auto* rest = reinterpret_cast<const Rest*>(reinterpret_cast<const char*>(config) + 32);
    int priority = 0;
    for (unsigned i = 0; i < rest->count; ++i)
      if (rest->attributes[i].id == 8) priority = rest->attributes[i].value[0];
    observer("launch", rest->stream, nullptr, priority);
  }
  return 0;
}
int cuEventCreate(void** event, unsigned) {
  *event = new char;
  return 0;
}
int cuEventDestroy_v2(void* event) {
  delete static_cast<char*>(event);
  return 0;
}
int cuEventRecord(void* event, void* stream) {
  if (const auto observer = fake_stream_observer.load()) observer("record", stream, event, 0);
  return 0;
}
int cuStreamWaitEvent(void* stream, void* event, unsigned) {
  if (const auto observer = fake_stream_observer.load()) observer("wait", stream, event, 0);
  return 0;
}
int cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return 0;
}
int cuTensorMapEncodeTiled(void* map, int, unsigned, void* address, const std::uint64_t*,
                           const std::uint64_t*, const unsigned*, const unsigned*, int, int, int, int) {
  if (reinterpret_cast<std::uintptr_t>(map) % 64 != 0 || reinterpret_cast<std::uintptr_t>(address) % 16 != 0)
    return kInvalidValue;
  std::memcpy(map, &address, sizeof address);
  return 0;
}
int cuMemcpyDtoDAsync_v2(std::uintptr_t to, std::uintptr_t from, std::size_t bytes, void*) {
  std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
  return 0;
}
int cuMemsetD8Async(std::uintptr_t to, unsigned char value, std::size_t bytes, void*) {
  std::memset(reinterpret_cast<void*>(to), value, bytes);
  return 0;
}
int cuStreamCreate(void** stream, unsigned) {
  if (contexts.empty()) return kInvalidValue;
  *stream = new Stream{contexts.back(), false};
  return 0;
}
int cuStreamDestroy_v2(void* stream) {
  delete static_cast<Stream*>(stream);
  return 0;
}
int cuStreamGetCtx(void* stream, void** context) {
  *context = static_cast<Stream*>(stream)->context;
  return 0;
}
int cuStreamIsCapturing(void* stream, int* status) {
  if (contexts.empty() || (stream == nullptr && contexts.back() != context_of(0))) return kInvalidContext;
  *status = stream != nullptr && static_cast<Stream*>(stream)->captured ? 1 : 0;
  return 0;
}
int cuStreamBeginCapture_v2(void* stream, int) {
  static_cast<Stream*>(stream)->captured = true;
  return 0;
}
int cuStreamEndCapture(void* stream, void** graph) {
  static_cast<Stream*>(stream)->captured = false;
  *graph = nullptr;
  return 0;
}
int cuThreadExchangeStreamCaptureMode(int*) {
  return 0;
}

#define GLA_NOT_FAKED(name) \
  int name() {              \
    return kNotSupported;   \
  }
GLA_NOT_FAKED(cuCtxSetCurrent)
GLA_NOT_FAKED(cuCtxSynchronize)
GLA_NOT_FAKED(cuEventElapsedTime)
GLA_NOT_FAKED(cuEventSynchronize)
GLA_NOT_FAKED(cuGetExportTable)  // NVRTC asks for it
GLA_NOT_FAKED(cuGraphDestroy)
GLA_NOT_FAKED(cuGraphExecDestroy)
GLA_NOT_FAKED(cuGraphInstantiateWithFlags)
GLA_NOT_FAKED(cuGraphLaunch)
GLA_NOT_FAKED(cuMemAlloc_v2)
GLA_NOT_FAKED(cuMemFreeHost)
GLA_NOT_FAKED(cuMemFree_v2)
GLA_NOT_FAKED(cuMemGetInfo_v2)
GLA_NOT_FAKED(cuMemHostAlloc)
GLA_NOT_FAKED(cuMemHostGetDevicePointer_v2)
GLA_NOT_FAKED(cuMemcpyDtoH_v2)
GLA_NOT_FAKED(cuMemcpyHtoDAsync_v2)
GLA_NOT_FAKED(cuMemsetD32Async)
GLA_NOT_FAKED(cuOccupancyMaxActiveBlocksPerMultiprocessor)
GLA_NOT_FAKED(cuPointerGetAttribute)
GLA_NOT_FAKED(cuStreamSynchronize)
GLA_NOT_FAKED(cuStreamWaitValue32_v2)

}  // extern "C"
