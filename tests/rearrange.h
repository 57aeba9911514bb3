// The same tokens, heads and states in another arrangement: what properties of a kernel are stated with.
#pragma once

#include <cstdint>
#include <vector>

#include "kernel_case.h"

namespace gla::test {

using Indices = std::vector<std::int64_t>;

/// begin, begin + 1, ... end - 1.
Indices range(std::int64_t begin, std::int64_t end);

/// Of values [rows, count, block], the blocks that `picked` names, in its order, in every row.
std::vector<float> pick(const std::vector<float>& values, std::int64_t count, std::int64_t block,
                        const Indices& picked);

/// Tokens of a batch of one, without its initial state and its cu_seqlens.
ReferenceInput pick_tokens(const ReferenceInput& in, const Indices& tokens);

/// Key/value heads with the query heads and states that belong to them.
ReferenceInput pick_heads(const ReferenceInput& in, const Indices& heads);

/// The state of sequence n: [H, K, V].
std::vector<float> state_of(const std::vector<float>& states, const ReferenceInput& in, std::int64_t n);

/// [N, H, K, V] to [N, H, V, K].
std::vector<float> transposed_states(const std::vector<float>& states, const Problem& problem);

/// Appends the outputs of the tokens that follow and takes over their final state.
void append(KernelResult& first, const KernelResult& second);

}  // namespace gla::test
