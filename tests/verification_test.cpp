// The tools that verify kernels on a GPU (templates/verification.cuh), themselves verified on the emulator.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <vector>

#include "catch.h"
#include "element.h"
#include "gla/generator/render.h"
#include "kernel_case.h"
#include "program.h"
#include "random.h"

using namespace gla;

namespace {

enum Tool : std::size_t { kFill, kCompare, kNaive };

emulator::Program tools_of(const Problem& problem) {
  const Source source = render_tools(problem);
  return emulator::Program::build(source.name, source.text, source_toolchain());
}

emulator::Shape shape_of(Tool tool, long long grid) {
  const EntryShape shape = tool_shapes()[tool];
  return {grid, shape.threads, shape.shared_bytes};
}

}  // namespace

TEST_CASE("the fill tool draws what the seed says, whatever the grid") {
  const emulator::Program tools = tools_of({});
  std::vector<float> normal(1000), again(1000);
  FillArgs args{.data = normal.data(), .count = 999, .seed = 7, .dtype = 2, .scale = 2.0f};
  normal[999] = -5.0f;
  tools.run("fill", shape_of(kFill, 3), args);
  args.data = again.data();
  tools.run("fill", shape_of(kFill, 1), args, {emulator::Order::random, 1});
  CHECK(normal[0] == 2.0f * random_normal(7, 0));
  CHECK(normal[998] == again[998]);
  CHECK(normal[999] == -5.0f);
  double squares = 0;
  for (int i = 0; i < 999; ++i) squares += std::pow(normal[static_cast<std::size_t>(i)], 2) / 999;
  CHECK(squares == Approx(4.0).epsilon(0.15));

  args = {
      .data = again.data(), .count = 1000, .seed = 8, .dtype = 2, .fill = static_cast<int>(Fill::log_gate)};
  args.reset_probability = 0.1f;
  args.growth_probability = 0.1f;
  tools.run("fill", shape_of(kFill, 2), args);
  int resets = 0, growing = 0;
  for (const float gate : again) {
    resets += std::isinf(gate) ? 1 : 0;
    growing += gate > 0 ? 1 : 0;
  }
  CHECK(std::abs(resets - 100) < 40);
  CHECK(std::abs(growing - 100) < 40);

  args.fill = static_cast<int>(Fill::poison);
  tools.run("fill", shape_of(kFill, 2), args);
  for (const float value : again) CHECK(std::isnan(value));
}

TEST_CASE("the compare tool sums as the host does") {
  const Extent extent{{0, 3, 20, 1}, 2, 33, false};
  const std::size_t count = 24 * 2 * 33;
  std::vector<float> value(count), reference(count);
  for (std::size_t i = 0; i < count; ++i) {
    reference[i] = random_normal(1, i);
    value[i] = reference[i] + 0.01f * random_normal(2, i);
  }
  value[70] = std::numeric_limits<float>::quiet_NaN();
  reference[500] = std::numeric_limits<float>::infinity();
  const std::vector<int> cu_seqlens{0, 0, 3, 23, 24};
  std::vector<CompareSums> sums(8);
  CompareArgs args;
  args.value = {value.data(), 0, 66, 33};
  args.reference = {reference.data(), 0, 66, 33};
  args.cu_seqlens = cu_seqlens.data();
  args.sequences = 4;
  args.tokens = 24;
  args.heads = 2;
  args.channels = 33;
  args.dtype = 2;
  args.sums = sums.data();
  tools_of({}).run("compare", shape_of(kCompare, 8), args, {emulator::Order::random, 5});

  const std::vector<double> wide(reference.begin(), reference.end());
  const std::vector<CompareSums> expected = compare(value, wide, extent);
  for (std::size_t i = 0; i < sums.size(); ++i) {
    CHECK(sums[i].squared_error == Approx(expected[i].squared_error));
    CHECK(sums[i].squared_reference == Approx(expected[i].squared_reference));
    CHECK(sums[i].nan_mismatches == expected[i].nan_mismatches);
  }
}

namespace {

/// The tool as a kernel of the problem: it writes tensors as fp32, a case's buffers are dense and have the problem's dtypes.
LaunchKernel naive_of(const Problem& problem) {
  const emulator::Program tools = tools_of(problem);
  return [=](const BackwardArgs& args, const Workload& workload, const RunOptions& options) {
    const std::int64_t rows = workload.packed ? workload.tokens : workload.sequences * workload.tokens;
    BackwardArgs wide = args;
    std::map<Output, std::vector<float>> tensors;
    for (const Output output : outputs_of(problem)) {
      if (is_state(output)) continue;
      const Extent extent = extent_of(problem, output, {}, workload.heads);
      std::vector<float>& tensor = tensors[output];
      tensor.assign(static_cast<std::size_t>(rows * extent.heads * extent.channels),
                    std::numeric_limits<float>::quiet_NaN());
      Tensor view = output_of(args, output);
      view.data = tensor.data();
      set_output(wide, output, view);
    }
    const bool backward = is_backward(problem.operation);
    const int dim_k = problem.head_dim_k, dim_v = problem.head_dim_v;
    const std::int64_t states = workload.sequences * workload.heads;
    const auto grid = [](std::int64_t warps) { return shape_of(kNaive, (warps + 3) / 4); };
    std::vector<double> scratch(static_cast<std::size_t>(rows * workload.heads * (dim_k + dim_v)));
    wide.flows = reinterpret_cast<float*>(scratch.data());
    if (backward)
      tools.run("naive", grid(states * (dim_k + dim_v)), wide, options.emulator);
    else
      tools.run("naive", grid(states * dim_v), static_cast<const KernelArgs&>(wide), options.emulator);
    for (const auto& [output, tensor] : tensors) {
      const std::vector<std::byte> bytes = encode(dtype_of(problem, output), tensor);
      std::memcpy(output_of(args, output).data, bytes.data(), bytes.size());
    }
  };
}

void expect_reference(const Problem& problem) {
  const LaunchKernel naive = naive_of(problem);
  const double rounding = problem.dtype == DType::fp32 ? 1e-7 : 0.003;
  Bar bar{rounding, 1e-7, rounding, rounding, rounding, rounding, rounding, 1e-7};
  if (problem.gate_dtype == DType::fp32) bar.dgk = bar.dgv = 1e-7;
  for (const Gates gates : kAllGates) {
    INFO(to_string(problem) << ", " << to_string(gates));
    // Of next to nothing, what is left of fp64's sums of differences is exact to fewer digits.
    Bar of_gates = bar;
    if (gates == Gates::hundred) of_gates.dgk = of_gates.dgv = std::max(bar.dgk, 2e-6);
    const KernelCase dense{.batch = 2, .tokens = 30, .heads = 2, .gates = gates};
    CHECK(complaint(run_case(problem, dense, naive), of_gates) == "");
  }
  const KernelCase packed{.tokens = 63, .heads = 2, .cu_seqlens = {0, 0, 1, 16, 17, 50, 63}};
  CHECK(complaint(run_case(problem, packed, naive), bar) == "");
  const KernelCase stateless{.tokens = 20, .heads = 2, .initial_state = false, .final_state = false};
  CHECK(complaint(run_case(problem, stateless, naive), bar) == "");
}

}  // namespace

TEST_CASE("the naive kernel is the reference") {
  Problem plain;
  plain.head_dim_k = 40;
  plain.head_dim_v = 24;
  plain.group = 2;
  Problem full = plain;
  full.operation = Operation::recurrent_forward;
  full.dtype = full.gate_dtype = DType::fp32;
  full.gate_v = full.reverse = full.state_v_first = true;
  for (const Problem& problem : {plain, full}) expect_reference(problem);
}

TEST_CASE("the naive kernel of a backward problem is the reference's gradients", "[wide]") {
  Problem plain;
  plain.operation = Operation::chunk_backward;
  plain.head_dim_k = 40;
  plain.head_dim_v = 24;
  plain.group = 2;
  Problem ungated = plain;
  ungated.dtype = ungated.gate_dtype = DType::fp32;
  ungated.state_v_first = true;
  ungated.gate_k = false;
  Problem recurrent = ungated;
  recurrent.operation = Operation::recurrent_backward;
  recurrent.gate_k = recurrent.gate_v = recurrent.reverse = true;
  for (const Problem& problem : {plain, ungated, recurrent}) expect_reference(problem);
}
