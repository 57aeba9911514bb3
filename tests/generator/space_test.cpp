// Spaces: never empty, hundreds of variants where it matters, and every constraint with the words it refuses in.
#include "gla/generator/space.h"

#include <algorithm>
#include <set>
#include <string>

#include "catch.h"
#include "problems.h"

using namespace gla;
using namespace gla::test;

namespace {

using enum Parameter;

constexpr int kHeadDims[] = {1, 7, 16, 37, 60, 64, 100, 128, 256, 512};
constexpr int kGroups[] = {1, 4, 64};
constexpr const char* kArchitectures[] = {"sm_80", "sm_86", "sm_90a", "sm_100a"};
constexpr Accuracy kClasses[] = {Accuracy::standard, Accuracy::fast};

const std::string kFused =
    "fused chunk=64 tile_v=64 warps_v=4 warps_k=1 group_tile=1 stages=1 score_parts=2 state_parts=2 "
    "async_copy=1 min_blocks=1";
const std::string kDecode = "decode lanes_k=8 rows_v=4 warps=4 stages=1 min_blocks=1";

bool serves(const Problem& problem, const std::vector<Variant>& variants, Accuracy accuracy) {
  return std::any_of(variants.begin(), variants.end(),
                     [&](const Variant& one) { return meant_for(problem, one, accuracy); });
}

/// `from` is legal; with one parameter changed it is refused with a message that has `words` in it.
void refused(const Problem& problem, const Architecture& gpu, const Variant& from, Parameter parameter,
             int value, const std::string& words) {
  INFO(to_string(problem) << ": " << to_string(from) << " with " << to_string(parameter) << "=" << value);
  CHECK(check(problem, gpu, from).message() == "");
  const Status status = check(problem, gpu, with(from, parameter, value));
  CHECK(status.code() == StatusCode::invalid_argument);
  CHECK_THAT(status.message(), contains_text(words));
}

}  // namespace

TEST_CASE("every recurrent problem has variants for both classes on every architecture") {
  for (const char* name : kArchitectures) {
    const Architecture gpu = architecture(name);
    for (const int k : kHeadDims)
      for (const int v : kHeadDims)
        for (const DType dtype : kDTypes)
          for (const int group : kGroups) {
            const Problem problem = recurrent_of(k, v, dtype, group);
            const std::vector<Variant> variants = space(problem, gpu);
            for (const Accuracy accuracy : kClasses)
              if (!serves(problem, variants, accuracy)) FAIL_CHECK(name << ": " << to_string(problem));
          }
  }
}

TEST_CASE("every chunk problem has variants for both classes on every architecture") {
  for (const char* name : kArchitectures) {
    const Architecture gpu = architecture(name);
    for (const int k : kHeadDims)
      for (const int v : kHeadDims)
        for (const DType dtype : kDTypes)
          for (const int group : kGroups) {
            // The whole space takes 0.1 s for a group of 64; any legal variant shows that it is not empty.
            const Problem problem = chunk_of(k, v, dtype, group);
            const std::vector<Variant> candidates = space(recurrent_of(k, v, dtype, group), gpu);
            for (const Accuracy accuracy : kClasses) {
              const bool is_served =
                  std::any_of(candidates.begin(), candidates.end(), [&](const Variant& one) {
                    return meant_for(problem, one, accuracy) && check(problem, gpu, one).ok();
                  });
              if (!is_served) FAIL_CHECK(name << ": " << to_string(problem));
            }
          }
  }
}

TEST_CASE("the chunk families serve every fp32 head dim up to 128 and every 16-bit one up to 256") {
  const Architecture gpu = architecture("sm_86");  // the least shared memory
  for (const int dim : kHeadDims)
    for (const DType dtype : kDTypes)
      for (const int group : {1, 4}) {
        if (dim > (dtype == DType::fp32 ? 128 : 256)) continue;
        const Problem problem = chunk_of(dim, dim, dtype, group);
        const std::vector<Variant> variants = space(problem, gpu);
        for (const Accuracy accuracy : kClasses) {
          const auto is_served_by = [&](Family family) {
            return std::any_of(variants.begin(), variants.end(), [&](const Variant& one) {
              return one.family == family && meant_for(problem, one, accuracy);
            });
          };
          // A fused block holds the queries of a whole group, which a small GPU has no room for.
          if (!is_served_by(Family::segmented) || (group == 1 && !is_served_by(Family::fused)))
            FAIL_CHECK(to_string(accuracy) << " of " << to_string(problem));
        }
      }
}

TEST_CASE("the default problems have hundreds of variants") {
  for (const char* name : {"sm_80", "sm_90a", "sm_100a"})
    for (const Operation operation : kOperations)
      for (const auto& [k, v] : kDefaultHeadDims) {
        const Problem problem = problem_of(operation, k, v);
        INFO(name << ": " << to_string(problem));
        CHECK(space(problem, architecture(name)).size() >= 300);
      }
}

TEST_CASE("a space holds each legal combination of parameters once, and no other") {
  for (const Problem& problem :
       {chunk_of(100, 37, DType::fp16, 2), chunk_of(512, 256), recurrent_of(7, 64)}) {
    const Architecture gpu = architecture("sm_80");
    const std::vector<Variant> listed = space(problem, gpu);
    const std::set<Variant> legal(listed.begin(), listed.end());
    CHECK(legal.size() == listed.size());
    // A neighbour differs in one parameter, whose values are those that occur in the space and a few others.
    std::vector<std::set<int>> values(kParameterCount, {0, 3, 48});
    for (const Variant& one : listed)
      for (std::size_t i = 0; i < kParameterCount; ++i) values[i].insert(one.values[i]);
    std::size_t at = 0;
    for (const Variant& one : listed) {
      if (!check(problem, gpu, one).ok()) FAIL_CHECK(to_string(one));
      if (++at % 16 != 0) continue;
      for (std::size_t i = 0; i < kParameterCount; ++i)
        for (const int value : values[i]) {
          const Variant neighbour = with(one, static_cast<Parameter>(i), value);
          const Status status = check(problem, gpu, neighbour);
          if (status.ok() != (legal.count(neighbour) == 1)) {
            FAIL_CHECK(to_string(neighbour) << ": '" << status.message() << "'");
          }
        }
    }
  }
}

TEST_CASE("a space is the same every time") {
  const Problem problem = chunk_of(64, 128, DType::bf16, 4);
  CHECK(space(problem, architecture("sm_90a")) == space(problem, architecture("sm_90a")));
}

TEST_CASE("a GPU with more shared memory has every variant of one with less") {
  const Problem problem = chunk_of(128, 128);
  const std::vector<Variant> more = space(problem, architecture("sm_90a"));
  const std::set<Variant> legal(more.begin(), more.end());
  for (const Variant& one : space(problem, architecture("sm_80")))
    if (legal.count(one) == 0) FAIL_CHECK(to_string(one));
}

TEST_CASE("a problem that is not legal has no legal variant, for the problem's own reason") {
  CHECK(check(chunk_of(0, 64), architecture("sm_80"), variant(kFused)).message() ==
        "head_dim_k is 0; accepted: 1 to 512");
}

TEST_CASE("a value outside a parameter's list is refused with the list") {
  const Architecture gpu = architecture("sm_90a");
  const Variant fused = variant(kFused);
  const Problem problem = chunk_of(128, 128);
  refused(problem, gpu, fused, chunk, 48, "chunk is 48; accepted for this problem: 16, 32, 64, 128");
  refused(problem, gpu, fused, group_tile, 2, "group_tile is 2; accepted for this problem: 1");
  refused(problem, gpu, fused, stages, 0, "stages is 0; accepted for this problem: 1, 2, 3");
  refused(problem, gpu, fused, score_parts, 3, "score_parts is 3; accepted for this problem: 1, 2");
  refused(chunk_of(128, 128, DType::fp16), gpu, fused, score_parts, 1,
          "score_parts is 1; accepted for this problem: 2, 3");
  refused(chunk_of(128, 128, DType::bf16, 12), gpu, with(with(fused, group_tile, 12), chunk, 16), group_tile,
          5, "group_tile is 5; accepted for this problem: 1, 2, 3, 4, 6, 12");
  refused(recurrent_of(128, 128), gpu, variant(kDecode), warps, 16,
          "warps is 16; accepted for this problem: 1, 2, 4, 8");
}

TEST_CASE("a family that does not serve the operation is refused, and so is another family's parameter") {
  const Architecture gpu = architecture("sm_90a");
  CHECK(check(recurrent_of(128, 128), gpu, variant(kFused)).message() ==
        "family fused does not serve recurrent_forward");
  refused(recurrent_of(128, 128), gpu, variant(kDecode), chunk, 64,
          "variant sets a parameter that family decode does not have");
  refused(chunk_of(128, 128), gpu, variant(kFused), segments, 4,
          "variant sets a parameter that family fused does not have");
}

TEST_CASE("each constraint of the chunk families refuses in its own words") {
  const Architecture gpu = architecture("sm_90a");
  const Problem problem = chunk_of(128, 128);
  const Variant fused = variant(kFused);
  const Variant synchronous = with(fused, async_copy, 0);
  refused(problem, gpu, fused, tile_v, 256, "tile_v=256 wastes 16 or more channels of head_dim_v=128");
  refused(problem, gpu, fused, warps_v, 8, "tile_v=64 is not a multiple of 16*warps_v=128");
  refused(chunk_of(100, 128), gpu, fused, warps_k, 2,
          "head_dim_k=100, padded to 112, is not a multiple of 16*warps_k=32");
  refused(chunk_of(64, 128), gpu, with(with(fused, chunk, 32), tile_v, 128), warps_v, 1,
          "chunk*tile_v/(16*warps_v)=256 is above ");
  refused(problem, gpu, fused, warps_k, 8, "warps_v*warps_k=32 is above 16");
  refused(chunk_of(128, 128, DType::bf16, 4), gpu, with(with(fused, group_tile, 4), chunk, 16), group_tile, 2,
          "family fused serves a whole group per block: group_tile=2 is not 4");
  refused(problem, gpu, synchronous, stages, 2, "stages=2 needs async_copy=1");
  refused(chunk_of(37, 128), gpu, synchronous, async_copy, 1,
          "async_copy=1 needs rows of whole 4-byte words; head dims are 37 and 128");
  refused(chunk_of(128, 37), gpu, with(with(synchronous, tile_v, 32), warps_v, 2), async_copy, 1,
          "async_copy=1 needs rows of whole 4-byte words; head dims are 128 and 37");
  refused(problem, architecture("sm_86"), with(fused, chunk, 16), chunk, 128,
          "bytes of shared memory; a block has 101376");
  refused(chunk_of(256, 128), gpu, with(fused, chunk, 16), warps_v, 2, " registers in each of 64 threads");
  refused(problem, gpu, with(with(with(fused, chunk, 32), warps_k, 2), stages, 3), min_blocks, 2,
          "min_blocks=2 blocks do not fit on a multiprocessor");
}

TEST_CASE("a group may be split over the blocks of family segmented") {
  const Variant segmented = variant("segmented segments=8" + kFused.substr(5));
  CHECK(check(chunk_of(128, 128, DType::bf16, 4), architecture("sm_90a"), segmented).message() == "");
}

TEST_CASE("each constraint of family decode refuses in its own words") {
  const Architecture gpu = architecture("sm_90a");
  const Variant decode = variant(kDecode);
  refused(recurrent_of(40, 64), gpu, decode, lanes_k, 32,
          "lanes_k=32 leaves lanes without channels of head_dim_k=40");
  refused(recurrent_of(128, 16), gpu, with(decode, rows_v, 2), rows_v, 8,
          "a warp of 32 value channels wastes half of head_dim_v=16");
  refused(recurrent_of(128, 256), gpu, decode, lanes_k, 1, " registers in each of 128 threads");
  refused(recurrent_of(128, 64), gpu, decode, min_blocks, 8, " registers in each of 1024 threads");
  Architecture many_registers = architecture("sm_86");
  many_registers.registers_per_multiprocessor = 1 << 20;
  refused(recurrent_of(128, 64), many_registers, with(decode, warps, 8), min_blocks, 8,
          "min_blocks=8 blocks of 256 threads do not fit on a multiprocessor");
}

TEST_CASE("bf16 is standard with split scores and, in short chunks, a split state") {
  const Problem problem = chunk_of(128, 128);
  const auto meant = [&](int scores, int state, int tokens, Accuracy accuracy) {
    return meant_for(
        problem, with(with(with(variant(kFused), score_parts, scores), state_parts, state), chunk, tokens),
        accuracy);
  };
  for (const int tokens : {16, 32, 64, 128}) {
    CHECK(meant(1, 1, tokens, Accuracy::fast));
    CHECK_FALSE(meant(1, 2, tokens, Accuracy::standard));
    CHECK(meant(2, 2, tokens, Accuracy::standard));
    CHECK(meant(2, 1, tokens, Accuracy::standard) == (tokens > 16));
  }
}

TEST_CASE("fp32 needs three parts for the default class and two for the fast one") {
  const Problem problem = chunk_of(128, 128, DType::fp32);
  for (const int scores : {2, 3}) {
    const Variant two = with(with(variant(kFused), score_parts, scores), state_parts, 2);
    CHECK_FALSE(meant_for(problem, two, Accuracy::standard));
    CHECK(meant_for(problem, two, Accuracy::fast));
    CHECK(meant_for(problem, with(two, state_parts, 3), Accuracy::standard));
  }
}

TEST_CASE("what serves the default class serves the fast one, and family decode serves both") {
  for (const DType dtype : kDTypes) {
    const Problem problem = chunk_of(64, 64, dtype);
    for (const Variant& one : space(problem, architecture("sm_80"))) {
      const bool standard = meant_for(problem, one, Accuracy::standard);
      if ((standard && !meant_for(problem, one, Accuracy::fast)) ||
          (one.family == Family::decode && !standard))
        FAIL_CHECK(to_string(one));
    }
  }
}
