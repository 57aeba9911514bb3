#include "gpu.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace gla {

Result<std::unique_ptr<Gpu>> Gpu::open(int ordinal) {
  const auto api = driver::api();
  if (!api.ok()) return api.status();
  auto device = driver::device(ordinal);
  if (!device.ok()) return device.status();
  auto context = driver::PrimaryContext::retain(ordinal);
  if (!context.ok()) return context.status();
  std::unique_ptr<Gpu> gpu(new Gpu(*api, std::move(*device), *std::move(context)));
  GLA_RETURN_IF_ERROR(
      gpu->check((*api)->cuStreamCreate(&gpu->stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate"));
  return gpu;
}

Gpu::~Gpu() {
  if (stream_ != nullptr) (void)api_->cuStreamDestroy(stream_);
}

Status Gpu::synchronize() const {
  return check(api_->cuStreamSynchronize(stream_), "cuStreamSynchronize");
}

std::size_t Gpu::free_memory() const {
  std::size_t free = 0, total = 0;
  return api_->cuMemGetInfo(&free, &total) == CUDA_SUCCESS ? free : 0;
}

Result<DeviceBuffer> DeviceBuffer::allocate(const Gpu& gpu, std::size_t bytes) {
  DeviceBuffer buffer;
  const CUresult result = gpu.api().cuMemAlloc(&buffer.address_, std::max<std::size_t>(bytes, 1));
  if (result != CUDA_SUCCESS) return gpu.check(result, fmt::format("allocating {} bytes", bytes).c_str());
  buffer.gpu_ = &gpu;
  buffer.bytes_ = bytes;
  return buffer;
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : gpu_(other.gpu_), address_(std::exchange(other.address_, 0)), bytes_(std::exchange(other.bytes_, 0)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(gpu_, other.gpu_);
  std::swap(address_, other.address_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

DeviceBuffer::~DeviceBuffer() {
  if (address_ != 0) (void)gpu_->api().cuMemFree(address_);
}

Status DeviceBuffer::upload(const void* from, std::size_t bytes) {
  if (bytes == 0) return {};
  // In the stream: cuMemcpyHtoD may return before the device has what was copied, and the stream does not wait for it.
  GLA_RETURN_IF_ERROR(
      gpu_->check(gpu_->api().cuMemcpyHtoDAsync(address_, from, bytes, gpu_->stream()), "cuMemcpyHtoDAsync"));
  return gpu_->synchronize();
}

Status DeviceBuffer::download(void* to, std::size_t bytes, std::size_t offset) const {
  GLA_RETURN_IF_ERROR(gpu_->synchronize());
  if (bytes == 0) return {};
  return gpu_->check(gpu_->api().cuMemcpyDtoH(to, address_ + offset, bytes), "cuMemcpyDtoH");
}

}  // namespace gla
