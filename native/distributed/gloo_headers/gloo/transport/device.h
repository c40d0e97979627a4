// Stands in for gloo/transport/device.h: types that LibTorch's ProcessGroupGloo.hpp holds by pointer.
#pragma once

namespace gloo::transport {

class Device {
 public:
  virtual ~Device() = default;
};

class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = default;
};

}  // namespace gloo::transport
