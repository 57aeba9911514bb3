// Tensor copies and transaction barriers on the emulator: every element of a box, inside the tensor and outside, rings of
// slots, and what is wrong is noticed. Races between their users are among seeded_fault_test's.
#define GLA_EMULATOR
#include "device/tensor_copy.cuh"

#include <array>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.h"
#include "device/thread.cuh"
#include "device/warpgroup.cuh"
#include "guarded_memory.h"
#include "machine.h"
#include "tensor_map.h"

using namespace gla;
using emulator::launch;
using emulator::Options;
using emulator::Order;
using emulator::Swizzle;
using emulator::TiledTensor;

namespace {

using Element = unsigned short;
using Place = std::array<int, 4>;  ///< channel, token, head, batch

/// [batch, token, head, channel] with a different element everywhere and unmapped memory around.
struct Tensor4 {
  static constexpr Place kSizes{80, 10, 3, 2};
  static constexpr std::array<int, 4> kStrides{1, 240, 80, 2400};  ///< elements
  static constexpr int kElements = 4800;
  emulator::GuardedMemory memory{kElements * sizeof(Element), 16};

  Tensor4() {
    for (int i = 0; i < kElements; ++i) data()[i] = static_cast<Element>(i + 1);
  }
  Element* data() const { return reinterpret_cast<Element*>(memory.data()); }
  /// Where the element is; -1 outside.
  static int index(const Place& place) {
    int index = 0;
    for (std::size_t d = 0; d < 4; ++d) {
      if (place[d] < 0 || place[d] >= kSizes[d]) return -1;
      index += place[d] * kStrides[d];
    }
    return index;
  }
  TensorMap map(const Place& box, Swizzle swizzle) const {
    TensorMap map;
    emulator::encode_tensor_map(&map, {memory.data(),
                                       {kSizes[0], kSizes[1], kSizes[2], kSizes[3]},
                                       {2 * kStrides[1], 2 * kStrides[2], 2 * kStrides[3]},
                                       box,
                                       sizeof(Element),
                                       swizzle});
    return map;
  }
};

/// Calls visit(place in the tensor, byte in shared memory) for each element of a box.
template <class Visit>
void each_element(const Place& box, const Place& at, Swizzle swizzle, Visit visit) {
  int row = 0;
  for (int b = 0; b < box[3]; ++b)
    for (int h = 0; h < box[2]; ++h)
      for (int t = 0; t < box[1]; ++t, ++row)
        for (int c = 0; c < box[0]; ++c)
          visit(Place{at[0] + c, at[1] + t, at[2] + h, at[3] + b},
                swizzle == Swizzle::none ? (row * box[0] + c) * 2 : swizzled(row, c * 2));
}

constexpr int kTileBytes = 4096, kSharedBytes = kTileBytes + 1024;

Element& element(int byte) {
  return *reinterpret_cast<Element*>(shared_memory() + byte);
}
unsigned long long* barriers() {
  return reinterpret_cast<unsigned long long*>(shared_memory() + kTileBytes);
}
int bytes_of(const Place& box) {
  return 2 * box[0] * box[1] * box[2] * box[3];
}

int wrong_after_load(const Place& box, const Place& at, Swizzle swizzle, const Options& options) {
  const Tensor4 tensor;
  const TensorMap map = tensor.map(box, swizzle);
  int wrong = 0;
  launch({1, 64, kSharedBytes}, options, [&] {
    if (thread_index() == 40) barrier_init(barriers(), 1);
    block_sync();
    if (thread_index() == 7) {
      barrier_arrive_expect(barriers(), bytes_of(box));
      tensor_load(shared_memory(), &map, at[0], at[1], at[2], at[3], barriers());
    }
    barrier_wait(barriers(), 0);
    each_element(box, at, swizzle, [&](const Place& place, int byte) {
      const int index = Tensor4::index(place);
      wrong += element(byte) == (index < 0 ? 0 : index + 1) ? 0 : 1;
    });
  });
  return wrong;
}

int wrong_after_store(const Place& box, const Place& at, Swizzle swizzle) {
  const Tensor4 tensor;
  const TensorMap map = tensor.map(box, swizzle);
  launch({1, 32, kSharedBytes}, {}, [&] {
    if (thread_index() != 3) return;
    each_element(box, at, swizzle, [&](const Place& place, int byte) {
      element(byte) = static_cast<Element>(60000 + place[0] + place[1]);
    });
    fence_for_warpgroup();
    tensor_store(&map, shared_memory(), at[0], at[1], at[2], at[3]);
    bulk_commit();
    bulk_wait_read<0>();
  });
  std::vector<int> expected;
  for (int i = 0; i < Tensor4::kElements; ++i) expected.push_back(i + 1);
  each_element(box, at, swizzle, [&](const Place& place, int) {
    if (const int index = Tensor4::index(place); index >= 0)
      expected[static_cast<std::size_t>(index)] = 60000 + place[0] + place[1];
  });
  int wrong = 0;
  for (int i = 0; i < Tensor4::kElements; ++i)
    wrong += tensor.data()[i] == expected[static_cast<std::size_t>(i)] ? 0 : 1;
  return wrong;
}

struct Case {
  Place box;
  Swizzle swizzle;
  std::vector<Place> places;
};
const Case kCases[] = {{{64, 8, 1, 1},
                        Swizzle::bytes_128,
                        {{0, 0, 0, 0},
                         {16, 2, 2, 1},
                         {64, 5, 1, 0},
                         {-3, -5, 0, 1},
                         {0, 0, -1, 0},
                         {0, 10, 0, 0},
                         {0, 0, 0, 2},
                         {80, 0, 0, 0}}},
                       {{64, 4, 2, 2}, Swizzle::bytes_128, {{10, 8, 2, 1}, {-1, 1, -1, -1}}},
                       {{24, 3, 2, 2},
                        Swizzle::none,
                        {{0, 0, 0, 0},
                         {7, 6, 1, 0},
                         {70, 9, 2, 1},
                         {-23, -2, -1, -1},
                         {0, 0, 3, 0},
                         {-1, 4, 1, 1},
                         {-24, 0, 0, 0}}}};

/// What the kernel of one warp ends in; lane 0 alone runs it, with a barrier of one arrival, a box of 256 bytes.
std::string fault_of(const std::function<void(const TensorMap& map)>& kernel,
                     Swizzle swizzle = Swizzle::none) {
  const Tensor4 tensor;
  const TensorMap map =
      tensor.map(swizzle == Swizzle::none ? Place{16, 8, 1, 1} : Place{64, 2, 1, 1}, swizzle);
  try {
    launch({1, 32, kSharedBytes}, {}, [&] {
      if (thread_index() == 0) barrier_init(barriers(), 1);
      block_sync();
      if (thread_index() == 0) kernel(map);
    });
  } catch (const emulator::Fault& fault) {
    return fault.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  INFO(text);
  CHECK(text.find(part) != std::string::npos);
  return text.find(part) != std::string::npos;
}

void load(const TensorMap& map, int byte = 0) {
  tensor_load(shared_memory() + byte, &map, 0, 0, 0, 0, barriers());
}

}  // namespace

TEST_CASE("a load brings every element of the box, and zeros from outside the tensor") {
  for (const Case& c : kCases) {
    for (const Place& at : c.places) {
      INFO(c.box[0] << " channels at " << at[0] << ' ' << at[1] << ' ' << at[2] << ' ' << at[3]);
      for (const Options& options : {Options{}, Options{Order::backward, 0}, Options{Order::random, 3}})
        CHECK(wrong_after_load(c.box, at, c.swizzle, options) == 0);
    }
  }
}

TEST_CASE("a store writes every element of the box that is inside the tensor and no other") {
  for (const Case& c : kCases) {
    for (const Place& at : c.places) {
      INFO(c.box[0] << " channels at " << at[0] << ' ' << at[1] << ' ' << at[2] << ' ' << at[3]);
      CHECK(wrong_after_store(c.box, at, c.swizzle) == 0);
    }
  }
}

TEST_CASE("a ring of slots turns through several phases of its barriers") {
  constexpr int kSlots = 2, kConsumers = 3, kTiles = 9;
  const Tensor4 tensor;
  const TensorMap map = tensor.map({16, 1, 1, 1}, Swizzle::none);
  for (const Options& options :
       {Options{}, Options{Order::backward, 0}, Options{Order::random, 1}, Options{Order::random, 2}}) {
    int right = 0;
    launch({2, 32 * (kConsumers + 1), kSharedBytes}, options, [&] {
      unsigned long long *full = barriers(), *empty = full + kSlots;
      if (thread_index() == 0) {
        for (int slot = 0; slot < kSlots; ++slot) {
          barrier_init(full + slot, 1);
          barrier_init(empty + slot, kConsumers);
        }
      }
      block_sync();
      for (int tile = 0; tile < kTiles; ++tile) {
        const int slot = tile % kSlots, parity = tile / kSlots % 2;
        unsigned char* target = shared_memory() + 128 * slot;
        if (warp_index() < kConsumers) {
          barrier_wait(full + slot, parity);
          const int index = Tensor4::index({lane_index() % 16, tile, 1, 0});
          right += element(128 * slot + lane_index() % 16 * 2) == index + 1 ? 1 : 0;
          warp_sync();
          if (lane_index() == 0) barrier_arrive(empty + slot);
        } else if (lane_index() == 0) {
          barrier_wait(empty + slot, 1 - parity);
          barrier_arrive_expect(full + slot, 32);
          tensor_load(target, &map, 0, tile, 1, 0, full + slot);
        }
      }
    });
    CHECK(right == 2 * kTiles * kConsumers * 32);
  }
}

TEST_CASE("threads wait for a copy while others meet in a named barrier to ask for it") {
  const Tensor4 tensor;
  const TensorMap map = tensor.map({16, 8, 1, 1}, Swizzle::none);
  for (const Options& options : {Options{}, Options{Order::backward, 0}, Options{Order::random, 1}}) {
    int right = 0;
    launch({2, 128, kSharedBytes}, options, [&] {
      if (thread_index() == 0) barrier_init(barriers(), 1);
      block_sync();
      if (warp_index() < 2) {
        barrier_wait(barriers(), 0);
        right += element(0) == 1 ? 1 : 0;
        part_sync<64>(1);
      } else {
        part_sync<64>(2);
        if (thread_index() == 64) barrier_arrive_expect(barriers(), 256);
        if (thread_index() == 64) load(map);
        part_sync<64>(2);
      }
    });
    CHECK(right == 2 * 64);
  }
}

TEST_CASE("several loads complete one phase, wherever their bytes are expected") {
  CHECK(fault_of([](const TensorMap& map) {
          load(map, 256);
          barrier_arrive_expect(barriers(), 512);
          load(map);
          barrier_wait(barriers(), 0);
          emulator::expect(element(0) == 1 && element(256) == 1);
        }) == "");
}

TEST_CASE("a tile reads as NaN until a thread has waited for it") {
  CHECK(fault_of([](const TensorMap& map) {
          element(0) = 5;
          barrier_arrive_expect(barriers(), 256);
          load(map);
          barrier_wait(barriers(), 1);  // the phase before the first
          emulator::expect(element(0) == 0xffff);
          barrier_wait(barriers(), 0);
          emulator::expect(element(0) == 1);
        }) == "");
}

TEST_CASE("a store reads its tile in the wait for its group") {
  const Tensor4 tensor;
  const TensorMap map = tensor.map({16, 1, 1, 1}, Swizzle::none);
  launch({1, 1, kSharedBytes}, {}, [&] {
    for (int i = 0; i < 128; ++i) element(2 * i) = 7;
    tensor_store(&map, shared_memory(), 0, 0, 0, 0);
    bulk_commit();
    tensor_store(&map, shared_memory() + 128, 0, 1, 0, 0);
    bulk_commit();
    bulk_wait_read<1>();
    element(0) = element(128) = 8;
    bulk_wait_read<0>();
  });
  CHECK(tensor.data()[0] == 7);
  CHECK(tensor.data()[Tensor4::index({0, 1, 0, 0})] == 8);  // changed too early
}

TEST_CASE("waits that nothing can end are reported with what the barrier lacks") {
  const std::string waiting = "1 threads (first: 0) waiting at barrier_wait";
  const std::string barrier = "the barrier at byte 4096 of shared memory, phase 0: ";
  const auto reports = [&](const std::string& lacks, const std::function<void(const TensorMap&)>& kernel) {
    const std::string fault = fault_of(kernel);
    contains(fault, waiting);
    contains(fault, barrier + lacks);
  };
  reports("0 of 1 arrivals, expects 0 bytes, is sent 0",
          [](const TensorMap&) { barrier_wait(barriers(), 0); });
  reports("1 of 1 arrivals, expects 512 bytes, is sent 256", [](const TensorMap& map) {
    barrier_arrive_expect(barriers(), 512);
    load(map);
    barrier_wait(barriers(), 0);
  });
  reports("1 of 1 arrivals, expects 0 bytes, is sent 256", [](const TensorMap& map) {
    load(map);
    barrier_arrive(barriers());
    barrier_wait(barriers(), 0);
  });
  reports("0 of 1 arrivals, expects 0 bytes, is sent 256", [](const TensorMap& map) {
    load(map);
    barrier_wait(barriers(), 0);
  });
  contains(fault_of([](const TensorMap&) {
             barrier_arrive(barriers());
             barrier_wait(barriers(), 0);
             barrier_wait(barriers(), 1);
           }),
           "phase 1: 0 of 1 arrivals");
}

TEST_CASE("what is left at the end of the kernel is reported") {
  contains(fault_of([](const TensorMap& map) {
             barrier_arrive_expect(barriers(), 256);
             load(map);
           }),
           "ends before anybody has waited for a tensor_load");
  contains(fault_of([](const TensorMap&) { barrier_arrive_expect(barriers(), 256); }),
           "ends before bytes have come");
  for (const bool committed : {false, true}) {
    contains(fault_of([&](const TensorMap& map) {
               element(0) = 1;
               tensor_store(&map, shared_memory(), 0, 0, 0, 0);
               if (committed) bulk_commit();
               if (!committed) bulk_wait_read<0>();
             }),
             "ends before it has waited for its tensor_store");
  }
}

TEST_CASE("misuse of barriers is reported") {
  contains(fault_of([](const TensorMap&) { barrier_wait(barriers() + 1, 1); }),
           "barrier_wait at what barrier_init has not made a barrier");
  contains(
      fault_of([](const TensorMap& map) { tensor_load(shared_memory(), &map, 0, 0, 0, 0, barriers() + 1); }),
      "tensor_load at what barrier_init has not made a barrier");
  contains(fault_of([](const TensorMap&) { barrier_init(barriers(), 2); }),
           "barrier_init of what is a barrier already");
  contains(fault_of([](const TensorMap&) { barrier_init(barriers() + 1, 0); }), "barrier_init of 0 arrivals");
  contains(fault_of([](const TensorMap&) {
             barrier_init(reinterpret_cast<unsigned long long*>(shared_memory() + 4), 1);
           }),
           "barrier_init at byte 4 of shared memory, not a multiple of 8");
  contains(fault_of([](const TensorMap&) { barrier_init(barriers() + 128, 1); }),
           "barrier_init outside shared memory (byte 5120 of 5120)");
  contains(fault_of([](const TensorMap&) { barrier_wait(barriers(), 2); }), "barrier_wait for parity 2");
  contains(fault_of([](const TensorMap&) { barrier_arrive_expect(barriers(), 1 << 20); }),
           "more bytes than a barrier can count");
  contains(fault_of([](const TensorMap& map) {
             barrier_arrive_expect(barriers(), 256);
             load(map);
             barrier_arrive(barriers());
           }),
           "barrier_arrive once more than the 1 times of a phase that is not complete");
}

TEST_CASE("tiles and maps that are misplaced are reported") {
  contains(fault_of([](const TensorMap& map) { load(map, 64); }),
           "tensor_load at byte 64 of shared memory, not a multiple of 128");
  contains(fault_of([](const TensorMap& map) { load(map, 512); }, Swizzle::bytes_128),
           "tensor_load at byte 512 of shared memory, not a multiple of 1024");
  contains(fault_of([](const TensorMap& map) { load(map, kSharedBytes - 128); }),
           "tensor_load outside shared memory (byte 4992 of 5120)");
  contains(fault_of([](const TensorMap& map) { tensor_store(&map, shared_memory() + 64, 0, 0, 0, 0); }),
           "tensor_store at byte 64 of shared memory, not a multiple of 128");
  contains(fault_of([](const TensorMap&) { load(TensorMap{}); }), "tensor_load by what is no tensor map");
  contains(fault_of([](const TensorMap& map) {
             const TensorMap* unaligned = reinterpret_cast<const TensorMap*>(map.bytes + 16);
             tensor_store(unaligned, shared_memory(), 0, 0, 0, 0);
           }),
           "tensor_store by a tensor map that is not 64-byte aligned");
}

TEST_CASE("a tensor map that the driver would refuse is refused") {
  alignas(16) static Element data[64];
  TensorMap map;
  const TiledTensor good{data, {64, 1, 1, 1}, {128, 128, 128}, {64, 1, 1, 1}, 2, Swizzle::bytes_128};
  CHECK_NOTHROW(emulator::encode_tensor_map(&map, good));
  const auto refuses = [&](const std::function<void(TiledTensor&)>& spoil) {
    TiledTensor spoilt = good;
    spoil(spoilt);
    CHECK_THROWS_AS(emulator::encode_tensor_map(&map, spoilt), std::invalid_argument);
  };
  refuses([](TiledTensor& t) { t.data = data + 1; });
  refuses([](TiledTensor& t) { t.sizes[2] = 0; });
  refuses([](TiledTensor& t) { t.stride_bytes[1] = 24; });
  refuses([](TiledTensor& t) { t.box[3] = 257; });
  refuses([](TiledTensor& t) { t.box[0] = 72; });
  refuses([](TiledTensor& t) {
    t.swizzle = Swizzle::none;
    t.box[0] = 4;
  });
}
