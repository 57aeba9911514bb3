// The GPU as gla-tune uses it: one device, its context current on this thread, one stream, and owned memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "check.h"
#include "driver.h"
#include "gla/generator/status.h"

namespace gla {

class Gpu {
 public:
  /// Makes the device's primary context current on this thread for as long as the Gpu lives.
  static Result<std::unique_ptr<Gpu>> open(int ordinal);
  ~Gpu();
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  const driver::Api& api() const { return *api_; }
  const driver::Device& device() const { return device_; }
  const Architecture& architecture() const { return device_.architecture; }
  CUstream stream() const { return stream_; }

  Status check(CUresult result, const char* what) const { return driver::check(*api_, result, what); }
  /// Waits for the stream; a kernel's fault shows here.
  Status synchronize() const;
  std::size_t free_memory() const;

 private:
  Gpu(const driver::Api* api, driver::Device device, driver::PrimaryContext context)
      : api_(api), device_(std::move(device)), context_(std::move(context)), scope_(context_) {}

  const driver::Api* api_;
  driver::Device device_;
  driver::PrimaryContext context_;
  driver::PrimaryContext::Scope scope_;
  CUstream stream_ = nullptr;
};

/// Device memory, freed with its owner.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  static Result<DeviceBuffer> allocate(const Gpu& gpu, std::size_t bytes);
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();

  void* data() const { return reinterpret_cast<void*>(address_); }
  CUdeviceptr address() const { return address_; }
  std::size_t size() const { return bytes_; }
  explicit operator bool() const { return address_ != 0; }

  /// Blocking; what the stream has been given before is finished first.
  Status upload(const void* from, std::size_t bytes);
  Status download(void* to, std::size_t bytes, std::size_t offset = 0) const;

 private:
  const Gpu* gpu_ = nullptr;
  CUdeviceptr address_ = 0;
  std::size_t bytes_ = 0;
};

/// A buffer that holds what the host has.
template <class T>
Result<DeviceBuffer> uploaded(const Gpu& gpu, const std::vector<T>& values) {
  Result<DeviceBuffer> buffer = DeviceBuffer::allocate(gpu, values.size() * sizeof(T));
  if (!buffer.ok()) return buffer;
  GLA_RETURN_IF_ERROR(buffer->upload(values.data(), values.size() * sizeof(T)));
  return buffer;
}

}  // namespace gla
