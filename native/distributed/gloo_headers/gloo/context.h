// Stands in for gloo/context.h. LibTorch contains Gloo but not its headers; its ProcessGroupGloo.hpp holds a context
// by pointer alone. Nothing here is instantiated by us: the declarations only let that header compile.
#pragma once
#include <chrono>
#include <memory>

#include <gloo/transport/device.h>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
