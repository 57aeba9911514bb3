// What must hold between two calls of one kernel, on the emulator: cutting, packing, permuting, forgetting. Equal means
// equal to the bit wherever the kernel does the same arithmetic; where it does not, a test says why. GLA_TEST_SEED draws
// other inputs and orders.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "catch.h"
#include "kernel_case.h"
#include "random.h"
#include "rearrange.h"
#include "small_variants.h"
#include "test_seed.h"

using namespace gla;
using namespace gla::test;
using emulator::Order;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t kTokens = 80;  // two chunks and a half; two segments of one chunk and more
constexpr int kGroup = 2;

/// One kernel of a family.
struct Tested {
  Family family;
  Problem problem;
  LaunchKernel kernel;

  KernelResult run(const ReferenceInput& in) const {
    return run_kernel(in, {.options = {Order::random, test_seed()}}, kernel);
  }
  bool is_right(const ReferenceInput& in, const KernelResult& result) const {
    return complaint(judge(in, result), accuracy_bar(problem, Gates::sixteenth, Accuracy::fast)).empty();
  }
};

Tested tested(Family family, Problem problem) {
  return {family, problem, kernel_of(problem, one_variant(problem, family))};
}

/// Calls test(kernel) for a kernel of each family, in bf16 and in fp32.
template <class Test>
void each_kernel(Test test) {
  for (const Family family : kForwardFamilies) {
    for (const DType dtype : {DType::bf16, DType::fp32}) {
      Problem problem = small_problem(family, dtype);
      problem.group = kGroup;
      INFO(to_string(family) << ", " << to_string(problem));
      test(tested(family, problem));
    }
  }
}

/// A number below `limit`, different for each `draw`.
std::int64_t drawn(std::uint64_t draw, std::int64_t limit) {
  return static_cast<std::int64_t>(random_bits(test_seed(), draw) % static_cast<std::uint64_t>(limit));
}

/// A permutation of count numbers that is not the identity.
Indices permutation(std::int64_t count) {
  Indices order = range(0, count);
  for (std::size_t i = order.size() - 1; i > 0; --i)
    std::swap(order[i], order[static_cast<std::size_t>(drawn(i, static_cast<std::int64_t>(i)))]);
  return order;
}

/// One sequence with an initial state; `more` tells inputs of one test apart.
ReferenceInput one_sequence(const Problem& problem, Gates gates, std::uint64_t more = 0,
                            std::int64_t heads = 2) {
  return make_inputs(problem,
                     {.tokens = kTokens, .heads = heads, .gates = gates, .seed = 100 * test_seed() + more});
}

/// A gate of -inf in every channel and head of a token.
void reset_at(ReferenceInput& in, std::int64_t token) {
  const auto row = static_cast<std::ptrdiff_t>(in.gk.size()) / in.tokens;
  std::fill_n(in.gk.begin() + token * row, row, -kInfinity);
}

/// `later` from `token` on, `earlier` before it, and the initial state of that.
ReferenceInput with_past(const ReferenceInput& later, const ReferenceInput& earlier, std::int64_t token) {
  ReferenceInput result = later;
  const auto take = [&](std::vector<float>& values, const std::vector<float>& from) {
    std::copy_n(from.begin(), static_cast<std::ptrdiff_t>(from.size()) / later.tokens * token,
                values.begin());
  };
  take(result.q, earlier.q);
  take(result.k, earlier.k);
  take(result.v, earlier.v);
  take(result.gk, earlier.gk);
  result.initial_state = earlier.initial_state;
  return result;
}

std::vector<float> outputs_from(const KernelResult& result, std::int64_t token) {
  return {result.o.begin() + static_cast<std::ptrdiff_t>(result.o.size()) / kTokens * token, result.o.end()};
}

}  // namespace

TEST_CASE("a sequence may be cut anywhere and continued from its state") {
  each_kernel([](const Tested& t) {
    for (const Gates gates : {Gates::one, Gates::resets, Gates::hundred}) {
      const ReferenceInput whole = one_sequence(t.problem, gates, 0, 1);
      const KernelResult uncut = t.run(whole);
      for (const std::int64_t cut :
           {std::int64_t{0}, std::int64_t{1}, std::int64_t{31}, std::int64_t{32}, std::int64_t{33},
            std::int64_t{40}, std::int64_t{64}, kTokens - 1, kTokens, drawn(1, kTokens)}) {
        INFO(to_string(gates) << ", cut before token " << cut);
        ReferenceInput first = pick_tokens(whole, range(0, cut));
        first.initial_state = whole.initial_state;
        ReferenceInput second = pick_tokens(whole, range(cut, kTokens));
        KernelResult joined = t.run(first);
        second.initial_state = joined.final_state;
        append(joined, t.run(second));
        CHECK(t.is_right(whole, joined));
        // The same chunks on the same state. A cut moves the segments of family segmented even there, and makes a
        // chunk the last one of its walk, which updates the state with more parts of k^ if there are more.
        const bool all_parts = t.problem.dtype == DType::fp32 || cut == 0 || cut == kTokens;
        const bool same_steps =
            t.family == Family::decode || (t.family == Family::fused && cut % kSmallChunk == 0 && all_parts);
        if (same_steps) {
          CHECK((joined.o == uncut.o));
          CHECK((joined.final_state == uncut.final_state));
        }
      }
    }
  });
}

TEST_CASE("heads do not know their place: permuted inputs give permuted outputs, to the bit") {
  constexpr std::int64_t kHeads = 3;
  const Indices heads = permutation(kHeads);
  const Indices in_group{1, 0};
  each_kernel([&](const Tested& t) {
    const KernelCase c{
        .batch = 2, .tokens = 50, .heads = kHeads, .gates = Gates::resets, .seed = test_seed()};
    const ReferenceInput in = make_inputs(t.problem, c);
    const KernelResult straight = t.run(in);
    const std::int64_t dim_k = t.problem.head_dim_k, dim_v = t.problem.head_dim_v;

    const KernelResult permuted = t.run(pick_heads(in, heads));
    CHECK((permuted.o == pick(straight.o, kHeads, kGroup * dim_v, heads)));
    CHECK((permuted.final_state == pick(straight.final_state, kHeads, dim_k * dim_v, heads)));

    ReferenceInput swapped = in;
    swapped.q = pick(in.q, kGroup, dim_k, in_group);
    const KernelResult regrouped = t.run(swapped);
    CHECK((regrouped.o == pick(straight.o, kGroup, dim_v, in_group)));
    CHECK((regrouped.final_state == straight.final_state));
  });
}

TEST_CASE("packed sequences are what they are alone") {
  const Indices starts{0, 0, 1, 17, 49, 49, 89, 140};
  each_kernel([&](const Tested& t) {
    const KernelCase c{.tokens = starts.back(),
                       .heads = 2,
                       .cu_seqlens = starts,
                       .gates = Gates::resets,
                       .seed = test_seed()};
    const ReferenceInput packed = make_inputs(t.problem, c);
    const KernelResult together = t.run(packed);
    CHECK(t.is_right(packed, together));
    for (std::int64_t n = 0; n < packed.sequences(); ++n) {
      const Indices tokens =
          range(starts[static_cast<std::size_t>(n)], starts[static_cast<std::size_t>(n) + 1]);
      INFO("sequence " << n << " of " << tokens.size() << " tokens");
      ReferenceInput sequence = pick_tokens(packed, tokens);
      sequence.initial_state = state_of(packed.initial_state, packed, n);
      const KernelResult alone = t.run(sequence);
      CHECK(t.is_right(sequence, alone));
      // Family segmented cuts the packed total into segments: a sequence that is one segment alone is one there too.
      if (t.family == Family::segmented && tokens.size() > kSmallChunk) continue;
      const std::int64_t row = static_cast<std::int64_t>(together.o.size()) / packed.tokens;
      CHECK((alone.o == pick(together.o, packed.tokens, row, tokens)));
      CHECK((alone.final_state == state_of(together.final_state, packed, n)));
    }
  });
}

TEST_CASE("an empty sequence passes its initial state on, and without one zero") {
  each_kernel([](const Tested& t) {
    KernelCase c{.tokens = 40, .heads = 2, .cu_seqlens = {0, 0, 20, 20, 40, 40}, .seed = test_seed()};
    for (const bool initial_state : {true, false}) {
      c.initial_state = initial_state;
      const ReferenceInput in = make_inputs(t.problem, c);
      const KernelResult result = t.run(in);
      for (const std::int64_t empty : {0, 2, 4}) {
        const std::vector<float> passed_on = state_of(result.final_state, in, empty);
        CHECK(passed_on == (initial_state ? state_of(in.initial_state, in, empty)
                                          : std::vector<float>(passed_on.size(), 0.0f)));
      }
    }
  });
}

TEST_CASE("twice the scale is twice the output, to the bit, and the same state") {
  each_kernel([](const Tested& t) {
    for (const Gates gates : {Gates::sixteenth, Gates::resets, Gates::hundred}) {
      INFO(to_string(gates));
      ReferenceInput in = one_sequence(t.problem, gates);
      in.scale = 0.3f;
      const KernelResult once = t.run(in);
      in.scale = 0.6f;
      const KernelResult twice = t.run(in);
      std::vector<float> doubled = once.o;
      for (float& value : doubled) value *= 2;
      CHECK((twice.o == doubled));
      CHECK((twice.final_state == once.final_state));
    }
  });
}

TEST_CASE("behind a gate of -inf nothing is left of what came before") {
  each_kernel([](const Tested& t) {
    for (const std::int64_t reset :
         {std::int64_t{32}, std::int64_t{33}, std::int64_t{45}, std::int64_t{63}}) {
      INFO("reset at token " << reset);
      ReferenceInput in = one_sequence(t.problem, Gates::one);
      reset_at(in, reset);
      const KernelResult result = t.run(in);
      const auto same_behind_it = [&](const KernelResult& other) {
        return outputs_from(other, reset) == outputs_from(result, reset) &&
               other.final_state == result.final_state;
      };

      ReferenceInput past = one_sequence(t.problem, Gates::one, 1);
      ReferenceInput other_gates = with_past(in, past, reset);
      past.gk = in.gk;
      CHECK(same_behind_it(t.run(with_past(in, past, reset))));

      // Gates of the past move the pivot that they share with tokens of the same chunk, and with it the rounding.
      const KernelResult elsewhere = t.run(other_gates);
      CHECK(t.is_right(other_gates, elsewhere));
      if (t.family == Family::decode || reset % kSmallChunk == 0) CHECK(same_behind_it(elsewhere));
    }
  });
}

TEST_CASE("a chunk takes a gate of -inf for -88, which lets through 2^-126 of the past at most") {
  each_kernel([](const Tested& t) {
    // All that is left after the reset is the past: 2^60 of it, and tokens that add nothing.
    ReferenceInput in = one_sequence(t.problem, Gates::sixteenth);
    const std::int64_t reset = 40;
    reset_at(in, reset);
    for (float& value : in.initial_state) value = std::copysign(0x1p60f, value);
    std::fill(in.v.begin(), in.v.end(), 0.0f);
    const KernelResult result = t.run(in);
    const auto is_left = [&](float value) { return std::fabs(value) > 0x1p60f * 0x1p-126f; };
    CHECK(std::none_of(result.final_state.begin(), result.final_state.end(), is_left));
    if (t.family != Family::decode) return;
    CHECK((result.final_state == std::vector<float>(result.final_state.size(), 0.0f)));
  });
}

TEST_CASE("gates of 0 are no gates, to the bit") {
  each_kernel([](const Tested& t) {
    ReferenceInput in = one_sequence(t.problem, Gates::one);
    std::fill(in.gk.begin(), in.gk.end(), 0.0f);
    const KernelResult gated = t.run(in);
    in.problem.gate_k = false;
    in.gk.clear();
    const KernelResult ungated = tested(t.family, in.problem).run(in);
    CHECK((gated.o == ungated.o));
    CHECK((gated.final_state == ungated.final_state));
  });
}

TEST_CASE("states [V, K] are the transposed states, to the bit") {
  each_kernel([](const Tested& t) {
    ReferenceInput in = one_sequence(t.problem, Gates::resets);
    const KernelResult k_first = t.run(in);
    in.initial_state = transposed_states(in.initial_state, t.problem);
    in.problem.state_v_first = true;
    const KernelResult v_first = tested(t.family, in.problem).run(in);
    CHECK((v_first.o == k_first.o));
    CHECK((v_first.final_state == transposed_states(k_first.final_state, t.problem)));
  });
}

TEST_CASE("walking backwards is walking through flipped time, to the bit") {
  for (const DType dtype : {DType::bf16, DType::fp32}) {
    Problem problem = small_problem(Family::decode, dtype);
    problem.group = kGroup;
    problem.gate_v = true;
    const ReferenceInput in = one_sequence(problem, Gates::resets);
    Indices backwards = range(0, kTokens);
    std::reverse(backwards.begin(), backwards.end());
    ReferenceInput flipped = pick_tokens(in, backwards);
    flipped.initial_state = in.initial_state;
    flipped.problem.reverse = true;
    const KernelResult forward = tested(Family::decode, problem).run(in);
    const KernelResult reverse = tested(Family::decode, flipped.problem).run(flipped);
    CHECK((reverse.o == pick(forward.o, kTokens, problem.group * 2 * problem.head_dim_v, backwards)));
    CHECK((reverse.final_state == forward.final_state));
  }
}
