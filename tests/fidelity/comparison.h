// Whether two machines computed the same: to the bit where the hardware is specified to the bit, else within what its
// rounding allows.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "bars.h"
#include "fidelity/primitive_program.h"
#include "kernel_case.h"

namespace gla::test {

/// Whether word `i` of an output may be `gpu` where the emulator has `emulated`.
using MayBe = std::function<bool(std::size_t i, Word gpu, Word emulated)>;

/// Empty, or how many words differ and the first that does.
std::string difference(std::span<const Word> gpu, std::span<const Word> emulated, const MayBe& may_be);

bool same_bits(std::size_t i, Word gpu, Word emulated);

/// Floats to the bit, but for the payload of a NaN: arithmetic of the GPU makes 0x7fffffff of every NaN (PTX ISA,
/// "Floating point"), a CPU carries the operand's on.
bool same_float(std::size_t i, Word gpu, Word emulated);

/// ex2.approx.ftz: 2^-22 relative error (PTX ISA), and half an ulp of the emulator's own. Where the result leaves the
/// normal range, either may already have become 0 or inf.
bool same_power(std::size_t i, Word gpu, Word emulated);

/// Products of mma: 16 products of bf16 are exact, their sum with the addend is of "at least single precision" in any
/// order (PTX ISA), here taken for truncation of each of 17 terms to 2^-23 of the largest magnitude. The emulator rounds
/// 16 times to nearest. Together no more than 2^-18 of the sum of the terms' magnitudes.
MayBe same_sum(std::span<const Word> magnitudes);

/// How far two runs of one variant may be from each other, as ||x - y|| / ||y||. Both round the same values to the same
/// types at the same places; what differs is the last bits of fp32 values (sums in another order, fused multiply-adds,
/// ex2.approx), by d relative to the value. Now and then it then rounds to the neighbour, with probability d / ulp and a
/// step of one ulp, so that the difference's norm is sqrt(d * ulp), and a single step where few outputs dominate.
/// An emulator perturbed that way (exp2 by 2^-22, sums truncated, multiply-adds fused; the variants and cases of
/// fidelity_test, three seeds) moved o by up to 4e-4 in bf16, 5e-5 in fp16 and 6e-7 in fp32, states by 3e-5, 2e-6 and
/// 5e-7. The bars are twice that and more, under half of what accuracy allows.
Bar fidelity_bar(const Problem& problem);

/// Empty, or what differs: outputs or final states by more than the bar, the places of NaN and inf, what was written
/// that should not be, the paths that chunks took.
std::string difference(const KernelResult& gpu, const KernelResult& emulated, const Bar& bar);

}  // namespace gla::test
