#pragma once

#include "driver.h"

namespace gla::driver {

/// Loading and making streams is allowed while another stream of this thread is being captured: relaxes the capture mode for
/// the scope.
class RelaxedCapture {
 public:
  explicit RelaxedCapture(const Api& api) : api_(api) {
    (void)api_.cuThreadExchangeStreamCaptureMode(&mode_);
  }
  ~RelaxedCapture() { (void)api_.cuThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  const Api& api_;
  CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
};

}  // namespace gla::driver
