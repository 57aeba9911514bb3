// primitives.cuh as a program: its text, how to call an entry, and the calls that exercise every one.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "gla/generator/render.h"
#include "machine.h"

namespace gla::test {

using Word = std::uint32_t;

/// One launch of an entry on words; the words that it leaves were poisoned first.
struct PrimitiveCall {
  std::string entry;
  emulator::Shape shape;
  std::vector<Word> in{};
  std::int64_t count = 0;  ///< PrimitiveArgs::count
  std::size_t out_words = 0;
};
using RunPrimitive = std::function<std::vector<Word>(const PrimitiveCall&)>;

Source primitive_source();
/// For sm_90a alone.
Source warpgroup_source();
/// For sm_90 and later.
Source send_source();
/// The entry copy_boxes of tensor_copy_primitives.cuh, for sm_90 and later; its arguments are its own.
Source tensor_copy_source();
/// On the emulator, its threads in an order of choice.
RunPrimitive emulated_primitives(const Source& source, const emulator::Options& options);

PrimitiveCall widen_call();             ///< every 16-bit pattern
PrimitiveCall narrow_call();            ///< float_patterns()
PrimitiveCall split_call();             ///< float_patterns()
PrimitiveCall power_call();             ///< specials, integers and random exponents
PrimitiveCall integer_power_call();     ///< the exponents -126 to 127
PrimitiveCall greater_call();           ///< of bf16: specials and random words
PrimitiveCall tile_call();              ///< a different element everywhere
PrimitiveCall integer_products_call();  ///< operands whose sums are exact in any order
PrimitiveCall random_products_call();
PrimitiveCall special_products_call();  ///< inf and NaN among the operands
PrimitiveCall shuffle_call();
PrimitiveCall vote_call();   ///< all agree, one does not, in every place of a block
PrimitiveCall parts_call();  ///< the same in each of two parts of a block
PrimitiveCall copy_call();
PrimitiveCall place_call();
PrimitiveCall warpgroup_products_call(int n);  ///< integers, in all layouts, of n columns
PrimitiveCall store_call();
PrimitiveCall trade_call();

/// The same products of the operands' absolute values.
PrimitiveCall magnitudes_of(PrimitiveCall products);

}  // namespace gla::test
