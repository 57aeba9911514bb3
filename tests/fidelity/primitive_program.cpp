#define GLA_EMULATOR
#include "fidelity/primitive_program.h"

#include <fmt/format.h>

#include <bit>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>

#include "fidelity/primitives.cuh"
#include "fidelity/send_primitives.cuh"
#include "fidelity/warpgroup_primitives.cuh"
#include "files.h"
#include "random.h"
#include "source_toolchain.h"

namespace gla::test {
namespace {

constexpr int kLanes = 32;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Word word_of(float value) {
  return std::bit_cast<Word>(value);
}

Word random_word(unsigned long long seed, std::size_t i) {
  return static_cast<Word>(random_bits(seed, i) >> 32);
}

/// Every sign and exponent with the upper mantissa bits, and below them what decides the rounding to fp16 and to bf16:
/// exact, ties to even and to odd, their neighbours. NaN, inf and denormals are among them. Then random ones.
std::vector<Word> float_patterns() {
  constexpr Word kLow[] = {0, 1, 0x0fff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff};
  std::vector<Word> patterns;
  for (Word high = 0; high < 0x10000; ++high)
    for (const Word low : kLow) patterns.push_back(high << 16 | low);
  for (std::size_t i = 0; i < 100'000; ++i) patterns.push_back(random_word(31, i));
  return patterns;
}

PrimitiveCall elementwise(const char* entry, std::vector<Word> in, std::size_t words_each) {
  PrimitiveCall call{entry, {8, kElementwiseThreads, 0}, std::move(in)};
  call.count = static_cast<std::int64_t>(call.in.size());
  call.out_words = call.in.size() * words_each;
  return call;
}

/// `operand(i)` is element i of A and B, `addend(i)` one of D.
template <class Operand, class Addend>
PrimitiveCall products(int count, Operand operand, Addend addend) {
  PrimitiveCall call{"product", {count, kLanes, 0}};
  std::size_t drawn = 0;
  for (int item = 0; item < count * kLanes; ++item) {
    for (int i = 0; i < 6; ++i, drawn += 2)
      call.in.push_back(emulator::float_to_bfloat(operand(drawn)) |
                        static_cast<Word>(emulator::float_to_bfloat(operand(drawn + 1))) << 16);
    for (int i = 0; i < 4; ++i) call.in.push_back(word_of(addend(drawn++)));
  }
  call.out_words = static_cast<std::size_t>(4 * count * kLanes);
  return call;
}

float small_integer(std::size_t i) {
  return static_cast<float>(random_word(32, i) % 17) - 8.0f;
}

float normal(std::size_t i) {
  return random_normal(33, i);
}

Source source_of(const std::string& name, std::initializer_list<const char*> files,
                 std::initializer_list<const char*> entries, const char* attribute = "") {
  Source source{name, "", {}};
  for (const char* file : files) {
    const Result<std::string> text = read_file(file);
    if (!text.ok()) throw std::runtime_error(text.status().message());
    source.text += *text;
  }
  for (const char* entry : entries) {
    source.text += fmt::format("GLA_KERNEL void {1} {0}(gla::PrimitiveArgs args) {{\n  gla::{0}(args);\n}}\n",
                               entry, attribute);
    source.entries.emplace_back(entry);
  }
  return source;
}

}  // namespace

Source primitive_source() {
  return source_of("primitives.cu", {GLA_PRIMITIVES},
                   {"widen", "narrow", "split", "power", "greater", "read_tile", "product", "shuffle", "vote",
                    "parts", "copy_ways", "place"});
}

Source warpgroup_source() {
  return source_of(
      "warpgroup_primitives.cu", {GLA_PRIMITIVES, GLA_WARPGROUP_PRIMITIVES},
      {"products_16", "products_32", "products_64", "products_128", "products_256", "store_tile"});
}

Source send_source() {
  return source_of("send_primitives.cu", {GLA_PRIMITIVES, GLA_SEND_PRIMITIVES}, {"trade"}, "GLA_CLUSTER(2)");
}

Source tensor_copy_source() {
  Source source = source_of("tensor_copy_primitives.cu", {GLA_TENSOR_COPY_PRIMITIVES}, {});
  source.entries = {"copy_boxes"};
  return source;
}

RunPrimitive emulated_primitives(const Source& source, const emulator::Options& options) {
  const emulator::Program program = emulator::Program::build(source.name, source.text, source_toolchain());
  return [=](const PrimitiveCall& call) {
    std::vector<Word> out(call.out_words, ~Word{0});
    program.run(call.entry, call.shape, PrimitiveArgs{call.in.data(), out.data(), call.count}, options);
    return out;
  };
}

PrimitiveCall widen_call() {
  std::vector<Word> patterns(0x10000);
  for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<Word>(i);
  return elementwise("widen", std::move(patterns), 2);
}

PrimitiveCall narrow_call() {
  return elementwise("narrow", float_patterns(), 1);
}

PrimitiveCall split_call() {
  return elementwise("split", float_patterns(), 6);
}

PrimitiveCall power_call() {
  std::vector<Word> in;
  for (Word high = 0; high < 0x10000; ++high) in.push_back(high << 16 | 0x5555);
  for (std::size_t i = 0; i < 200'000; ++i)
    in.push_back(word_of(300 * random_uniform(random_word(34, i)) - 160));
  for (const float special :
       {0.0f, -0.0f, kInfinity, -kInfinity, kNan, 128.0f, -149.0f, -150.0f, 1e-40f, -1e-40f})
    in.push_back(word_of(special));
  return elementwise("power", std::move(in), 1);
}

PrimitiveCall integer_power_call() {
  std::vector<Word> in;
  for (int exponent = -126; exponent < 128; ++exponent) in.push_back(word_of(static_cast<float>(exponent)));
  return elementwise("power", std::move(in), 1);
}

PrimitiveCall greater_call() {
  std::vector<Word> in;
  for (const float a : {0.0f, -0.0f, 1.0f, -1.0f, kInfinity, -kInfinity, kNan, -kNan, 0x1p-130f, -0x1p-130f})
    for (const float b : {3.0f, kNan, -0.0f, 0.0f})
      in.push_back(emulator::float_to_bfloat(a) | static_cast<Word>(emulator::float_to_bfloat(b)) << 16);
  for (std::size_t i = 0; i < 100'000; ++i) in.push_back(random_word(37, i));
  return elementwise("greater", std::move(in), 3);
}

PrimitiveCall tile_call() {
  PrimitiveCall call{"read_tile", {1, kLanes, kTileRows * kTileRowBytes}};
  for (Word i = 0; i < kTileRows * kTileRows; i += 2) call.in.push_back(i | (i + 1) << 16);
  call.out_words = kLanes * kLoadWords;
  return call;
}

PrimitiveCall warpgroup_products_call(int n) {
  PrimitiveCall call{"products_" + std::to_string(n),
                     {1, kWarpgroup, static_cast<std::size_t>(product_shared_bytes(n))}};
  const std::size_t words = call.shape.shared_bytes / 4 + kWarpgroup * kRegisterWords;
  for (std::size_t i = 0; i < words; ++i)
    call.in.push_back(emulator::float_to_bfloat(small_integer(2 * i)) |
                      static_cast<Word>(emulator::float_to_bfloat(small_integer(2 * i + 1))) << 16);
  call.out_words = static_cast<std::size_t>(kWarpgroup * products_of(n) * n / 2);
  return call;
}

PrimitiveCall store_call() {
  PrimitiveCall call{"store_tile", {1, kLanes, kLanes * kStoreRowBytes}};
  for (Word i = 0; i < 8 * kLanes; i += 2) call.in.push_back(i | (i + 1) << 16);
  call.out_words = 8 * kLanes;
  return call;
}

PrimitiveCall trade_call() {
  constexpr std::size_t kBlocks = 6, kRounds = 9, kItems = kBlocks * kTradeThreads * kRounds;
  PrimitiveCall call{"trade", {kBlocks, kTradeThreads, kTradeSharedBytes, 2}};
  for (std::size_t i = 0; i < 4 * kItems; ++i) call.in.push_back(random_word(38, i));
  call.count = kItems;
  call.out_words = 5 * kItems;
  return call;
}

PrimitiveCall integer_products_call() {
  return products(64, small_integer, small_integer);
}

PrimitiveCall random_products_call() {
  return products(256, normal, normal);
}

PrimitiveCall special_products_call() {
  const auto rare = [](std::size_t i) {
    const Word draw = random_word(35, i) % 200;
    return draw == 0 ? kInfinity : draw == 1 ? -kInfinity : draw == 2 ? kNan : small_integer(i);
  };
  return products(64, rare, rare);
}

PrimitiveCall magnitudes_of(PrimitiveCall call) {
  for (std::size_t i = 0; i < call.in.size(); ++i)
    call.in[i] &= i % kProductWords < 6 ? Word{0x7fff7fff} : Word{0x7fffffff};
  return call;
}

PrimitiveCall shuffle_call() {
  PrimitiveCall call{"shuffle", {1, kLanes, 0}};
  for (std::size_t lane = 0; lane < kLanes; ++lane) call.in.push_back(word_of(normal(lane)));
  call.out_words = kLanes * 5 * (kShuffleMasks + 2);
  return call;
}

PrimitiveCall vote_call() {
  constexpr std::size_t kThreads = kVoteThreads, kRounds = kThreads + 2;
  PrimitiveCall call{"vote", {1, kVoteThreads, 0}};
  call.in.assign(kRounds * kThreads, 3);
  for (std::size_t thread = 0; thread < kThreads; ++thread) {
    call.in[thread * kThreads + thread] = 0;    // one against all
    call.in[kThreads * kThreads + thread] = 0;  // all agree on no
  }
  call.count = static_cast<std::int64_t>(call.in.size());
  call.out_words = call.in.size();
  return call;
}

PrimitiveCall parts_call() {
  constexpr std::size_t kThreads = 2 * kPartThreads, kRounds = kThreads + 2;
  PrimitiveCall call{"parts", {1, 2 * kPartThreads, 2 * kPartThreads * sizeof(Word)}};
  for (std::size_t i = 0; i < kRounds * kThreads; ++i) call.in.push_back(random_word(37, i) | 1);
  for (std::size_t thread = 0; thread < kThreads; ++thread) {
    call.in[thread * kThreads + thread] = 0;
    call.in[kThreads * kThreads + thread] = 0;
  }
  call.count = static_cast<std::int64_t>(call.in.size());
  call.out_words = 2 * call.in.size();
  return call;
}

PrimitiveCall copy_call() {
  PrimitiveCall call{"copy_ways", {1, kCopyThreads, kCopyThreads * kCopySlot}};
  for (std::size_t i = 0; i < kCopyInWords; ++i) call.in.push_back(random_word(36, i));
  call.out_words = kCopyWords;
  return call;
}

PrimitiveCall place_call() {
  PrimitiveCall call{"place", {5, kVoteThreads, 0}};
  call.out_words = 4 + 5 * kVoteThreads;
  return call;
}

}  // namespace gla::test
