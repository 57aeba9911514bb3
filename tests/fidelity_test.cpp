// The emulator against a GPU: the same primitives and the same variants on the same inputs, run on both. What kernels
// owe to the fp64 reference is tested elsewhere; this is about whether the emulator can be believed. Without a GPU the
// emulator stands in for it, its threads in another order, so that all but the GPU's own part is exercised.
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "args.h"
#include "catch.h"
#include "compiler.h"
#include "fidelity/comparison.h"
#include "fidelity/gpu_kernel.h"
#include "fidelity/primitive_program.h"
#include "gpu_needed.h"
#include "small_variants.h"
#include "source_toolchain.h"
#include "tensor_map.h"

using namespace gla;
using namespace gla::test;
using emulator::Options;
using emulator::Order;

namespace {

/// As tensor_copy_primitives.cuh has it.
struct TensorCopyArgs {
  TensorMap in, out;
  int tiles;
};

/// Every entry of primitives.cuh on two machines.
void expect_same_primitives(const RunPrimitive& gpu, const RunPrimitive& emulated) {
  const auto expect = [&](const char* what, const PrimitiveCall& call, const MayBe& may_be) {
    INFO(what);
    CHECK(difference(gpu(call), emulated(call), may_be) == "");
  };
  expect("fp16 and bf16 to fp32", widen_call(), same_float);
  expect("fp32 to fp16 and bf16", narrow_call(), same_bits);
  expect("fp32 to bf16 parts", split_call(), same_bits);
  expect("exp2 of integers", integer_power_call(), same_bits);
  expect("exp2", power_call(), same_power);
  expect("greater bf16", greater_call(), same_bits);
  expect("ldmatrix and tiles", tile_call(), same_bits);
  expect("mma of integers", integer_products_call(), same_bits);
  expect("mma of inf and NaN", special_products_call(), same_float);
  const PrimitiveCall random_products = random_products_call();
  const std::vector<Word> magnitudes = emulated(magnitudes_of(random_products));
  expect("mma", random_products, same_sum(magnitudes));
  expect("shuffles", shuffle_call(), same_bits);
  expect("votes", vote_call(), same_bits);
  expect("named barriers", parts_call(), same_bits);
  expect("cp.async and rows", copy_call(), same_bits);
  expect("atomics and places", place_call(), same_bits);
}

/// Every entry of warpgroup_primitives.cuh on two machines.
void expect_same_warpgroups(const RunPrimitive& gpu, const RunPrimitive& emulated) {
  for (const int n : {16, 32, 64, 128, 256}) {
    INFO("wgmma of " << n << " columns");
    const PrimitiveCall call = warpgroup_products_call(n);
    CHECK(difference(gpu(call), emulated(call), same_bits) == "");
  }
  INFO("stmatrix");
  CHECK(difference(gpu(store_call()), emulated(store_call()), same_bits) == "");
}

/// The entry of send_primitives.cuh on two machines.
void expect_same_sends(const RunPrimitive& gpu, const RunPrimitive& emulated) {
  CHECK(difference(gpu(trade_call()), emulated(trade_call()), same_bits) == "");
}

/// Two sequences in a row of tokens, or packed with empty ones and odd lengths.
KernelCase small_case(Gates gates, bool packed) {
  KernelCase c{.batch = 2, .tokens = 75, .heads = 2, .gates = gates};
  c.seed = static_cast<std::uint64_t>(gates) + 1;
  if (packed) {
    c.batch = 1;
    c.cu_seqlens = {0, 0, 1, 16, 17, 50, 75};
  }
  return c;
}

/// Every gate distribution on dense and packed sequences, and a NaN.
void expect_same_results(const Problem& problem, const LaunchKernel& gpu, const LaunchKernel& emulated) {
  const auto expect = [&](const ReferenceInput& in, const KernelCase& c) {
    CHECK(difference(run_kernel(in, c, gpu), run_kernel(in, c, emulated), fidelity_bar(problem)) == "");
  };
  for (const Gates gates : kAllGates) {
    for (const bool packed : {false, true}) {
      INFO(to_string(gates) << (packed ? ", packed" : ", dense"));
      const KernelCase c = small_case(gates, packed);
      expect(make_inputs(problem, c), c);
    }
  }
  INFO("NaN");
  const KernelCase c = small_case(Gates::one, true);
  ReferenceInput in = make_inputs(problem, c);
  in.gk[in.gk.size() / 2] = std::numeric_limits<float>::quiet_NaN();
  expect(in, c);
}

}  // namespace

TEST_CASE("a GPU's primitives leave what the emulator's leave", "[gpu]") {
  if (no_gpu()) return;
  const GpuUnderTest gpu;
  expect_same_primitives(gpu.primitives(primitive_source()), emulated_primitives(primitive_source(), {}));
  if (gpu.architecture().name == architecture("sm_90a").name) {
    expect_same_warpgroups(gpu.primitives(warpgroup_source()), emulated_primitives(warpgroup_source(), {}));
    expect_same_sends(gpu.primitives(send_source()), emulated_primitives(send_source(), {}));
  }
}

TEST_CASE("a GPU runs every family, dtype and state layout as the emulator does", "[gpu]") {
  if (no_gpu()) return;
  const GpuUnderTest gpu;
  for (const Family family : kForwardFamilies) {
    for (const DType dtype : kDTypes) {
      for (const bool v_first : {false, true}) {
        const Problem problem = small_problem(family, dtype, v_first);
        const Variant tested = one_variant(problem, family);
        INFO(to_string(problem) << ", " << to_string(tested));
        expect_same_results(problem, gpu.kernel_of(problem, tested), kernel_of(problem, tested));
      }
    }
  }
}

TEST_CASE("the programs of the primitives compile for a GPU and keep everything in registers", "[nvrtc]") {
  if (const Status status = nvrtc_version().status(); !status.ok()) {
    WARN("SKIPPED: " << status.message());
    return;
  }
  CHECK(compile(primitive_source(), architecture("sm_80")).status().message() == "");
  CHECK(compile(send_source(), architecture("sm_100a")).status().message() == "");
  CHECK(compile(tensor_copy_source(), architecture("sm_100a")).status().message() == "");
  for (const Source& source : {primitive_source(), warpgroup_source(), send_source(), tensor_copy_source()}) {
    const Result<Cubin> cubin = compile(source, architecture("sm_90a"));
    INFO(cubin.status().message());
    REQUIRE(cubin.ok());
    for (const KernelResources& resources : cubin->resources) CHECK(resources.spill_bytes == 0);
  }
}

TEST_CASE("primitives do not depend on the order in which the emulator runs threads", "[emulator]") {
  const Options random{Order::random, 7}, backward{Order::backward};
  expect_same_primitives(emulated_primitives(primitive_source(), random),
                         emulated_primitives(primitive_source(), backward));
  expect_same_warpgroups(emulated_primitives(warpgroup_source(), random),
                         emulated_primitives(warpgroup_source(), backward));
  expect_same_sends(emulated_primitives(send_source(), random), emulated_primitives(send_source(), backward));
}

TEST_CASE("the emulator runs the program of tensor copies in any order", "[emulator]") {
  constexpr int kRows = 200;
  alignas(16) static std::uint16_t in[kRows][64], out[kRows][64];
  for (int i = 0; i < kRows * 64; ++i) in[i / 64][i % 64] = static_cast<std::uint16_t>(i);
  const auto map_of = [](void* data) {
    TensorMap map;
    emulator::encode_tensor_map(&map, {data,
                                       {64, kRows, 1, 1},
                                       {128, kRows * 128, kRows * 128},
                                       {64, 64, 1, 1},
                                       sizeof(std::uint16_t),
                                       emulator::Swizzle::bytes_128});
    return map;
  };
  const Source source = tensor_copy_source();
  const auto program = emulator::Program::build(source.name, source.text, source_toolchain());
  for (const Options& options : {Options{}, Options{Order::backward}, Options{Order::random, 7}}) {
    std::memset(out, 0, sizeof out);
    program.run("copy_boxes", {1, 64, 2 * 64 * 128 + 32}, TensorCopyArgs{map_of(in), map_of(out), 4},
                options);
    int wrong = 0;
    for (int i = 0; i < kRows * 64; ++i)
      wrong += out[i / 64][i % 64] == static_cast<std::uint16_t>(i + 1) ? 0 : 1;
    CHECK(wrong == 0);
  }
}

TEST_CASE("a variant does not depend on the order in which the emulator runs threads", "[emulator]") {
  const Problem problem = small_problem(Family::segmented, DType::bf16);
  const LaunchKernel kernel = kernel_of(problem, one_variant(problem, Family::segmented));
  const LaunchKernel reordered = [&](const BackwardArgs& args, const Workload& workload, const RunOptions&) {
    kernel(args, workload, {{}, {Order::random, 7}});
  };
  expect_same_results(problem, reordered, kernel);
}

TEST_CASE("a word that differs is reported where bits count, and a NaN's payload is not", "[emulator]") {
  const std::vector<Word> words{1, 0x7fc00000, 0x3f800000}, other_payload{1, 0x7fffffff, 0x3f800000};
  CHECK(difference(words, words, same_bits) == "");
  CHECK(difference(other_payload, words, same_float) == "");
  CHECK(difference(other_payload, words, same_bits) ==
        "1 of 3 words differ; word 1 is 0x7fffffff on the GPU, 0x7fc00000 on the emulator");
  CHECK(difference(std::vector<Word>{1, 0x7fc00000, 0x3f800001}, words, same_float) != "");
  CHECK(difference(std::vector<Word>{1, 0x3f800000, 0x3f800000}, words, same_float) != "");
}

TEST_CASE("an inexact primitive may be off by its rounding and no more", "[emulator]") {
  const auto word = [](double value) { return std::bit_cast<Word>(static_cast<float>(value)); };
  const auto powers = [&](double gpu, double emulated) { return same_power(0, word(gpu), word(emulated)); };
  CHECK(powers(1.5 + 0x1p-22, 1.5));
  CHECK_FALSE(powers(1.5 + 0x1p-20, 1.5));
  CHECK(powers(0, 0x1p-126));
  CHECK_FALSE(powers(0, 0x1p-125));
  CHECK_FALSE(powers(1, std::numeric_limits<double>::quiet_NaN()));
  CHECK_FALSE(powers(1, std::numeric_limits<double>::infinity()));
  const std::vector<Word> magnitudes{word(100)};
  CHECK(same_sum(magnitudes)(0, word(1 + 0x1p-13), word(1)));
  CHECK_FALSE(same_sum(magnitudes)(0, word(1 + 0x1p-11), word(1)));
  CHECK_FALSE(same_sum(magnitudes)(0, word(std::numeric_limits<double>::quiet_NaN()), word(1)));
}

TEST_CASE("results that differ are reported, whatever differs", "[emulator]") {
  const Problem problem = small_problem(Family::fused, DType::bf16);
  const KernelCase c = small_case(Gates::one, false);
  const Bar bar = fidelity_bar(problem);
  const KernelResult emulated =
      run_kernel(make_inputs(problem, c), c, kernel_of(problem, one_variant(problem, Family::fused)));
  const auto reported = [&](void (*change)(KernelResult&)) {
    KernelResult gpu = emulated;
    change(gpu);
    return difference(gpu, emulated, bar);
  };
  CHECK(reported([](KernelResult&) {}) == "");
  // A value rounded to its neighbour in a thousand is what rounding order does; one in four is something else.
  CHECK(reported([](KernelResult& gpu) {
          for (std::size_t i = 0; i < gpu.o.size(); i += 1000) gpu.o[i] *= 1 + 0x1p-8f;
        }) == "");
  CHECK(reported([](KernelResult& gpu) {
          for (std::size_t i = 0; i < gpu.o.size(); i += 4) gpu.o[i] *= 1 + 0x1p-8f;
        }).find("o: differs by") == 0);
  CHECK(reported([](KernelResult& gpu) { gpu.final_state[3] += 1; }).find("final_state: differs by") == 0);
  CHECK(reported([](KernelResult& gpu) {
          gpu.o[3] = std::numeric_limits<float>::quiet_NaN();
        }).find("o: NaN or inf") == 0);
  CHECK(reported([](KernelResult& gpu) { ++gpu.paths[1]; }).find("paths: 12 1 on the GPU,") == 0);
  CHECK(reported([](KernelResult& gpu) { gpu.untouched = false; }) != "");
}
