#include "gla/generator/architecture.h"

#include <algorithm>
#include <array>

#include "names.h"

namespace gla {
namespace {

constexpr std::size_t kKiB = 1024;

// Limits: CUDA C++ Programming Guide 13.0, table "Technical specifications per compute capability". Bandwidth
// and rates: vendor data sheets of the part named, as leads for ranking; a measured table replaces them.
struct Row {
  std::string_view name;
  int compute_capability, multiprocessors;
  std::size_t block_shared, multiprocessor_shared;
  int threads, blocks;
  double copy_bandwidth, tensor_rate, clock_hz;
  std::size_t l2_bytes;
};
constexpr std::array kRows = {
    Row{"80", 80, 108, 163 * kKiB, 164 * kKiB, 2048, 32, 1.3e12, 300e12, 1.41e9, 40 << 20},   // A100
    Row{"86", 86, 84, 99 * kKiB, 100 * kKiB, 1536, 16, 0.7e12, 140e12, 1.7e9, 6 << 20},       // A40
    Row{"89", 89, 142, 99 * kKiB, 100 * kKiB, 1536, 24, 0.8e12, 330e12, 2.2e9, 96 << 20},     // L40S
    Row{"90a", 90, 132, 227 * kKiB, 228 * kKiB, 2048, 32, 3.0e12, 600e12, 1.75e9, 50 << 20},  // H100
    Row{"90", 90, 132, 227 * kKiB, 228 * kKiB, 2048, 32, 3.0e12, 600e12, 1.75e9, 50 << 20},  // H100, portable
    Row{"100a", 100, 148, 227 * kKiB, 228 * kKiB, 2048, 32, 7.0e12, 1000e12, 1.9e9, 126 << 20},  // B200
    Row{"100", 100, 148, 227 * kKiB, 228 * kKiB, 2048, 32, 7.0e12, 1000e12, 1.9e9,
        126 << 20},  // B200, portable
    Row{"120a", 120, 170, 99 * kKiB, 100 * kKiB, 1536, 24, 1.6e12, 210e12, 2.4e9, 96 << 20},  // RTX 5090
};

Architecture from_row(const Row& row) {
  Architecture architecture;
  architecture.name = row.name;
  architecture.compute_capability = row.compute_capability;
  architecture.multiprocessors = row.multiprocessors;
  architecture.shared_memory_per_block = row.block_shared;
  architecture.shared_memory_per_multiprocessor = row.multiprocessor_shared;
  architecture.threads_per_multiprocessor = row.threads;
  architecture.blocks_per_multiprocessor = row.blocks;
  architecture.copy_bandwidth = row.copy_bandwidth;
  architecture.tensor_rate = row.tensor_rate;
  architecture.clock_hz = row.clock_hz;
  architecture.l2_bytes = row.l2_bytes;
  return architecture;
}

}  // namespace

std::vector<std::string> architecture_names() {
  std::vector<std::string> names;
  for (const Row& row : kRows) names.push_back(fmt::format("sm_{}", row.name));
  return names;
}

Result<Architecture> parse_architecture(std::string_view text) {
  for (const Row& row : kRows)
    if (text.starts_with("sm_") && text.substr(3) == row.name) return from_row(row);
  return invalid_argument(
      fmt::format("architecture is '{}'; accepted: {}", text, fmt::join(architecture_names(), ", ")));
}

Result<Architecture> architecture_of(int compute_capability) {
  for (const Row& row : kRows)
    if (row.compute_capability == compute_capability) return from_row(row);
  return Status(StatusCode::unsupported,
                fmt::format("compute capability is {}.{}; accepted: {}", compute_capability / 10,
                            compute_capability % 10, fmt::join(architecture_names(), ", ")));
}

int occupancy(const Architecture& architecture, int threads, int registers_per_thread,
              std::size_t shared_bytes) {
  constexpr int kRegisterUnit = 256;       // registers are given to a warp in units of 256
  constexpr std::size_t kReserved = kKiB;  // shared memory that the system takes per block
  const int warps = (threads + 31) / 32;
  const int warp_registers =
      (std::max(registers_per_thread, 16) * 32 + kRegisterUnit - 1) / kRegisterUnit * kRegisterUnit;
  const int by_registers = architecture.registers_per_multiprocessor / (warp_registers * warps);
  const int by_threads = architecture.threads_per_multiprocessor / (warps * 32);
  const int by_shared =
      static_cast<int>(architecture.shared_memory_per_multiprocessor / (shared_bytes + kReserved));
  return std::min({by_registers, by_threads, by_shared, architecture.blocks_per_multiprocessor});
}

}  // namespace gla
