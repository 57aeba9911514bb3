// A variant: one kernel plan for a problem. A family, and a value for each of the family's parameters.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "gla/generator/problem.h"

namespace gla {

enum class Family : std::uint8_t {
  fused,  ///< chunk_forward: one launch, a block walks all chunks of (sequence, head, V tile)
  overlapped,  ///< chunk_forward: as fused, but a block per segment, which walks what lies ahead of it for the state alone
  segmented,  ///< chunk_forward: segment states, a scan over segments if they are many, then fused per segment
  decode,     ///< a warp keeps [K, v columns] of a state in fp32 registers and walks the tokens; serves both
  walks,      ///< chunk_backward: dq forward in time, dk and dv backward, each by a walk over the chunks
  lines,  ///< recurrent_backward: a warp keeps rows, then columns of a state in fp32 registers, there and back
};

/// Segments of a sequence are as long as each other but for a last one that fills up the device; of packed sequences their number is
/// a block's share of all tokens, for what is cut of them.
enum class Parameter : std::uint8_t {
  chunk,       ///< tokens per chunk, C (lines: those whose sums, and with gates states, a thread has at once)
  tile_v,      ///< value channels per block (chunk families)
  warps_v,     ///< warps along the value channels of the tile
  warps_k,     ///< warps along the key channels
  group_tile,  ///< query heads of a group that one block serves; divides G
  stages,      ///< chunks (or tokens) loaded ahead, the current one included
  segments,  ///< parts that T is cut into (overlapped, segmented; walks, where one has no passes of its own)
  score_parts,  ///< bf16 parts per operand of the score product q k^T: 1, 2 or 3
  state_parts,  ///< bf16 parts per operand of the products with the state and with v: 1, 2 or 3
  async_copy,   ///< 1: cp.async global to shared; 0: through registers
  producers,  ///< warps that make operands for the warpgroups that multiply (sm_90a); 0: all warps do all, as they do in
              ///< walks over key channels of value channels that no warpgroup holds
  cluster,     ///< blocks that share out a head's key channels and add up their outputs (with producers)
  min_blocks,  ///< resident blocks per multiprocessor asked of the compiler (__launch_bounds__)
  lanes_k,     ///< lanes of a warp along the key channels (decode)
  rows_v,      ///< value channels per thread (decode)
  warps,       ///< warps per block (decode, walks, lines)
  tile_k,  ///< key channels per block (walks); of fewer than 16 a warp, several share some, each with its value channels
  tile_k_back,  ///< the same of dk's walk, by warpgroups (walks, optional); 0: as tile_k
  lanes,        ///< lanes of a warp that share a row or column of a state (lines)
  rows,         ///< rows or columns of a state per thread (lines)
  count_
};
inline constexpr std::size_t kParameterCount = static_cast<std::size_t>(Parameter::count_);

/// A parameter that the family does not have is 0.
struct Variant {
  Family family = Family::fused;
  std::array<std::int16_t, kParameterCount> values{};

  int operator[](Parameter parameter) const { return values[static_cast<std::size_t>(parameter)]; }
  void set(Parameter parameter, int value) {
    values[static_cast<std::size_t>(parameter)] = static_cast<std::int16_t>(value);
  }
  auto operator<=>(const Variant&) const = default;
};

std::string_view to_string(Family family);
std::string_view to_string(Parameter parameter);
Result<Family> parse_family(std::string_view text);
Result<Parameter> parse_parameter(std::string_view text);

/// The parameters of a family, in the order in which they are written.
std::span<const Parameter> parameters_of(Family family);
/// Whether a parameter that is 0 is not written, so that what was written before there was one is still read.
constexpr bool is_optional(Parameter parameter) {
  return parameter == Parameter::tile_k_back;
}
/// Those that are written of a variant.
inline bool is_written(const Variant& variant, Parameter parameter) {
  return !is_optional(parameter) || variant[parameter] != 0;
}

/// "fused chunk=64 tile_v=128 warps_v=8 ..."; parse_variant reads it back and refuses a missing, repeated or
/// foreign parameter. Whether the variant is legal for a problem is for Space to say.
std::string to_string(const Variant& variant);
Result<Variant> parse_variant(std::string_view text);

}  // namespace gla
