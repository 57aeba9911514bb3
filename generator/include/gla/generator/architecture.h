// What the generator knows of a GPU: the numbers that constraints, estimates and the model need.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "gla/generator/status.h"

namespace gla {

/// A target of NVRTC and the GPU limits that go with it. From the CUDA C++ Programming Guide, "Compute
/// capabilities"; the runtime replaces what it can read off the device.
struct Architecture {
  std::string name;            ///< NVRTC's name without "sm_": "80", "90a", "100a"
  int compute_capability = 0;  ///< 80, 90, 100
  int multiprocessors = 0;
  std::size_t shared_memory_per_block = 0;  ///< bytes a block may opt in to
  std::size_t shared_memory_per_multiprocessor = 0;
  int registers_per_multiprocessor = 65536;
  int threads_per_multiprocessor = 2048;
  int blocks_per_multiprocessor = 32;
  double copy_bandwidth = 0;  ///< bytes per second, read plus written; an estimate until measured
  double tensor_rate = 0;     ///< dense bf16 mma.sync, FLOP per second; an estimate
  double clock_hz = 0;
  std::size_t l2_bytes = 0;

  bool has_wgmma() const { return name == "90a"; }
};

/// "sm_80" (A100), "sm_86", "sm_89", "sm_90a" (H100), "sm_100a" (B200), "sm_120a"; the plain "sm_90" and
/// "sm_100" too.
Result<Architecture> parse_architecture(std::string_view text);
std::vector<std::string> architecture_names();

/// The architecture whose kernels run on a device of this compute capability (90 -> sm_90a), with its limits.
Result<Architecture> architecture_of(int compute_capability);

/// Blocks of a kernel that fit on one multiprocessor at once.
int occupancy(const Architecture& architecture, int threads, int registers_per_thread,
              std::size_t shared_bytes);

}  // namespace gla
