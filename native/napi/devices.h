// Tensors of several devices in one call: a model's call brings them to its device, an operator's names which argument
// lies where.
#pragma once
#include <string>

#include "core/failure.h"
#include "core/torch.h"

namespace memformer::napi {

/// Throws DEVICE_MISMATCH for a tensor that is neither in host memory nor on a GPU (a "meta" tensor): it holds no
/// numbers to bring.
template <typename... Parts>
void require_numbers(const at::Tensor& tensor, const Parts&... argument) {
  if (!tensor.defined() || tensor.is_cpu() || tensor.is_cuda()) return;
  require(false, "DEVICE_MISMATCH", argument..., " must hold numbers, on the CPU or on a GPU; it lies on ",
          tensor.device().str());
}

/// The same tensor on `device`; its gradient finds its way back.
template <typename... Parts>
at::Tensor brought_to(at::Device device, const at::Tensor& tensor, const Parts&... argument) {
  require_numbers(tensor, argument...);
  return !tensor.defined() || tensor.device() == device ? tensor : tensor.to(device);
}

}  // namespace memformer::napi
