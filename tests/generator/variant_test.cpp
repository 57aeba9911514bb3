// A variant's line: what is written reads back, and what is not a variant is refused with the word that is wrong.
#include "gla/generator/variant.h"

#include <fmt/format.h>

#include <set>
#include <string>

#include "catch.h"
#include "gla/generator/space.h"
#include "problems.h"

using namespace gla;
using namespace gla::test;

namespace {

const std::string kDecode = "decode lanes_k=8 rows_v=4 warps=4 stages=2 min_blocks=1";

void refused(const std::string& text, const std::string& message) {
  const Result<Variant> parsed = parse_variant(text);
  INFO("'" << text << "'");
  CHECK(parsed.status().code() == StatusCode::invalid_argument);
  CHECK(parsed.status().message() == message);
}

}  // namespace

TEST_CASE("families and parameters read back from their names") {
  for (const Family family :
       {Family::fused, Family::overlapped, Family::segmented, Family::decode, Family::walks, Family::lines})
    CHECK(*parse_family(to_string(family)) == family);
  for (std::size_t i = 0; i < kParameterCount; ++i) {
    const auto parameter = static_cast<Parameter>(i);
    CHECK(*parse_parameter(to_string(parameter)) == parameter);
  }
}

TEST_CASE("a variant is written as its family and each of the family's parameters") {
  CHECK(to_string(variant(kDecode)) == kDecode);
  Variant fused;
  for (std::size_t i = 0; i < kParameterCount; ++i) fused.values[i] = static_cast<std::int16_t>(i + 1);
  CHECK(to_string(fused) ==
        "fused chunk=1 tile_v=2 warps_v=3 warps_k=4 group_tile=5 stages=6 score_parts=8 state_parts=9 "
        "async_copy=10 producers=11 cluster=12 min_blocks=13");
  fused.family = Family::segmented;
  CHECK(to_string(fused).find("segmented segments=7 chunk=1") == 0);
}

TEST_CASE("every variant of a space reads back from its line, and no two share one") {
  for (const Problem& problem :
       {chunk_of(256, 256, DType::bf16, 4), recurrent_of(64, 64), backward_of(128, 128)}) {
    std::set<std::string> lines;
    for (const Variant& written : space(problem, architecture("sm_90a"))) {
      const std::string line = to_string(written);
      const Result<Variant> read = parse_variant(line);
      if (!lines.insert(line).second || !read.ok() || *read != written) FAIL_CHECK(line);
    }
    CHECK(lines.size() > 200);
  }
}

TEST_CASE("the order of parameters and the number of spaces do not matter") {
  CHECK(variant("  decode  stages=2 min_blocks=1   warps=4 rows_v=4 lanes_k=8 ") == variant(kDecode));
}

TEST_CASE("an unknown family or parameter is refused with the names that exist") {
  refused("prepared chunk=64",
          "family is 'prepared'; accepted: fused, overlapped, segmented, decode, walks, lines");
  refused("", "family is ''; accepted: fused, overlapped, segmented, decode, walks, lines");
  refused(
      kDecode + " tile_q=64",
      "parameter is 'tile_q'; accepted: chunk, tile_v, warps_v, warps_k, group_tile, stages, segments, "
      "score_parts, state_parts, async_copy, producers, cluster, min_blocks, lanes_k, rows_v, warps, tile_k, "
      "tile_k_back, lanes, rows");
}

TEST_CASE("a missing parameter is named, whichever it is") {
  for (const Family family :
       {Family::fused, Family::overlapped, Family::segmented, Family::decode, Family::walks, Family::lines}) {
    for (const Parameter missing : parameters_of(family)) {
      if (is_optional(missing)) continue;
      std::string text(to_string(family));
      for (const Parameter parameter : parameters_of(family))
        if (parameter != missing) text += fmt::format(" {}=1", to_string(parameter));
      refused(text, fmt::format("variant '{}' lacks {}", text, to_string(missing)));
    }
  }
}

TEST_CASE("a repeated parameter is refused even with the same value") {
  refused(kDecode + " warps=4", "variant '" + kDecode + " warps=4' gives warps twice");
}

TEST_CASE("a parameter of another family is refused") {
  refused(kDecode + " chunk=64", "variant '" + kDecode + " chunk=64': family decode has no chunk");
}

TEST_CASE("a value that is not a small whole number is refused") {
  for (const std::string word : {"warps", "warps=", "warps=4x", "warps=four", "warps=4.0", "warps=0x4",
                                 "warps=70000", "warps==4", "warps=+4"}) {
    const std::string text = "decode lanes_k=8 " + word;
    refused(text, fmt::format("variant '{}': '{}' is not name=integer", text, word));
  }
}
