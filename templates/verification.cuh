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

/// With a warp per row of a state, or per column: its line of S there, for dq, and its line of dS back, for the other gradients.
/// Of columns everything is the same of the transposed state, where v, k, gv and gk, dO and q take each other's places.
template <class Config, bool kOfKeys>
class NaiveLine {
 public:
  GLA_DEVICE NaiveLine(const BackwardArgs& backward_args, Index sequence_index, Index key_head, int line)
      : args(backward_args),
        n(sequence_index),
        head(key_head),
        channel(line),
        sequence(sequence_of(backward_args, n)) {}

  /// By the chain rule the gradient by the gate of token t is the sum over the line of S_{t-1} (.) dS_{t-1}; it is that of the
  /// next token and q_t dq_t - k_t dk_t, which fp64 sums up well enough for fp32.
  GLA_DEVICE void run() {
    const StateStrides strides = state_strides(Config::head_dim_k, Config::head_dim_v, Config::state_v_first);
    const Index stride = kOfKeys ? strides.v : strides.k;
    const Index offset = (n * args.heads + head) * Config::head_dim_k * Config::head_dim_v +
                         channel * (kOfKeys ? strides.k : strides.v);
    StateLine<kAcross> state, d_state;
    state.load(static_cast<const float*>(args.initial_state), offset, stride);
    if constexpr (kOfKeys || Config::gate_v) {
      for (Index step = 0; step < sequence.length; ++step) go_forward(state, token(step));
    }

    d_state.load(args.d_final_state, offset, stride);
    double flow = 0;
    d_state.each([&](double& value, int i) { flow += value * state.values[i / kWarpSize]; });
    flow = sum_lanes<kWarpSize>(flow);
    for (Index step = sequence.length - 1; step >= 0; --step) go_back(d_state, flow, token(step));
    if constexpr (kOfKeys) {
      d_state.each([&](double& value, int i) {
        args.d_initial_state[offset + i * stride] = static_cast<float>(value);
      });
    }
  }

 private:
  static constexpr int kK = Config::head_dim_k, kAcross = kOfKeys ? Config::head_dim_v : kK;
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;
  const BackwardArgs& args;
  Index n, head;
  int channel;
  Sequence sequence;

  GLA_DEVICE Index token(Index step) const { return Config::reverse ? sequence.length - 1 - step : step; }
  template <class T>
  GLA_DEVICE const T* row(const Tensor& tensor, Index t, Index row_head) const {
    return row_of<const T>(tensor, sequence, t, row_head);
  }
  GLA_DEVICE double line(const Tensor& tensor, Index t, Index row_head) const {
    return static_cast<double>(to_float(row<Element>(tensor, t, row_head)[channel]));
  }
  GLA_DEVICE void write(const Tensor& tensor, Index t, Index row_head, double value) const {
    if (lane_index() == 0) row_of<float>(tensor, sequence, t, row_head)[channel] = static_cast<float>(value);
  }
  /// Scratch of the line, token by token: q dq over the query heads of the group.
  GLA_DEVICE double& product(Index t) const {
    constexpr int kChannels = kK + Config::head_dim_v;
    const Index t_row = sequence.batch * args.tokens + sequence.begin + t;
    return reinterpret_cast<double*>(
        args.flows)[(t_row * args.heads + head) * kChannels + (kOfKeys ? 0 : kK) + channel];
  }

  GLA_DEVICE void decay(StateLine<kAcross>& state, Index t) const {
    constexpr bool kLineGate = kOfKeys ? Config::gate_k : Config::gate_v;
    constexpr bool kAcrossGate = kOfKeys ? Config::gate_v : Config::gate_k;
    const Tensor& of_line = kOfKeys ? args.gk : args.gv;
    const Tensor& of_across = kOfKeys ? args.gv : args.gk;
    double factor = 1;
    if constexpr (kLineGate)
      factor = exp(static_cast<double>(to_float(row<Gate>(of_line, t, head)[channel])));
    state.each([&](double& value, int i) {
      value *= factor;
      if constexpr (kAcrossGate)
        value *= exp(static_cast<double>(to_float(row<Gate>(of_across, t, head)[i])));
    });
  }

  GLA_DEVICE void go_forward(StateLine<kAcross>& state, Index t) const {
    decay(state, t);
    state.add(line(kOfKeys ? args.k : args.v, t, head), row<Element>(kOfKeys ? args.v : args.k, t, head));
    double sum = 0;
    for (Index i = head * Config::group; i < (head + 1) * Config::group; ++i) {
      const double d_query = args.scale * state.times(row<Element>(kOfKeys ? args.d_o : args.q, t, i));
      sum += d_query * line(kOfKeys ? args.q : args.d_o, t, i);
      if constexpr (kOfKeys) write(args.dq, t, i, d_query);
    }
    if (lane_index() == 0) product(t) = sum;
  }

  GLA_DEVICE void go_back(StateLine<kAcross>& d_state, double& flow, Index t) const {
    for (Index i = head * Config::group; i < (head + 1) * Config::group; ++i)
      d_state.add(args.scale * line(kOfKeys ? args.q : args.d_o, t, i),
                  row<Element>(kOfKeys ? args.d_o : args.q, t, i));
    const double d_line = d_state.times(row<Element>(kOfKeys ? args.v : args.k, t, head));
    decay(d_state, t);
    write(kOfKeys ? args.dk : args.dv, t, head, d_line);
    if constexpr (kOfKeys ? Config::gate_k : Config::gate_v) {
      if (lane_index() == 0) flow += product(t) - d_line * line(kOfKeys ? args.k : args.v, t, head);
      write(kOfKeys ? args.dgk : args.dgv, t, head, flow);
    }
  }
};

/// Gradients in fp64, a warp per key channel and one per value channel of a state. All outputs are wanted, and written as fp32.
/// `flows` is scratch: doubles [B, T, H, K + V].
template <class Config>
GLA_DEVICE void naive_backward(const BackwardArgs& args) {
  constexpr int kK = Config::head_dim_k, kChannels = kK + Config::head_dim_v;
  const Index warp = block_index() * (kToolThreads / kWarpSize) + warp_index();
  const int channel = static_cast<int>(warp % kChannels);
  const Index head = warp / kChannels % args.heads;
  const Index n = warp / kChannels / args.heads;
  if (n >= args.sequences) return;
  if (channel < kK)
    NaiveLine<Config, true>(args, n, head, channel).run();
  else
    NaiveLine<Config, false>(args, n, head, channel - kK).run();
}

}  // namespace gla
