// One head of one sequence, token by token in fp64: what the reference's two directions share.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "reference.h"

namespace gla {

inline std::size_t index_of(std::int64_t value) {
  return static_cast<std::size_t>(value);
}

/// The decay of a channel; of none without a gate.
inline double decay_of(const float* gates, std::size_t channel) {
  return gates == nullptr ? 1.0 : std::exp(static_cast<double>(gates[channel]));
}

/// A state, or what a loss is to one: [K, V] whatever the layout outside.
class HeadState {
 public:
  HeadState(std::size_t rows, std::size_t columns, bool v_first)
      : rows_(rows), columns_(columns), v_first_(v_first), values_(rows * columns) {}

  double& at(std::size_t i, std::size_t j) { return values_[i * columns_ + j]; }
  double at(std::size_t i, std::size_t j) const { return values_[i * columns_ + j]; }

  void load(const float* from) {
    for (std::size_t i = 0; i < rows_; ++i)
      for (std::size_t j = 0; j < columns_; ++j) at(i, j) = from[outside(i, j)];
  }
  void store(double* to) const {
    for (std::size_t i = 0; i < rows_; ++i)
      for (std::size_t j = 0; j < columns_; ++j) to[outside(i, j)] = at(i, j);
  }

  /// S = diag(exp(gk)) S diag(exp(gv)); gk and gv may be null.
  void decay(const float* gk, const float* gv) {
    for (std::size_t i = 0; i < rows_; ++i)
      for (std::size_t j = 0; j < columns_; ++j) at(i, j) = decay_of(gk, i) * at(i, j) * decay_of(gv, j);
  }
  /// S += factor k v^T
  void add_outer(double factor, const float* k, const float* v) {
    for (std::size_t i = 0; i < rows_; ++i)
      for (std::size_t j = 0; j < columns_; ++j)
        at(i, j) += factor * static_cast<double>(k[i]) * static_cast<double>(v[j]);
  }

  /// out += factor S v
  void add_times(double factor, const float* v, double* out) const {
    for (std::size_t i = 0; i < rows_; ++i)
      for (std::size_t j = 0; j < columns_; ++j) out[i] += factor * at(i, j) * static_cast<double>(v[j]);
  }
  /// out += factor S^T k
  void add_transposed_times(double factor, const float* k, double* out) const {
    for (std::size_t i = 0; i < rows_; ++i)
      for (std::size_t j = 0; j < columns_; ++j) out[j] += factor * at(i, j) * static_cast<double>(k[i]);
  }

 private:
  std::size_t outside(std::size_t i, std::size_t j) const {
    return v_first_ ? j * rows_ + i : i * columns_ + j;
  }

  std::size_t rows_, columns_;
  bool v_first_;
  std::vector<double> values_;
};

/// Sizes of an input, and where the rows of its tensors begin.
struct HeadWalk {
  explicit HeadWalk(const ReferenceInput& in)
      : input(in),
        dim_k(index_of(in.problem.head_dim_k)),
        dim_v(index_of(in.problem.head_dim_v)),
        heads(index_of(in.heads)),
        group(index_of(in.problem.group)),
        tokens(index_of(in.tokens)),
        sequences(index_of(in.sequences())),
        scale(in.scale ? static_cast<double>(*in.scale) : 1.0 / std::sqrt(static_cast<double>(dim_k))) {}

  const ReferenceInput& input;
  std::size_t dim_k, dim_v, heads, group, tokens, sequences;
  double scale;

  std::size_t rows() const { return index_of(input.batch) * tokens * heads; }  ///< of k, v and gates
  std::size_t states() const { return sequences * heads * dim_k * dim_v; }     ///< elements of all

  HeadState state_of(const std::vector<float>& states, std::size_t offset) const {
    HeadState state(dim_k, dim_v, input.problem.state_v_first);
    if (!states.empty()) state.load(states.data() + offset);
    return state;
  }
  const float* k(std::size_t row) const { return input.k.data() + row * dim_k; }
  const float* v(std::size_t row) const { return input.v.data() + row * dim_v; }
  const float* q(std::size_t query_row) const { return input.q.data() + query_row * dim_k; }
  const float* gk(std::size_t row) const {
    return input.gk.empty() ? nullptr : input.gk.data() + row * dim_k;
  }
  const float* gv(std::size_t row) const {
    return input.gv.empty() ? nullptr : input.gv.data() + row * dim_v;
  }

  /// S_t from S_{t-1} at a row.
  void advance(HeadState& state, std::size_t row) const {
    state.decay(gk(row), gv(row));
    state.add_outer(1.0, k(row), v(row));
  }

  /// Calls visit(offset of the head's state among all, rows of its tokens in the order of the walk).
  template <class Visit>
  void for_each_head(Visit visit) const {
    for (std::size_t n = 0; n < sequences; ++n) {
      const bool packed = !input.cu_seqlens.empty();
      const std::size_t first = packed ? index_of(input.cu_seqlens[n]) : n * tokens;
      const std::size_t last = packed ? index_of(input.cu_seqlens[n + 1]) : first + tokens;
      for (std::size_t h = 0; h < heads; ++h) {
        std::vector<std::size_t> walk;
        for (std::size_t step = first; step < last; ++step)
          walk.push_back((input.problem.reverse ? last - 1 - (step - first) : step) * heads + h);
        visit((n * heads + h) * dim_k * dim_v, walk);
      }
    }
  }
};

}  // namespace gla
