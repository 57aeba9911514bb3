// What is asked for: the part fixed at compile time (Problem) and the part that varies per call (Workload).
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "gla/generator/status.h"

namespace gla {

inline constexpr int kMaxHeadDim = 512;
inline constexpr int kMaxGroup = 64;

enum class Operation : std::uint8_t {
  chunk_forward,
  recurrent_forward,
  chunk_backward,      ///< gradients of chunk_forward's inputs by those of its outputs
  recurrent_backward,  ///< of recurrent_forward's
};
inline constexpr Operation kOperations[] = {Operation::chunk_forward, Operation::recurrent_forward,
                                            Operation::chunk_backward, Operation::recurrent_backward};

/// Whether it takes the gradients of a forward operation's outputs and gives those of its inputs.
constexpr bool is_backward(Operation operation) {
  return operation == Operation::chunk_backward || operation == Operation::recurrent_backward;
}

/// Whether it is about the recurrence token by token, with everything that this allows: gv, reverse.
constexpr bool is_recurrent(Operation operation) {
  return operation == Operation::recurrent_forward || operation == Operation::recurrent_backward;
}

enum class DType : std::uint8_t { fp16, bf16, fp32 };

/// How exact the output must be, relative to an fp64 recurrence (bars in verification.h of tune/, from
/// PEERS.md).
enum class Accuracy : std::uint8_t {
  standard,  ///< written "default": at most 1.1 x FLA's error; fp32: under 1e-5
  fast,      ///< at most 2 x FLA's error; fp32: under 1e-3
};
inline constexpr Accuracy kAllAccuracies[] = {Accuracy::standard, Accuracy::fast};

/// Everything a kernel is compiled for. One head of one sequence computes, in fp32 or better,
///   S_t = diag(exp(gk_t)) S_{t-1} diag(exp(gv_t)) + k_t v_t^T,   o_t = scale q_t^T S_t
/// (Yang et al., arXiv 2312.06635, eq. 3; gv from FLA's fused_recurrent). Optional inputs that cost nothing
/// to test at run time (initial_state, final_state, cu_seqlens, scale) are not part of the problem.
struct Problem {
  Operation operation = Operation::chunk_forward;
  DType dtype = DType::bf16;       ///< of q, k, v and o
  DType gate_dtype = DType::bf16;  ///< of gk and gv: fp32 or dtype
  DType state_dtype =
      DType::fp32;  ///< of initial_state and final_state: fp32, or bf16 (recurrent_forward only)
  std::int16_t head_dim_k = 128;  ///< K, 1 to kMaxHeadDim
  std::int16_t head_dim_v = 128;  ///< V, 1 to kMaxHeadDim
  std::int16_t group = 1;         ///< G = HQ / H: query heads that share one key/value head, 1 to kMaxGroup
  bool gate_k = true;             ///< gk present: decay per key channel
  bool gate_v = false;            ///< gv present: decay per value channel (recurrent operations only)
  bool reverse = false;           ///< walks T backwards (recurrent operations only)
  bool state_v_first = false;     ///< states are [N, H, V, K] instead of [N, H, K, V]
  bool fp32_gate_gradients = false;  ///< dgk and dgv in fp32, of problems that takes_fp32_gate_gradients()

  auto operator<=>(const Problem&) const = default;
};

/// Whether it makes a difference to have the gradients of gates in fp32: there are some, and they have 16 bits otherwise.
constexpr bool takes_fp32_gate_gradients(const Problem& problem) {
  return is_backward(problem.operation) && (problem.gate_k || problem.gate_v) &&
         problem.gate_dtype != DType::fp32;
}

/// Of dgk and dgv.
constexpr DType gate_gradient_dtype(const Problem& problem) {
  return problem.fp32_gate_gradients ? DType::fp32 : problem.gate_dtype;
}

/// What varies per call.
struct Workload {
  std::int64_t sequences = 1;  ///< N: the batch B, or the number of packed sequences
  std::int64_t heads = 1;      ///< H: key/value heads
  std::int64_t tokens = 1;     ///< T: tokens per sequence; with cu_seqlens the packed total
  bool packed = false;         ///< cu_seqlens given (then B = 1)

  auto operator<=>(const Workload&) const = default;
};

std::string_view to_string(Operation operation);
std::string_view to_string(DType dtype);
std::string_view to_string(Accuracy accuracy);
Result<Operation> parse_operation(std::string_view text);
Result<DType> parse_dtype(std::string_view text);
Result<Accuracy> parse_accuracy(std::string_view text);

std::size_t size_of(DType dtype);

/// One line a person can read and a program can use as a key, for example
/// "chunk_forward bf16 K128 V128 G1 gk:bf16 state:fp32". Distinct problems give distinct lines.
std::string to_string(const Problem& problem);
std::string to_string(const Workload& workload);  ///< "N4 H16 T2048", with " packed" behind it where it is

/// Ok if some variant can serve the problem; otherwise names the field, its value and what is accepted.
Status check(const Problem& problem);

/// The problem whose measured points serve this one: reverse, state_v_first, state_dtype and fp32_gate_gradients at their
/// defaults (docs/table.md). The variant found there is legal for this problem too.
Problem tuning_key(const Problem& problem);

}  // namespace gla
