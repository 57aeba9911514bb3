// Bugs of the kinds that kernels have, each in a small program: the emulator must report it with block, thread and
// line, in every order of the threads, and must not report the same program without the bug.
#include <string>
#include <vector>

#include "args.h"
#include "catch.h"
#include "machine.h"
#include "source_toolchain.h"
#include "stream.h"
#include "tensor_map.h"

using gla::emulator::Fault;
using gla::emulator::Options;
using gla::emulator::Order;
using gla::emulator::Program;
using gla::emulator::Shape;

namespace {

struct Args {
  float* out;
  const float* in;
  const gla::TensorMap* map;  ///< of `in`: boxes of two tokens of 32 channels
};

const std::string kBegin = R"(
#include "device/async_copy.cuh"
#include "device/cluster.cuh"
#include "device/launch.cuh"
#include "device/mma.cuh"
#include "device/tensor_copy.cuh"
#include "device/thread.cuh"
#include "device/tile.cuh"
#include "device/warpgroup.cuh"
using namespace gla;
struct Args { float* out; const float* in; const TensorMap* map; };
GLA_KERNEL void kernel([[maybe_unused]] Args args) {
  [[maybe_unused]] float* values = reinterpret_cast<float*>(shared_memory());
  const int i = thread_index();
  [[maybe_unused]] const int next = (i + 1) % 64;
)";
/// What is uninitialised would be reported before what the test is after.
const std::string kZero = "for (int j = i; j < 256; j += 64) values[j] = 0;\nblock_sync();\n";

/// Two blocks of two warps, or of a warpgroup with the panel of an operand.
const Shape kWarps{2, 64, 1024}, kWarpgroup{2, 128, 8192};

/// Runs `body`; `out` has 256 floats.
void run(const std::string& body, const Options& options, float* out, const Shape& shape = kWarps) {
  alignas(16) static float in[32 * 32];
  gla::TensorMap map;
  gla::emulator::encode_tensor_map(&map,
                                   {in, {32, 32, 1, 1}, {128, 4096, 4096}, {32, 2, 1, 1}, sizeof(float)});
  const Program program = Program::build("seeded", kBegin + body + "}\n", gla::source_toolchain());
  program.run("kernel", shape, Args{out, in, &map}, options);
}

/// The message of the Fault that ends it, or none.
std::string fault_of(const std::string& body, const Options& options, const Shape& shape) {
  std::vector<float> out(256);
  try {
    run(body, options, out.data(), shape);
  } catch (const Fault& fault) {
    return fault.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// The program with `bug` is blamed in every order, at a line of its source and in words that hold `words`; with `right`
/// in the bug's place it runs to its end.
void reports(const std::string& before, const std::string& bug, const std::string& right,
             const std::string& after, const std::vector<std::string>& words, const Shape& shape = kWarps) {
  for (const Options& options :
       {Options{Order::forward, 0}, Options{Order::backward, 0}, Options{Order::random, 1}}) {
    CHECK(fault_of(before + right + after, options, shape) == "");
    const std::string fault = fault_of(before + bug + after, options, shape);
    INFO(fault);
    CHECK(contains(fault, shape.cluster == 1 ? "block 0" : "block "));
    CHECK(contains(fault, "thread"));
    CHECK(contains(fault, " at seeded."));
    for (const std::string& word : words) CHECK(contains(fault, word));
  }
}

}  // namespace

TEST_CASE("a missing barrier between a write and a read is reported") {
  reports(kZero + "values[i] = 1;\n", "", "block_sync();\n",
          "args.out[64 * block_index() + i] = values[next];\n",
          {"shared memory byte", "and no barrier has followed"});
}

TEST_CASE("a missing barrier between a read and the next write is reported") {
  reports("values[i] = 1; block_sync(); args.out[i] = values[next];\n", "", "block_sync();\n",
          "values[i] = 2;\n", {"shared memory byte", "and no barrier has followed"});
}

TEST_CASE("two threads that write the same place are reported") {
  reports("", "values[i / 2] = 1;\n", "values[i] = 1;\n", "", {"writes shared memory byte", "wrote"});
}

TEST_CASE("atomic additions need no barrier among themselves, but before and after") {
  const std::string count = "unsigned int* counts = reinterpret_cast<unsigned int*>(values);\n";
  const std::string add = "atomic_add(counts + i % 2, 1u);\n", again = "atomic_add(counts + next % 2, 1u);\n";
  reports(count + kZero + add + again, "", "block_sync();\n", "args.out[i] = values[i % 2];\n",
          {"shared memory byte", "and no barrier has followed"});
  reports(count + kZero + add + again, "", "block_sync();\n", "if (i < 2) values[i] = 0;\n",
          {"shared memory byte", "and no barrier has followed"});
  reports(count + kZero + "if (i < 2) values[i] = 0;\n", "", "block_sync();\n", add,
          {"shared memory byte", "and no barrier has followed"});
  reports(count, "", kZero, add, {"which nothing has written"});
}

TEST_CASE("lanes of one warp need a barrier too") {
  reports(kZero + "values[i] = 1;\n", "", "block_sync();\n", "args.out[i] = values[i ^ 1];\n",
          {"no barrier has followed"});
}

TEST_CASE("a barrier of the warp orders its lanes and nobody else") {
  const std::string write = kZero + "values[i] = 1;\n";
  reports(write, "", "warp_sync();\n", "args.out[i] = values[i ^ 1];\n", {"no barrier has followed"});
  reports(write, "warp_sync();\n", "block_sync();\n", "args.out[i] = values[i ^ 32];\n",
          {"no barrier has followed"});
  reports(write + "warp_sync(); args.out[i] = values[i ^ 1] + values[i ^ 2];\n", "", "warp_sync();\n",
          "values[i] = 2;\n", {"read", "no barrier has followed"});
  reports(write + "block_sync(); args.out[i] = values[i ^ 1] + values[i ^ 33];\n", "warp_sync();\n",
          "block_sync();\n", "values[i] = 2;\n", {"no barrier has followed"});
}

/// Four warps, in two pairs.
const Shape kPairs{2, 128, 2048};
const std::string kZeroOfPairs =
    "for (int j = i; j < 512; j += 128) values[j] = 0;\nblock_sync();\n[[maybe_unused]] const int pair = i / "
    "64, mate = i ^ 32;\n";

TEST_CASE("a named barrier orders its threads and nobody else") {
  const std::string write = kZeroOfPairs + "values[i] = 1;\n";
  const std::vector<std::string> words{"shared memory byte", "no barrier has followed"};
  const std::string meet = "part_sync<64>(1 + pair);\n", read = "args.out[i] = values[mate];\n";
  reports(write, "", meet, read, words, kPairs);
  reports(write, "warp_sync();\n", meet, read, words, kPairs);
  reports(write, meet, "part_sync<128>(1);\n", "args.out[i] = values[i ^ 64];\n", words, kPairs);
  reports(write, meet, "block_sync();\n", "args.out[i] = values[i ^ 96];\n", words, kPairs);
  reports(write, "", "part_sync_and<64>(1 + pair, i > 3);\n", read, words, kPairs);
}

TEST_CASE("a named barrier orders reads before it and the next write, of its threads alone") {
  const std::string read = kZeroOfPairs + "args.out[i] = values[128 + pair] + values[130];\n";
  const std::string meet = "part_sync<64>(1 + pair);\n";
  reports(read, "", meet, "if (i % 64 == 40) values[128 + pair] = 2;\n",
          {"shared memory byte", "no barrier has followed"}, kPairs);
  reports(read, meet, "part_sync<128>(1);\n", "if (i == 40) values[130] = 2;\n",
          {"shared memory byte", "no barrier has followed"}, kPairs);
}

TEST_CASE("a named barrier hands on what others have handed on") {
  const std::string begin = kZeroOfPairs + "if (i == 0) values[0] = 1;\nif (pair == 0) part_sync<64>(1);\n";
  reports(begin, "if (pair == 1) part_sync<64>(3);\n",
          "if (i >= 32 && i < 96) part_sync<64>(2);\nif (pair == 1) part_sync<64>(3);\n",
          "args.out[i] = values[0];\n", {"shared memory byte 0", "no barrier has followed"}, kPairs);
}

TEST_CASE("warps that come to a named barrier which others have left, and know nothing of it, are reported") {
  reports("", "part_sync<64>(1);\n", "part_sync<64>(1 + i / 64);\n", "", {": part_sync"}, kPairs);
  const std::string first = "if (i < 64) part_sync<64>(1);\n", second = "if (i >= 64) part_sync<64>(1);\n";
  reports(first, "", "block_sync();\n", second, {": part_sync"}, kPairs);
  CHECK(contains(fault_of(first + second, {Order::forward, 0}, kPairs),
                 "thread 64: part_sync at barrier 1, which others have used and no barrier has followed"));
}

TEST_CASE("a named barrier that lanes or warps miss, or whose sizes differ, is reported") {
  const std::string right = "part_sync<128>(1);\n";
  reports("", "if (i != 5)\n", "", right, {"cannot go on", "127 threads (first: 0) waiting at part_sync 1"},
          kPairs);
  reports("", "if (i % 32 < 16) part_sync<64>(1);\n", right, "", {": part_sync"}, kPairs);
  reports("", "i < 64 ? part_sync<64>(1) : part_sync<96>(1);\n", right, "", {": part_sync"}, kPairs);
}

TEST_CASE("a warpgroup that does not change its registers as one is reported") {
  const std::string right = "give_registers<24>();\n";
  reports("", "if (i >= 32)\n", "", right,
          {"cannot go on", "96 threads (first: 32) waiting at set_registers"}, kWarpgroup);
  reports("", "i < 32 ? give_registers<32>() : give_registers<24>();\n", right, "",
          {"set_registers of 32 and 24 in one warpgroup"}, kWarpgroup);
}

TEST_CASE("a thread that lets the next kernel start and does not wait for the earlier ones is reported") {
  const std::string start = "let_next_kernel_start();\n", wait = "wait_for_earlier_kernels();\n";
  reports(start, "", wait, "", {"ends without wait_for_earlier_kernels", " at seeded."});
  reports(start, "if (i != 5) ", "", wait, {"thread 5", "ends without wait_for_earlier_kernels"});
}

TEST_CASE(
    "a kernel of a stream that touches what an earlier one writes and has not waited for it is reported") {
  const std::string wait = "wait_for_earlier_kernels();\n", let = "let_next_kernel_start();\n";
  const std::string write = "args.out[64 * block_index() + i] = 1;\n";
  const std::string first = wait + let + write, second = let + wait + write,
                    other = "args.out[128 + i] = 1;\n";
  const auto fault_after = [](const std::vector<std::string>& ahead, const std::string& body) {
    gla::emulator::Stream stream;
    std::vector<float> out(256);
    try {
      for (const std::string& one : ahead) run(one, {.stream = &stream}, out.data());
      run(body, {.stream = &stream}, out.data());
    } catch (const Fault& fault) {
      return std::string(fault.what());
    }
    return std::string();
  };
  const std::string read = "values[i] = args.out[i];\n";
  const std::string copy = "if (i < 16) copy_async<16>(values + 4 * i, args.out + 4 * i, true);\n";
  const std::pair<std::string, const char*> touches[] = {{read, "reads"}, {copy, "reads"}, {write, "writes"}};
  for (const auto& [touch, what] : touches) {
    CHECK(fault_after({first}, wait + touch) == "");
    for (const std::string& ahead : {first, second}) {
      const std::string fault = fault_after({ahead}, touch + wait);
      INFO(fault);
      CHECK(contains(fault, std::string("block 0, thread 0: ") + what + " what an earlier kernel writes"));
      CHECK(contains(fault, " at seeded."));
    }
    // Two ahead: done if the kernel between has waited for it before it let this one start.
    const std::string waited = wait + let + other, unwaited = let + wait + other;
    CHECK(fault_after({first, waited}, touch + wait) == "");
    CHECK(contains(fault_after({first, unwaited}, touch + wait), "what an earlier kernel writes"));
  }
  CHECK(fault_after({first}, "values[i] = args.out[128 + i];\n" + wait) == "");
  CHECK(contains(fault_after({first}, "values[i] = 1;\n"), "ends without wait_for_earlier_kernels"));
}

TEST_CASE("a product of what one warpgroup shows to another needs the fence before the named barrier") {
  const std::string write = "for (int j = 0; j < 8; ++j) values[8 * i + j] = 1;\n";
  const std::string multiply = "if (i < 128) {\n" + std::string(R"(
  float d[8][4] = {};
  const MatrixDescriptor panel = row_major_descriptor(shared_memory());
  warpgroup_fence();
  warpgroup_multiply<64, Contraction::along_rows, Contraction::along_rows>(d, panel, panel, false);
  warpgroup_commit(); warpgroup_wait<0>(); args.out[i] = d[0][0]; })");
  for (const std::string bug : {"part_sync<256>(1);\n", "part_sync<256>(1); fence_for_warpgroup();\n"})
    reports(write, bug, "fence_for_warpgroup(); part_sync<256>(1);\n", multiply,
            {"no fence_for_warpgroup and then a barrier"}, {2, 256, 8192});
}

TEST_CASE("a read of shared memory that nobody wrote is reported") {
  reports("if (i > 0) values[i] = 1;\n", "", "if (i == 0) values[i] = 1;\n",
          "block_sync(); args.out[i] = values[next];\n",
          {"reads shared memory byte 0, which nothing has written"});
}

TEST_CASE("a read of an asynchronous copy that was not waited for is reported, by its own thread too") {
  const std::string copy = "copy_async<4>(values + i, args.in + i, true); copy_async_commit();\n";
  for (const std::string index : {"i", "next"})
    reports(copy, "block_sync();\n", "copy_async_wait<0>(); block_sync();\n",
            "args.out[i] = values[" + index + "];\n",
            {"reads shared memory byte", "copies to at seeded.", "and has not waited for"});
}

TEST_CASE("an asynchronous copy into what others still read is reported") {
  reports("values[i] = 1; block_sync(); args.out[i] = values[next];\n", "", "block_sync();\n",
          "copy_async<4>(values + i, args.in + i, true);\n", {"shared memory byte", "thread"});
}

TEST_CASE("a wait for too few groups of copies is reported") {
  reports("copy_async<4>(values + i, args.in + i, true); copy_async_commit(); copy_async_commit();\n",
          "copy_async_wait<2>();\n", "copy_async_wait<1>();\n", "args.out[i] = values[i];\n",
          {"and has not waited for"});
}

/// Every thread writes 64 bytes of the panel; then one product of it with itself.
const std::string kWritePanel = "for (int j = 0; j < 16; ++j) values[16 * i + j] = 1;\n";
const std::string kShow = "fence_for_warpgroup(); block_sync();\n";
const std::string kMultiply = R"(
  float d[8][4] = {};
  const MatrixDescriptor panel = row_major_descriptor(shared_memory());
  warpgroup_fence();
  warpgroup_multiply<64, Contraction::along_rows, Contraction::along_rows>(d, panel, panel, false);
)";
const std::string kFinish =
    "warpgroup_commit(); warpgroup_wait<0>(); args.out[128 * block_index() + i] = d[0][0];\n";

TEST_CASE("a missing barrier or fence between a write and a product of it is reported") {
  const std::vector<std::string> words{"reads shared memory byte", "wrote at seeded.", "followed at seeded."};
  for (const std::string bug :
       {"", "block_sync();\n", "fence_for_warpgroup();\n", "block_sync(); fence_for_warpgroup();\n"})
    reports(kWritePanel, bug, kShow, kMultiply + kFinish, words, kWarpgroup);
  reports("fence_for_warpgroup();\n" + kWritePanel, "block_sync();\n", kShow, kMultiply + kFinish,
          {"no fence_for_warpgroup and then a barrier have followed"}, kWarpgroup);
}

TEST_CASE("a product of what was copied asynchronously needs the fence too") {
  reports(kWritePanel + kShow + "copy_async<4>(values + i, args.in + i, true); copy_async_commit();\n",
          "copy_async_wait<0>(); block_sync();\n", "copy_async_wait<0>();\n" + kShow, kMultiply + kFinish,
          {"no fence_for_warpgroup and then a barrier have followed"}, kWarpgroup);
}

TEST_CASE("a write to an operand before all warps have waited for the product is reported") {
  const std::string begin = kWritePanel + kShow + kMultiply;
  reports(begin + kFinish, "", "block_sync();\n", "values[i] = 2;\n", {"read", "no barrier has followed"},
          kWarpgroup);
  reports(begin, "if (i == 3) values[i] = 2;\n", "", kFinish, {"shared memory byte"}, kWarpgroup);
}

TEST_CASE("a product of what nothing has written is reported") {
  reports("if (i > 0)\n", kWritePanel, "{}\n" + kWritePanel, kShow + kMultiply + kFinish,
          {"which nothing has written"}, kWarpgroup);
}

TEST_CASE("a product that is not fenced or not waited for is reported") {
  const std::string begin = kWritePanel + kShow + kMultiply;
  reports(begin, "warpgroup_commit();\n", kFinish, "", {"ends before it has waited for its wgmma"},
          kWarpgroup);
  reports(
      begin + kFinish, "", "warpgroup_fence();\n",
      "warpgroup_multiply<64, Contraction::along_rows, Contraction::along_rows>(d, panel, panel, true);\n" +
          kFinish,
      {"wgmma without a warpgroup_fence"}, kWarpgroup);
}

TEST_CASE("sums that are touched behind the fence of a product are reported, while others run too") {
  const std::string begin = kWritePanel + kShow + "float e[8][4] = {};\nwarpgroup_pin(e);\n" + kMultiply;
  reports(
      begin + "warpgroup_commit(); e[0][0] *= 2; warpgroup_pin(e);\n", "", "warpgroup_fence();\n",
      "warpgroup_multiply<64, Contraction::along_rows, Contraction::along_rows>(e, panel, panel, true);\n" +
          kFinish,
      {"wgmma without a warpgroup_fence"}, kWarpgroup);
}

/// Two warps; a barrier of one arrival, and tiles of 256 bytes before it.
const std::string kBarrier = R"(
  unsigned long long* barrier = reinterpret_cast<unsigned long long*>(shared_memory() + 768);
  if (i == 0) barrier_init(barrier, 1);
)";
const std::string kLoad =
    "if (i == 0) { barrier_arrive_expect(barrier, 256); tensor_load(values, args.map, 0, 0, 0, 0, barrier); "
    "}\n";
const std::string kLoaded = kBarrier + "block_sync();\n" + kLoad + "block_sync();\n";

TEST_CASE("a barrier that others use before they know that it is one is reported") {
  reports(kBarrier, "", "block_sync();\n", kLoad + "barrier_wait(barrier, 0);\n", {});
}

TEST_CASE("a read of a tensor copy that was not waited for is reported, whoever else has waited") {
  reports(kLoaded, "", "barrier_wait(barrier, 0);\n", "args.out[i] = values[i];\n",
          {"reads shared memory byte", "copies to at seeded.", "and nobody has waited for"});
  reports(kLoaded, "barrier_wait(barrier, 1);\n", "barrier_wait(barrier, 0);\n", "args.out[i] = values[i];\n",
          {"and nobody has waited for"});
  reports(kLoaded, "if (i != 5)\n", "", "barrier_wait(barrier, 0);\nargs.out[i] = values[i];\n",
          {"thread 5: reads shared memory byte 20", "waited for"});
}

TEST_CASE("a barrier of the block hands on what one thread has waited for") {
  reports(kLoaded + "if (i == 5) barrier_wait(barrier, 0);\n", "", "block_sync();\n",
          "args.out[i] = values[i];\n", {"reads shared memory byte", "waited for"});
}

TEST_CASE("a tensor copy into what others still read is reported") {
  reports(kLoaded + "barrier_wait(barrier, 0); block_sync(); args.out[i] = values[next];\n", "",
          "block_sync();\n", kLoad + "barrier_wait(barrier, 1);\n", {"shared memory byte"});
}

TEST_CASE("a tensor copy over what was written needs the fence") {
  reports(kLoaded + "barrier_wait(barrier, 0); values[i] = 1;\n", "block_sync();\n",
          "fence_for_warpgroup(); block_sync();\n", kLoad + "barrier_wait(barrier, 1);\n",
          {"thread 0: writes shared memory byte 0, which thread 0 wrote", "no fence_for_warpgroup"});
}

TEST_CASE("what a ring of tensor copies needs is missed") {
  const std::string begin = R"(
    unsigned long long* full = reinterpret_cast<unsigned long long*>(shared_memory() + 768);
    unsigned long long* empty = full + 2;
    if (i < 2) { barrier_init(full + i, 1); barrier_init(empty + i, 1); }
    block_sync();
    float sum = 0;
    for (int n = 0; n < 7; ++n) {
      const int slot = n % 2, parity = n / 2 % 2;
      float* tile = values + 64 * slot;
      if (i == 32) {
  )";
  const std::string wait_empty = "barrier_wait(empty + slot, 1 - parity);\n";
  const std::string fill = R"(
        barrier_arrive_expect(full + slot, 256);
        tensor_load(tile, args.map, 0, n, 0, 0, full + slot);
      } else if (i < 32) {
  )";
  const std::string wait_full = "barrier_wait(full + slot, parity);\n";
  const std::string use = "sum += tile[i] + tile[(i + 1) % 32 + 32];\n";
  const std::string write = "warp_sync(); tile[i] = 2;\n", fence = "fence_for_warpgroup();\n";
  const std::string meet = "warp_sync();\n", arrive = "if (i == 0) barrier_arrive(empty + slot);\n";
  const std::string end = "}\n}\nargs.out[i] = sum;\n";
  reports(begin, "", wait_empty, fill + wait_full + use + meet + arrive + end, {});
  reports(begin + wait_empty + fill, "", wait_full, use + meet + arrive + end, {"reads shared memory byte"});
  reports(begin + wait_empty + fill, "if (i != 9)\n", "", wait_full + use + meet + arrive + end,
          {"thread 9: reads shared memory byte"});
  reports(begin + wait_empty + fill + wait_full + use, "", meet, arrive + end,
          {"read at seeded.", "no barrier has followed"});
  reports(begin + wait_empty + fill + wait_full, arrive + use + meet, use + meet + arrive, end, {});
  reports(begin + wait_empty + fill + wait_full + use + meet, "", arrive, end,
          {"cannot go on", "waiting at barrier_wait", "0 of 1 arrivals"});
  reports(begin + wait_empty + fill + wait_full + use + write, "", fence, meet + arrive + end,
          {"no fence_for_warpgroup"});
}

TEST_CASE("several warps that hand a tile back are all waited for") {
  const std::string begin = kBarrier + R"(
    unsigned long long* empty = barrier + 1;
    if (i == 0) barrier_init(empty, ARRIVALS);
    block_sync();
    if (i == 0) { barrier_arrive_expect(barrier, 256); tensor_load(values, args.map, 0, 0, 0, 0, barrier); }
    barrier_wait(barrier, 0);
    args.out[i] = values[i] + values[next];
    warp_sync();
  )";
  const auto with = [&](const std::string& arrivals) {
    std::string text = begin;
    return text.replace(text.find("ARRIVALS"), 8, arrivals);
  };
  const std::string again = "if (i == 0) barrier_wait(empty, 0);\n" + kLoad + "barrier_wait(barrier, 1);\n";
  reports("", with("1") + "if (i == 0) barrier_arrive(empty);\n",
          with("2") + "if (i % 32 == 0) barrier_arrive(empty);\n", again, {});
}

TEST_CASE("a tensor store of what nobody has shown, or that is not waited for, is reported") {
  const std::string write = kZero + "values[i] = 1;\n", show = "fence_for_warpgroup(); block_sync();\n";
  const std::string store = "if (i == 0) { tensor_store(args.map, values, 0, 0, 0, 0); bulk_commit();\n";
  const std::string wait = "bulk_wait_read<0>();\n";
  for (const std::string bug : {"", "block_sync();\n", "fence_for_warpgroup();\n"})
    reports(write, bug, show, store + wait + "}\n", {"reads shared memory byte", "followed at seeded."});
  reports(write + show + store, "", wait, "}\n", {"ends before it has waited for its tensor_store"});
  reports(write + show + store, "}\nblock_sync(); if (i == 0) values[0] = 2; if (i == 0) {\n" + wait,
          wait + "}\nblock_sync(); if (i == 0) { values[0] = 2;\n", "}\n",
          {"writes shared memory byte 0", "a tensor copy reads at seeded.", "nobody has waited for"});
  reports(write + show + store + wait + "}\n", "", "block_sync();\n", "values[i] = 2;\n",
          {"shared memory byte", "no barrier has followed"});
}

TEST_CASE("a product needs no fence for what a tensor copy has brought, and one for what has changed since") {
  const std::string begin = kWritePanel + kShow + R"(
    unsigned long long* barrier = reinterpret_cast<unsigned long long*>(shared_memory() + 8192);
    if (i == 0) barrier_init(barrier, 1);
    block_sync();
    if (i == 0) { barrier_arrive_expect(barrier, 256); tensor_load(values, args.map, 0, 0, 0, 0, barrier); }
    barrier_wait(barrier, 0);
  )";
  reports(begin, "block_sync(); if (i == 3) values[3] = 0; block_sync();\n", "", kMultiply + kFinish,
          {"no fence_for_warpgroup"}, {2, 128, 8192 + 128});
}

/// Clusters of two blocks of two warps. Slots of 16 bytes lie before two barriers of one arrival that the cluster
/// knows.
const Shape kCluster{4, 64, 4096, 2};
const std::string kMeet = R"(
  unsigned long long* arriving = reinterpret_cast<unsigned long long*>(shared_memory() + 3072);
  [[maybe_unused]] unsigned long long* answered = arriving + 1;
  if (i < 2) barrier_init(arriving + i, 1);
  cluster_sync();
  [[maybe_unused]] const int rank = static_cast<int>(block_index() % 2);
  [[maybe_unused]] const auto give = [&](int slot, unsigned long long* at) {
    send(RemoteAddress(values + 4 * slot, 1 - rank), {1, 2, 3, 4}, RemoteAddress(at, 1 - rank));
  };
  [[maybe_unused]] const auto take = [&](unsigned long long* at, int slots, int parity) {
    if (i == 0) barrier_arrive_expect(at, 16 * slots);
    barrier_wait_for_cluster(at, parity);
  };
)";

/// One block has the bug, the other one runs `other`, whichever comes first.
void reports_in_one(const std::string& before, const std::string& bug, const std::string& right,
                    const std::string& after, const std::string& other,
                    const std::vector<std::string>& words) {
  for (const std::string rank : {"0", "1"})
    reports(kMeet + "if (rank == " + rank + ") {\n" + before, bug, right,
            after + "} else {\n" + other + "}\n", words, kCluster);
}

const std::string kTakeAll = "take(arriving, 64, 0);\n", kTakeAgain = "take(arriving, 64, 1);\n";
const std::string kUse = "args.out[i] = values[4 * i] + values[0];\n";

TEST_CASE("a send to a barrier that its block may not have made yet is reported") {
  const std::string make = R"(
    unsigned long long* arriving = reinterpret_cast<unsigned long long*>(shared_memory() + 3072);
    if (i == 0) barrier_init(arriving, 1);
  )";
  const std::string use = R"(
    if (block_index() % 2 == 0 && i == 3)
      send(RemoteAddress(values, 1), {1, 2, 3, 4}, RemoteAddress(arriving, 1));
    if (block_index() % 2 == 0) return;
    if (i == 0) barrier_arrive_expect(arriving, 16);
    barrier_wait_for_cluster(arriving, 0);
  )";
  reports(make, "block_sync();\n", "cluster_sync();\n", use,
          {"block 0, thread 3: send to block 1 of a cluster of 2 at", "barrier_init"}, kCluster);
}

TEST_CASE("a read of what another block sends is reported without a wait for it, whoever else has waited") {
  const std::string sender = "give(i, arriving); cluster_sync();\n";
  reports_in_one("cluster_sync();\n", kUse + kTakeAll, kTakeAll + kUse, "", sender,
                 {"reads shared memory byte", "another block sends to at seeded.", "nobody has waited for"});
  reports_in_one("cluster_sync();\nif (i == 0) barrier_arrive_expect(arriving, 1024);\n", "if (i < 50)\n", "",
                 "barrier_wait_for_cluster(arriving, 0);\n" + kUse, sender,
                 {"reads shared memory byte", "another block sen", "waited for"});
  reports_in_one(kTakeAll + "cluster_sync();\n", "", "cluster_sync();\n", kUse,
                 "give(i, arriving); cluster_sync(); cluster_sync();\n", {"cannot go on"});
}

TEST_CASE("a slot that is sent to twice is reported") {
  reports_in_one("give(i, arriving);\n", "if (i == 40) give(i, arriving);\n", "", "", kTakeAll + kUse,
                 {"shared memory byte", "another block sends to at seeded.", "nobody has waited for"});
}

TEST_CASE("a slot that is sent to while others may still read it is reported") {
  const std::string sender = "give(i, arriving); take(answered, 1, 0); give(i, arriving);\n";
  const std::string answer = "if (i == 0) give(64, answered);\n";
  for (const std::string bug : {"", "warp_sync();\n", "part_sync<32>(1 + i / 32);\n"})
    for (const std::string right : {"block_sync();\n", "part_sync<64>(1);\n"})
      reports_in_one(
          kTakeAll + kUse, bug, right, answer + kTakeAgain, sender,
          {"send to block", "writes shared memory byte", "read at seeded.", "nothing tells the sender"});
  const std::string use_own = "args.out[i] = values[4 * i];\n", all_answer = "give(64 + i, answered);\n";
  reports_in_one(kTakeAll, all_answer + use_own, use_own + all_answer, kTakeAgain,
                 "give(i, arriving); take(answered, 64, 0); give(i, arriving);\n", {"shared memory byte"});
}

TEST_CASE("an answer is for those who have waited for it, or whom they tell") {
  const std::string receiver =
      kTakeAll + kUse + "block_sync(); if (i == 0) give(64, answered);\n" + kTakeAgain;
  const std::string wait =
      "give(i, arriving); block_sync();\nif (i < 32) { if (i == 0) barrier_arrive_expect(answered, 16);\n"
      "barrier_wait_for_cluster(answered, 0); }\n";
  for (const std::string right : {"block_sync();\n", "part_sync<64>(3);\n"})
    reports_in_one(wait, "", right, "give(i, arriving);\n", receiver, {"shared memory byte"});
}

TEST_CASE("a cluster_sync tells senders what all have read, a block_sync does not") {
  for (const std::string rank : {"0", "1"})
    reports(kMeet + "if (rank == " + rank + ") { " + kTakeAll + kUse + "} else { give(i, arriving); }\n",
            "block_sync();\n", "cluster_sync();\n",
            "if (rank == " + rank + ") { " + kTakeAgain + "} else { give(i, arriving); }\n",
            {"shared memory byte"}, kCluster);
}

TEST_CASE("a send over what the other block writes is reported") {
  reports_in_one("", "values[i] = 1;\n" + kTakeAll, kTakeAll, "block_sync(); values[i] = 1;\n",
                 "give(i, arriving);\n", {"shared memory byte"});
}

TEST_CASE("a tensor copy of what another block has sent is reported") {
  reports_in_one(
      kTakeAll, "", "values[i] = 1; fence_for_warpgroup(); block_sync();\n",
      "if (i == 0) { tensor_store(args.map, values, 0, 0, 0, 0); bulk_commit(); bulk_wait_read<0>(); }\n",
      "give(i, arriving);\n",
      {"reads shared memory byte 0", "another block sent at seeded.", "wgmma and tensor copies do not see"});
}

TEST_CASE("an access one element past a tile is reported") {
  const std::string begin = kZero + "const OperandTile tile{shared_memory(), 16, 16, 32};\nBits32 a[4];\n";
  reports(begin, "load_a(a, tile, 1, 0);\n", "load_a(a, tile, 0, 0);\n",
          "args.out[i] = bits_to_float(a[0]);\n", {"an index outside its tile"});
  reports(begin, "load_b(a, tile, 8, 0);\n", "load_b(a, tile, 0, 0);\n",
          "args.out[i] = bits_to_float(a[0]);\n", {"an index outside its tile"});
  reports("", "values[i + 193] = 1;\n", "values[i + 192] = 1;\n", "",
          {"access to shared memory byte 1024 of 1024"});
}

TEST_CASE("an unaligned vector is reported") {
  reports(kZero, "const int first = 4 * (i % 32) + 1;\n", "const int first = 4 * (i % 32);\n",
          "args.out[i] = reinterpret_cast<const Vector<float, 4>*>(values + first)->item[0];\n",
          {"undefined behaviour"});
}

TEST_CASE("a barrier that some threads do not reach is reported") {
  reports("", "if (i == 5) return;\n", "", "block_sync();\n",
          {"cannot go on", "1 threads (first: 5) finished", "63 threads (first: 0) waiting at block_sync"});
}

TEST_CASE("a collective that a lane does not take part in is reported") {
  reports("float sum = 1;\n", "if (i != 7)\n", "", "sum += shuffle_xor(sum, 1);\nargs.out[i] = sum;\n",
          {"cannot go on", "waiting at shuffle_xor"});
}

TEST_CASE("a wrong fragment layout gives a wrong product") {
  const auto product = [](const std::string& fragment) {
    std::vector<float> out(128);
    const std::string body = R"(
      const auto a = [](int m, int k) { return pack_bf16(m + 2 * k, m + 2 * (k + 1)); };
      const auto b = [](int k, int n) { return pack_bf16(k - 3 * n, k + 1 - 3 * n); };
      const int r = lane_index() / 4, c = lane_index() % 4 * 2;
      const Bits32 left[4] = {)" +
                             fragment + R"(};
      float d[4] = {};
      multiply_accumulate(d, left, b(c, r), b(c + 8, r));
      if (warp_index() == 0) for (int e = 0; e < 4; ++e) args.out[(r + e / 2 * 8) * 8 + c + e % 2] = d[e];
    )";
    run(body, {}, out.data());
    return out;
  };
  std::vector<float> expected(128);
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 8; ++n)
      for (int k = 0; k < 16; ++k)
        expected[static_cast<std::size_t>(m * 8 + n)] += static_cast<float>((m + 2 * k) * (k - 3 * n));
  CHECK(product("a(r, c), a(r + 8, c), a(r, c + 8), a(r + 8, c + 8)") == expected);
  CHECK(product("a(r, c), a(r, c + 8), a(r + 8, c), a(r + 8, c + 8)") != expected);
}
