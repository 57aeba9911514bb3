#include "gla/generator/variant.h"

#include <charconv>

#include "names.h"

namespace gla {
namespace {

constexpr std::array<std::string_view, 6> kFamilies = {"fused",  "overlapped", "segmented",
                                                       "decode", "walks",      "lines"};
constexpr std::array<std::string_view, kParameterCount> kParameters = {
    "chunk",       "tile_v",      "warps_v",    "warps_k",     "group_tile", "stages",     "segments",
    "score_parts", "state_parts", "async_copy", "producers",   "cluster",    "min_blocks", "lanes_k",
    "rows_v",      "warps",       "tile_k",     "tile_k_back", "lanes",      "rows"};

using enum Parameter;
constexpr std::array kFusedParameters = {chunk,      tile_v,    warps_v,     warps_k,
                                         group_tile, stages,    score_parts, state_parts,
                                         async_copy, producers, cluster,     min_blocks};
constexpr std::array kSegmentedParameters = {segments,   chunk,   tile_v,      warps_v,     warps_k,
                                             group_tile, stages,  score_parts, state_parts, async_copy,
                                             producers,  cluster, min_blocks};
constexpr std::array kDecodeParameters = {lanes_k, rows_v, warps, stages, min_blocks};
constexpr std::array kWalksParameters = {segments, chunk,       tile_k,      tile_k_back, tile_v,   warps,
                                         stages,   score_parts, state_parts, async_copy,  producers};
constexpr std::array kLinesParameters = {lanes, rows, warps, chunk};

/// Takes the text up to the next space off the front of `text`.
std::string_view next_word(std::string_view& text) {
  const std::size_t start = text.find_first_not_of(' ');
  if (start == std::string_view::npos) return text = {};
  text.remove_prefix(start);
  const std::string_view word = text.substr(0, text.find(' '));
  text.remove_prefix(word.size());
  return word;
}

}  // namespace

std::string_view to_string(Family family) {
  return name_of(kFamilies, family);
}
std::string_view to_string(Parameter parameter) {
  return name_of(kParameters, parameter);
}
Result<Family> parse_family(std::string_view text) {
  return value_of<Family>(kFamilies, "family", text);
}
Result<Parameter> parse_parameter(std::string_view text) {
  return value_of<Parameter>(kParameters, "parameter", text);
}

std::span<const Parameter> parameters_of(Family family) {
  switch (family) {
    case Family::fused:
      return kFusedParameters;
    case Family::overlapped:
    case Family::segmented:
      return kSegmentedParameters;
    case Family::decode:
      return kDecodeParameters;
    case Family::walks:
      return kWalksParameters;
    case Family::lines:
      return kLinesParameters;
  }
  return {};
}

std::string to_string(const Variant& variant) {
  std::string text(to_string(variant.family));
  for (Parameter parameter : parameters_of(variant.family))
    if (is_written(variant, parameter))
      text += fmt::format(" {}={}", to_string(parameter), variant[parameter]);
  return text;
}

Result<Variant> parse_variant(std::string_view text) {
  Variant variant;
  const std::string_view original = text;
  Result<Family> family = parse_family(next_word(text));
  if (!family.ok()) return family.status();
  variant.family = *family;

  std::array<bool, kParameterCount> seen{};
  const std::span<const Parameter> own = parameters_of(variant.family);
  for (std::string_view word = next_word(text); !word.empty(); word = next_word(text)) {
    const std::size_t equals = word.find('=');
    Result<Parameter> parameter = parse_parameter(word.substr(0, equals));
    if (!parameter.ok()) return parameter.status();
    bool& given = seen[static_cast<std::size_t>(*parameter)];
    if (given)
      return invalid_argument(fmt::format("variant '{}' gives {} twice", original, to_string(*parameter)));
    given = true;
    bool belongs = false;
    for (Parameter candidate : own) belongs |= candidate == *parameter;
    if (!belongs) {
      return invalid_argument(fmt::format("variant '{}': family {} has no {}", original, to_string(*family),
                                          to_string(*parameter)));
    }
    const std::string_view digits = equals == std::string_view::npos ? "" : word.substr(equals + 1);
    std::int16_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (digits.empty() || error != std::errc() || end != digits.data() + digits.size())
      return invalid_argument(fmt::format("variant '{}': '{}' is not name=integer", original, word));
    variant.set(*parameter, value);
  }
  for (Parameter parameter : own) {
    if (!seen[static_cast<std::size_t>(parameter)] && !is_optional(parameter))
      return invalid_argument(fmt::format("variant '{}' lacks {}", original, to_string(parameter)));
  }
  return variant;
}

}  // namespace gla
