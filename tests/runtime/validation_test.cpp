#include <limits>

#include "catch.h"
#include "made_up_call.h"

using namespace gla;
using namespace gla::test;

namespace {

/// A legal call, B = 2, T = 32, HQ = 8, H = 4, K = 64, V = 128.
ForwardCall good() {
  return made_up_call(
      {.batch = 2, .tokens = 32, .query_heads = 8, .heads = 4, .head_dim_k = 64, .head_dim_v = 128});
}

/// The gradients of that call, all of them, with fp32 states.
BackwardCall good_backward() {
  BackwardCall call;
  call.forward = good();
  call.forward.o = {};
  call.forward.initial_state = data(0x6000);
  call.d_o = dense(data(0x7000), 32, 8, 128);
  call.d_final_state = data(0x8000);
  call.dq = dense(data(0x9000), 32, 8, 64);
  call.dk = dense(data(0xa000), 32, 4, 64);
  call.dv = dense(data(0xb000), 32, 4, 128);
  call.dgk = dense(data(0xc000), 32, 4, 64);
  call.d_initial_state = data(0xd000);
  return call;
}

Status check_all(const ForwardCall& call, Operation operation = Operation::chunk_forward) {
  Status status = check_shapes(operation, call);
  return status.ok() ? check_tensors(call) : status;
}

Status check_all(const BackwardCall& call, Operation operation = Operation::chunk_backward) {
  Status status = check_shapes(operation, call.forward);
  return status.ok() ? check_tensors(operation, call) : status;
}

void refused(const char* argument, const Status& status) {
  INFO(argument << " | " << status.message());
  CHECK(status.code() == StatusCode::invalid_argument);
  CHECK(status.message().find(argument) == 0);
}

/// Applies a change to a legal call and expects a message that begins with the argument's name.
template <class Change>
void refused(const char* argument, Change change, Operation operation = Operation::chunk_forward) {
  ForwardCall call = good();
  change(call);
  refused(argument, check_all(call, operation));
}

template <class Change>
void backward_refused(const char* argument, Change change) {
  BackwardCall call = good_backward();
  change(call);
  refused(argument, check_all(call));
}

}  // namespace

TEST_CASE("a legal call passes, for every operation") {
  CHECK(check_all(good()).ok());
  CHECK(check_all(good(), Operation::recurrent_forward).ok());
  CHECK(check_all(good_backward()).ok());
}

TEST_CASE("null pointers are refused by name") {
  refused("q.data is null", [](ForwardCall& call) { call.q.data = nullptr; });
  refused("k.data is null", [](ForwardCall& call) { call.k.data = nullptr; });
  refused("v.data is null", [](ForwardCall& call) { call.v.data = nullptr; });
  refused("o.data is null", [](ForwardCall& call) { call.o.data = nullptr; });
}

TEST_CASE("an absent gate, state or length list is legal") {
  ForwardCall call = good();
  call.gk = {};
  CHECK(check_all(call).ok());
  CHECK_FALSE(problem_of(Operation::chunk_forward, call).gate_k);
  CHECK(problem_of(Operation::chunk_forward, call).gate_dtype == call.dtype);
}

TEST_CASE("unaligned pointers are refused by name") {
  refused("q.data is 0x1008", [](ForwardCall& call) { call.q.data = data(0x1008); });
  refused("gk.data is 0x4002", [](ForwardCall& call) { call.gk.data = data(0x4002); });
  refused("initial_state is 0x8", [](ForwardCall& call) { call.initial_state = data(8); });
  refused("final_state is 0x4", [](ForwardCall& call) { call.final_state = data(4); });
  refused("cu_seqlens is 0x4", [](ForwardCall& call) {
    call.batch = 1;
    call.sequences = 2;
    call.cu_seqlens_is_int64 = true;
    call.cu_seqlens = data(4);
  });
}

TEST_CASE("strides that vectors cannot follow are refused, those never stepped over are not") {
  refused("k.stride_token is 65", [](ForwardCall& call) { call.k.stride_token = 65; });
  refused("v.stride_head is -128", [](ForwardCall& call) { call.v.stride_head = -128; });
  refused("o.stride_batch is 0", [](ForwardCall& call) { call.o.stride_batch = 0; });
  refused("o.stride_head is 64; accepted: 128 and up", [](ForwardCall& call) { call.o.stride_head = 64; });
  refused("v spans", [](ForwardCall& call) {
    call.dtype = call.gate_dtype = DType::fp32;
    call.v.stride_batch = std::int64_t{1} << 62;
  });
  refused("q spans",
          [](ForwardCall& call) { call.q.stride_batch = std::numeric_limits<std::int64_t>::max() - 7; });
  ForwardCall call = good();
  call.batch = 1;
  call.k.stride_batch = 3;
  call.q.stride_token = 0;  // one row for all tokens
  CHECK(check_all(call).ok());
}

TEST_CASE("head dims that are no multiple of 8 need aligned rows only as far as they have them") {
  ForwardCall call = good();
  call.head_dim_k = 60;
  call.q = dense(call.q.data, 32, 8, 60);
  call.k = dense(call.k.data, 32, 4, 60);
  call.gk = dense(call.gk.data, 32, 4, 60);
  CHECK(check_all(call).ok());
  call.k.stride_token += 2;
  CHECK(check_all(call).message().find("k.stride_token is 242 elements; it must be a multiple of 4") == 0);
}

TEST_CASE("sizes outside the stated limits are refused by name") {
  refused("head_dim_k is 0", [](ForwardCall& call) { call.head_dim_k = 0; });
  refused("head_dim_k is 513; accepted: 1 to 512", [](ForwardCall& call) { call.head_dim_k = 513; });
  refused("head_dim_v is -1", [](ForwardCall& call) { call.head_dim_v = -1; });
  refused("heads is 0", [](ForwardCall& call) { call.heads = 0; });
  refused("query_heads is 6; accepted: a positive multiple of heads = 4",
          [](ForwardCall& call) { call.query_heads = 6; });
  refused("query_heads / heads is 65; accepted: 1 to 64", [](ForwardCall& call) { call.query_heads = 260; });
  refused("tokens is -1", [](ForwardCall& call) { call.tokens = -1; });
  refused("tokens is ", [](ForwardCall& call) { call.tokens = std::int64_t{1} << 41; });
  refused("batch is -2", [](ForwardCall& call) { call.batch = -2; });
  refused("sequences is 3; without cu_seqlens it must be 0 or batch = 2",
          [](ForwardCall& call) { call.sequences = 3; });
  refused("sequences * query_heads is", [](ForwardCall& call) { call.batch = 2147483647; });
  refused("scale is", [](ForwardCall& call) { call.scale = std::numeric_limits<float>::quiet_NaN(); });
}

TEST_CASE("features of the other operation are refused by name") {
  const auto give_gv = [](ForwardCall& call) { call.gv = dense(data(0x6000), 32, 4, 128); };
  refused("gv.data is not null; chunk_forward", give_gv);
  refused("reverse is true; chunk_forward", [](ForwardCall& call) { call.reverse = true; });
  refused("state_dtype is bf16; chunk_forward", [](ForwardCall& call) { call.state_dtype = DType::bf16; });
  refused(
      "state_dtype is fp16", [](ForwardCall& call) { call.state_dtype = DType::fp16; },
      Operation::recurrent_forward);
  refused("gate_dtype is fp16; accepted: fp32 or dtype = bf16",
          [](ForwardCall& call) { call.gate_dtype = DType::fp16; });
  ForwardCall call = good();
  give_gv(call);
  call.reverse = true;
  CHECK(check_all(call, Operation::recurrent_forward).ok());
}

TEST_CASE("enumerations beyond the last value are refused by name") {
  refused("dtype is 7", [](ForwardCall& call) { call.dtype = static_cast<DType>(7); });
  refused("accuracy is 2", [](ForwardCall& call) { call.accuracy = static_cast<Accuracy>(2); });
  CHECK(check_shapes(static_cast<Operation>(5), good()).message() == "operation is 5; accepted: 0 to 3");
}

TEST_CASE("o may not be one of the inputs; final_state may be initial_state") {
  refused("o.data is v.data; it must have memory of its own",
          [](ForwardCall& call) { call.o = dense(call.v.data, 32, 8, 128); });
  refused("o.data is initial_state", [](ForwardCall& call) { call.initial_state = call.o.data; });
  refused("o.data is final_state", [](ForwardCall& call) { call.final_state = call.o.data; });
  ForwardCall call = good();
  call.initial_state = call.final_state = data(0x7000);
  CHECK(check_all(call).ok());
}

TEST_CASE("cu_seqlens on the host are checked when given") {
  const std::int32_t lengths[] = {0, 0, 10, 32};
  const auto packed = [&](const void* host, std::int64_t sequences) {
    return [=](ForwardCall& call) {
      call.batch = 1;
      call.sequences = sequences;
      call.cu_seqlens = data(0x9000);
      call.cu_seqlens_host = host;
    };
  };
  ForwardCall call = good();
  packed(lengths, 3)(call);
  CHECK(check_all(call).ok());
  CHECK(workload_of(call) == Workload{3, 4, 32, true});
  refused("tokens is 2147483648; with int32 cu_seqlens", [&](ForwardCall& each) {
    packed(nullptr, 3)(each);
    each.tokens = std::int64_t{1} << 31;
  });

  const std::int32_t first[] = {1, 32};
  const std::int32_t descending[] = {0, 20, 10, 32};
  const std::int32_t last[] = {0, 20, 31};
  refused("cu_seqlens[0] is 1; it must be 0", packed(first, 1));
  refused("cu_seqlens[2] is 10, less than cu_seqlens[1] = 20", packed(descending, 3));
  refused("cu_seqlens[2] is 31; its last value must be tokens = 32", packed(last, 2));
  refused("batch is 2; with cu_seqlens it must be 1", [&](ForwardCall& each) {
    packed(nullptr, 3)(each);
    each.batch = 2;
  });
  refused("sequences is 0; with cu_seqlens", packed(nullptr, 0));
  refused("cu_seqlens_host is given but cu_seqlens",
          [&](ForwardCall& each) { each.cu_seqlens_host = lengths; });
}

TEST_CASE("a call without tokens or sequences needs no tensors") {
  ForwardCall call = good();
  call.tokens = 0;
  call.q.data = call.k.data = call.v.data = call.o.data = nullptr;
  CHECK(check_all(call).ok());
  call = good();
  call.batch = 0;
  CHECK(check_all(call).ok());
}

TEST_CASE("the kernels' arguments carry the call") {
  ForwardCall call = good();
  const KernelArgs args = kernel_args(call);
  CHECK(args.scale == 0.125f);
  CHECK(args.sequences == 2);
  CHECK(args.q.stride_token == 512);
  call.scale = 0.5f;
  CHECK(kernel_args(call).scale == 0.5f);
}

TEST_CASE("states of 2^31 elements and more are accepted") {
  BackwardCall call = good_backward();
  call.forward.batch = 1 << 16;  // 4 heads, 64 x 128: 2^31 elements
  CHECK(check_all(call).message() == "");
  call.forward.final_state = data(0x10000);
  for (const Operation operation : kOperations) CHECK(check_shapes(operation, call.forward).message() == "");
}

TEST_CASE("only recurrent_backward has fewer tokens than the others") {
  ForwardCall call = good();
  call.initial_state = call.final_state = nullptr;
  call.tokens = (std::int64_t{1} << 30) + 1;
  for (const Operation operation : kOperations) {
    const Status status = check_shapes(operation, call);
    INFO(to_string(operation) << ": " << status.message());
    if (operation == Operation::recurrent_backward) {
      CHECK(status.message() == "tokens is 1073741825; accepted: 0 to 1073741824");
    } else {
      CHECK(status.ok());
    }
  }
}

TEST_CASE("a backward call needs its inputs and d_o, and none of the gradients") {
  BackwardCall call = good_backward();
  call.dq = call.dk = call.dv = call.dgk = {};
  call.d_initial_state = nullptr;
  call.d_final_state = call.forward.initial_state = nullptr;
  CHECK(check_all(call).ok());
  backward_refused("q.data is null", [](BackwardCall& each) { each.forward.q.data = nullptr; });
  backward_refused("d_o.data is null", [](BackwardCall& each) { each.d_o.data = nullptr; });
}

TEST_CASE("a backward call's o and final_state are not looked at") {
  BackwardCall call = good_backward();
  call.forward.o = {data(0x9002), -1, -1, -1};
  call.forward.final_state = data(2);
  CHECK(check_all(call).ok());
}

TEST_CASE("addresses and strides of a backward call are refused by name") {
  backward_refused("d_o.data is 0x7002", [](BackwardCall& call) { call.d_o.data = data(0x7002); });
  backward_refused("d_o.stride_head is 100", [](BackwardCall& call) { call.d_o.stride_head = 100; });
  backward_refused("dq.stride_token is 0; accepted: 64 and up",
                   [](BackwardCall& call) { call.dq.stride_token = 0; });
  backward_refused("dk.data is 0xa008", [](BackwardCall& call) { call.dk.data = data(0xa008); });
  backward_refused("dv.stride_head is 64; accepted: 128 and up",
                   [](BackwardCall& call) { call.dv.stride_head = 64; });
  backward_refused("dgk.stride_token is 257", [](BackwardCall& call) { call.dgk.stride_token = 257; });
  backward_refused("d_final_state is 0x8", [](BackwardCall& call) { call.d_final_state = data(8); });
  backward_refused("d_initial_state is 0x8", [](BackwardCall& call) { call.d_initial_state = data(8); });
  BackwardCall call = good_backward();
  call.d_o = {call.d_o.data, 0, 0, 0};  // a sum's gradient is one value
  CHECK(check_all(call).ok());
}

TEST_CASE("a gradient that shares its address with anything else is refused") {
  backward_refused("dk.data is k.data", [](BackwardCall& call) { call.dk.data = call.forward.k.data; });
  backward_refused("dv.data is d_o.data", [](BackwardCall& call) { call.dv.data = call.d_o.data; });
  backward_refused("dgk.data is dk.data", [](BackwardCall& call) { call.dgk.data = call.dk.data; });
  backward_refused("d_initial_state is initial_state",
                   [](BackwardCall& call) { call.d_initial_state = data(0x6000); });
  backward_refused("d_initial_state is d_final_state; it must have memory of its own",
                   [](BackwardCall& call) { call.d_initial_state = data(0x8000); });
}

TEST_CASE("dgk goes with gk, and with gates of 16 bits it needs dk") {
  backward_refused("dgk.data is not null; it goes with gk", [](BackwardCall& call) { call.forward.gk = {}; });
  backward_refused("dk.data is null; dgk of bf16 needs it", [](BackwardCall& call) { call.dk = {}; });
  BackwardCall call = good_backward();
  call.dk = {};
  call.forward.gate_dtype = DType::fp32;
  CHECK(check_all(call).ok());
  call.forward.gate_dtype = DType::bf16;
  call.forward.fp32_gate_gradients = true;
  CHECK(check_all(call).message() == "");
}

TEST_CASE(
    "fp32_gate_gradients are a problem of their own where gates have 16 bits and gradients are asked for") {
  BackwardCall call = good_backward();
  ForwardCall& forward = call.forward;
  const auto is_wide = [&](Operation operation) {
    return problem_of(operation, forward).fp32_gate_gradients;
  };
  CHECK_FALSE(is_wide(Operation::chunk_backward));
  forward.fp32_gate_gradients = true;
  for (const Operation operation : kOperations) CHECK(is_wide(operation) == is_backward(operation));
  call.dgk.stride_token += 2;
  CHECK(check_all(call).message() == "dgk.stride_token is 258 elements; it must be a multiple of 4");
  call = good_backward();
  forward.fp32_gate_gradients = true;
  forward.gate_dtype = DType::fp32;
  CHECK_FALSE(is_wide(Operation::chunk_backward));
  forward.gk = {};
  forward.gate_dtype = DType::bf16;
  CHECK_FALSE(is_wide(Operation::chunk_backward));
}

TEST_CASE("chunk_backward refuses what chunk_forward refuses, by its own name") {
  backward_refused("gv.data is not null; chunk_backward",
                   [](BackwardCall& call) { call.forward.gv = dense(data(0xe000), 32, 4, 128); });
  backward_refused("reverse is true; chunk_backward",
                   [](BackwardCall& call) { call.forward.reverse = true; });
  backward_refused("state_dtype is bf16; chunk_backward",
                   [](BackwardCall& call) { call.forward.state_dtype = DType::bf16; });
}

TEST_CASE("recurrent_backward takes gv and reverse, dgv beside gv only, and 16-bit dgk without dk") {
  BackwardCall call = good_backward();
  call.forward.reverse = true;
  call.forward.gv = dense(data(0xe000), 32, 4, 128);
  call.dgv = dense(data(0xf000), 32, 4, 128);
  call.dk = {};
  REQUIRE(call.forward.gate_dtype == DType::bf16);
  CHECK(check_all(call, Operation::recurrent_backward).message() == "");
  CHECK(backward_args(call).dgv.data == call.dgv.data);

  const auto changed = [&](const char* argument, auto change) {
    BackwardCall bad = call;
    change(bad);
    refused(argument, check_all(bad, Operation::recurrent_backward));
  };
  changed("dgv.data is not null; it goes with gv", [](BackwardCall& bad) { bad.forward.gv = {}; });
  changed("dgv.stride_token is 513", [](BackwardCall& bad) { bad.dgv.stride_token = 513; });
  changed("dgv.data is gv.data", [](BackwardCall& bad) { bad.dgv.data = bad.forward.gv.data; });
  changed("state_dtype is bf16; recurrent_backward",
          [](BackwardCall& bad) { bad.forward.state_dtype = DType::bf16; });
}

TEST_CASE("a backward kernel's arguments carry the call, without what only the forward pass writes") {
  BackwardCall call = good_backward();
  call.forward.o = dense(data(0x5000), 32, 8, 128);
  call.forward.final_state = data(0xf000);
  const BackwardArgs args = backward_args(call);
  CHECK(args.scale == 0.125f);
  CHECK(args.k.data == call.forward.k.data);
  CHECK(args.o.data == nullptr);
  CHECK(args.final_state == nullptr);
  CHECK(args.d_o.stride_token == 1024);
  CHECK(args.dq.data == call.dq.data);
  CHECK(args.dk.data == call.dk.data);
  CHECK(args.dv.data == call.dv.data);
  CHECK(args.dgk.data == call.dgk.data);
  CHECK(args.d_final_state == call.d_final_state);
  CHECK(args.d_initial_state == call.d_initial_state);
}
