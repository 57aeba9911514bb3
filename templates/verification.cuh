// The tools that verify kernels on the GPU: random inputs, the recurrence in fp64, and sums of squared errors.
#pragma once

#include "backward_args.h"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "random.h"
#include "sequence.cuh"

namespace gla {

inline constexpr int kToolThreads = 128;

/// Element i of the buffer as a function of (seed, i); see Fill in args.h.
GLA_DEVICE float fill_value(const FillArgs& args, Index i) {
  if (args.fill == static_cast<int>(Fill::poison)) return bits_to_float(0x7fc00000u);
  const float normal = random_normal(args.seed, static_cast<unsigned long long>(i));
  if (args.fill == static_cast<int>(Fill::normal)) return args.scale * normal;
  const float gate = args.scale * log_sigmoid(normal);
  const float chance = random_uniform(
      static_cast<unsigned int>(random_bits(args.seed ^ 0x5bf03635ull, static_cast<unsigned long long>(i))));
  if (chance < args.reset_probability) return -__builtin_bit_cast(float, 0x7f800000u);
  if (chance < args.reset_probability + args.growth_probability) return -0.25f * gate;
  return gate;
}

template <class T>
GLA_DEVICE void fill_as(const FillArgs& args) {
  for (Index i = block_index() * kToolThreads + thread_index(); i < args.count;
       i += grid_size() * kToolThreads)
    static_cast<T*>(args.data)[i] = from_float<T>(fill_value(args, i));
}

GLA_DEVICE void fill_tensor(const FillArgs& args) {
  if (args.dtype == 0) fill_as<fp16>(args);
  if (args.dtype == 1) fill_as<bf16>(args);
  if (args.dtype == 2) fill_as<float>(args);
}

GLA_DEVICE float element_as_float(const void* data, Index i, int dtype) {
  if (dtype == 0) return to_float(static_cast<const fp16*>(data)[i]);
  if (dtype == 1) return to_float(static_cast<const bf16*>(data)[i]);
  return static_cast<const float*>(data)[i];
}

GLA_DEVICE bool is_finite(float value) {
  return value - value == 0.0f;
}

/// Sums over the block; thread 0 receives them. `scratch` holds one value per warp.
template <class T>
GLA_DEVICE T sum_block(T value, T* scratch) {
  value = sum_lanes<kWarpSize>(value);
  if (lane_index() == 0) scratch[warp_index()] = value;
  block_sync();
  T sum = 0;
  if (thread_index() == 0) {
    for (int warp = 0; warp < kToolThreads / kWarpSize; ++warp) sum += scratch[warp];
  }
  block_sync();
  return sum;
}

GLA_DEVICE void compare_tensors(const CompareArgs& args) {
  const Index n = block_index() / args.heads;
  const Index head = block_index() % args.heads;
  const Sequence sequence = sequence_of(args, n);
  double squared_error = 0, squared_reference = 0;
  long long mismatches = 0;
  for (Index i = thread_index(); i < sequence.length * args.channels; i += kToolThreads) {
    const Index token = i / args.channels;
    const Index channel = i % args.channels;
    const Index at = sequence.batch * args.value.stride_batch +
                     (sequence.begin + token) * args.value.stride_token + head * args.value.stride_head +
                     channel;
    const float value = element_as_float(args.value.data, at, args.dtype);
    const float reference = row_of<const float>(args.reference, sequence, token, head)[channel];
    if (is_finite(value) && is_finite(reference)) {
      const double error = static_cast<double>(value) - reference;
      squared_error += error * error;
      squared_reference += static_cast<double>(reference) * reference;
    } else if (is_finite(value) != is_finite(reference)) {
      ++mismatches;
    }
  }
  unsigned char* scratch = shared_memory();
  CompareSums sums;
  sums.squared_error = sum_block(squared_error, reinterpret_cast<double*>(scratch));
  sums.squared_reference = sum_block(squared_reference, reinterpret_cast<double*>(scratch));
  sums.nan_mismatches = sum_block(mismatches, reinterpret_cast<long long*>(scratch));
  if (thread_index() == 0) args.sums[block_index()] = sums;
}

/// The recurrence in fp64, a warp per value channel of a state; o and final_state are written as fp32.
template <class Config>
GLA_DEVICE void naive_forward(const KernelArgs& args) {
  constexpr int kK = Config::head_dim_k, kV = Config::head_dim_v;
  constexpr int kPerLane = (kK + kWarpSize - 1) / kWarpSize;
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;
  using State = typename Config::State;
  const Index warp = block_index() * (kToolThreads / kWarpSize) + warp_index();
  const int v = static_cast<int>(warp % kV);
  const Index head = warp / kV % args.heads;
  const Index n = warp / kV / args.heads;
  if (n >= args.sequences) return;
  const Sequence sequence = sequence_of(args, n);
  const StateStrides strides = state_strides(kK, kV, Config::state_v_first);
  const Index offset = (n * args.heads + head) * kK * kV + v * strides.v;
  const int lane = lane_index();

  double state[kPerLane];
  GLA_UNROLL
  for (int i = 0; i < kPerLane; ++i) {
    const int k = lane + i * kWarpSize;
    const bool exists = k < kK && args.initial_state != nullptr;
    state[i] =
        exists ? to_float(static_cast<const State*>(args.initial_state)[offset + k * strides.k]) : 0.0f;
  }
  for (Index step = 0; step < sequence.length; ++step) {
    const Index token = Config::reverse ? sequence.length - 1 - step : step;
    const double value = to_float(row_of<const Element>(args.v, sequence, token, head)[v]);
    double decay_v = 1;
    if constexpr (Config::gate_v)
      decay_v = exp(static_cast<double>(to_float(row_of<const Gate>(args.gv, sequence, token, head)[v])));
    GLA_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      const int k = lane + i * kWarpSize;
      if (k >= kK) continue;
      double decay = decay_v;
      if constexpr (Config::gate_k)
        decay *= exp(static_cast<double>(to_float(row_of<const Gate>(args.gk, sequence, token, head)[k])));
      state[i] = state[i] * decay + to_float(row_of<const Element>(args.k, sequence, token, head)[k]) * value;
    }
    for (int i = 0; i < Config::group; ++i) {
      const Element* q = row_of<const Element>(args.q, sequence, token, head * Config::group + i);
      double sum = 0;
      GLA_UNROLL
      for (int j = 0; j < kPerLane; ++j) {
        const int k = lane + j * kWarpSize;
        if (k < kK) sum += to_float(q[k]) * state[j];
      }
      sum = sum_lanes<kWarpSize>(sum);
      if (lane == 0) {
        row_of<float>(args.o, sequence, token, head * Config::group + i)[v] =
            static_cast<float>(args.scale * sum);
      }
    }
  }
  if (args.final_state == nullptr) return;
  GLA_UNROLL
  for (int i = 0; i < kPerLane; ++i) {
    const int k = lane + i * kWarpSize;
    if (k < kK) static_cast<float*>(args.final_state)[offset + k * strides.k] = static_cast<float>(state[i]);
  }
}

/// A row or column of a state in fp64 over the lanes of a warp, which hold every 32nd of its channels.
template <int kChannels>
struct StateLine {
  static constexpr int kPerLane = (kChannels + kWarpSize - 1) / kWarpSize;
  double values[kPerLane];

  /// Calls visit(value, channel) for those of the lane.
  template <class Visit>
  GLA_DEVICE void each(Visit visit) {
    GLA_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      const int channel = lane_index() + i * kWarpSize;
      if (channel < kChannels) visit(values[i], channel);
    }
  }
  /// The line of `states` that begins at `offset`, or zero.
  GLA_DEVICE void load(const float* states, Index offset, Index stride) {
    each([&](double& value, int channel) {
      value = states != nullptr ? states[offset + channel * stride] : 0.0f;
    });
  }
  GLA_DEVICE void scale(double factor) {
    each([&](double& value, int) { value *= factor; });
  }
  template <class Element>
  GLA_DEVICE void add(double factor, const Element* row) {
    each([&](double& value, int channel) { value += factor * to_float(row[channel]); });
  }
  /// The product with a row, in every lane.
  template <class Element>
  GLA_DEVICE double times(const Element* row) {
    double sum = 0;
    each([&](double& value, int channel) { sum += value * to_float(row[channel]); });
    return sum_lanes<kWarpSize>(sum);
  }
};

/// The rows of a head's tensors for naive_backward, and the gates as factors.
template <class Config>
struct BackwardRows {
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;
  const BackwardArgs& args;
  Sequence sequence;
  Index head;

  GLA_DEVICE const Element* k(Index token) const {
    return row_of<const Element>(args.k, sequence, token, head);
  }
  GLA_DEVICE const Element* v(Index token) const {
    return row_of<const Element>(args.v, sequence, token, head);
  }
  /// Of query head `i` of the group.
  GLA_DEVICE const Element* q(Index token, int i) const {
    return row_of<const Element>(args.q, sequence, token, head * Config::group + i);
  }
  GLA_DEVICE const Element* d_o(Index token, int i) const {
    return row_of<const Element>(args.d_o, sequence, token, head * Config::group + i);
  }
  GLA_DEVICE double decay(Index token, int channel) const {
    if constexpr (Config::gate_k)
      return exp(static_cast<double>(to_float(row_of<const Gate>(args.gk, sequence, token, head)[channel])));
    else
      return 1;
  }
};

/// With a warp per key channel `k` of a state: its row of S forward in time, for dq, and its row of dS back, for dk, dgk and
/// d_initial_state. By the chain rule the gradient by the gate of token t is the sum over V of S_{t-1} (.) dS_{t-1}; it is the
/// next token's and q_t dq_t - k_t dk_t, which fp64 sums up well enough for fp32.
template <class Config>
GLA_DEVICE void naive_backward_key(const BackwardRows<Config>& rows, Index n, int k) {
  constexpr int kK = Config::head_dim_k, kV = Config::head_dim_v;
  const BackwardArgs& args = rows.args;
  const Sequence& sequence = rows.sequence;
  const Index head = rows.head;
  const StateStrides strides = state_strides(kK, kV, Config::state_v_first);
  const Index offset = (n * args.heads + head) * kK * kV + k * strides.k;
  // Of the channel, token by token: q dq over the query heads of the group.
  double* products = reinterpret_cast<double*>(args.flows) +
                     ((sequence.batch * args.tokens + sequence.begin) * args.heads + head) * kK + k;
  const Index next_product = static_cast<Index>(args.heads) * kK;
  const double scale = args.scale;
  const bool writes = lane_index() == 0;

  StateLine<kV> state, d_state;
  state.load(static_cast<const float*>(args.initial_state), offset, strides.v);
  for (Index token = 0; token < sequence.length; ++token) {
    state.scale(rows.decay(token, k));
    state.add(static_cast<double>(to_float(rows.k(token)[k])), rows.v(token));
    double product = 0;
    for (int i = 0; i < Config::group; ++i) {
      const double d_query = scale * state.times(rows.d_o(token, i));
      product += d_query * to_float(rows.q(token, i)[k]);
      if (writes)
        row_of<float>(args.dq, sequence, token, head * Config::group + i)[k] = static_cast<float>(d_query);
    }
    if (writes) products[token * next_product] = product;
  }

  d_state.load(args.d_final_state, offset, strides.v);
  double flow = 0;
  GLA_UNROLL
  for (int i = 0; i < state.kPerLane; ++i)
    if (lane_index() + i * kWarpSize < kV) flow += state.values[i] * d_state.values[i];
  flow = sum_lanes<kWarpSize>(flow);
  for (Index token = sequence.length - 1; token >= 0; --token) {
    for (int i = 0; i < Config::group; ++i)
      d_state.add(scale * to_float(rows.q(token, i)[k]), rows.d_o(token, i));
    const double d_key = d_state.times(rows.v(token));
    d_state.scale(rows.decay(token, k));
    if (!writes) continue;
    flow += products[token * next_product] - d_key * to_float(rows.k(token)[k]);
    row_of<float>(args.dk, sequence, token, head)[k] = static_cast<float>(d_key);
    if constexpr (Config::gate_k)
      row_of<float>(args.dgk, sequence, token, head)[k] = static_cast<float>(flow);
  }
  d_state.each([&](double& value, int v) {
    args.d_initial_state[offset + v * strides.v] = static_cast<float>(value);
  });
}

/// With a warp per value channel `v` of a state: its column of dS back in time, for dv.
template <class Config>
GLA_DEVICE void naive_backward_value(const BackwardRows<Config>& rows, Index n, int v) {
  constexpr int kK = Config::head_dim_k, kV = Config::head_dim_v;
  const BackwardArgs& args = rows.args;
  const StateStrides strides = state_strides(kK, kV, Config::state_v_first);
  const double scale = args.scale;
  StateLine<kK> d_state;
  d_state.load(args.d_final_state, (n * args.heads + rows.head) * kK * kV + v * strides.v, strides.k);
  for (Index token = rows.sequence.length - 1; token >= 0; --token) {
    for (int i = 0; i < Config::group; ++i)
      d_state.add(scale * to_float(rows.d_o(token, i)[v]), rows.q(token, i));
    const double d_value = d_state.times(rows.k(token));
    d_state.each([&](double& value, int k) { value *= rows.decay(token, k); });
    if (lane_index() == 0)
      row_of<float>(args.dv, rows.sequence, token, rows.head)[v] = static_cast<float>(d_value);
  }
}

/// Gradients in fp64, a warp per key channel and one per value channel of a state. All outputs are wanted, and written as fp32.
/// `flows` is scratch: doubles [B, T, H, K].
template <class Config>
GLA_DEVICE void naive_backward(const BackwardArgs& args) {
  static_assert(!Config::gate_v && !Config::reverse);
  constexpr int kK = Config::head_dim_k, kChannels = kK + Config::head_dim_v;
  const Index warp = block_index() * (kToolThreads / kWarpSize) + warp_index();
  const int channel = static_cast<int>(warp % kChannels);
  const Index head = warp / kChannels % args.heads;
  const Index n = warp / kChannels / args.heads;
  if (n >= args.sequences) return;
  const BackwardRows<Config> rows{args, sequence_of(args, n), head};
  if (channel < kK)
    naive_backward_key(rows, n, channel);
  else
    naive_backward_value(rows, n, channel - kK);
}

}  // namespace gla
