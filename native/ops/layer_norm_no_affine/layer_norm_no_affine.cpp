#include "ops/layer_norm_no_affine/layer_norm_no_affine.h"

#include "core/op_handle.h"
#include "core/tensor_checks.h"
#include "ops/common/layer_norm_eps.h"

// Saved for backward: x, mean and rstd (N). With h the sum of the readers' gradients and g that of x:
//   dL/dx = g + rstd (h - mean(h) - z mean(h z))
namespace memformer::ops {
namespace {

using at::ScalarType;
using at::Tensor;
using at::TensorList;
using Optional = std::optional<Tensor>;

void check(const Tensor& x, int64_t readers, ScalarType dtype) {
  const auto of_x = x.scalar_type();
  require(of_x == at::kFloat || of_x == at::kDouble, "DTYPE",
          "layer_norm_no_affine: x must be float32 or float64, got ", c10::toString(of_x));
  require(x.dim() >= 1 && x.size(-1) > 0, "SHAPE",
          "layer_norm_no_affine: x must have a last axis of at least one number, got ", x.sizes());
  require(dtype == of_x || (of_x == at::kFloat && (dtype == at::kBFloat16 || dtype == at::kHalf)), "DTYPE",
          "layer_norm_no_affine: dtype must be x's dtype ", c10::toString(of_x),
          ", or bfloat16 or float16 beside a float32 x, got ", c10::toString(dtype));
  require(readers >= 1 && readers <= 4, "CONFIG", "layer_norm_no_affine: readers must be 1 to 4, got ", readers);
}

std::tuple<Tensor, Tensor, Tensor> forward_cpu(const Tensor& x, ScalarType dtype) {
  const auto [z, mean, rstd] = at::native_layer_norm(x.contiguous(), {x.size(-1)}, {}, {}, kLayerNormEps);
  return {z.to(dtype), mean.reshape({-1}), rstd.reshape({-1})};
}

Tensor backward_cpu(const Optional& grad_x, TensorList grads, const Tensor& x, const Tensor& mean, const Tensor& rstd) {
  const int64_t D = x.size(-1);
  const auto z = (x.reshape({-1, D}) - mean.unsqueeze(1)).mul_(rstd.unsqueeze(1));
  auto h = at::zeros_like(z);
  for (const auto& grad : grads) h.add_(grad.reshape({-1, D}));
  const auto sent = (h - h.mean(1, true) - z * (h * z).mean(1, true)).mul_(rstd.unsqueeze(1)).view_as(x);
  return grad_x.has_value() ? *grad_x + sent : sent;
}

const auto& forward_op() {
  static const auto op = find_op<decltype(forward_cpu)>("memformer::layer_norm_no_affine_forward");
  return op;
}

std::vector<Tensor> shared(const Tensor& x, const Tensor& z, int64_t readers) {
  std::vector<Tensor> result{x.detach()};
  for (int64_t i = 0; i < readers; ++i) result.push_back(z.detach());
  return result;
}

class LayerNormNoAffine : public torch::autograd::Function<LayerNormNoAffine> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const Tensor& x,
                                                int64_t readers, int64_t dtype) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [z, mean, rstd] = forward_op().call(x, static_cast<ScalarType>(dtype));
    context->save_for_backward({x, mean, rstd});
    context->set_materialize_grads(false);
    return shared(x, z, readers);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    static const auto op = find_op<decltype(backward_cpu)>("memformer::layer_norm_no_affine_backward");
    at::AutoDispatchBelowADInplaceOrView below;
    const auto saved = context->get_saved_variables();
    std::vector<Tensor> of_readers;
    for (size_t i = 1; i < grads.size(); ++i)
      if (grads[i].defined()) of_readers.push_back(grads[i]);
    if (of_readers.empty()) return {grads[0], {}, {}};
    return {op.call(grads[0].defined() ? Optional(grads[0]) : std::nullopt, of_readers, saved[0], saved[1], saved[2]),
            {},
            {}};
  }
};

std::vector<Tensor> with_gradient(const Tensor& x, int64_t readers, ScalarType dtype) {
  check(x, readers, dtype);
  return LayerNormNoAffine::apply(x, readers, static_cast<int64_t>(dtype));
}

std::vector<Tensor> without_gradient(const Tensor& x, int64_t readers, ScalarType dtype) {
  check(x, readers, dtype);
  return shared(x, std::get<0>(forward_op().call(x, dtype)), readers);
}

}  // namespace

std::vector<Tensor> layer_norm_no_affine(const Tensor& x, int64_t readers, ScalarType dtype) {
  static const auto op = find_op<decltype(layer_norm_no_affine)>("memformer::layer_norm_no_affine");
  return op.call(x, readers, dtype);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def("layer_norm_no_affine(Tensor x, int readers, ScalarType dtype) -> Tensor[]");
  library.def("layer_norm_no_affine_forward(Tensor x, ScalarType dtype) -> (Tensor z, Tensor mean, Tensor rstd)");
  library.def(
      "layer_norm_no_affine_backward(Tensor? grad_x, Tensor[] grads, Tensor x, Tensor mean, Tensor rstd) -> Tensor");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("layer_norm_no_affine_forward", &forward_cpu);
  library.impl("layer_norm_no_affine_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) {
  library.impl("layer_norm_no_affine", &without_gradient);
}
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("layer_norm_no_affine", &with_gradient); }

}  // namespace memformer::ops
