// What kernels do, counted on the emulator: bytes of global memory that they name and products of matrices, for each token of a
// head. `work_test "[table]"` counts kernels of the shipped tables: the table in docs/performance.md.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "catch.h"
#include "emulated_case.h"
#include "gla/generator/model.h"
#include "small_variants.h"
#include "source_toolchain.h"
#include "table.h"

using namespace gla;
using namespace gla::test;

namespace {

struct PerToken {
  double loaded_bytes = 0, stored_bytes = 0, multiply_adds = 0;
};

/// What one more token of a (key/value) head costs: the difference between two lengths, so that nothing counts that a head or a
/// segment needs once. Segments and chunks divide both lengths.
PerToken per_token(const Problem& problem, const Variant& variant, std::int64_t tokens) {
  const LaunchKernel kernel = kernel_of(problem, variant, source_toolchain());
  const auto counted = [&](std::int64_t length) {
    emulator::Work work;
    KernelCase c{.tokens = length, .gates = Gates::sixteenth, .initial_state = false, .final_state = false};
    c.options.work = &work;
    const ReferenceInput in = make_inputs(problem, c);
    run_kernel(in, c, kernel, make_loss(in, c));
    return work;
  };
  const emulator::Work shorter = counted(tokens), longer = counted(2 * tokens);
  const auto slope = [&](std::int64_t emulator::Work::*count) {
    return static_cast<double>(longer.*count - shorter.*count) / static_cast<double>(tokens);
  };
  return {slope(&emulator::Work::loaded_bytes), slope(&emulator::Work::stored_bytes),
          slope(&emulator::Work::multiply_adds)};
}

double floor_bytes_per_token(const Problem& problem) {
  return floor_bytes(problem, {.sequences = 1, .heads = 1, .tokens = 1}, false);
}

/// Multiply-adds on paper. Token by token: the update of a state and the product with it, and of a backward operation the states
/// once more, those of the gradients and three products. In chunks of C tokens: besides, the (C + 1) / 2 tokens of the
/// chunk that a token sees.
double multiply_adds_on_paper(const Problem& problem, int chunk) {
  const double k = problem.head_dim_k, v = problem.head_dim_v, seen = (chunk + 1) / 2.0,
               group = problem.group;
  if (is_backward(problem.operation)) return k * v * (2 + 3 * group) + seen * group * (3 * k + 2 * v);
  return k * v * (1 + group) + seen * group * (k + v);
}

}  // namespace

TEST_CASE("a kernel of one V tile loads every input once and stores every output once") {
  if (kChecks != emulator::Checks::accesses) return;
  const Problem problem = chunk_of(64, 64);
  for (const int producers : {0, 4}) {
    const Variant variant = chunk_variant(
        problem,
        {.chunk = 64, .tile_v = 64, .warps_v = 4, .warps_k = 1, .score_parts = 1, .producers = producers});
    const PerToken counted = per_token(problem, variant, 128);
    INFO(to_string(variant));
    constexpr double kPathCounter = 8.0 / 64;  // each chunk counts which path it took
    CHECK(counted.loaded_bytes == 4 * 64 * 2 + kPathCounter);
    CHECK(counted.stored_bytes == 64 * 2);
    CHECK(counted.loaded_bytes + counted.stored_bytes == floor_bytes_per_token(problem) + kPathCounter);
    // Products with a chunk's own tokens may take whole squares, of which half is masked.
    CHECK(counted.multiply_adds >= multiply_adds_on_paper(problem, 64));
    CHECK(counted.multiply_adds <= 2 * 64 * 64 + 64 * (64 + 64) + 64 * 64);  // the last: sums of gates
  }
}

// Not of decode and lines: several of their lanes read the same words, and each of them counts.
TEST_CASE("what chunk kernels of the H200's table do for a token", "[.][table]") {
  struct Row {
    Problem problem;
    Workload point;
  };
  const Problem grouped = chunk_of(128, 128, DType::bf16, 4);
  const std::vector<Row> rows{{chunk_of(64, 64), {8, 8, 1024}},
                              {chunk_of(128, 128), {4, 64, 4096}},
                              {chunk_of(128, 128), {2, 16, 16384}},
                              {chunk_of(128, 128), {2, 16, 2048}},
                              {grouped, {1, 24, 8192}},
                              {chunk_of(128, 256), {4, 16, 2048}},
                              {chunk_of(256, 256), {4, 32, 2048}},
                              {chunk_of(256, 512), {4, 16, 2048}},
                              {backward_of(64, 64), {8, 8, 1024}},
                              {backward_of(128, 128), {4, 64, 4096}},
                              {backward_of(256, 256), {4, 32, 2048}}};
  const auto table =
      read_table((std::filesystem::path(GLA_SOURCE_DIR) / "tables" / "nvidia-h200.yaml").string());
  REQUIRE(table.ok());
  for (const auto& [problem, workload] : rows) {
    const auto tuned = std::find_if(table->problems.begin(), table->problems.end(),
                                    [&](const TableProblem& one) { return one.problem == problem; });
    INFO(to_string(problem));
    REQUIRE(tuned != table->problems.end());
    const auto point = std::find_if(tuned->points.begin(), tuned->points.end(), [&](const Point& one) {
      return one.workload == workload && one.accuracy == Accuracy::standard;
    });
    INFO(to_string(workload));
    REQUIRE(point != tuned->points.end());
    const Variant& variant = point->variant;
    const int chunk = variant[Parameter::chunk];
    const int segments = variant.family == Family::fused ? 2 : variant[Parameter::segments];
    const PerToken counted = per_token(problem, variant, 2 * chunk * segments);
    const double bytes = floor_bytes_per_token(problem), paper = multiply_adds_on_paper(problem, chunk);
    fmt::print("| {} | {} x {}{} | {} | {:.0f} | {:.0f} + {:.0f} | {:.2f} | {:.0f} | {:.0f} | {:.2f} |\n",
               to_string(problem.operation), problem.head_dim_k, problem.head_dim_v,
               problem.group > 1 ? fmt::format(", group {}", problem.group) : "", to_string(variant.family),
               bytes, counted.loaded_bytes, counted.stored_bytes,
               (counted.loaded_bytes + counted.stored_bytes) / bytes, 2e-3 * paper,
               2e-3 * counted.multiply_adds, counted.multiply_adds / paper);
    std::fflush(stdout);
  }
}
