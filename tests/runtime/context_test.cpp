// Whole contexts over the fake driver (fake_driver.cpp) and NVRTC: everything but the kernels' results.
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "allocations.h"
#include "call.h"
#include "catch.h"
#include "compiler.h"
#include "driver.h"
#include "files.h"
#include "gla/generator/render.h"
#include "kernel.h"
#include "sample_table.h"

using namespace gla;
using namespace gla::test;

namespace {

std::atomic<long>* counter(const char* name) {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  return library == nullptr ? nullptr : static_cast<std::atomic<long>*>(dlsym(library, name));
}

/// True, with a line that CTest shows, where the driver is not the fake one or NVRTC is missing.
bool cannot_run() {
  if (counter("fake_launches") == nullptr) {
    WARN("SKIPPED: not over the fake driver; run it through CTest");
    return true;
  }
  if (const Result<std::string> version = nvrtc_version(); !version.ok()) {
    WARN("SKIPPED: " << version.status().message());
    return true;
  }
  return false;
}

const driver::Api& api() {
  return **driver::api();
}

/// One cubin folder for the whole run: each variant is compiled once.
const std::filesystem::path& cache_folder() {
  static const TemporaryFolder folder;
  return folder.path();
}

struct Fixture {
  std::vector<std::string> said;
  std::mutex said_mutex;
  driver::PrimaryContext primary = *driver::PrimaryContext::retain(0);
  driver::PrimaryContext::Scope scope{primary};
  CUstream stream = nullptr;
  std::unique_ptr<Context> context;

  explicit Fixture(const std::string& table = "none") {
    REQUIRE(api().cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS);
    ContextOptions options;
    options.table = table;
    options.cache_dir = cache_folder().string();
    options.log = [this](LogLevel, const std::string& message) {
      const std::lock_guard lock(said_mutex);
      said.push_back(message);
    };
    Result<std::unique_ptr<Context>> made = Context::create(options);
    INFO(made.status().message());
    REQUIRE(made.ok());
    context = *std::move(made);
  }
  ~Fixture() { (void)api().cuStreamDestroy(stream); }

  bool heard(const std::string& text) const {
    return std::any_of(said.begin(), said.end(),
                       [&](const std::string& line) { return line.find(text) != std::string::npos; });
  }
};

void* data(std::uintptr_t address) {
  return reinterpret_cast<void*>(address);
}

/// A recurrent call of one token over made-up addresses, or with real states.
ForwardCall decode_call() {
  ForwardCall call;
  call.q = dense(data(0x1000), 1, 4, 128);
  call.k = dense(data(0x2000), 1, 4, 128);
  call.v = dense(data(0x3000), 1, 4, 128);
  call.gk = dense(data(0x4000), 1, 4, 128);
  call.o = dense(data(0x5000), 1, 4, 128);
  call.batch = 2;
  call.tokens = 1;
  call.query_heads = call.heads = 4;
  call.head_dim_k = call.head_dim_v = 128;
  return call;
}

/// That call has no gv.
constexpr unsigned kEveryGradient = kAllGradients & ~kGradientGv;

/// Its gradients: bits of Gradient.
BackwardCall backward_call(unsigned wanted = kEveryGradient) {
  BackwardCall call;
  call.forward = decode_call();
  call.forward.o = {};
  call.d_o = dense(data(0x6000), 1, 4, 128);
  if (wanted & kGradientQ) call.dq = dense(data(0x7000), 1, 4, 128);
  if (wanted & kGradientK) call.dk = dense(data(0x8000), 1, 4, 128);
  if (wanted & kGradientV) call.dv = dense(data(0x9000), 1, 4, 128);
  if (wanted & kGradientGk) call.dgk = dense(data(0xa000), 1, 4, 128);
  if (wanted & kGradientState) call.d_initial_state = data(0xb000);
  return call;
}

constexpr std::size_t kMuchWorkspace = std::size_t{1} << 40;
void* const workspace = data(0x10000);

using LaunchObserver = std::atomic<void (*)(const void*)>;
LaunchObserver& launch_observer() {
  return *static_cast<LaunchObserver*>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), "fake_launch_observer"));
}

/// Of one entry, which the fake driver takes for a kernel. Its context must be current.
LoadedKernels made_up_kernels() {
  Result<LoadedKernels> kernels = LoadedKernels::load({{"\x7f"
                                                        "ELF"},
                                                       {"kernel"},
                                                       {}},
                                                      {});
  REQUIRE(kernels.ok());
  return *std::move(kernels);
}

}  // namespace

TEST_CASE("a call compiles once, launches, and later contexts load the cubin") {
  if (cannot_run()) return;
  std::atomic<long>& launches = *counter("fake_launches");
  const long before = launches;
  {
    Fixture fixture;
    REQUIRE(fixture.context->recurrent_forward(decode_call(), nullptr, 0, fixture.stream).ok());
    REQUIRE(fixture.context->recurrent_forward(decode_call(), nullptr, 0, nullptr).ok());
    CHECK(launches == before + 2);
    CHECK(fixture.heard("compiled"));
    CHECK(fixture.heard("(model)"));
  }
  CHECK(*counter("fake_loads") == 0);
  Fixture fixture;
  REQUIRE(fixture.context->recurrent_forward(decode_call(), nullptr, 0, fixture.stream).ok());
  CHECK(fixture.heard("loaded"));
}

TEST_CASE("a damaged cubin is rebuilt, and the context's log says so") {
  if (cannot_run()) return;
  { REQUIRE(Fixture().context->recurrent_forward(decode_call(), nullptr, 0, nullptr).ok()); }
  for (const auto& entry : std::filesystem::directory_iterator(cache_folder()))
    REQUIRE(write_file(entry.path(), "damaged").ok());
  Fixture fixture;
  REQUIRE(fixture.context->recurrent_forward(decode_call(), nullptr, 0, nullptr).ok());
  CHECK(fixture.heard("damaged cache entry"));
}

TEST_CASE("an unprepared call is refused during capture, a prepared one is not") {
  if (cannot_run()) return;
  Fixture fixture;
  const ForwardCall call = decode_call();
  CUgraph graph = nullptr;
  REQUIRE(api().cuStreamBeginCapture(fixture.stream, CU_STREAM_CAPTURE_MODE_GLOBAL) == CUDA_SUCCESS);
  const Status refused = fixture.context->recurrent_forward(call, nullptr, 0, fixture.stream);
  CHECK(refused.code() == StatusCode::not_prepared);
  CHECK(refused.message().find("recurrent_forward bf16 K128") == 0);
  (void)api().cuStreamEndCapture(fixture.stream, &graph);

  const Problem problem = problem_of(Operation::recurrent_forward, call);
  const Workload workload = workload_of(call);
  REQUIRE(fixture.context->prepare({&problem, 1}, {&workload, 1}).ok());
  REQUIRE(api().cuStreamBeginCapture(fixture.stream, CU_STREAM_CAPTURE_MODE_GLOBAL) == CUDA_SUCCESS);
  CHECK(fixture.context->recurrent_forward(call, nullptr, 0, fixture.stream).ok());
  (void)api().cuStreamEndCapture(fixture.stream, &graph);
}

TEST_CASE("a first call may come from a thread with no context or another device's current") {
  if (cannot_run()) return;
  const Fixture fixture;
  const driver::PrimaryContext other = *driver::PrimaryContext::retain(1);
  Status without, elsewhere;
  std::jthread([&] {
    ForwardCall call = decode_call();
    without = fixture.context->recurrent_forward(call, nullptr, 0, nullptr);
    const driver::PrimaryContext::Scope scope(other);
    call.gk = {};
    elsewhere = fixture.context->recurrent_forward(call, nullptr, 0, nullptr);
  }).join();
  CHECK(without.message().empty());
  CHECK(elsewhere.message().empty());
}

TEST_CASE("what a log callback throws while prepare() compiles comes back as a status") {
  if (cannot_run()) return;
  ContextOptions options;
  options.table = "none";
  options.cache_dir = cache_folder().string();
  std::atomic<bool> quiet = true;
  options.log = [&](LogLevel, const std::string&) {
    if (!quiet) throw std::runtime_error("the log is full");
  };
  const Result<std::unique_ptr<Context>> context = Context::create(options);
  REQUIRE(context.ok());
  quiet = false;
  const ForwardCall call = decode_call();
  std::vector<Problem> problems(2, problem_of(Operation::recurrent_forward, call));
  problems[1].gate_k = false;
  const Workload workload = workload_of(call);
  const Status status = (*context)->prepare(problems, {&workload, 1});
  CHECK(status.code() == StatusCode::internal);
  CHECK(status.message() == "the log is full");
}

TEST_CASE("a stream of another device is refused by name") {
  if (cannot_run()) return;
  Fixture fixture;
  const driver::PrimaryContext other = *driver::PrimaryContext::retain(1);
  CUstream foreign = nullptr;
  {
    const driver::PrimaryContext::Scope scope(other);
    REQUIRE(api().cuStreamCreate(&foreign, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS);
  }
  const Status status = fixture.context->recurrent_forward(decode_call(), nullptr, 0, foreign);
  CHECK(status.code() == StatusCode::invalid_argument);
  CHECK(status.message().find("stream belongs to another context") == 0);
  (void)api().cuStreamDestroy(foreign);
}

TEST_CASE("a device that is not there and an impossible option are refused by name") {
  if (cannot_run()) return;
  ContextOptions options;
  options.device = 2;
  CHECK(Context::create(options).status().message() == "device is 2; accepted: 0 to 1");
  options.device = 0;
  options.table = "/nonexistent/table.yaml";
  CHECK(Context::create(options).status().code() == StatusCode::io);
}

TEST_CASE("workspace: asked for, missing, too small and unaligned") {
  if (cannot_run()) return;
  Fixture fixture;
  ForwardCall call = decode_call();
  call.tokens = 4096;
  const Problem problem = problem_of(Operation::chunk_forward, call);
  const std::vector<Variant> all = variants(problem);
  const auto segmented = std::find_if(
      all.begin(), all.end(), [](const Variant& variant) { return variant.family == Family::segmented; });
  REQUIRE(segmented != all.end());
  REQUIRE(fixture.context->pin(problem, *segmented).ok());
  const auto run = [&](std::uintptr_t address, std::size_t size) {
    return fixture.context->chunk_forward(call, data(address), size, fixture.stream);
  };
  const std::size_t needed = *fixture.context->workspace_bytes(Operation::chunk_forward, call);
  REQUIRE(needed > 0);
  CHECK(run(0, needed).message() == fmt::format("workspace is null; this call needs {} bytes", needed));
  CHECK(run(0, needed).code() == StatusCode::workspace);
  CHECK(run(0x10000, needed - 1).code() == StatusCode::workspace);
  CHECK(run(0x10010, needed).message().find("workspace is 0x10010; it must be 256-byte aligned") == 0);
  const long before = *counter("fake_launches");
  CHECK(run(0x10000, needed).ok());
  CHECK(*counter("fake_launches") == before + 2);
  CHECK(*fixture.context->workspace_bytes(Operation::chunk_forward, call) == needed);
}

TEST_CASE("a call whose later kernels need too large a grid enqueues none of them") {
  if (cannot_run()) return;
  Fixture fixture;
  ForwardCall call = decode_call();
  call.batch = 1 << 24;
  call.initial_state = call.final_state = data(0x6000);  // so that there is a scan, which has the most blocks
  const Problem problem = problem_of(Operation::chunk_forward, call);
  const std::vector<Variant> all = variants(problem);
  const auto segmented = std::find_if(
      all.begin(), all.end(), [](const Variant& variant) { return variant.family == Family::segmented; });
  REQUIRE(segmented != all.end());
  REQUIRE(fixture.context->pin(problem, *segmented).ok());
  const long before = *counter("fake_launches");
  const Status status = fixture.context->chunk_forward(call, workspace, kMuchWorkspace << 20, fixture.stream);
  CHECK(status.code() == StatusCode::unsupported);
  CHECK(*counter("fake_launches") == before);
}

TEST_CASE("kernels that take boxes are launched with their tensor maps, others without") {
  if (cannot_run()) return;
  static TensorArgs seen;
  LaunchObserver& observer = launch_observer();
  const Fixture fixture;
  const LoadedKernels kernels = made_up_kernels();
  const auto address_in = [](const TensorMap& map) {
    void* address = nullptr;
    std::memcpy(&address, map.bytes, sizeof address);
    return address;
  };
  KernelArgs args = kernel_args(decode_call());
  LaunchPlan plan;
  plan.launches.add({.entry = 0, .grid = 3, .threads = 128});

  observer = [](const void* parameter) {
    static_cast<KernelArgs&>(seen) = *static_cast<const KernelArgs*>(parameter);
  };
  REQUIRE(kernels.launch(plan, args, fixture.stream).ok());
  CHECK(seen.o.data == args.o.data);

  plan.boxes = {.rows = 64, .head_dim_k = 128, .head_dim_v = 128, .element_bytes = 2, .gate_bytes = 2};
  observer = [](const void* parameter) { seen = *static_cast<const TensorArgs*>(parameter); };
  const long before = allocations();
  REQUIRE(kernels.launch(plan, args, fixture.stream).ok());
  CHECK(allocations() == before);
  CHECK(seen.scale == args.scale);
  CHECK(address_in(seen.maps.q) == args.q.data);
  CHECK(address_in(seen.maps.k) == args.k.data);
  CHECK(address_in(seen.maps.v) == args.v.data);
  CHECK(address_in(seen.maps.gk) == args.gk.data);
  CHECK(address_in(seen.maps.o) == args.o.data);
  observer = nullptr;

  const long launches = *counter("fake_launches");
  args.o.stride_batch = std::int64_t{1} << 39;
  const Status refused = kernels.launch(plan, args, fixture.stream);
  CHECK(refused.code() == StatusCode::unsupported);
  CHECK(refused.message().find("o.stride_batch is 1099511627776 bytes") == 0);
  CHECK(*counter("fake_launches") == launches);
}

TEST_CASE("segments that chain themselves need no scan, unless a final state takes the initial one's place") {
  LaunchPlan plan;
  plan.segment_tokens = 64;
  plan.segments = 2;
  KernelArgs args;
  const auto scans = [&](bool may_chain, const void* initial_state, void* final_state) {
    plan.may_chain = may_chain;
    args.initial_state = initial_state;
    args.final_state = final_state;
    place_workspace(args, plan, workspace);
    return needed_by(args) == kSegmentScan;
  };
  CHECK_FALSE(scans(true, nullptr, nullptr));
  CHECK_FALSE(scans(true, data(0x7000), data(0x8000)));
  CHECK(scans(true, data(0x7000), data(0x7000)));
  CHECK(scans(false, nullptr, nullptr));
}

TEST_CASE("overlapping segments are one if the final state takes the initial one's place") {
  LaunchPlan plan;
  plan.segments = 3;
  KernelArgs args;
  place_workspace(args, plan, nullptr);
  CHECK(args.segments == 3);
  args.initial_state = args.final_state = data(0x7000);
  place_workspace(args, plan, nullptr);
  CHECK(args.segments == 1);
  plan.segment_tokens =
      64;  // those that keep states of their own read the initial one before any writes the final one
  place_workspace(args, plan, workspace);
  CHECK(args.segments == 3);
}

TEST_CASE("of a backward plan, the launches are made that a wanted gradient needs") {
  if (cannot_run()) return;
  static BackwardArgs seen;
  const Fixture fixture;
  const LoadedKernels kernels = made_up_kernels();
  LaunchPlan plan;
  plan.workspace_bytes = 1024;
  plan.flows_offset = 256;
  plan.launches.add({.grid = 2, .threads = 128, .needs = kGradientQ | kGradientGk});
  plan.launches.add({.grid = 3, .threads = 128, .needs = kGradientV | kGradientState});
  plan.launches.add({.grid = 4, .threads = 128});
  const auto launches = [&](unsigned wanted) {
    BackwardArgs args = backward_args(backward_call(wanted));
    CHECK(wanted_gradients(args) == wanted);
    place_workspace(args, plan, workspace);
    const long launched = *counter("fake_launches"), allocated = allocations();
    REQUIRE(kernels.launch(plan, args, fixture.stream).ok());
    CHECK(allocations() == allocated);
    return *counter("fake_launches") - launched;
  };
  launch_observer() = [](const void* parameter) { seen = *static_cast<const BackwardArgs*>(parameter); };
  CHECK(launches(kGradientQ) == 2);
  CHECK(seen.dq.data == data(0x7000));
  CHECK(seen.dv.data == nullptr);
  CHECK(seen.flows == static_cast<float*>(workspace) + 64);
  CHECK(launches(kGradientV) == 2);
  CHECK(launches(kGradientK) == 1);
  CHECK(launches(kGradientGk | kGradientState) == 3);
  CHECK(launches(kEveryGradient) == 3);
  launch_observer() = nullptr;
}

TEST_CASE("a backward call makes three launches, or as many as its gradients need") {
  if (cannot_run()) return;
  Fixture fixture;
  const BackwardCall call = backward_call();
  const Problem problem = problem_of(Operation::chunk_backward, call.forward);
  const Workload workload = workload_of(call.forward);
  const LaunchPlan expected =
      plan(problem, fixture.context->choose(problem, workload, Accuracy::standard)->variant, workload);
  const std::pair<unsigned, long> launches[] = {{kEveryGradient, 3}, {kGradientQ, 1},
                                                {kGradientK, 1},     {kGradientV, 1},
                                                {kGradientState, 1}, {kGradientK | kGradientGk, 2}};
  for (const auto& [wanted, count] : launches) {
    const long before = *counter("fake_launches");
    const Status status =
        fixture.context->chunk_backward(backward_call(wanted), workspace, kMuchWorkspace, fixture.stream);
    INFO(status.message());
    REQUIRE(status.ok());
    CHECK(*counter("fake_launches") == before + count);
  }
  CHECK(*fixture.context->workspace_bytes(Operation::chunk_backward, call.forward) ==
        expected.workspace_bytes);
  const long allocated = allocations();
  REQUIRE(fixture.context->chunk_backward(call, workspace, kMuchWorkspace, fixture.stream).ok());
  CHECK(allocations() == allocated);
}

TEST_CASE("a recurrent backward call launches the walk over rows, that over columns, or both") {
  if (cannot_run()) return;
  Fixture fixture;
  // Of states as [K, V] the walk over rows writes the initial state's gradient.
  const std::pair<unsigned, long> launches[] = {
      {kEveryGradient, 2}, {kGradientQ, 1}, {kGradientV, 1}, {kGradientGk | kGradientState, 1}};
  for (const auto& [wanted, count] : launches) {
    const long before = *counter("fake_launches");
    const Status status =
        fixture.context->recurrent_backward(backward_call(wanted), workspace, kMuchWorkspace, fixture.stream);
    INFO(status.message());
    REQUIRE(status.ok());
    CHECK(*counter("fake_launches") == before + count);
  }
}

TEST_CASE("a backward call of which no gradient is wanted does nothing") {
  if (cannot_run()) return;
  const Fixture fixture;
  const long before = *counter("fake_launches");
  CHECK(fixture.context->chunk_backward(backward_call(0), nullptr, 0, nullptr).ok());
  CHECK(*counter("fake_launches") == before);
}

TEST_CASE("forward and backward refuse each other's operations by name") {
  if (cannot_run()) return;
  const Fixture fixture;
  const BackwardCall call = backward_call();
  CHECK(fixture.context->forward(Operation::chunk_backward, decode_call(), nullptr, 0, nullptr).message() ==
        "operation is chunk_backward; forward accepts chunk_forward, recurrent_forward");
  CHECK(fixture.context->backward(Operation::chunk_forward, call, nullptr, 0, nullptr).message() ==
        "operation is chunk_forward; backward accepts chunk_backward, recurrent_backward");
}

TEST_CASE("without tokens the states or their gradients are copied, without sequences nothing happens") {
  if (cannot_run()) return;
  Fixture fixture;
  alignas(16) static float initial[2 * 4 * 128 * 128];
  alignas(16) static float final[2 * 4 * 128 * 128];
  std::fill(std::begin(initial), std::end(initial), 3.0f);
  ForwardCall call = decode_call();
  call.tokens = 0;
  call.initial_state = initial;
  call.final_state = final;
  const long before = *counter("fake_launches");
  REQUIRE(fixture.context->chunk_forward(call, nullptr, 0, fixture.stream).ok());
  CHECK(std::equal(std::begin(initial), std::end(initial), std::begin(final)));
  call.initial_state = nullptr;
  REQUIRE(fixture.context->recurrent_forward(call, nullptr, 0, fixture.stream).ok());
  CHECK(std::all_of(std::begin(final), std::end(final), [](float value) { return value == 0; }));
  BackwardCall backward;
  backward.forward = call;
  backward.d_final_state = initial;
  backward.d_initial_state = final;
  REQUIRE(fixture.context->chunk_backward(backward, nullptr, 0, fixture.stream).ok());
  CHECK(std::equal(std::begin(initial), std::end(initial), std::begin(final)));
  backward.d_final_state = nullptr;
  REQUIRE(fixture.context->chunk_backward(backward, nullptr, 0, fixture.stream).ok());
  CHECK(std::all_of(std::begin(final), std::end(final), [](float value) { return value == 0; }));
  call.batch = backward.forward.batch = 0;
  REQUIRE(fixture.context->recurrent_forward(call, nullptr, 0, fixture.stream).ok());
  REQUIRE(fixture.context->chunk_backward(backward, nullptr, 0, fixture.stream).ok());
  CHECK(*counter("fake_launches") == before);
}

TEST_CASE("a wrong call is refused before anything is enqueued") {
  if (cannot_run()) return;
  Fixture fixture;
  ForwardCall call = decode_call();
  call.head_dim_k = 0;
  const long before = *counter("fake_launches");
  CHECK(fixture.context->recurrent_forward(call, nullptr, 0, nullptr).message() ==
        "head_dim_k is 0; accepted: 1 to 512");
  CHECK(fixture.context->workspace_bytes(Operation::recurrent_forward, call).status().code() ==
        StatusCode::invalid_argument);
  CHECK(*counter("fake_launches") == before);
}

TEST_CASE("a table's variant is chosen, and the log says which table and why") {
  if (cannot_run()) return;
  const TemporaryFolder folder;
  const std::string path = (folder.path() / "h100.yaml").string();
  REQUIRE(write_table(sample_table(), path).ok());
  Fixture fixture(path);
  const Result<Choice> choice =
      fixture.context->choose(recurrent_problem(), {64, 32, 1, false}, Accuracy::standard);
  REQUIRE(choice.ok());
  CHECK(choice->match == Match::exact);
  CHECK(choice->table == path);
  CHECK(fixture.heard("table " + path + " (ContextOptions::table)"));
}

TEST_CASE("a table made from other templates is used with a warning") {
  if (cannot_run()) return;
  const TemporaryFolder folder;
  ContextOptions options;
  options.table = (folder.path() / "h100.yaml").string();
  std::vector<LogLevel> levels;
  options.log = [&](LogLevel level, const std::string& message) {
    if (message.find("table " + options.table) == 0) levels.push_back(level);
  };
  Table table = sample_table();
  for (const std::string& hash :
       {templates_hash(Operation::chunk_forward), std::string("0123456789abcdef")}) {
    table.origin.templates[Operation::chunk_forward] = hash;
    REQUIRE(write_table(table, options.table).ok());
    REQUIRE(Context::create(options).ok());
  }
  CHECK(levels == std::vector{LogLevel::info, LogLevel::warning});
}

TEST_CASE("threads may make first calls at once") {
  if (cannot_run()) return;
  Fixture fixture;
  std::atomic<int> failures = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 6; ++t) {
      threads.emplace_back([&, t] {
        ForwardCall call = decode_call();
        for (int i = 0; i < 50; ++i) {
          call.batch = 1 + (t + i) % 9;
          if (!fixture.context->recurrent_forward(call, nullptr, 0, fixture.stream).ok()) ++failures;
        }
      });
    }
  }
  CHECK(failures == 0);
}

TEST_CASE("a warm call costs the host under 5 microseconds beside the driver, and allocates nothing") {
  if (cannot_run()) return;
  Fixture fixture;
  const ForwardCall call = decode_call();
  REQUIRE(fixture.context->recurrent_forward(call, nullptr, 0, fixture.stream).ok());
  const long before = allocations();
  double best = 1;
  bool ok = true;
  for (int batch = 0; batch < 50; ++batch) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 100; ++i)
      ok = fixture.context->recurrent_forward(call, nullptr, 0, fixture.stream).ok() && ok;
    best =
        std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 100);
  }
  CHECK(ok);
  CHECK(allocations() == before);
  WARN("a warm call beside the driver: " << 1e9 * best << " ns");
#if !defined(__SANITIZE_ADDRESS__)
  CHECK(best < 5e-6);
#endif
}
