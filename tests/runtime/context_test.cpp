// Whole contexts over the fake driver (fake_driver.cpp) and NVRTC: everything but the kernels' results.
#include <fmt/format.h>

#include <chrono>
#include <stdexcept>
#include <thread>

#include "allocations.h"
#include "context_fixture.h"

using namespace gla;
using namespace gla::test;

namespace {

/// Some variant of the family, which the context's calls of the problem get from now on.
Variant pin_one(const Fixture& fixture, const Problem& problem, Family family) {
  const std::vector<Variant> all = variants(problem);
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Variant& variant) { return variant.family == family; });
  REQUIRE(found != all.end());
  REQUIRE(fixture.context->pin(problem, *found).ok());
  return *found;
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
  pin_one(fixture, problem, Family::segmented);
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

TEST_CASE("segments that need nothing of each other read a copy of a state that is written in place") {
  if (cannot_run()) return;
  static KernelArgs seen;
  Fixture fixture;
  constexpr std::size_t kFloats = 4 * 32 * 32;
  static float state[kFloats];
  alignas(256) static float room[kFloats];
  std::fill(std::begin(state), std::end(state), 3.0f);
  ForwardCall call =
      made_up_call({.tokens = 4096, .query_heads = 4, .heads = 4, .head_dim_k = 32, .head_dim_v = 32});
  const Problem problem = problem_of(Operation::chunk_forward, call);
  const Variant overlapped = pin_one(fixture, problem, Family::overlapped);
  const auto bytes = [&] { return *fixture.context->workspace_bytes(Operation::chunk_forward, call); };
  call.initial_state = state;
  CHECK(bytes() == 0);
  call.final_state = state;
  REQUIRE(bytes() == sizeof room);
  CHECK(fixture.context->chunk_forward(call, room, sizeof room - 4, fixture.stream).code() ==
        StatusCode::workspace);
  launch_observer() = [](const void* parameter) { seen = *static_cast<const KernelArgs*>(parameter); };
  REQUIRE(fixture.context->chunk_forward(call, room, sizeof room, fixture.stream).ok());
  launch_observer() = nullptr;
  CHECK(seen.initial_state == room);
  CHECK(seen.final_state == state);
  CHECK(seen.segments == overlapped[Parameter::segments]);
  CHECK(std::equal(std::begin(state), std::end(state), std::begin(room)));
  CHECK(bytes() == sizeof room);
}

TEST_CASE("a call whose later kernels need too large a grid enqueues none of them") {
  if (cannot_run()) return;
  Fixture fixture;
  ForwardCall call = decode_call();
  call.batch = 1 << 26;
  call.initial_state = call.final_state = data(0x6000);  // so that there is a scan, which has the most blocks
  const Problem problem = problem_of(Operation::chunk_forward, call);
  pin_one(fixture, problem, Family::segmented);
  const long before = *counter("fake_launches");
  const Status status = fixture.context->chunk_forward(call, workspace, kMuchWorkspace << 20, fixture.stream);
  CHECK(status.code() == StatusCode::unsupported);
  CHECK(*counter("fake_launches") == before);
}

TEST_CASE("a backward call makes three launches, or as many as its gradients need", "[wide]") {
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
