// libgla on a GPU: outputs, streams, capture, workspace, host time. Skipped, visibly, without one.
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <random>
#include <thread>

#include "allocations.h"
#include "bars.h"
#include "call.h"
#include "catch.h"
#include "driver.h"
#include "element.h"
#include "files.h"
#include "gla/generator/space.h"
#include "gpu_needed.h"
#include "reference.h"
#include "sample_table.h"

using namespace gla;
using namespace gla::test;

namespace {

const driver::Api& api() {
  return **driver::api();
}

void must(CUresult result) {
  const Status status = driver::check(api(), result, "driver");
  INFO(status.message());
  REQUIRE(status.ok());
}

class Buffer {
 public:
  explicit Buffer(std::size_t bytes) : bytes_(bytes) {
    must(api().cuMemAlloc(&address_, std::max<std::size_t>(bytes, 16)));
    must(api().cuMemsetD8Async(address_, 0xff, std::max<std::size_t>(bytes, 16), nullptr));  // NaN
    must(api().cuCtxSynchronize());  // the tests' stream does not wait for the default one
  }
  explicit Buffer(std::span<const std::byte> content) : Buffer(content.size()) {
    must(api().cuMemcpyHtoDAsync(address_, content.data(), content.size(), nullptr));
    must(api().cuCtxSynchronize());
  }
  ~Buffer() { (void)api().cuMemFree(address_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return reinterpret_cast<void*>(address_); }
  std::size_t size() const { return bytes_; }
  std::vector<std::byte> read() const {
    std::vector<std::byte> content(bytes_);
    must(api().cuCtxSynchronize());
    must(api().cuMemcpyDtoH(content.data(), address_, bytes_));
    return content;
  }

 private:
  CUdeviceptr address_ = 0;
  std::size_t bytes_;
};

/// A context over a private cubin folder, its primary context current in this thread, and a stream.
struct Device {
  driver::PrimaryContext primary = *driver::PrimaryContext::retain(0);
  driver::PrimaryContext::Scope scope{primary};
  CUstream stream = nullptr;
  std::unique_ptr<Context> context;
  std::vector<std::string> said;

  explicit Device(const std::string& table = "none", const std::string& cache = shared_cache()) {
    must(api().cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    ContextOptions options;
    options.table = table;
    options.cache_dir = cache;
    options.log = [this](LogLevel, const std::string& message) { said.push_back(message); };
    Result<std::unique_ptr<Context>> made = Context::create(options);
    INFO(made.status().message());
    REQUIRE(made.ok());
    context = *std::move(made);
  }
  ~Device() {
    (void)api().cuStreamSynchronize(stream);
    context.reset();
    (void)api().cuStreamDestroy(stream);
  }

  bool heard(const std::string& text) const {
    return std::any_of(said.begin(), said.end(),
                       [&](const std::string& line) { return line.find(text) != std::string::npos; });
  }

  static const std::string& shared_cache() {
    static const TemporaryFolder folder;
    static const std::string path = folder.path().string();
    return path;
  }
};

/// Random inputs of a problem on the host and the device, and the call over them.
struct Case {
  std::mt19937 generator{7};
  ReferenceInput input;
  ForwardCall call;
  std::vector<std::unique_ptr<Buffer>> buffers;
  Buffer* o = nullptr;
  Buffer* initial_state = nullptr;
  Buffer* final_state = nullptr;

  Case(const Problem& problem, std::int64_t batch, std::int64_t tokens, std::int64_t heads,
       std::vector<std::int64_t> cu_seqlens = {}) {
    const std::int64_t rows = batch * tokens * heads;
    input.problem = problem;
    input.batch = batch;
    input.tokens = tokens;
    input.heads = heads;
    input.cu_seqlens = cu_seqlens;
    input.q = random(rows * problem.group * problem.head_dim_k, problem.dtype);
    input.k = random(rows * problem.head_dim_k, problem.dtype);
    input.v = random(rows * problem.head_dim_v, problem.dtype);
    input.gk = random(rows * problem.head_dim_k, problem.gate_dtype, true);
    const std::int64_t states = input.sequences() * heads * problem.head_dim_k * problem.head_dim_v;
    input.initial_state = random(states, problem.state_dtype);

    const int query_heads = static_cast<int>(heads) * problem.group;
    call.q = dense(put(problem.dtype, input.q)->data(), tokens, query_heads, problem.head_dim_k);
    call.k = dense(put(problem.dtype, input.k)->data(), tokens, heads, problem.head_dim_k);
    call.v = dense(put(problem.dtype, input.v)->data(), tokens, heads, problem.head_dim_v);
    call.gk = dense(put(problem.gate_dtype, input.gk)->data(), tokens, heads, problem.head_dim_k);
    o = empty(static_cast<std::size_t>(rows * problem.group * problem.head_dim_v) * size_of(problem.dtype));
    call.o = dense(o->data(), tokens, query_heads, problem.head_dim_v);
    initial_state = put(problem.state_dtype, input.initial_state);
    call.initial_state = initial_state->data();
    final_state = empty(static_cast<std::size_t>(states) * size_of(problem.state_dtype));
    call.final_state = final_state->data();
    if (!cu_seqlens.empty()) {
      const auto* bytes = reinterpret_cast<const std::byte*>(input.cu_seqlens.data());
      buffers.push_back(std::make_unique<Buffer>(std::span(bytes, 8 * cu_seqlens.size())));
      call.cu_seqlens = buffers.back()->data();
      call.cu_seqlens_host = input.cu_seqlens.data();
      call.cu_seqlens_is_int64 = true;
      call.sequences = input.sequences();
    }
    call.batch = batch;
    call.tokens = tokens;
    call.query_heads = query_heads;
    call.heads = static_cast<int>(heads);
    call.head_dim_k = problem.head_dim_k;
    call.head_dim_v = problem.head_dim_v;
    call.dtype = problem.dtype;
    call.gate_dtype = problem.gate_dtype;
    call.fp32_gate_gradients = problem.fp32_gate_gradients;
    call.state_dtype = problem.state_dtype;
  }

  std::vector<float> random(std::int64_t count, DType dtype, bool gate = false) {
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) {
      const float x = normal(generator);
      value = round_to(dtype, gate ? -std::log1p(std::exp(-x)) / 16 : x);
    }
    return values;
  }
  Buffer* put(DType dtype, const std::vector<float>& values) {
    buffers.push_back(std::make_unique<Buffer>(encode(dtype, values)));
    return buffers.back().get();
  }
  Buffer* empty(std::size_t bytes) {
    buffers.push_back(std::make_unique<Buffer>(bytes));
    return buffers.back().get();
  }

  /// Runs the call and compares both outputs with the fp64 recurrence.
  void verify(Device& device, Operation operation) {
    const Result<std::size_t> bytes = device.context->workspace_bytes(operation, call);
    REQUIRE(bytes.ok());
    const Buffer workspace(*bytes);
    const Status status = device.context->forward(operation, call, workspace.data(), *bytes, device.stream);
    INFO(status.message());
    REQUIRE(status.ok());
    const ReferenceOutput expected = naive(input);
    const Bar bar = accuracy_bar(input.problem, Gates::sixteenth, Accuracy::standard);
    CHECK(error(decode(input.problem.dtype, o->read()), expected.o) <= bar.o);
    CHECK(error(decode(input.problem.state_dtype, final_state->read()), expected.final_state) <=
          bar.final_state);
  }

  /// Runs the gradients of the call, from random ones of both outputs, and compares them with the reference.
  void verify_backward(Device& device) {
    const Problem& problem = input.problem;
    const ReferenceLoss loss{
        random(static_cast<std::int64_t>(o->size() / size_of(problem.dtype)), problem.dtype),
        random(static_cast<std::int64_t>(input.initial_state.size()), DType::fp32)};
    const ReferenceGradients expected = naive_backward(input, loss);
    const Bar bar = accuracy_bar(problem, Gates::sixteenth, Accuracy::standard);
    BackwardCall backward;
    backward.forward = call;
    backward.forward.o = {};
    backward.forward.final_state = nullptr;
    backward.d_o = call.o;
    backward.d_o.data = put(problem.dtype, loss.o)->data();
    backward.d_final_state = put(DType::fp32, loss.final_state)->data();
    const Buffer* d_initial_state = empty(expected.initial_state.size() * sizeof(float));
    backward.d_initial_state = d_initial_state->data();
    struct Gradient {
      TensorView BackwardCall::*view;
      TensorView like;
      DType dtype;
      const std::vector<double>& expected;
      double bar;
      const Buffer* memory = nullptr;
    };
    Gradient gradients[] = {
        {&BackwardCall::dq, call.q, problem.dtype, expected.q, bar.dq},
        {&BackwardCall::dk, call.k, problem.dtype, expected.k, bar.dk},
        {&BackwardCall::dv, call.v, problem.dtype, expected.v, bar.dv},
        {&BackwardCall::dgk, call.gk, gate_gradient_dtype(problem), expected.gk, bar.dgk}};
    for (Gradient& gradient : gradients) {
      gradient.memory = empty(gradient.expected.size() * size_of(gradient.dtype));
      backward.*gradient.view = gradient.like;
      (backward.*gradient.view).data = gradient.memory->data();
    }
    const Result<std::size_t> bytes = device.context->workspace_bytes(Operation::chunk_backward, call);
    REQUIRE(bytes.ok());
    const Buffer workspace(*bytes);
    const Status status = device.context->chunk_backward(backward, workspace.data(), *bytes, device.stream);
    INFO(status.message());
    REQUIRE(status.ok());
    for (const Gradient& gradient : gradients)
      CHECK(error(decode(gradient.dtype, gradient.memory->read()), gradient.expected) <= gradient.bar);
    CHECK(error(decode(DType::fp32, d_initial_state->read()), expected.initial_state) <= bar.d_initial_state);
  }

  static double error(const std::vector<float>& value, const std::vector<double>& reference) {
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < value.size(); ++i) {
      difference += std::pow(static_cast<double>(value[i]) - reference[i], 2);
      norm += std::pow(reference[i], 2);
    }
    return std::sqrt(difference / norm);
  }
};

Variant first_of(const Problem& problem, Family family, const Architecture& architecture) {
  for (const Variant& variant : space(problem, architecture)) {
    if (variant.family == family && meant_for(problem, variant, Accuracy::standard)) return variant;
  }
  FAIL("no variant of family " << to_string(family));
  return {};
}

}  // namespace

TEST_CASE("both operations agree with the fp64 recurrence, padded and packed, grouped and not") {
  if (no_gpu()) return;
  Device device;
  for (const int group : {1, 4}) {
    Problem problem = chunk_problem(64, 128);
    problem.group = static_cast<std::int16_t>(group);
    Case(problem, 2, 200, 2).verify(device, Operation::chunk_forward);
    Case(problem, 1, 300, 2, {0, 0, 1, 17, 300}).verify(device, Operation::chunk_forward);
    problem.operation = Operation::recurrent_forward;
    Case(problem, 3, 5, 2).verify(device, Operation::recurrent_forward);
    Case(problem, 1, 12, 2, {0, 4, 4, 12}).verify(device, Operation::recurrent_forward);
  }
}

TEST_CASE("gradients agree with those of the fp64 recurrence, padded and packed, grouped and not") {
  if (no_gpu()) return;
  Device device;
  for (const int group : {1, 4}) {
    Problem problem = chunk_problem(64, 128);
    problem.operation = Operation::chunk_backward;
    problem.group = static_cast<std::int16_t>(group);
    for (const bool fp32_gate_gradients : {false, true}) {
      problem.fp32_gate_gradients = fp32_gate_gradients;
      Case(problem, 2, 200, 2).verify_backward(device);
      Case(problem, 1, 300, 2, {0, 0, 1, 17, 300}).verify_backward(device);
    }
  }
}

TEST_CASE("the segmented family gets its workspace, and too small a one is refused") {
  if (no_gpu()) return;
  Device device;
  const Problem problem = chunk_problem(64, 64);
  const Architecture architecture = driver::device(0)->architecture;
  REQUIRE(device.context->pin(problem, first_of(problem, Family::segmented, architecture)).ok());
  Case run(problem, 1, 1000, 2, {0, 0, 1, 16, 17, 1000});
  run.verify(device, Operation::chunk_forward);

  const std::size_t needed = *device.context->workspace_bytes(Operation::chunk_forward, run.call);
  REQUIRE(needed > 0);
  const Buffer workspace(needed);
  Status status = device.context->chunk_forward(run.call, workspace.data(), needed - 1, device.stream);
  CHECK(status.code() == StatusCode::workspace);
  CHECK(status.message().find(fmt::format("workspace_size is {} bytes", needed - 1)) == 0);
  status = device.context->chunk_forward(run.call, nullptr, needed, device.stream);
  CHECK(status.code() == StatusCode::workspace);
  CHECK(status.message().find("workspace is null") == 0);
}

TEST_CASE("the final state may be the initial state, and without tokens it is a copy of it") {
  if (no_gpu()) return;
  Device device;
  Problem problem = recurrent_problem();
  Case run(problem, 2, 1, 4);
  const std::vector<std::byte> before = run.initial_state->read();
  run.call.tokens = 0;
  REQUIRE(device.context->recurrent_forward(run.call, nullptr, 0, device.stream).ok());
  CHECK(run.final_state->read() == before);
  run.call.initial_state = nullptr;
  REQUIRE(device.context->recurrent_forward(run.call, nullptr, 0, device.stream).ok());
  CHECK(run.final_state->read() == std::vector<std::byte>(before.size()));

  run.call.tokens = 1;
  run.call.initial_state = run.call.final_state = run.initial_state->data();
  REQUIRE(device.context->recurrent_forward(run.call, nullptr, 0, device.stream).ok());
  CHECK(Case::error(decode(DType::fp32, run.initial_state->read()), naive(run.input).final_state) < 1e-4);
}

TEST_CASE("an unprepared call is refused during capture, a prepared one is captured and replays") {
  if (no_gpu()) return;
  Device device;
  const Problem problem = recurrent_problem();
  Case run(problem, 4, 1, 8);
  const auto capture = [&] {
    CUgraph graph = nullptr;
    must(api().cuStreamBeginCapture(device.stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    const Status status = device.context->recurrent_forward(run.call, nullptr, 0, device.stream);
    must(api().cuStreamEndCapture(device.stream, &graph));
    return std::pair(status, graph);
  };
  auto [refused, empty_graph] = capture();
  CHECK(refused.code() == StatusCode::not_prepared);
  CHECK(refused.message().find("prepare()") != std::string::npos);
  (void)api().cuGraphDestroy(empty_graph);

  const Workload workload = workload_of(run.call);
  REQUIRE(device.context->prepare({&problem, 1}, {&workload, 1}).ok());
  auto [accepted, graph] = capture();
  INFO(accepted.message());
  REQUIRE(accepted.ok());
  CUgraphExec executable = nullptr;
  must(api().cuGraphInstantiateWithFlags(&executable, graph, 0));
  must(api().cuGraphLaunch(executable, device.stream));
  must(api().cuStreamSynchronize(device.stream));
  CHECK(Case::error(decode(problem.dtype, run.o->read()), naive(run.input).o) < 0.01);
  (void)api().cuGraphExecDestroy(executable);
  (void)api().cuGraphDestroy(graph);
}

TEST_CASE("a stream of another device is refused by name") {
  if (no_gpu()) return;
  if (driver::devices()->size() < 2) {
    WARN("one GPU: a stream of another device cannot be made");
    return;
  }
  Device device;
  Case run(recurrent_problem(), 1, 1, 2);
  const driver::PrimaryContext other = *driver::PrimaryContext::retain(1);
  CUstream foreign = nullptr;
  {
    const driver::PrimaryContext::Scope scope(other);
    must(api().cuStreamCreate(&foreign, CU_STREAM_NON_BLOCKING));
  }
  const Status status = device.context->recurrent_forward(run.call, nullptr, 0, foreign);
  CHECK(status.code() == StatusCode::invalid_argument);
  CHECK(status.message().find("stream belongs to another context") == 0);
  (void)api().cuStreamDestroy(foreign);
}

TEST_CASE("a thread without a current context may call") {
  if (no_gpu()) return;
  Device device;
  Case run(recurrent_problem(), 1, 1, 2);
  Status status;
  std::thread([&] {
    status = device.context->recurrent_forward(run.call, nullptr, 0, device.stream);
  }).join();
  INFO(status.message());
  CHECK(status.ok());
}

TEST_CASE("a damaged cubin is rebuilt, and the log says so") {
  if (no_gpu()) return;
  const TemporaryFolder folder;
  const Device current;
  Case run(recurrent_problem(), 1, 1, 2);
  {
    Device device("none", folder.path().string());
    REQUIRE(device.context->recurrent_forward(run.call, nullptr, 0, device.stream).ok());
    CHECK(device.heard("compiled"));
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    REQUIRE(write_file(entry.path(), "damaged").ok());
  Device device("none", folder.path().string());
  REQUIRE(device.context->recurrent_forward(run.call, nullptr, 0, device.stream).ok());
  CHECK(device.heard("damaged cache entry"));
}

TEST_CASE("a warm call costs the host under 5 microseconds and allocates nothing") {
  if (no_gpu()) return;
  Device device;
  for (const Operation operation : {Operation::chunk_forward, Operation::recurrent_forward}) {
    Problem problem = chunk_problem(64, 64);
    problem.operation = operation;
    Case run(problem, 1, operation == Operation::chunk_forward ? 64 : 1, 2);
    const std::size_t bytes = *device.context->workspace_bytes(operation, run.call);
    const Buffer workspace(bytes);
    const auto call = [&] {
      return device.context->forward(operation, run.call, workspace.data(), bytes, device.stream).ok();
    };
    for (int i = 0; i < 20; ++i) REQUIRE(call());
    must(api().cuStreamSynchronize(device.stream));
    const long before = allocations();
    double best = 1;
    bool ok = true;
    for (int batch = 0; batch < 20; ++batch) {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < 50; ++i) ok = call() && ok;
      best = std::min(best,
                      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 50);
      must(api().cuStreamSynchronize(device.stream));
    }
    CHECK(ok);
    CHECK(allocations() == before);
    WARN(to_string(operation) << ": " << 1e6 * best << " us of host time");
    CHECK(best < 5e-6);
  }
}

TEST_CASE("tensors of more than 2^31 elements work") {
  if (no_gpu()) return;
  Device device;
  constexpr std::int64_t kBatch = 3, kTokens = 65536, kHeads = 96, kDim = 128;  // 2.4e9 elements
  constexpr std::size_t kBytes = 2 * kBatch * kTokens * kHeads * kDim;
  std::size_t free_bytes = 0, total = 0;
  must(api().cuMemGetInfo(&free_bytes, &total));
  if (free_bytes < 5 * kBytes + (std::size_t{4} << 30)) {
    WARN("not enough GPU memory for this test");
    return;
  }
  const Buffer q(kBytes), k(kBytes), v(kBytes), o(kBytes);
  // bf16 ones everywhere, no gates: o of token t is K^0.5 * (t + 1).
  for (const Buffer* each : {&q, &k, &v})
    must(api().cuMemsetD32Async(reinterpret_cast<CUdeviceptr>(each->data()), 0x3f803f80, kBytes / 4,
                                device.stream));
  ForwardCall call;
  call.q = dense(q.data(), kTokens, kHeads, kDim);
  call.k = dense(k.data(), kTokens, kHeads, kDim);
  call.v = dense(v.data(), kTokens, kHeads, kDim);
  call.o = dense(o.data(), kTokens, kHeads, kDim);
  call.batch = kBatch;
  call.tokens = kTokens;
  call.query_heads = call.heads = kHeads;
  call.head_dim_k = call.head_dim_v = kDim;
  const std::size_t bytes = *device.context->workspace_bytes(Operation::chunk_forward, call);
  const Buffer workspace(bytes);
  const Status status = device.context->chunk_forward(call, workspace.data(), bytes, device.stream);
  INFO(status.message());
  REQUIRE(status.ok());
  must(api().cuStreamSynchronize(device.stream));
  std::vector<std::byte> last(2);
  must(api().cuMemcpyDtoH(last.data(), reinterpret_cast<CUdeviceptr>(o.data()) + kBytes - 2, 2));
  CHECK(std::abs(decode(DType::bf16, last)[0] / (std::sqrt(128.0f) * kTokens) - 1) < 0.01);
}
