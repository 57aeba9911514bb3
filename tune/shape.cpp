#include "shape.h"

#include <fmt/format.h>

#include <charconv>
#include <map>

#include "tuning_task.h"

namespace gla {
namespace {

constexpr std::string_view kLetters = "BNTHGDKV";

}  // namespace

Result<Shape> parse_shape(std::string_view text) {
  std::map<char, std::int64_t> values;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
    std::int64_t value = 0;
    const auto parsed = part.empty() ? std::from_chars_result{}
                                     : std::from_chars(part.data() + 1, part.data() + part.size(), value);
    const bool number =
        part.size() > 1 && parsed.ec == std::errc{} && parsed.ptr == part.data() + part.size() && value > 0;
    if (!number || kLetters.find(part.front()) == std::string_view::npos)
      return invalid_argument(
          fmt::format("\"{}\" in shape \"{}\": expected a letter of {} and a number, as in B1,T8192,H96,D128",
                      part, text, kLetters));
    if (!values.emplace(part.front(), value).second)
      return invalid_argument(fmt::format("shape \"{}\" gives {} twice", text, part.front()));
  }
  const auto value_of = [&](char letter, std::int64_t otherwise) {
    return values.contains(letter) ? values[letter] : otherwise;
  };
  const std::int64_t dim = value_of('D', 0), dim_k = value_of('K', dim), dim_v = value_of('V', dim);
  const std::int64_t group = value_of('G', 1);
  if (dim_k < 1 || dim_v < 1)
    return invalid_argument(fmt::format("shape \"{}\" has no head dim: give D, or K and V", text));
  if (dim_k > kMaxHeadDim || dim_v > kMaxHeadDim || group > kMaxGroup)
    return invalid_argument(fmt::format("shape \"{}\": head dims up to {} and groups up to {} are accepted",
                                        text, kMaxHeadDim, kMaxGroup));
  Shape shape;
  shape.workload.sequences = value_of('B', value_of('N', 1));
  shape.workload.tokens = value_of('T', 1);
  shape.workload.heads = value_of('H', 1);
  shape.problem.head_dim_k = static_cast<std::int16_t>(dim_k);
  shape.problem.head_dim_v = static_cast<std::int16_t>(dim_v);
  shape.problem.group = static_cast<std::int16_t>(group);
  shape.problem.operation =
      shape.workload.tokens <= kLongestRecurrent ? Operation::recurrent_forward : Operation::chunk_forward;
  return shape;
}

std::string to_string(const Shape& shape) {
  const Problem& problem = shape.problem;
  std::string text =
      fmt::format("B{} T{} H{}", shape.workload.sequences, shape.workload.tokens, shape.workload.heads);
  if (problem.group != 1) text += fmt::format(" G{}", problem.group);
  if (problem.head_dim_k == problem.head_dim_v) return text + fmt::format(" D{}", problem.head_dim_k);
  return text + fmt::format(" K{} V{}", problem.head_dim_k, problem.head_dim_v);
}

}  // namespace gla
