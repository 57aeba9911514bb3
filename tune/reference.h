// `naive`: the recurrence of DESIGN section 1 as it is written there, in fp64 on the CPU, and its gradients. Everything
// else is held to it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "gla/generator/problem.h"

namespace gla {

/// Dense inputs on the host; values as floats, already rounded to their dtypes (element.h).
struct ReferenceInput {
  Problem problem;          ///< head dims, group, reverse, state_v_first; dtypes are not looked at
  std::int64_t batch = 1;   ///< B
  std::int64_t tokens = 1;  ///< T
  std::int64_t heads = 1;   ///< H
  std::vector<std::int64_t> cu_seqlens;  ///< [N+1]; empty: sequence n is batch row n
  std::vector<float> q;                  ///< [B, T, G*H, K]
  std::vector<float> k;                  ///< [B, T, H, K]
  std::vector<float> v;                  ///< [B, T, H, V]
  std::vector<float> gk;                 ///< [B, T, H, K]; empty: no decay
  std::vector<float> gv;                 ///< [B, T, H, V]; empty: no decay
  std::vector<float> initial_state;      ///< [N, H, K, V], or [N, H, V, K] when state_v_first; empty: zero
  std::optional<float> scale;            ///< K^-0.5

  std::int64_t sequences() const;
};

struct ReferenceOutput {
  std::vector<double> o;            ///< [B, T, G*H, V]; tokens of no sequence stay zero
  std::vector<double> final_state;  ///< the layout of initial_state
};

ReferenceOutput naive(const ReferenceInput& input);

/// What a loss is to the outputs: its derivatives by them.
struct ReferenceLoss {
  std::vector<float> o;            ///< the shape of ReferenceOutput::o
  std::vector<float> final_state;  ///< and of its final state; empty: zero
};

/// And by the inputs, in the inputs' shapes. Tokens of no sequence have zeros.
struct ReferenceGradients {
  std::vector<double> q, k, v;
  std::vector<double> gk, gv;         ///< empty where the input has none
  std::vector<double> initial_state;  ///< whether the input has one or not
};

/// The chain rule applied to the recurrence, backwards in time: dS_{t-1} = diag(exp gk_t) G_t diag(exp gv_t) with
/// G_t = dS_t + scale q_t dO_t^T. Keeps the states of a head, T * K * V doubles.
ReferenceGradients naive_backward(const ReferenceInput& input, const ReferenceLoss& loss);

}  // namespace gla
