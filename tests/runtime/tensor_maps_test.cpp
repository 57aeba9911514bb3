// What tensor maps say of a call's tensors, and what cuTensorMapEncodeTiled is asked for: no GPU needed.
#include "tensor_maps.h"

#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "catch.h"

using namespace gla;

namespace {

using Sizes = std::array<std::int64_t, 4>;
using Strides = std::array<std::int64_t, 3>;
using Box = std::array<int, 4>;

constexpr TensorBoxes kBoxes{.rows = 64,
                             .head_dim_k = 64,
                             .head_dim_v = 128,
                             .group = 2,
                             .element_bytes = 2,
                             .gate_bytes = 4,
                             .gate_gradient_bytes = 4};

Tensor dense(std::uintptr_t address, Index tokens, Index heads, Index channels) {
  return {reinterpret_cast<void*>(address), tokens * heads * channels, heads * channels, channels};
}

/// B = 3, T = 100, HQ = 10, H = 5, K = 64, V = 128.
KernelArgs call() {
  KernelArgs args;
  args.q = dense(0x1000, 100, 10, 64);
  args.k = dense(0x2000, 100, 5, 64);
  args.v = dense(0x3000, 100, 5, 128);
  args.gk = dense(0x4000, 100, 5, 64);
  args.o = dense(0x5000, 100, 10, 128);
  args.sequences = 3;
  args.tokens = 100;
  args.heads = 5;
  return args;
}

std::optional<TensorGeometry> geometry_of(const std::string& name, const KernelArgs& args,
                                          const TensorBoxes& boxes = kBoxes) {
  TensorArgs with_maps{args, {}};
  for (const MappedTensor& tensor : mapped_tensors(boxes, with_maps))
    if (tensor.name == name) return tensor.geometry;
  FAIL("no tensor " << name);
  return {};
}

void lies(const std::optional<TensorGeometry>& tensor, const Sizes& sizes, const Strides& stride_bytes) {
  REQUIRE(tensor.has_value());
  CHECK(tensor->sizes == sizes);
  CHECK(tensor->stride_bytes == stride_bytes);
}

/// What the driver was asked for, and what it answers.
struct Encoding {
  CUtensorMap* map;
  std::ptrdiff_t place;  ///< of the map among those of the call, in bytes
  CUtensorMapDataType type;
  void* address;
  std::vector<cuuint64_t> sizes, strides;
  std::vector<cuuint32_t> box;
};
std::vector<Encoding> encodings;
void* refused_address = nullptr;

CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                      const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                      const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                      CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  if (address == refused_address) return CUDA_ERROR_INVALID_VALUE;
  CHECK(rank == 4);
  CHECK(std::vector(steps, steps + 4) == std::vector<cuuint32_t>(4, 1));
  CHECK(interleave == CU_TENSOR_MAP_INTERLEAVE_NONE);
  CHECK(swizzle == CU_TENSOR_MAP_SWIZZLE_128B);
  CHECK(fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  encodings.push_back({map, 0, type, address, {sizes, sizes + 4}, {strides, strides + 3}, {box, box + 4}});
  return CUDA_SUCCESS;
}

CUresult error_text(CUresult, const char** text) {
  *text = "made up";
  return CUDA_SUCCESS;
}

Status encode(const KernelArgs& args, const TensorBoxes& boxes = kBoxes) {
  driver::Api api;
  api.cuTensorMapEncodeTiled = encode_tiled;
  api.cuGetErrorName = api.cuGetErrorString = error_text;
  encodings.clear();
  TensorArgs with_maps{args, {}};
  const auto tensors = mapped_tensors(boxes, with_maps);
  const Status status = encode_maps(api, tensors);
  for (Encoding& each : encodings)
    each.place = reinterpret_cast<std::byte*>(each.map) - reinterpret_cast<std::byte*>(&with_maps.maps);
  return status;
}

}  // namespace

TEST_CASE("dense tensors: q and o have the query heads, a row of a box has 128 bytes of channels") {
  const KernelArgs args = call();
  lies(geometry_of("q", args), {64, 100, 10, 3}, {1280, 128, 128000});
  lies(geometry_of("k", args), {64, 100, 5, 3}, {640, 128, 64000});
  lies(geometry_of("v", args), {128, 100, 5, 3}, {1280, 256, 128000});
  lies(geometry_of("gk", args), {64, 100, 5, 3}, {1280, 256, 128000});
  lies(geometry_of("o", args), {128, 100, 10, 3}, {2560, 256, 256000});
  CHECK(geometry_of("q", args)->box == Box{64, 64, 1, 1});
  CHECK(geometry_of("gk", args)->box == Box{32, 64, 1, 1});
  CHECK(geometry_of("o", args)->data == args.o.data);
}

TEST_CASE("packed sequences are one row of tokens, whatever the stride of the batch is") {
  KernelArgs args = call();
  args.cu_seqlens = &args;
  args.sequences = 7;
  args.k.stride_batch = -3;
  lies(geometry_of("k", args), {64, 100, 5, 1}, {640, 128, 128});
}

TEST_CASE("a dimension of size 1 has a stride that a map may have") {
  KernelArgs args = call();
  args.sequences = args.tokens = 1;
  args.heads = 1;
  args.k = {args.k.data, -1, 3, std::numeric_limits<Index>::max()};
  TensorBoxes boxes = kBoxes;
  boxes.head_dim_k = 60;
  lies(geometry_of("k", args, boxes), {60, 1, 1, 1}, {128, 128, 128});
}

TEST_CASE("heads may lie outside of tokens, and an axis may repeat itself") {
  KernelArgs args = call();
  args.q = {args.q.data, 64000, 64, 6400};  // [B, H, T, D]
  args.k.stride_token = 0;
  lies(geometry_of("q", args), {64, 100, 10, 3}, {128, 12800, 128000});
  lies(geometry_of("k", args), {64, 100, 5, 3}, {0, 128, 64000});
  CHECK(encode(args).ok());
}

TEST_CASE("absent and empty tensors have no map") {
  KernelArgs args = call();
  args.gk = {};
  CHECK_FALSE(geometry_of("gk", args).has_value());
  CHECK(encode(args).ok());
  CHECK(encodings.size() == 4);
  TensorBoxes ungated = kBoxes;
  ungated.gate_bytes = 0;
  CHECK_FALSE(geometry_of("gk", call(), ungated).has_value());
  for (Index KernelArgs::*none : {&KernelArgs::tokens, &KernelArgs::sequences}) {
    args = call();
    args.*none = 0;
    CHECK(encode(args).ok());
    CHECK(encodings.empty());
  }
}

TEST_CASE("each map is encoded in its place, by the size of its elements") {
  const KernelArgs args = call();
  REQUIRE(encode(args).ok());
  REQUIRE(encodings.size() == 5);
  constexpr std::size_t kPlaces[] = {offsetof(TensorMaps, q), offsetof(TensorMaps, k),
                                     offsetof(TensorMaps, v), offsetof(TensorMaps, gk),
                                     offsetof(TensorMaps, o)};
  const void* addresses[] = {args.q.data, args.k.data, args.v.data, args.gk.data, args.o.data};
  for (std::size_t i = 0; i < encodings.size(); ++i) {
    CHECK(encodings[i].place == static_cast<std::ptrdiff_t>(kPlaces[i]));
    CHECK(encodings[i].address == addresses[i]);
    CHECK(encodings[i].type == (i == 3 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16));
  }
  CHECK(encodings[2].sizes == std::vector<cuuint64_t>{128, 100, 5, 3});
  CHECK(encodings[2].strides == std::vector<cuuint64_t>{1280, 256, 128000});
  CHECK(encodings[2].box == std::vector<cuuint32_t>{64, 64, 1, 1});
}

TEST_CASE("a tensor that a call may have and a map may not is refused by name") {
  const auto refused = [&](const char* message, const KernelArgs& args, const TensorBoxes& boxes = kBoxes) {
    const Status status = encode(args, boxes);
    INFO(status.message());
    CHECK(status.code() == StatusCode::unsupported);
    CHECK(status.message().find(message) == 0);
  };
  KernelArgs args = call();
  args.v.stride_batch = Index{1} << 39;
  refused("v.stride_batch is 1099511627776 bytes", args);
  args.v.stride_batch -= 8;
  CHECK(encode(args).ok());

  args = call();
  args.q = dense(0x1000, 100, 10, 60);
  args.k = dense(0x2000, 100, 5, 60);
  TensorBoxes boxes = kBoxes;
  boxes.head_dim_k = 60;
  refused("q.stride_head is 120 bytes; the kernel that was chosen takes multiples of 16 below 2^40", args,
          boxes);

  args = call();
  args.tokens = Index{1} << 31;
  refused("q has 2147483648 tokens; the kernel that was chosen takes up to 2147483647", args);
}

TEST_CASE("what the driver refuses is reported with the tensor's name") {
  const KernelArgs args = call();
  refused_address = args.gk.data;
  const Status status = encode(args);
  refused_address = nullptr;
  CHECK(status.code() == StatusCode::cuda);
  CHECK(status.message() == "cuTensorMapEncodeTiled of gk: made up: made up");
}

TEST_CASE("a walk back has maps of the gradients, in their shapes") {
  BackwardTensorArgs args;
  static_cast<KernelArgs&>(args) = call();
  args.d_o = dense(0x6000, 100, 10, 128);
  args.dq = dense(0x7000, 100, 10, 64);
  args.dk = dense(0x8000, 100, 5, 64);
  args.dgk = dense(0x9000, 100, 5, 64);
  TensorBoxes boxes = kBoxes;
  boxes.gate_bytes = 2;
  const auto tensors = mapped_tensors(boxes, args);
  const auto geometry = [&](const std::string& name) -> std::optional<TensorGeometry> {
    for (const MappedTensor& tensor : tensors)
      if (tensor.name == name) return tensor.geometry;
    FAIL("no tensor " << name);
    return {};
  };
  lies(geometry("d_o"), {128, 100, 10, 3}, {2560, 256, 256000});
  lies(geometry("dq"), {64, 100, 10, 3}, {1280, 128, 128000});
  lies(geometry("dk"), {64, 100, 5, 3}, {640, 128, 64000});
  lies(geometry("gk"), {64, 100, 5, 3}, {640, 128, 64000});
  lies(geometry("dgk"), {64, 100, 5, 3}, {1280, 256, 128000});
  CHECK(geometry("dgk")->box == Box{32, 64, 1, 1});
  CHECK(geometry("v")->data == args.v.data);
  CHECK_FALSE(geometry("dv").has_value());
}
