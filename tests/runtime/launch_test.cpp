// What a plan's launches get: their arguments, the workspace, tensor maps, and which of them a call needs.
#include <cstring>

#include "allocations.h"
#include "context_fixture.h"

using namespace gla;
using namespace gla::test;

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
  plan.reads_late = true;
  KernelArgs args;
  place_workspace(args, plan, nullptr);
  CHECK(args.segments == 3);
  args.initial_state = args.final_state = data(0x7000);
  place_workspace(args, plan, nullptr);
  CHECK(args.segments == 1);
  // Those that keep states of their own read the initial one before any writes the final one.
  plan.segment_tokens = 64;
  plan.reads_late = false;
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

TEST_CASE("a launch aside is on another stream, between what its call found and what comes after it") {
  if (cannot_run()) return;
  struct Event {
    std::string what;
    const void *stream, *event;
    int priority;
  };
  static std::vector<Event> seen;
  const Fixture fixture;
  const LoadedKernels kernels = made_up_kernels();
  LaunchPlan plan;
  plan.launches.add({.grid = 2, .threads = 128, .needs = kGradientQ});
  plan.launches.add({.grid = 3, .threads = 128, .needs = kGradientV, .aside = true});
  plan.launches.add({.grid = 4, .threads = 128, .needs = kGradientK});
  const auto launched = [&](unsigned wanted) {
    BackwardArgs args = backward_args(backward_call(wanted));
    place_workspace(args, plan, workspace);
    seen.clear();
    stream_observer() = [](const char* what, const void* stream, const void* event, int priority) {
      seen.push_back({what, stream, event, priority});
    };
    REQUIRE(kernels.launch(plan, args, fixture.stream).ok());
    stream_observer() = nullptr;
  };
  launched(kGradientQ | kGradientK | kGradientV);
  REQUIRE(seen.size() == 7);
  const std::vector<std::string> expected{"record", "wait", "launch", "launch", "launch", "record", "wait"};
  for (std::size_t i = 0; i < seen.size(); ++i) CHECK(seen[i].what == expected[i]);
  const void *const own = fixture.stream, *const side = seen[1].stream;
  CHECK(side != own);
  CHECK(seen[0].stream == own);
  CHECK(seen[1].event == seen[0].event);
  CHECK(seen[2].stream == own);
  CHECK(seen[3].stream == side);
  CHECK(seen[4].stream == own);
  CHECK(seen[5].stream == side);
  CHECK(seen[6].stream == own);
  CHECK(seen[6].event == seen[5].event);
  CHECK(seen[5].event != seen[0].event);
  CHECK(seen[2].priority == -5);
  CHECK(seen[3].priority == 0);
  CHECK(seen[4].priority == -5);

  // Alone it has nothing to run beside, and the others nothing aside.
  launched(kGradientV);
  REQUIRE(seen.size() == 1);
  CHECK(seen[0].stream == own);
  launched(kGradientQ | kGradientK);
  REQUIRE(seen.size() == 2);
  CHECK(seen[0].stream == own);
  CHECK(seen[1].stream == own);
  CHECK(seen[1].priority == 0);
}

TEST_CASE("the counters of walks in legs are zero before the first launch, whatever the workspace held") {
  if (cannot_run()) return;
  const Fixture fixture;
  const LoadedKernels kernels = made_up_kernels();
  std::vector<unsigned char> memory(4096, 0xff);
  LaunchPlan plan;
  plan.launches.add({.grid = 2, .threads = 128});
  plan.workspace_bytes = memory.size();
  plan.counters_offset = 1024;
  plan.counters_bytes = 512;
  plan.relays[1] = {.legs = 3, .leg_tokens = 64, .states_offset = 256, .counters_offset = 1024};
  plan.relays[2] = {.legs = 2, .leg_tokens = 96, .flows_offset = 512, .counters_offset = 1280};
  BackwardArgs args = backward_args(backward_call(kEveryGradient));
  place_workspace(args, plan, memory.data());
  CHECK(args.relay.legs == 0);
  CHECK(args.value_relay.legs == 3);
  CHECK(args.value_relay.leg_tokens == 64);
  CHECK(static_cast<void*>(args.value_relay.states) == memory.data() + 256);
  CHECK(static_cast<void*>(args.key_relay.flows) == memory.data() + 512);
  CHECK(static_cast<void*>(args.key_relay.counters) == memory.data() + 1280);
  REQUIRE(kernels.launch(plan, args, fixture.stream).ok());
  for (std::size_t i = 0; i < memory.size(); ++i) CHECK(memory[i] == (i >= 1024 && i < 1536 ? 0 : 0xff));
}
