// Spaces: never empty, hundreds of variants where it matters, and every constraint with the words it refuses in.
#include "gla/generator/space.h"

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

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

/// For what looks at parts and chunk alone.
const Variant kAnyFused = {Family::fused, {}};

bool serves(const Problem& problem, const std::vector<Variant>& variants, Accuracy accuracy) {
  return std::any_of(variants.begin(), variants.end(),
                     [&](const Variant& one) { return meant_for(problem, one, accuracy); });
}

/// The first variant of a family in a problem's space.
Variant first_of(const Problem& problem, const Architecture& gpu, Family family) {
  for (const Variant& one : space(problem, gpu))
    if (one.family == family) return one;
  throw std::invalid_argument("no variant of the family");
}

/// What is said of variants that differ from a legal one of the family in one parameter.
std::set<std::string> refusals(const Problem& problem, const Architecture& gpu, Family family) {
  std::set<std::string> messages;
  for (const Variant& legal : space(problem, gpu)) {
    if (legal.family != family) continue;
    for (const Parameter parameter : parameters_of(family))
      for (const int value : {0, 1, 2, 4, 8, 12, 16, 32, 64, 128, 256}) {
        const Status status = check(problem, gpu, with(legal, parameter, value));
        if (!status.ok()) messages.insert(status.message());
      }
  }
  return messages;
}

/// One of the messages has each of the words; else they are shown.
void says(const std::set<std::string>& messages, const std::vector<std::string>& words) {
  const bool said = std::any_of(messages.begin(), messages.end(), [&](const std::string& message) {
    return std::all_of(words.begin(), words.end(),
                       [&](const std::string& word) { return message.find(word) != std::string::npos; });
  });
  if (said) return;
  std::string all;
  for (const std::string& message : messages) all += message + "\n";
  FAIL_CHECK("no message has '" << words.front() << "' among\n" << all);
}

/// check() refuses the variant with one parameter changed, and says why.
void refused(const Problem& problem, const Variant& from, Parameter parameter, int value,
             const std::string& message) {
  const Status status = check(problem, architecture("sm_90a"), with(from, parameter, value));
  CHECK(status.code() == StatusCode::invalid_argument);
  CHECK(status.message() == message);
}

}  // namespace

TEST_CASE("every recurrent problem has variants for both classes on every architecture, there and back") {
  for (const char* name : kArchitectures) {
    const Architecture gpu = architecture(name);
    for (const int k : kHeadDims)
      for (const int v : kHeadDims)
        for (const DType dtype : kDTypes)
          for (const int group : kGroups) {
            Problem back = recurrent_backward_of(k, v, dtype, group);
            back.gate_v = true;
            for (const Problem& problem : {recurrent_of(k, v, dtype, group), back}) {
              const std::vector<Variant> variants = space(problem, gpu);
              for (const Accuracy accuracy : kClasses)
                if (!serves(problem, variants, accuracy)) FAIL_CHECK(name << ": " << to_string(problem));
            }
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

TEST_CASE("family walks serves every head dim on large GPUs, and all but the largest on others", "[wide]") {
  struct Reach {
    const char* name;
    int dim, fp32_dim;
  };
  for (const auto& [name, dim, fp32_dim] : {Reach{"sm_80", 512, 256}, Reach{"sm_86", 256, 128},
                                            Reach{"sm_90a", 512, 512}, Reach{"sm_100a", 512, 512}}) {
    const Architecture gpu = architecture(name);
    for (const int k : kHeadDims)
      for (const int v : kHeadDims)
        for (const DType dtype : kDTypes)
          for (const int group : {1, 4}) {
            // Those at the limit need most; of the others the square ones.
            const int limit = dtype == DType::fp32 ? fp32_dim : dim, large = std::max(k, v);
            if (large > limit || (k != v && large < limit)) continue;
            const Problem problem = backward_of(k, v, dtype, group);
            const std::vector<Variant> variants = space(problem, gpu);
            for (const Accuracy accuracy : kClasses)
              if (!serves(problem, variants, accuracy)) FAIL_CHECK(name << ": " << to_string(problem));
          }
  }
}

TEST_CASE(
    "the default problems have hundreds of variants, of gradients scores, and a dozen of recurrent ones") {
  for (const char* name : {"sm_80", "sm_90a", "sm_100a"})
    for (const Operation operation : kOperations)
      for (const auto& [k, v] : kDefaultHeadDims) {
        const Problem problem = problem_of(operation, k, v);
        const std::size_t least = !is_backward(operation) ? 200 : is_recurrent(operation) ? 12 : 50;
        INFO(name << ": " << to_string(problem));
        CHECK(space(problem, architecture(name)).size() >= least);
      }
}

TEST_CASE("a space holds each legal combination of parameters once, and no other") {
  for (const Problem& problem : {chunk_of(100, 37, DType::fp16, 2), chunk_of(512, 256), recurrent_of(7, 64),
                                 backward_of(100, 60), recurrent_backward_of(7, 64)}) {
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
  const Architecture gpu = architecture("sm_80");
  const Variant legal = first_of(chunk_of(64, 64), gpu, Family::fused);
  CHECK(check(chunk_of(0, 64), gpu, legal).message() == "head_dim_k is 0; accepted: 1 to 512");
}

TEST_CASE("a value outside a parameter's list is refused with the list") {
  const Architecture gpu = architecture("sm_90a");
  const Variant fused = first_of(chunk_of(128, 128), gpu, Family::fused);
  refused(chunk_of(128, 128), fused, chunk, 48, "chunk is 48; accepted for this problem: 16, 32, 64, 128");
  refused(chunk_of(128, 128), fused, group_tile, 2, "group_tile is 2; accepted for this problem: 1");
  refused(chunk_of(128, 128), fused, score_parts, 3, "score_parts is 3; accepted for this problem: 1, 2");
  refused(chunk_of(128, 128, DType::fp16), fused, score_parts, 1,
          "score_parts is 1; accepted for this problem: 2, 3");
  refused(chunk_of(128, 128, DType::bf16, 12), fused, group_tile, 5,
          "group_tile is 5; accepted for this problem: 1, 2, 3, 4, 6, 12");
  refused(recurrent_of(64, 64), first_of(recurrent_of(64, 64), gpu, Family::decode), warps, 16,
          "warps is 16; accepted for this problem: 1, 2, 4");
}

TEST_CASE("a family that does not serve the operation is refused, and so is another family's parameter") {
  const Architecture gpu = architecture("sm_90a");
  const Variant fused = first_of(chunk_of(64, 64), gpu, Family::fused);
  CHECK(check(recurrent_of(64, 64), gpu, fused).message() == "family fused does not serve recurrent_forward");
  CHECK(check(backward_of(64, 64), gpu, fused).message() == "family fused does not serve chunk_backward");
  refused(chunk_of(64, 64), fused, segments, 4, "variant sets a parameter that family fused does not have");
  refused(recurrent_of(64, 64), first_of(recurrent_of(64, 64), gpu, Family::decode), chunk, 64,
          "variant sets a parameter that family decode does not have");
}

TEST_CASE("each constraint of the chunk families refuses in its own words what breaks only it", "[wide]") {
  const Architecture gpu = architecture("sm_90a");
  const std::set<std::string> plain = refusals(chunk_of(128, 128), gpu, Family::fused);
  says(plain, {"tile_v=256 wastes 16 or more channels of head_dim_v=128"});
  says(plain, {"tile_v=64 is not a multiple of 16*warps_v=128"});
  says(plain, {"chunk*tile_v/(16*warps_v)=256 is above "});
  says(plain, {"tile_v=32 is a small part of head_dim_v=128; accepted from 64 on"});
  says(plain, {"warps_v*warps_k=16 is above 8"});
  says(plain, {"warps_v*warps_k=2 is below 4"});
  says(refusals(chunk_of(256, 256), gpu, Family::fused),
       {"tile_v*head_dim_k/threads=256 state elements per thread; accepted: "});
  says(plain, {"state_parts=2 with score_parts=1; bf16 wants no more of them"});
  says(plain, {"state_parts=2 with chunk=32; above chunk=16 one part is exact enough"});
  says(plain, {"async_copy=0 is for rows that are not whole 4-byte words"});
  says(plain, {"stages=2 with min_blocks=2; "});
  says(refusals(chunk_of(37, 64), gpu, Family::fused), {"async_copy=0 with stages=2, min_blocks=1"});
  says(refusals(chunk_of(37, 64), gpu, Family::fused), {"async_copy=0 with stages=1, min_blocks=2"});
  says(plain, {"needs ", " bytes of shared memory; a block has 232448"});
  says(plain, {"needs about ", " registers in each of "});
  says(plain, {"min_blocks=2 blocks do not fit on a multiprocessor"});
  says(plain, {"producers=4 goes with bf16 elements, state_parts=1, warps_k=1; got 2 bytes, 1, 2"});
  says(plain, {"producers=8 goes with stages 2 to 4, async_copy=1; got 1, 1"});
  says(plain,
       {"producers=4 needs 16 channels of tile_v for each of 4 or 8 warps_v; got warps_v=4, tile_v=128"});
  says(plain, {"producers=4 with chunk=16; accepted: 32, 64"});
  says(plain, {"producers=4 with warps_v=8, min_blocks=2; such blocks have a multiprocessor to themselves"});
  says(refusals(chunk_of(32, 64), gpu, Family::fused),
       {"producers=4 with head_dim_k=32, padded to 32; accepted: 64, 128, 256"});
  says(refusals(chunk_of(256, 64), gpu, Family::fused),
       {"producers=8 with head_dim_k=256, tile_v=64; accepted: 4"});
  says(plain, {"cluster=2 with producers=0; accepted: 1"});
  says(plain, {"cluster=2 goes with warps_v=8 and tile_v=128 or 256; got 4, 64"});
  says(plain, {"stages=4 with producers=0; accepted: up to 2"});
  says(plain, {"producers=12 goes with 64 key channels in a block and warps_v=4; got 128, 4"});
  says(plain, {"producers=12 goes with 64 key channels in a block and warps_v=4; got 64, 8"});
  const std::set<std::string> narrow = refusals(chunk_of(64, 128), gpu, Family::fused);
  says(narrow, {"cluster=2 leaves the second block none of head_dim_k=64"});
  says(narrow, {"producers=12 are 3 teams, which need as many stages; got 2"});
  says(refusals(chunk_of(256, 256), gpu, Family::fused),
       {"producers=8 with head_dim_k=256, tile_v=256; accepted: 4"});
  says(refusals(chunk_of(64, 100), gpu, Family::fused),
       {"producers=4 needs rows of whole 16 bytes; head dims are 64 and 100"});
  says(refusals(chunk_of(64, 64, DType::fp16), gpu, Family::fused),
       {"producers=4 goes with bf16 elements, state_parts=1, "});
  says(refusals(chunk_of(100, 64), gpu, Family::fused),
       {"head_dim_k=100, padded to 112, is not a multiple of 16*warps_k=32"});
  says(refusals(chunk_of(64, 64, DType::fp16), gpu, Family::fused),
       {"state_parts=", "with score_parts=2; fp16 wants as many"});
  says(refusals(chunk_of(64, 64, DType::bf16, 4), gpu, Family::fused),
       {"family fused serves a whole group per block: group_tile=2 is not 4"});
  const std::string pairs =
      "; accepted: 1, and with chunk=32, cluster=1 and head_dim_k up to 128 also 2, 4; got ";
  const std::set<std::string> grouped = refusals(chunk_of(128, 128, DType::bf16, 2), gpu, Family::fused);
  says(grouped, {"producers=4 with group_tile=2" + pairs + "chunk=64, cluster=1, head_dim_k=128"});
  says(grouped, {"producers=4 with group_tile=2" + pairs + "chunk=32, cluster=2, head_dim_k=128"});
  says(refusals(chunk_of(64, 64, DType::bf16, 6), gpu, Family::fused),
       {"producers=4 with group_tile=6" + pairs + "chunk=32, cluster=1, head_dim_k=64"});
  says(refusals(chunk_of(37, 64), gpu, Family::segmented),
       {"async_copy=1 needs rows of whole 4-byte words; head dims are 37 and 64"});
  says(refusals(chunk_of(64, 37), gpu, Family::segmented),
       {"async_copy=1 needs rows of whole 4-byte words; head dims are 64 and 37"});
}

TEST_CASE("each constraint of family walks refuses in its own words what breaks only it", "[wide]") {
  const Architecture gpu = architecture("sm_90a");
  const std::set<std::string> plain = refusals(backward_of(64, 64), gpu, Family::walks);
  says(plain, {"tile_k=128 wastes 16 or more channels of head_dim_k=64"});
  says(plain, {"tile_v=128 wastes 16 or more channels of head_dim_v=64"});
  says(plain, {"warps=4, tile_k=32, tile_v=64 with head dims 64 and 64; accepted from 4, 64, 64 on"});
  says(refusals(backward_of(64, 40), gpu, Family::walks),
       {"tiles of 64 channels with warps=2; accepted: 16 for each of the warps"});
  says(plain, {"async_copy=0 with head dims 64 and 64; 1 is for rows of whole 4-byte words"});
  says(refusals(backward_of(64, 40), gpu, Family::walks),
       {"producers=4 needs 16 channels of tile_v for each of 4 or 8 warps_v"});
  says(refusals(backward_of(64, 40), gpu, Family::walks),
       {"warps=8 with tile_k=16 leave some warps none of head_dim_v=40"});
  says(refusals(backward_of(100, 64), gpu, Family::walks),
       {"head_dim_k=100, padded to 112, is not a multiple of 16*warps/(tile_v/16)=32"});
  says(refusals(backward_of(64, 64, DType::bf16, 4), gpu, Family::walks),
       {"chunk=32 with groups of 4 query heads; accepted: 16"});
  says(refusals(backward_of(64, 64, DType::fp16), gpu, Family::walks), {"state_parts=3 with score_parts=2"});
  says(refusals(backward_of(37, 64), gpu, Family::walks), {"stages=2 with async_copy=0; accepted: 1"});
  says(refusals(backward_of(256, 512), gpu, Family::walks),
       {"needs ", " bytes of shared memory; a block has 232448"});
  says(refusals(backward_of(256, 512), gpu, Family::walks), {"needs about ", " registers in each of "});
}

TEST_CASE("pipelines of warpgroups, and clusters of them, are for sm_90a alone") {
  const auto has = [](const Problem& problem, std::string_view name, Parameter parameter, int value) {
    const std::vector<Variant> variants = space(problem, architecture(name));
    return std::any_of(variants.begin(), variants.end(),
                       [&](const Variant& one) { return one[parameter] == value; });
  };
  const Problem narrow = chunk_of(64, 64), middle = chunk_of(128, 128), wide = chunk_of(256, 256);
  CHECK(has(middle, "sm_90a", producers, 4));
  CHECK(has(middle, "sm_90a", producers, 8));
  CHECK(has(narrow, "sm_90a", producers, 12));
  CHECK(has(narrow, "sm_90a", stages, 4));
  CHECK(has(middle, "sm_90a", cluster, 2));
  CHECK(has(wide, "sm_90a", cluster, 2));
  for (const char* other : {"sm_80", "sm_90", "sm_100a"}) {
    for (const int warps : {4, 8, 12}) CHECK_FALSE(has(narrow, other, producers, warps));
    CHECK_FALSE(has(middle, other, cluster, 2));
  }
}

TEST_CASE("the second block of a cluster may have any number of key channels but none") {
  for (const auto& [dim_k, pairs] :
       {std::pair{64, false}, {72, true}, {128, true}, {136, true}, {256, true}}) {
    const std::vector<Variant> variants = space(chunk_of(dim_k, 128), architecture("sm_90a"));
    INFO("K = " << dim_k);
    CHECK(pairs == std::any_of(variants.begin(), variants.end(),
                               [](const Variant& one) { return one[cluster] == 2; }));
  }
}

TEST_CASE("a group may be split over the blocks of family segmented") {
  const Problem problem = chunk_of(64, 64, DType::bf16, 4);
  const std::vector<Variant> variants = space(problem, architecture("sm_90a"));
  for (const int tile : {1, 2, 4})
    CHECK(std::any_of(variants.begin(), variants.end(), [&](const Variant& one) {
      return one.family == Family::segmented && one[group_tile] == tile;
    }));
}

TEST_CASE("each constraint of family decode refuses in its own words what breaks only it") {
  const Architecture gpu = architecture("sm_90a");
  const std::set<std::string> narrow = refusals(recurrent_of(40, 16), gpu, Family::decode);
  says(narrow, {"lanes_k=32 leaves lanes without channels of head_dim_k=40"});
  says(narrow, {"a warp of 32 value channels wastes half of head_dim_v=16"});
  says(refusals(recurrent_of(128, 256), gpu, Family::decode), {"needs about ", " registers in each of "});
}

TEST_CASE("bf16 is standard with split scores and, in short chunks, a split state") {
  const Problem problem = chunk_of(128, 128);
  const auto meant = [&](int scores, int state, int tokens, Accuracy accuracy) {
    return meant_for(problem,
                     with(with(with(kAnyFused, score_parts, scores), state_parts, state), chunk, tokens),
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
    const Variant two = with(with(kAnyFused, score_parts, scores), state_parts, 2);
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
