#include "rearrange.h"

#include <algorithm>
#include <numeric>

namespace gla::test {

Indices range(std::int64_t begin, std::int64_t end) {
  Indices indices(static_cast<std::size_t>(end - begin));
  std::iota(indices.begin(), indices.end(), begin);
  return indices;
}

std::vector<float> pick(const std::vector<float>& values, std::int64_t count, std::int64_t block,
                        const Indices& picked) {
  std::vector<float> result;
  for (auto row = values.begin(); row != values.end(); row += count * block)
    for (const std::int64_t i : picked) result.insert(result.end(), row + i * block, row + (i + 1) * block);
  return result;
}

ReferenceInput pick_tokens(const ReferenceInput& in, const Indices& tokens) {
  ReferenceInput result = in;
  result.tokens = static_cast<std::int64_t>(tokens.size());
  result.cu_seqlens.clear();
  result.initial_state.clear();
  for (std::vector<float>* each : {&result.q, &result.k, &result.v, &result.gk, &result.gv})
    *each = pick(*each, in.tokens, static_cast<std::int64_t>(each->size()) / in.tokens, tokens);
  return result;
}

ReferenceInput pick_heads(const ReferenceInput& in, const Indices& heads) {
  const Problem& problem = in.problem;
  const std::int64_t dim_k = problem.head_dim_k, dim_v = problem.head_dim_v;
  ReferenceInput result = in;
  result.heads = static_cast<std::int64_t>(heads.size());
  result.q = pick(in.q, in.heads, problem.group * dim_k, heads);
  result.k = pick(in.k, in.heads, dim_k, heads);
  result.v = pick(in.v, in.heads, dim_v, heads);
  result.gk = pick(in.gk, in.heads, dim_k, heads);
  result.gv = pick(in.gv, in.heads, dim_v, heads);
  result.initial_state = pick(in.initial_state, in.heads, dim_k * dim_v, heads);
  return result;
}

std::vector<float> state_of(const std::vector<float>& states, const ReferenceInput& in, std::int64_t n) {
  const std::int64_t block = in.heads * in.problem.head_dim_k * in.problem.head_dim_v;
  return pick(states, in.sequences(), block, {n});
}

std::vector<float> transposed_states(const std::vector<float>& states, const Problem& problem) {
  const auto dim_k = static_cast<std::size_t>(problem.head_dim_k);
  const auto dim_v = static_cast<std::size_t>(problem.head_dim_v);
  std::vector<float> result(states.size());
  for (std::size_t i = 0; i < states.size(); ++i) {
    const std::size_t state = i / (dim_k * dim_v), k = i / dim_v % dim_k, v = i % dim_v;
    result[(state * dim_v + v) * dim_k + k] = states[i];
  }
  return result;
}

void append(KernelResult& first, const KernelResult& second) {
  first.o.insert(first.o.end(), second.o.begin(), second.o.end());
  first.final_state = second.final_state;
}

}  // namespace gla::test
