#include "ops/common/matrix_product.h"

namespace memformer {
namespace {

/// LibTorch's door to oneDNN's matrix product, if this build has it.
const std::optional<c10::OperatorHandle>& onednn() {
  static const auto op = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
  return op;
}

}  // namespace

at::Tensor affine(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const bool fits = x.scalar_type() == at::kFloat && x.is_cpu() && x.numel() > 0 && weight.numel() > 0;
  if (!fits || !onednn().has_value()) return at::linear(x, weight, bias);
  torch::jit::Stack stack{x,
                          weight,
                          bias.has_value() && bias->defined() ? c10::IValue(*bias) : c10::IValue(),
                          "none",
                          c10::List<std::optional<at::Scalar>>(),
                          c10::IValue()};
  onednn()->callBoxed(stack);
  return stack[0].toTensor();
}

at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b) { return affine(a, b.t(), {}); }

}  // namespace memformer
