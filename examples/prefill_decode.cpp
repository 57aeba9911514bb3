// A prefill of 100 tokens with chunk_forward, four decode steps with recurrent_forward, checked on the host.
// prefill_decode [TABLE.yaml | none]
#include <cuda_runtime_api.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "gla/gla.hpp"

constexpr int kPrefill = 100, kTokens = 104, kHeads = 2, kDim = 64, kRow = kHeads * kDim;

// Multiples of 1/8: exact in bf16, which is the upper half of a float.
float input(int i, int salt) {
  return static_cast<float>((i * 37 + i / 11 * 17 + salt * 101) % 17 - 8) / 8;
}
float gate(int i) {
  return -static_cast<float>(i * 29 % 7) / 64;
}
std::uint16_t to_bf16(float x) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16);
}
float from_bf16(std::uint16_t x) {
  return std::bit_cast<float>(std::uint32_t{x} << 16);
}

int main(int argc, char** argv) {
  gla::ContextOptions options;
  options.table = argc > 1 ? argv[1] : "";
  options.log = [](gla::LogLevel, const std::string& message) { std::printf("  %s\n", message.c_str()); };
  auto context = gla::Context::create(options);
  if (!context.ok()) {
    std::printf("no context: %s\n", context.status().message().c_str());
    return context.status().code() == gla::StatusCode::cuda ? 77 : 1;
  }

  std::vector<std::uint16_t> host(4 * kTokens * kRow);  // q, k, v, gk: [T, H, D] each
  for (int i = 0; i < kTokens * kRow; ++i)
    for (int tensor = 0; tensor < 4; ++tensor)
      host[static_cast<std::size_t>(tensor * kTokens * kRow + i)] =
          to_bf16(tensor == 3 ? gate(i) : input(i, tensor));
  std::uint16_t *inputs = nullptr, *o = nullptr;
  float* state = nullptr;  // [H, K, V]
  void* workspace = nullptr;
  std::vector<std::uint16_t> result(kTokens * kRow);
  cudaMalloc(reinterpret_cast<void**>(&inputs), host.size() * 2);
  cudaMalloc(reinterpret_cast<void**>(&o), result.size() * 2);
  cudaMalloc(reinterpret_cast<void**>(&state), kRow * kDim * sizeof(float));
  cudaMemset(state, 0, kRow * kDim * sizeof(float));
  cudaMemcpy(inputs, host.data(), host.size() * 2, cudaMemcpyHostToDevice);

  // The same call for both: tokens [first, first + count), the state updated in place.
  const auto run = [&](gla::Operation operation, int first, int count) {
    const auto tensor = [&](int which) {
      return gla::dense(inputs + which * kTokens * kRow + first * kRow, count, kHeads, kDim);
    };
    gla::ForwardCall call;
    call.q = tensor(0);
    call.k = tensor(1);
    call.v = tensor(2);
    call.gk = tensor(3);
    call.o = gla::dense(o + first * kRow, count, kHeads, kDim);
    call.initial_state = call.final_state = state;
    call.tokens = count;
    call.query_heads = call.heads = kHeads;
    call.head_dim_k = call.head_dim_v = kDim;
    const auto bytes = (*context)->workspace_bytes(operation, call);
    if (!bytes.ok()) return bytes.status();
    if (*bytes > 0 && workspace == nullptr) cudaMalloc(&workspace, *bytes);  // only the prefill needs one
    return (*context)->forward(operation, call, workspace, *bytes, nullptr);
  };
  gla::Status status = run(gla::Operation::chunk_forward, 0, kPrefill);
  for (int t = kPrefill; t < kTokens && status.ok(); ++t)
    status = run(gla::Operation::recurrent_forward, t, 1);
  if (!status.ok()) return std::printf("failed: %s\n", status.message().c_str()), 1;
  if (cudaMemcpy(result.data(), o, result.size() * 2, cudaMemcpyDeviceToHost) != cudaSuccess) return 1;

  double error = 0, norm = 0;
  for (int h = 0; h < kHeads; ++h) {
    std::vector<double> s(kDim * kDim);
    for (int t = 0; t < kTokens; ++t) {
      const int row = t * kRow + h * kDim;
      for (int v = 0; v < kDim; ++v) {
        double expected = 0;
        for (int k = 0; k < kDim; ++k) {
          double& cell = s[static_cast<std::size_t>(k * kDim + v)];
          cell = cell * std::exp(gate(row + k)) + input(row + k, 1) * input(row + v, 2);
          expected += input(row + k, 0) * cell / std::sqrt(kDim);
        }
        error += std::pow(from_bf16(result[static_cast<std::size_t>(row + v)]) - expected, 2);
        norm += expected * expected;
      }
    }
  }
  std::printf("prefill and decode: relative error %.5f\n", std::sqrt(error / norm));
  cudaFree(inputs), cudaFree(o), cudaFree(state), cudaFree(workspace);
  return std::sqrt(error / norm) < 0.005 ? 0 : 1;
}
