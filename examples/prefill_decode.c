/* prefill_decode.cpp over the C ABI. prefill_decode_c [TABLE.yaml | none] */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gla/gla.h"

enum { PREFILL = 100, TOKENS = 104, HEADS = 2, DIM = 64, ROW = HEADS * DIM, SIZE = TOKENS * ROW };

/* Multiples of 1/8: exact in bf16, which is the upper half of a float. */
static float input(int i, int salt) {
  return (float)((i * 37 + i / 11 * 17 + salt * 101) % 17 - 8) / 8;
}
static float gate(int i) {
  return -(float)(i * 29 % 7) / 64;
}
static uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (uint16_t)(bits >> 16);
}
static float from_bf16(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static gla_context* context;
static uint16_t *inputs, *o; /* q, k, v, gk: [T, H, D] each; o: the same */
static float* state;         /* [H, K, V] */
static void* workspace;

static gla_tensor dense(uint16_t* data, int first, int count) {
  gla_tensor tensor = {data + first * ROW, (int64_t)count * ROW, ROW, DIM};
  return tensor;
}

/* Tokens [first, first + count), the state updated in place. */
static gla_status run(gla_operation operation, int first, int count) {
  size_t bytes = 0;
  gla_status status;
  gla_forward_call call;
  memset(&call, 0, sizeof call);
  call.struct_size = sizeof call;
  call.q = dense(inputs, first, count);
  call.k = dense(inputs + SIZE, first, count);
  call.v = dense(inputs + 2 * SIZE, first, count);
  call.gk = dense(inputs + 3 * SIZE, first, count);
  call.o = dense(o, first, count);
  call.initial_state = call.final_state = state;
  call.batch = 1;
  call.tokens = count;
  call.query_heads = call.heads = HEADS;
  call.head_dim_k = call.head_dim_v = DIM;
  call.dtype = call.gate_dtype = GLA_BF16;
  call.state_dtype = GLA_FP32;
  status = gla_workspace_bytes(context, operation, &call, &bytes);
  if (status != GLA_OK) return status;
  if (bytes > 0 && workspace == NULL) cudaMalloc(&workspace, bytes); /* only the prefill needs one */
  return gla_forward(context, operation, &call, workspace, bytes, NULL);
}

static double relative_error(const uint16_t* result) {
  double error = 0, norm = 0;
  for (int h = 0; h < HEADS; ++h) {
    for (int v = 0; v < DIM; ++v) {
      double s[DIM] = {0}; /* a column of the state */
      for (int t = 0; t < TOKENS; ++t) {
        const int row = t * ROW + h * DIM;
        double expected = 0;
        for (int k = 0; k < DIM; ++k) {
          s[k] = s[k] * exp(gate(row + k)) + input(row + k, 1) * input(row + v, 2);
          expected += input(row + k, 0) * s[k] / sqrt(DIM);
        }
        error += pow(from_bf16(result[row + v]) - expected, 2);
        norm += expected * expected;
      }
    }
  }
  return sqrt(error / norm);
}

int main(int argc, char** argv) {
  gla_context_options options = {0};
  options.struct_size = sizeof options;
  options.table = argc > 1 ? argv[1] : NULL;
  gla_status status = gla_context_create(&options, &context);
  if (status != GLA_OK) {
    printf("no context: %s\n", gla_last_error());
    return status == GLA_CUDA ? 77 : 1;
  }
  uint16_t* host = malloc(4 * SIZE * sizeof *host);
  for (int i = 0; i < SIZE; ++i) {
    for (int tensor = 0; tensor < 4; ++tensor)
      host[tensor * SIZE + i] = to_bf16(tensor == 3 ? gate(i) : input(i, tensor));
  }
  cudaMalloc((void**)&inputs, 4 * SIZE * sizeof *inputs);
  cudaMalloc((void**)&o, SIZE * sizeof *o);
  cudaMalloc((void**)&state, ROW * DIM * sizeof *state);
  cudaMemset(state, 0, ROW * DIM * sizeof *state);
  cudaMemcpy(inputs, host, 4 * SIZE * sizeof *inputs, cudaMemcpyHostToDevice);

  status = run(GLA_CHUNK_FORWARD, 0, PREFILL);
  for (int t = PREFILL; t < TOKENS && status == GLA_OK; ++t) status = run(GLA_RECURRENT_FORWARD, t, 1);
  if (status != GLA_OK) return printf("%s: %s\n", gla_status_name(status), gla_last_error()), 1;
  if (cudaMemcpy(host, o, SIZE * sizeof *o, cudaMemcpyDeviceToHost) != cudaSuccess) return 1;
  const double error = relative_error(host);
  printf("prefill and decode: relative error %.5f\n", error);
  free(host), cudaFree(inputs), cudaFree(o), cudaFree(state), cudaFree(workspace);
  gla_context_destroy(context);
  return error < 0.005 ? 0 : 1;
}
