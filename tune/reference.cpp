#include "reference.h"

#include "head_walk.h"

namespace gla {

std::int64_t ReferenceInput::sequences() const {
  return cu_seqlens.empty() ? batch : static_cast<std::int64_t>(cu_seqlens.size()) - 1;
}

ReferenceOutput naive(const ReferenceInput& input) {
  const HeadWalk walk(input);
  ReferenceOutput output;
  output.o.resize(walk.rows() * walk.group * walk.dim_v);
  output.final_state.resize(walk.states());
  walk.for_each_head([&](std::size_t state_offset, const std::vector<std::size_t>& rows) {
    HeadState state = walk.state_of(input.initial_state, state_offset);
    for (const std::size_t row : rows) {
      walk.advance(state, row);
      for (std::size_t i = row * walk.group; i < (row + 1) * walk.group; ++i)
        state.add_transposed_times(walk.scale, walk.q(i), output.o.data() + i * walk.dim_v);
    }
    state.store(output.final_state.data() + state_offset);
  });
  return output;
}

ReferenceGradients naive_backward(const ReferenceInput& input, const ReferenceLoss& loss) {
  const HeadWalk walk(input);
  const std::size_t dim_k = walk.dim_k, dim_v = walk.dim_v;
  ReferenceGradients gradients;
  gradients.q.resize(walk.rows() * walk.group * dim_k);
  gradients.k.resize(walk.rows() * dim_k);
  gradients.v.resize(walk.rows() * dim_v);
  if (!input.gk.empty()) gradients.gk.resize(gradients.k.size());
  if (!input.gv.empty()) gradients.gv.resize(gradients.v.size());
  gradients.initial_state.resize(walk.states());

  walk.for_each_head([&](std::size_t state_offset, const std::vector<std::size_t>& rows) {
    std::vector<HeadState> states{walk.state_of(input.initial_state, state_offset)};  // before each token
    for (const std::size_t row : rows) {
      states.push_back(states.back());
      walk.advance(states.back(), row);
    }
    HeadState d_state = walk.state_of(loss.final_state, state_offset);  // of S_t, then of S_{t-1}
    for (std::size_t t = rows.size(); t-- > 0;) {
      const std::size_t row = rows[t];
      for (std::size_t i = row * walk.group; i < (row + 1) * walk.group; ++i) {
        const float* d_o = loss.o.data() + i * dim_v;
        states[t + 1].add_times(walk.scale, d_o, gradients.q.data() + i * dim_k);
        d_state.add_outer(walk.scale, walk.q(i), d_o);
      }
      d_state.add_times(1.0, walk.v(row), gradients.k.data() + row * dim_k);
      d_state.add_transposed_times(1.0, walk.k(row), gradients.v.data() + row * dim_v);
      d_state.decay(walk.gk(row), walk.gv(row));
      for (std::size_t i = 0; i < dim_k; ++i) {
        for (std::size_t j = 0; j < dim_v; ++j) {
          const double flow = d_state.at(i, j) * states[t].at(i, j);  // through the gates
          if (!input.gk.empty()) gradients.gk[row * dim_k + i] += flow;
          if (!input.gv.empty()) gradients.gv[row * dim_v + j] += flow;
        }
      }
    }
    d_state.store(gradients.initial_state.data() + state_offset);
  });
  return gradients;
}

}  // namespace gla
