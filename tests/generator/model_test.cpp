// The cost model: the floor by hand, legal choices, and no reward for more work.
#include "gla/generator/model.h"

#include <string>

#include "catch.h"
#include "gla/generator/render.h"
#include "gla/generator/space.h"
#include "problems.h"

using namespace gla;
using namespace gla::test;

namespace {

/// Every `step`th variant of a space.
std::vector<Variant> some_variants(const Problem& problem, const Architecture& gpu, std::size_t step) {
  std::vector<Variant> taken;
  const std::vector<Variant> all = space(problem, gpu);
  for (std::size_t i = 0; i < all.size(); i += step) taken.push_back(all[i]);
  return taken;
}

}  // namespace

TEST_CASE("the floor of plain bf16 heads of 128 is 1280 bytes per token and two fp32 states per head") {
  // q, k, v, gk and o: five rows of 128 elements of two bytes.
  const double tokens = 3 * 1000 * 4;
  CHECK(floor_bytes(chunk_of(128, 128), {3, 4, 1000, false}, false) == tokens * 1280);
  CHECK(floor_bytes(chunk_of(128, 128), {3, 4, 1000, false}, true) == tokens * 1280 + 2 * 3 * 4 * 65536.0);
}

TEST_CASE("the floor of a backward problem has its gates' gradients in their own type") {
  Problem problem = recurrent_backward_of(10, 20);
  problem.gate_v = true;
  const double floor = floor_bytes(problem, {1, 3, 100, false}, false);
  problem.fp32_gate_gradients = true;
  CHECK(floor_bytes(problem, {1, 3, 100, false}, false) == floor + 3 * 100 * 2 * 30);
}

TEST_CASE("the floor counts what a group shares once, packed tokens once, and what is absent not at all") {
  Problem problem = recurrent_of(10, 20, DType::bf16, 4);
  problem.gate_dtype = DType::fp32;
  problem.gate_v = true;
  problem.state_dtype = DType::bf16;
  // Per token: k 10 and v 20, four times q 10 and o 20, of two bytes; gates of 30 channels of four.
  const double row = 2 * (30 + 4 * 30) + 4 * 30;
  CHECK(floor_bytes(problem, {7, 3, 100, true}, false) == 3 * 100 * row);
  CHECK(floor_bytes(problem, {7, 3, 100, true}, true) == 3 * 100 * row + 2 * 7 * 3 * 10 * 20 * 2);
  problem.gate_v = false;
  CHECK(floor_bytes(problem, {7, 3, 100, true}, false) == 3 * 100 * (row - 4 * 20));
  problem.gate_k = false;
  CHECK(floor_bytes(problem, {7, 3, 100, true}, false) == 3 * 100 * (row - 4 * 30));
  CHECK(floor_bytes(problem, {7, 3, 100, false}, false) == 7 * 3 * 100 * (row - 4 * 30));
}

TEST_CASE("the floor of a backward problem is two walks over its inputs and its outputs once") {
  // PEERS.md: 0.333 ms forward and 1.265 ms forward and backward, at 3.03 TB/s.
  Problem problem = chunk_of(128, 128);
  const Workload row{1, 96, 8192, false};
  const double forward = floor_bytes(problem, row, false);
  problem.operation = Operation::chunk_backward;
  CHECK((forward + floor_bytes(problem, row, false)) / 3.03e12 == Approx(1.265e-3).epsilon(4e-3));
  CHECK(floor_bytes(problem, row, true) - floor_bytes(problem, row, false) == 3 * 96 * 65536.0);

  problem = backward_of(10, 20, DType::bf16, 4);
  problem.gate_dtype = DType::fp32;
  // Twice k 10, v 20, four times q 10 and d_o 20, of two bytes, and gates of four; once dk, dv, four times dq, and dgk.
  const double walk = 2 * (30 + 4 * 30) + 4 * 10, written = 2 * (30 + 4 * 10) + 4 * 10;
  CHECK(floor_bytes(problem, {2, 3, 100, false}, false) == 2 * 3 * 100 * (2 * walk + written));
  problem.gate_k = false;
  CHECK(floor_bytes(problem, {2, 3, 100, false}, false) == 2 * 3 * 100 * (2 * walk + written - 3 * 40));
}

TEST_CASE("nothing is predicted to beat the floor") {
  const Architecture gpu = architecture("sm_90a");
  for (const Problem& problem : {chunk_of(128, 256), recurrent_of(64, 64), recurrent_backward_of(64, 64)})
    for (const Workload& workload : {Workload{1, 8, 64, false}, Workload{64, 32, 2048, false}}) {
      const double floor = floor_bytes(problem, workload, true) / gpu.copy_bandwidth;
      for (const Variant& one : some_variants(problem, gpu, 7))
        if (predicted_seconds(problem, one, workload, gpu) < floor) FAIL_CHECK(to_string(one));
    }
}

TEST_CASE("the model's choice is legal and meant for the class, for small work and large", "[wide]") {
  for (const char* name : {"sm_86", "sm_90a"}) {
    const Architecture gpu = architecture(name);
    for (const Problem& problem :
         {chunk_of(128, 128), chunk_of(60, 100, DType::fp16, 4), chunk_of(256, 512, DType::fp32),
          recurrent_of(128, 128), backward_of(60, 100, DType::fp16, 4), recurrent_backward_of(512, 512)}) {
      for (const Workload& workload :
           {Workload{1, 1, 1, false}, Workload{1, 4, 32768, false}, Workload{9, 16, 4096, true}}) {
        for (const Accuracy accuracy : {Accuracy::standard, Accuracy::fast}) {
          const Variant choice = *model_choice(problem, workload, accuracy, gpu);
          INFO(name << ": " << to_string(problem) << ", " << to_string(workload) << ": "
                    << to_string(choice));
          CHECK(check(problem, gpu, choice).message() == "");
          CHECK(meant_for(problem, choice, accuracy));
        }
      }
    }
  }
}

TEST_CASE("the model has no choice where the architecture has no variant") {
  CHECK_FALSE(model_choice(backward_of(512, 512, DType::fp32), {1, 1, 64, false}, Accuracy::fast,
                           architecture("sm_86")));
}

TEST_CASE("no variant meant for the class is predicted faster than the model's choice") {
  const Architecture gpu = architecture("sm_90a");
  const Problem problem = chunk_of(128, 128);
  const Workload workload{2, 16, 8192, false};
  const Variant choice = *model_choice(problem, workload, Accuracy::standard, gpu);
  const double least = predicted_seconds(problem, choice, workload, gpu);
  for (const Variant& one : space(problem, gpu))
    if (meant_for(problem, one, Accuracy::standard) && predicted_seconds(problem, one, workload, gpu) < least)
      FAIL_CHECK(to_string(one));
}

TEST_CASE("few heads and many tokens are given to family segmented, many heads to family fused") {
  const Architecture gpu = architecture("sm_90a");
  const auto family = [&](const Workload& workload) {
    return model_choice(chunk_of(128, 128), workload, Accuracy::standard, gpu)->family;
  };
  CHECK(family({1, 2, 65536, false}) == Family::segmented);
  CHECK(family({32, 32, 2048, false}) == Family::fused);
}

TEST_CASE("twice the work is never predicted to be faster") {
  const Architecture gpu = architecture("sm_90a");
  for (const Problem& problem :
       {chunk_of(128, 128), chunk_of(64, 128, DType::fp32, 4), recurrent_of(128, 128), backward_of(64, 128),
        recurrent_backward_of(64, 128)}) {
    for (const Variant& one : some_variants(problem, gpu, 31)) {
      for (const bool packed : {false, true})
        for (std::int64_t tokens = 1; tokens <= 1 << 16; tokens *= 4)
          for (std::int64_t heads = 1; heads <= 1024; heads *= 4) {
            const double seconds = predicted_seconds(problem, one, {1, heads, tokens, packed}, gpu);
            if (seconds <= 0 ||
                predicted_seconds(problem, one, {1, heads, 2 * tokens, packed}, gpu) < seconds ||
                predicted_seconds(problem, one, {1, 2 * heads, tokens, packed}, gpu) < seconds ||
                predicted_seconds(problem, one, {2, heads, packed ? 2 * tokens : tokens, packed}, gpu) <
                    seconds)
              FAIL_CHECK(to_string(one) << " at H" << heads << " T" << tokens << (packed ? " packed" : ""));
          }
    }
  }
}

TEST_CASE("the registers of a variant are estimated within what a thread can have") {
  for (const Problem& problem : {chunk_of(256, 256), recurrent_of(512, 512), backward_of(256, 256)})
    for (const Variant& one : some_variants(problem, architecture("sm_80"), 1)) {
      const int registers = estimated_registers(problem, one);
      if (registers < 16 || registers > 255) FAIL_CHECK(to_string(one) << ": " << registers);
    }
}
