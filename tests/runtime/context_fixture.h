// A context over the fake driver (fake_driver.cpp), made-up calls, and what the driver was asked for.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "catch.h"
#include "compiler.h"
#include "driver.h"
#include "files.h"
#include "gla/generator/render.h"
#include "kernel.h"
#include "made_up_call.h"
#include "sample_table.h"

namespace gla::test {

inline std::atomic<long>* counter(const char* name) {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  return library == nullptr ? nullptr : static_cast<std::atomic<long>*>(dlsym(library, name));
}

/// True, with a line that CTest shows, where the driver is not the fake one or NVRTC is missing.
inline bool cannot_run() {
  if (counter("fake_launches") == nullptr) {
    WARN("SKIPPED: not over the fake driver; run it through CTest");
    return true;
  }
  if (const Result<std::string> version = nvrtc_version(); !version.ok()) {
    WARN("SKIPPED: " << version.status().message());
    return true;
  }
  return false;
}

inline const driver::Api& api() {
  return **driver::api();
}

/// One cubin folder for the whole run: each variant is compiled once.
inline const std::filesystem::path& cache_folder() {
  static const TemporaryFolder folder;
  return folder.path();
}

struct Fixture {
  std::vector<std::string> said;
  std::mutex said_mutex;
  driver::PrimaryContext primary = *driver::PrimaryContext::retain(0);
  driver::PrimaryContext::Scope scope{primary};
  CUstream stream = nullptr;
  std::unique_ptr<Context> context;

  explicit Fixture(const std::string& table = "none") {
    REQUIRE(api().cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS);
    ContextOptions options;
    options.table = table;
    options.cache_dir = cache_folder().string();
    options.log = [this](LogLevel, const std::string& message) {
      const std::lock_guard lock(said_mutex);
      said.push_back(message);
    };
    Result<std::unique_ptr<Context>> made = Context::create(options);
    INFO(made.status().message());
    REQUIRE(made.ok());
    context = *std::move(made);
  }
  ~Fixture() { (void)api().cuStreamDestroy(stream); }

  bool heard(const std::string& text) const {
    return std::any_of(said.begin(), said.end(),
                       [&](const std::string& line) { return line.find(text) != std::string::npos; });
  }
};

/// A recurrent call of one token.
inline ForwardCall decode_call() {
  return made_up_call({.batch = 2, .query_heads = 4, .heads = 4});
}

/// That call has no gv.
inline constexpr unsigned kEveryGradient = kAllGradients & ~kGradientGv;

/// Its gradients: bits of Gradient.
inline BackwardCall backward_call(unsigned wanted = kEveryGradient) {
  BackwardCall call;
  call.forward = decode_call();
  call.forward.o = {};
  call.d_o = dense(data(0x6000), 1, 4, 128);
  if (wanted & kGradientQ) call.dq = dense(data(0x7000), 1, 4, 128);
  if (wanted & kGradientK) call.dk = dense(data(0x8000), 1, 4, 128);
  if (wanted & kGradientV) call.dv = dense(data(0x9000), 1, 4, 128);
  if (wanted & kGradientGk) call.dgk = dense(data(0xa000), 1, 4, 128);
  if (wanted & kGradientState) call.d_initial_state = data(0xb000);
  return call;
}

inline constexpr std::size_t kMuchWorkspace = std::size_t{1} << 40;
inline void* const workspace = data(0x10000);

using LaunchObserver = std::atomic<void (*)(const void*)>;
inline LaunchObserver& launch_observer() {
  return *static_cast<LaunchObserver*>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), "fake_launch_observer"));
}
using StreamObserver = std::atomic<void (*)(const char*, const void*, const void*, int)>;
/// What happens on streams from here on: fake_driver.cpp.
inline StreamObserver& stream_observer() {
  return *static_cast<StreamObserver*>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), "fake_stream_observer"));
}

/// Of one entry, which the fake driver takes for a kernel. Its context must be current.
inline LoadedKernels made_up_kernels() {
  Result<LoadedKernels> kernels = LoadedKernels::load({{"\x7f"
                                                        "ELF"},
                                                       {"kernel"},
                                                       {}},
                                                      {});
  REQUIRE(kernels.ok());
  return *std::move(kernels);
}

}  // namespace gla::test
