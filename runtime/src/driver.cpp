#include "driver.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace gla::driver {
namespace {

#define GLA_TEXT_OF(symbol) #symbol
#define GLA_TEXT(symbol) GLA_TEXT_OF(symbol)

/// cuda.h maps names to versioned symbols, and decltype and text follow the mapping. One symbol of CUDA 13's
/// header is younger than the drivers that serve it and has the signature of its predecessor.
void* resolve(void* library, const char* symbol) {
  if (void* found = dlsym(library, symbol)) return found;
  if (std::string_view(symbol) == "cuEventElapsedTime_v2") return dlsym(library, "cuEventElapsedTime");
  return nullptr;
}

Result<const Api*> open() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    return Status{StatusCode::cuda,
                  fmt::format("no CUDA driver: {}", reason ? reason : "libcuda.so.1 not found")};
  }
  static Api api;
  std::string missing;
#define GLA_RESOLVE(name)                                                            \
  api.name = reinterpret_cast<decltype(api.name)>(resolve(library, GLA_TEXT(name))); \
  if (api.name == nullptr) missing += " " GLA_TEXT(name);
  GLA_DRIVER_FUNCTIONS(GLA_RESOLVE)
#undef GLA_RESOLVE
  if (!missing.empty()) {
    return Status{StatusCode::cuda,
                  fmt::format("libcuda.so.1 lacks{}; a driver for CUDA 12.0 or later is needed", missing)};
  }
  if (Status status = check(api, api.cuInit(0), "cuInit"); !status.ok()) return status;
  return &api;
}

int attribute(const Api& api, CUdevice device, CUdevice_attribute which) {
  int value = 0;
  return api.cuDeviceGetAttribute(&value, which, device) == CUDA_SUCCESS ? value : 0;
}

template <class To>
void replace_if_known(To& field, int value) {
  if (value > 0) field = static_cast<To>(value);
}

/// The architecture's limits, with what this very device says in their place.
void read_limits(const Api& api, CUdevice device, Architecture& architecture) {
  const int listed = architecture.multiprocessors;
  const double listed_clock = architecture.clock_hz;
  const auto read = [&](CUdevice_attribute which) { return attribute(api, device, which); };
  replace_if_known(architecture.multiprocessors, read(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT));
  replace_if_known(architecture.shared_memory_per_block,
                   read(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN));
  replace_if_known(architecture.shared_memory_per_multiprocessor,
                   read(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR));
  replace_if_known(architecture.registers_per_multiprocessor,
                   read(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR));
  replace_if_known(architecture.threads_per_multiprocessor,
                   read(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR));
  replace_if_known(architecture.blocks_per_multiprocessor,
                   read(CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR));
  replace_if_known(architecture.l2_bytes, read(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE));
  if (const int kilohertz = read(CU_DEVICE_ATTRIBUTE_CLOCK_RATE); kilohertz > 0)
    architecture.clock_hz = 1e3 * kilohertz;
  if (listed > 0 && listed_clock > 0) {
    architecture.tensor_rate *=
        architecture.multiprocessors * architecture.clock_hz / (listed * listed_clock);
  }
  // Two transfers per clock; copies reach about nine tenths of the pins' rate.
  const double pins = 2e3 * read(CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE) *
                      read(CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH) / 8;
  if (pins > 0) architecture.copy_bandwidth = 0.9 * pins;
}

Result<Device> describe(const Api& api, int ordinal) {
  CUdevice handle = 0;
  if (Status status = check(api, api.cuDeviceGet(&handle, ordinal), "cuDeviceGet"); !status.ok())
    return status;
  Device device;
  device.ordinal = ordinal;
  char name[256] = {};
  if (Status status = check(api, api.cuDeviceGetName(name, sizeof name, handle), "cuDeviceGetName");
      !status.ok())
    return status;
  device.name = name;
  device.compute_capability = 10 * attribute(api, handle, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) +
                              attribute(api, handle, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  if (Status status = check(api, api.cuDriverGetVersion(&device.driver_version), "cuDriverGetVersion");
      !status.ok())
    return status;
  if (Status status = check(api, api.cuDeviceTotalMem(&device.memory_bytes, handle), "cuDeviceTotalMem");
      !status.ok())
    return status;
  if (Result<Architecture> architecture = architecture_of(device.compute_capability); architecture.ok()) {
    device.architecture = *architecture;
    read_limits(api, handle, device.architecture);
  }
  return device;
}

Result<int> device_count(const Api& api) {
  int count = 0;
  if (Status status = check(api, api.cuDeviceGetCount(&count), "cuDeviceGetCount"); !status.ok())
    return status;
  return count;
}

}  // namespace

Result<const Api*> api() {
  static const Result<const Api*> opened = open();
  return opened;
}

Status check(const Api& api, CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return {};
  const char* name = nullptr;
  const char* text = nullptr;
  if (api.cuGetErrorName(result, &name) != CUDA_SUCCESS || name == nullptr) name = "unknown error";
  if (api.cuGetErrorString(result, &text) != CUDA_SUCCESS || text == nullptr) text = "no description";
  return {StatusCode::cuda, fmt::format("{}: {}: {}", what, name, text)};
}

std::string version_text(int driver_version) {
  return fmt::format("{}.{}", driver_version / 1000, driver_version % 1000 / 10);
}

Result<std::vector<Device>> devices() {
  const Result<const Api*> driver = api();
  if (!driver.ok()) return driver.status();
  const Result<int> count = device_count(**driver);
  if (!count.ok()) return count.status();
  std::vector<Device> found;
  for (int ordinal = 0; ordinal < *count; ++ordinal) {
    Result<Device> described = describe(**driver, ordinal);
    if (!described.ok()) return described.status();
    found.push_back(*std::move(described));
  }
  return found;
}

Result<Device> device(int ordinal) {
  const Result<const Api*> driver = api();
  if (!driver.ok()) return driver.status();
  const Result<int> count = device_count(**driver);
  if (!count.ok()) return count.status();
  if (ordinal < 0 || ordinal >= *count)
    return invalid_argument(fmt::format("device is {}; accepted: 0 to {}", ordinal, *count - 1));
  Result<Device> described = describe(**driver, ordinal);
  if (described.ok() && described->architecture.name.empty()) {
    return Status{StatusCode::unsupported,
                  fmt::format("device {} ({}): {}", ordinal, described->name,
                              architecture_of(described->compute_capability).status().message())};
  }
  return described;
}

Result<PrimaryContext> PrimaryContext::retain(int ordinal) {
  const Result<const Api*> driver = api();
  if (!driver.ok()) return driver.status();
  CUdevice handle = 0;
  if (Status status = check(**driver, (*driver)->cuDeviceGet(&handle, ordinal), "cuDeviceGet"); !status.ok())
    return status;
  CUcontext context = nullptr;
  if (Status status =
          check(**driver, (*driver)->cuDevicePrimaryCtxRetain(&context, handle), "cuDevicePrimaryCtxRetain");
      !status.ok())
    return status;
  return PrimaryContext(ordinal, context);
}

PrimaryContext::PrimaryContext(PrimaryContext&& other) noexcept
    : ordinal_(other.ordinal_), context_(std::exchange(other.context_, nullptr)) {}

PrimaryContext& PrimaryContext::operator=(PrimaryContext&& other) noexcept {
  std::swap(ordinal_, other.ordinal_);
  std::swap(context_, other.context_);
  return *this;
}

PrimaryContext::~PrimaryContext() {
  if (context_ == nullptr) return;
  const Result<const Api*> driver = api();
  CUdevice handle = 0;
  // At process exit the driver may already be gone; then there is nothing to release.
  if (driver.ok() && (*driver)->cuDeviceGet(&handle, ordinal_) == CUDA_SUCCESS)
    (void)(*driver)->cuDevicePrimaryCtxRelease(handle);
}

PrimaryContext::Scope::Scope(const PrimaryContext& context) {
  const Result<const Api*> driver = api();
  CUcontext current = nullptr;
  if (!driver.ok()) return;
  if ((*driver)->cuCtxGetCurrent(&current) == CUDA_SUCCESS && current == context.get()) return;
  if ((*driver)->cuCtxPushCurrent(context.get()) == CUDA_SUCCESS) api_ = *driver;
}

PrimaryContext::Scope::~Scope() {
  CUcontext popped = nullptr;
  if (api_ != nullptr) (void)api_->cuCtxPopCurrent(&popped);
}

}  // namespace gla::driver
