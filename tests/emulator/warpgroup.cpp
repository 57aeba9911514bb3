// wgmma as the PTX ISA specifies it. A product is queued where it is issued and runs in the wait that covers its group, so
// that operands or sums that are touched in between make a wrong answer. What it reads is noted in both places.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "block.h"
#include "emulator.h"

namespace gla::emulator {
namespace {

constexpr std::uint32_t kRowBytes = 128, kContraction = 16;
constexpr std::uint32_t kAddressMask = 0x3ffff;  // what a descriptor can tell

/// The address or offset from bit `first` of a descriptor, in bytes.
std::uint32_t field(unsigned long long descriptor, int first) {
  return static_cast<std::uint32_t>(descriptor >> first & 0x3fff) << 4;
}

/// Where the 16 bytes lie that start with element (mn, k): the canonical layouts with 128-byte swizzling, in elements
/// ((8,m),(8,2)):((64,SBO),(1,8)) along rows and ((8,8,m),(8,2)):((1,8,LBO),(64,SBO)) across; bits 4..6 of the address are
/// swizzled with bits 7..9.
std::uint32_t place_of(const SharedOperand& operand, std::uint32_t mn, std::uint32_t k) {
  const std::uint32_t start = field(operand.descriptor, 0);
  const std::uint32_t leading = field(operand.descriptor, 16);
  const std::uint32_t stride = field(operand.descriptor, 32);
  const std::uint32_t offset = operand.across_rows
                                   ? mn % 64 * 2 + mn / 64 * leading + k % 8 * kRowBytes + k / 8 * stride
                                   : mn % 8 * kRowBytes + mn / 8 * stride + k * 2;
  const std::uint32_t address = (start + offset) & kAddressMask;
  return address ^ (address >> 7 & 7) << 4;
}

/// The 16 elements of the contraction for each of `count` rows or columns from `first`.
using Matrix = std::vector<std::array<float, kContraction>>;
Matrix load(Block& block, const SharedOperand& operand, std::uint32_t first, std::uint32_t count,
            void* site) {
  Matrix matrix(count);
  const std::uint32_t step_mn = operand.across_rows ? 8 : 1;
  const std::uint32_t step_k = operand.across_rows ? 1 : 8;
  for (std::uint32_t mn = 0; mn < count; mn += step_mn) {
    for (std::uint32_t k = 0; k < kContraction; k += step_k) {
      std::uint16_t element[8];
      const unsigned char* place = block.shared().data() + place_of(operand, first + mn, k);
      block.require_shared("wgmma", place, sizeof element, site);
      block.note_access(AccessKind::read_as_operand, place, sizeof element, site);
      std::memcpy(element, place, sizeof element);
      for (std::uint32_t i = 0; i < 8; ++i) {
        const float value = operand.halves ? half_to_float(element[i])
                                           : bits_to_float(static_cast<unsigned int>(element[i]) << 16);
        matrix[operand.across_rows ? mn + i : mn][operand.across_rows ? k : k + i] = value;
      }
    }
  }
  return matrix;
}

/// A warp's 16 x 16 from registers: see templates/device/mma.cuh. `index`: of the product among the lanes' pending ones.
Matrix load_registers(const Operands& threads, std::size_t index) {
  Matrix matrix(16);
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    const unsigned int* registers = static_cast<const Thread*>(threads[lane])->products[index].registers;
    for (std::size_t part = 0; part < 4; ++part) {
      float* target = &matrix[lane / 4 + part % 2 * 8][lane % 4 * 2 + part / 2 * 8];
      target[0] = bits_to_float(registers[part] << 16);
      target[1] = bits_to_float(registers[part] & 0xffff0000u);
    }
  }
  return matrix;
}

PendingSums& sums_of(Thread& thread, float* d) {
  return *std::find_if(thread.sums.begin(), thread.sums.end(),
                       [&](const PendingSums& sums) { return sums.d == d; });
}

/// The sums of one lane: d[j] is the D tile of mma.cuh for columns 8 * j...
void add_product(PendingSums& sums, bool accumulate, std::size_t lane, const Matrix& a, const Matrix& b) {
  for (std::size_t i = 0; i < sums.value.size(); ++i) {
    const auto& row = a[lane / 4 + i / 2 % 2 * 8];
    const auto& column = b[i / 4 * 8 + lane % 4 * 2 + i % 2];
    float sum = accumulate ? sums.value[i] : 0.0f;
    for (std::size_t k = 0; k < kContraction; ++k) sum += row[k] * column[k];
    sums.value[i] = sum;
  }
}

/// What a wait does for its warp.
void finish(Block& block, const Operands& threads) {
  const auto& first = *static_cast<const Thread*>(threads[0]);
  const auto late =
      std::find_if(first.products.begin(), first.products.end(), [&](const PendingProduct& product) {
        return product.group >= first.product_group - first.pending_groups;
      });
  const auto count = late - first.products.begin();
  const auto warp = static_cast<std::uint32_t>(block.thread_index() % kWarpgroupThreads / kLanes);
  for (std::size_t index = 0; index < static_cast<std::size_t>(count); ++index) {
    const PendingProduct& product = first.products[index];
    if (Work* work = block.work()) work->multiply_adds += std::int64_t{16} * product.n * kContraction;
    const Matrix a = product.registers != nullptr ? load_registers(threads, index)
                                                  : load(block, product.a, 16 * warp, 16, product.call_site);
    const Matrix b = load(block, product.b, 0, static_cast<std::uint32_t>(product.n), product.call_site);
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      Thread& thread = *static_cast<Thread*>(threads[lane]);
      PendingSums& sums = sums_of(thread, thread.products[index].d);
      add_product(sums, product.accumulate, lane, a, b);
      if (--sums.products == 0) {
        std::copy(sums.value.begin(), sums.value.end(), sums.d);
        thread.sums.erase(thread.sums.begin() + (&sums - thread.sums.data()));
      }
    }
  }
  for (void* thread : threads) {
    auto& products = static_cast<Thread*>(thread)->products;
    products.erase(products.begin(), products.begin() + count);
  }
}

bool same(const SharedOperand& a, const SharedOperand& b) {
  return a.descriptor == b.descriptor && a.across_rows == b.across_rows && a.halves == b.halves;
}

/// What the issue does for its warpgroup: all threads say the same, and what they name can be read now.
void check(Block& block, const Operands& operands) {
  const auto& first = *static_cast<const PendingProduct*>(operands[0]);
  for (const void* operand : operands) {
    const auto& other = *static_cast<const PendingProduct*>(operand);
    if (first.n != other.n || (first.registers == nullptr) != (other.registers == nullptr) ||
        !same(first.a, other.a) || !same(first.b, other.b) || first.accumulate != other.accumulate)
      block.fail("wgmma with other operands than other threads of its warpgroup", other.call_site);
  }
  if (first.registers == nullptr) load(block, first.a, 0, 64, first.call_site);
  load(block, first.b, 0, static_cast<std::uint32_t>(first.n), first.call_site);
}

void check_descriptor(Block& block, unsigned long long descriptor, void* call_site) {
  if (descriptor >> 49 != 1u << 13)
    block.fail("a wgmma descriptor that is not one of 128-byte swizzling without base offset", call_site);
  if (const std::uint32_t row = field(descriptor, 0) / kRowBytes % 8; row != 0)
    block.fail("a wgmma operand that starts in row " + std::to_string(row) + " of 8", call_site);
}

void issue(PendingProduct product) {
  Block& block = *current_block();
  Thread& thread = block.thread();
  if (!thread.products_fenced)
    block.fail("wgmma without a warpgroup_fence since the latest wait or warpgroup_pin", product.call_site);
  if (product.registers == nullptr) check_descriptor(block, product.a.descriptor, product.call_site);
  check_descriptor(block, product.b.descriptor, product.call_site);
  block.meet_warpgroup("wgmma", product.call_site, &product, check);
  product.group = thread.product_group;
  bool is_pending = false;
  for (const PendingSums& sums : thread.sums) {
    const bool same_sums =
        sums.d == product.d && sums.value.size() == static_cast<std::size_t>(product.n / 2);
    if (!same_sums && sums.d < product.d + product.n / 2 && product.d < sums.d + sums.value.size())
      block.fail("wgmma with a part of the sums of products that may still be running", product.call_site);
    is_pending = is_pending || same_sums;
  }
  if (!is_pending) {
    thread.sums.push_back({product.d, {product.d, product.d + product.n / 2}, 0});
    std::fill_n(product.d, product.n / 2, std::numeric_limits<float>::quiet_NaN());
  }
  ++sums_of(thread, product.d).products;
  thread.products.push_back(product);
}

void only_meet(Block&, const Operands&) {}

void require_same_count(Block& block, const Operands& operands) {
  const auto count = [](const void* operand) { return *static_cast<const int*>(operand); };
  for (const void* operand : operands)
    if (count(operand) != count(operands[0]))
      block.fail("set_registers of " + std::to_string(count(operands[0])) + " and " +
                     std::to_string(count(operand)) + " in one warpgroup",
                 block.thread().call_site);
}

}  // namespace

unsigned int shared_address(const void* shared) {
  Block& block = *current_block();
  block.require_shared("a wgmma descriptor", shared, 16, __builtin_return_address(0));
  return static_cast<unsigned int>(static_cast<const unsigned char*>(shared) - block.shared().data());
}

void wgmma_m64k16(float* d, int n, SharedOperand a, SharedOperand b, bool accumulate) {
  issue({d, n, nullptr, a, b, accumulate, 0, __builtin_return_address(0)});
}

void wgmma_m64k16(float* d, int n, const unsigned int (&a)[4], SharedOperand b, bool accumulate) {
  issue({d, n, a, {}, b, accumulate, 0, __builtin_return_address(0)});
}

void wgmma_fence() {
  Block& block = *current_block();
  block.meet_warp("wgmma.fence", __builtin_return_address(0), nullptr, only_meet);
  block.thread().products_fenced = true;
}

void wgmma_registers_used() {
  current_block()->thread().products_fenced = false;
}

void wgmma_commit_group() {
  Block& block = *current_block();
  block.meet_warp("wgmma.commit_group", __builtin_return_address(0), nullptr, only_meet);
  ++block.thread().product_group;
}

void wgmma_wait_group(int pending) {
  Block& block = *current_block();
  Thread& thread = block.thread();
  thread.pending_groups = pending;
  block.meet_warp("wgmma.wait_group", __builtin_return_address(0), &thread, finish);
  thread.products_fenced = false;
}

void fence_proxy_async() {
  current_block()->note_fence();
}

void set_registers(int count) {
  current_block()->meet_warpgroup("set_registers", __builtin_return_address(0), &count, require_same_count);
}

}  // namespace gla::emulator
