/* The C ABI as far as a machine without a GPU can go, and a little further where there is one. */
#include <stdio.h>
#include <string.h>

#include "gla/gla.h"

static int failures = 0;

static void expect(int holds, const char* what) {
  if (!holds) {
    fprintf(stderr, "FAILED: %s (last error: %s)\n", what, gla_last_error());
    ++failures;
  }
}

static int says(const char* text) {
  return strstr(gla_last_error(), text) != NULL;
}

static void test_without_context(void) {
  gla_forward_call call;
  gla_backward_call backward;
  size_t bytes = 0;
  char line[64];
  memset(&call, 0, sizeof call);
  call.struct_size = sizeof call;
  memset(&backward, 0, sizeof backward);
  backward.struct_size = sizeof backward;
  expect(gla_abi_version() == GLA_ABI_VERSION, "the library's ABI version is the header's");
  expect(strcmp(gla_version(), "0.1.0") == 0, "the version is written major.minor.patch");
  expect(strcmp(gla_status_name(GLA_NOT_PREPARED), "GLA_NOT_PREPARED") == 0, "statuses have names");
  expect(strcmp(gla_status_name((gla_status)99), "unknown status") == 0, "an unknown status has a name too");
  expect(gla_context_create(NULL, NULL) == GLA_INVALID_ARGUMENT && says("context is NULL"),
         "out pointer is checked");
  expect(gla_forward(NULL, GLA_CHUNK_FORWARD, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("context is NULL"),
         "forward checks its context");
  expect(gla_backward(NULL, GLA_CHUNK_BACKWARD, &backward, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("context is NULL"),
         "backward checks its context");
  expect(gla_prepare(NULL, GLA_CHUNK_FORWARD, &call) == GLA_INVALID_ARGUMENT, "prepare checks its context");
  expect(gla_pin(NULL, GLA_CHUNK_FORWARD, &call, NULL) == GLA_INVALID_ARGUMENT, "pin checks its context");
  expect(gla_workspace_bytes(NULL, GLA_CHUNK_FORWARD, &call, NULL) == GLA_INVALID_ARGUMENT &&
             says("bytes is NULL"),
         "workspace_bytes checks its result");
  expect(gla_workspace_bytes(NULL, GLA_CHUNK_FORWARD, &call, &bytes) == GLA_INVALID_ARGUMENT,
         "workspace_bytes checks its context");
  expect(gla_describe(NULL, GLA_CHUNK_FORWARD, &call, NULL, 0) == GLA_INVALID_ARGUMENT,
         "describe checks its buffer");
  expect(gla_describe(NULL, GLA_CHUNK_FORWARD, &call, line, sizeof line) == GLA_INVALID_ARGUMENT,
         "describe checks its context");
  gla_context_destroy(NULL);
}

static void test_struct_sizes(void) {
  expect(sizeof(gla_forward_call) == 312 && sizeof(gla_backward_call) == 224,
         "structs that programs were built with keep their sizes");
  struct {
    gla_context_options options;
    long long future;
  } larger;
  gla_context* context = NULL;
  memset(&larger, 0, sizeof larger);
  expect(gla_context_create(NULL, &context) == GLA_INVALID_ARGUMENT && says("options is NULL"),
         "options are checked");
  expect(gla_context_create(&larger.options, &context) == GLA_INVALID_ARGUMENT &&
             says("options->struct_size is 0"),
         "a forgotten struct_size is named");
  larger.options.struct_size = (size_t)-1;
  expect(gla_context_create(&larger.options, &context) == GLA_INVALID_ARGUMENT &&
             says("options->struct_size is"),
         "a struct_size that was not set is named");
  larger.options.struct_size = sizeof larger;
  larger.future = 1;
  expect(gla_context_create(&larger.options, &context) == GLA_INVALID_ARGUMENT && says("does not know"),
         "a newer caller's request is not ignored silently");
  larger.future = 0;
  larger.options.max_multiprocessors = -1;
  expect(gla_context_create(&larger.options, &context) == GLA_INVALID_ARGUMENT &&
             says("max_multiprocessors is -1"),
         "a newer caller that asks for nothing new is served");
  expect(context == NULL, "no context comes of a failure");
}

static void test_with_context(gla_context* context) {
  gla_forward_call call;
  size_t bytes = 0;
  char line[512];
  memset(&call, 0, sizeof call);
  expect(gla_forward(context, GLA_CHUNK_FORWARD, NULL, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("call is NULL"),
         "a NULL call is named");
  expect(gla_forward(context, GLA_CHUNK_FORWARD, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("call->struct_size is 0"),
         "a call without its size is refused");
  call.struct_size = sizeof call;
  call.batch = 1;
  call.tokens = 64;
  call.query_heads = call.heads = 4;
  call.head_dim_k = call.head_dim_v = 64;
  call.dtype = call.gate_dtype = GLA_BF16;
  call.state_dtype = GLA_FP32;
  expect(gla_forward(context, (gla_operation)9, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("operation is 9; accepted: 0 to 3"),
         "an unknown operation is refused");
  call.dtype = (gla_dtype)300;
  expect(gla_forward(context, GLA_CHUNK_FORWARD, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("dtype is 300"),
         "an unknown dtype is refused");
  call.dtype = GLA_BF16;
  expect(gla_forward(context, GLA_CHUNK_FORWARD, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("q.data is null"),
         "a NULL tensor is refused");
  expect(gla_workspace_bytes(context, GLA_CHUNK_FORWARD, &call, &bytes) == GLA_OK,
         "the workspace can be asked for");
  expect(gla_describe(context, GLA_CHUNK_FORWARD, &call, line, sizeof line) == GLA_OK &&
             strchr(line, ';') != NULL,
         "the choice can be described");
  expect(gla_describe(context, GLA_CHUNK_FORWARD, &call, line, 8) == GLA_OK && strlen(line) == 7,
         "a description is cut at the buffer");
  expect(gla_prepare(context, GLA_CHUNK_FORWARD, &call) == GLA_OK, "a call can be prepared without pointers");
  expect(gla_pin(context, GLA_CHUNK_FORWARD, &call, "fused chunk=17") == GLA_INVALID_ARGUMENT,
         "a variant that cannot be read is refused");
}

static void test_backward(gla_context* context) {
  gla_forward_call forward;
  gla_backward_call call;
  memset(&forward, 0, sizeof forward);
  memset(&call, 0, sizeof call);
  expect(gla_backward(context, GLA_CHUNK_BACKWARD, NULL, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("call is NULL"),
         "a NULL backward call is named");
  expect(gla_backward(context, GLA_CHUNK_BACKWARD, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("call->struct_size is 0; it must be sizeof(*call)"),
         "a backward call without its size is refused");
  call.struct_size = sizeof call;
  expect(gla_backward(context, GLA_CHUNK_BACKWARD, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("call->forward is NULL"),
         "a backward call without its forward call is refused");
  call.forward = &forward;
  expect(gla_backward(context, GLA_CHUNK_BACKWARD, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("call->forward->struct_size is 0; it must be sizeof(*call->forward)"),
         "a forward call without its size is refused by the name that it has there");
  forward.struct_size = sizeof forward;
  forward.batch = forward.tokens = 1;
  forward.query_heads = forward.heads = 4;
  forward.head_dim_k = forward.head_dim_v = 64;
  forward.dtype = forward.gate_dtype = GLA_BF16;
  forward.state_dtype = GLA_FP32;
  expect(gla_backward(context, GLA_CHUNK_BACKWARD, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("q.data is null"),
         "the forward call's tensors are checked");
  /* Any aligned address will do: with no gradient wanted, nothing is launched. */
  forward.q.data = forward.k.data = forward.v.data = call.d_o.data = (void*)(uintptr_t)0x10000;
  expect(gla_backward(context, GLA_CHUNK_FORWARD, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("operation is chunk_forward; backward accepts chunk_backward, recurrent_backward"),
         "a forward operation is refused");
  expect(gla_forward(context, GLA_CHUNK_BACKWARD, &forward, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("operation is chunk_backward; forward accepts"),
         "a backward operation of gla_forward is refused");
  forward.q.stride_head = forward.k.stride_head = forward.v.stride_head = call.d_o.stride_head = 64;
  expect(gla_backward(context, GLA_CHUNK_BACKWARD, &call, NULL, 0, NULL) == GLA_OK,
         "a backward call that wants nothing is served");
  call.dq = forward.q;
  expect(gla_backward(context, GLA_CHUNK_BACKWARD, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("dq.data is q.data"),
         "the gradients arrive");
  call.dq.data = NULL;
  call.dgv = forward.q;
  expect(gla_backward(context, GLA_RECURRENT_BACKWARD, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("dgv.data is not null; it goes with gv"),
         "the gradient of gv arrives");
  call.dgv.data = NULL;
  call.dgk = forward.q;
  call.dgk.data = (void*)(uintptr_t)0x20000;
  forward.gk = forward.k;
  expect(gla_backward(context, GLA_CHUNK_BACKWARD, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("dk.data is null; dgk of bf16 needs it"),
         "gradients of gates have the gates' type");
  forward.fp32_gate_gradients = 1;
  call.d_initial_state = (void*)(uintptr_t)0x10008;
  expect(gla_backward(context, GLA_CHUNK_BACKWARD, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("d_initial_state is 0x10008"),
         "or fp32 on request");
  call.dgk.data = NULL;
  call.d_initial_state = (void*)(uintptr_t)0x10008;
  expect(gla_backward(context, GLA_CHUNK_BACKWARD, &call, NULL, 0, NULL) == GLA_INVALID_ARGUMENT &&
             says("d_initial_state is 0x10008"),
         "the gradients of states arrive");
}

int main(void) {
  gla_context_options options;
  gla_context* context = NULL;
  gla_status status;
  test_without_context();
  test_struct_sizes();

  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  status = gla_context_create(&options, &context);
  if (status == GLA_OK) {
    test_with_context(context);
    test_backward(context);
  } else {
    printf("no context (%s): %s\n", gla_status_name(status), gla_last_error());
    expect(status == GLA_CUDA && gla_last_error()[0] != '\0', "without a GPU the reason is given");
  }
  gla_context_destroy(context);
  if (failures == 0) printf("the C ABI holds\n");
  return failures == 0 ? 0 : 1;
}
