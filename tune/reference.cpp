#include "reference.h"

#include <cmath>

namespace gla {
namespace {

std::size_t index_of(std::int64_t value) {
  return static_cast<std::size_t>(value);
}

/// One head of one sequence: its state, [K, V] whatever the layout outside.
class HeadState {
 public:
  HeadState(std::size_t rows, std::size_t columns, bool v_first)
      : rows_(rows), columns_(columns), v_first_(v_first), values_(rows * columns) {}

  void load(const float* from) {
    for (std::size_t i = 0; i < rows_; ++i)
      for (std::size_t j = 0; j < columns_; ++j) values_[i * columns_ + j] = from[outside(i, j)];
  }
  void store(double* to) const {
    for (std::size_t i = 0; i < rows_; ++i)
      for (std::size_t j = 0; j < columns_; ++j) to[outside(i, j)] = values_[i * columns_ + j];
  }

  /// S = diag(exp(gk)) S diag(exp(gv)) + k v^T; gk and gv may be null.
  void step(const float* k, const float* v, const float* gk, const float* gv) {
    for (std::size_t i = 0; i < rows_; ++i) {
      const double decay_k = gk == nullptr ? 1.0 : std::exp(static_cast<double>(gk[i]));
      for (std::size_t j = 0; j < columns_; ++j) {
        const double decay_v = gv == nullptr ? 1.0 : std::exp(static_cast<double>(gv[j]));
        double& s = values_[i * columns_ + j];
        s = decay_k * s * decay_v + static_cast<double>(k[i]) * static_cast<double>(v[j]);
      }
    }
  }

  /// o = scale S^T q
  void read(const float* q, double scale, double* o) const {
    for (std::size_t j = 0; j < columns_; ++j) o[j] = 0;
    for (std::size_t i = 0; i < rows_; ++i)
      for (std::size_t j = 0; j < columns_; ++j)
        o[j] += scale * static_cast<double>(q[i]) * values_[i * columns_ + j];
  }

 private:
  std::size_t outside(std::size_t i, std::size_t j) const {
    return v_first_ ? j * rows_ + i : i * columns_ + j;
  }

  std::size_t rows_, columns_;
  bool v_first_;
  std::vector<double> values_;
};

}  // namespace

std::int64_t ReferenceInput::sequences() const {
  return cu_seqlens.empty() ? batch : static_cast<std::int64_t>(cu_seqlens.size()) - 1;
}

ReferenceOutput naive(const ReferenceInput& input) {
  const std::size_t dim_k = index_of(input.problem.head_dim_k), dim_v = index_of(input.problem.head_dim_v);
  const std::size_t heads = index_of(input.heads), group = index_of(input.problem.group);
  const std::size_t tokens = index_of(input.tokens), sequences = index_of(input.sequences());
  const double scale =
      input.scale ? static_cast<double>(*input.scale) : 1.0 / std::sqrt(static_cast<double>(dim_k));

  ReferenceOutput output;
  output.o.resize(index_of(input.batch) * tokens * heads * group * dim_v);
  output.final_state.resize(sequences * heads * dim_k * dim_v);
  const auto row_or_null = [](const std::vector<float>& values, std::size_t offset) {
    return values.empty() ? nullptr : values.data() + offset;
  };

  for (std::size_t n = 0; n < sequences; ++n) {
    const bool packed = !input.cu_seqlens.empty();
    const std::size_t first = packed ? index_of(input.cu_seqlens[n]) : n * tokens;
    const std::size_t last = packed ? index_of(input.cu_seqlens[n + 1]) : first + tokens;
    for (std::size_t h = 0; h < heads; ++h) {
      HeadState state(dim_k, dim_v, input.problem.state_v_first);
      const std::size_t state_offset = (n * heads + h) * dim_k * dim_v;
      if (!input.initial_state.empty()) state.load(input.initial_state.data() + state_offset);
      for (std::size_t step = first; step < last; ++step) {
        const std::size_t t = input.problem.reverse ? last - 1 - (step - first) : step;
        const std::size_t row = t * heads + h;
        state.step(input.k.data() + row * dim_k, input.v.data() + row * dim_v,
                   row_or_null(input.gk, row * dim_k), row_or_null(input.gv, row * dim_v));
        for (std::size_t i = 0; i < group; ++i) {
          const std::size_t query_row = row * group + i;
          state.read(input.q.data() + query_row * dim_k, scale, output.o.data() + query_row * dim_v);
        }
      }
      state.store(output.final_state.data() + state_offset);
    }
  }
  return output;
}

}  // namespace gla
