#include "ops/layer_norm_no_affine/layer_norm_no_affine.h"

#include "core/operator.h"
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

constexpr Registered<"memformer::layer_norm_no_affine_forward", decltype(forward_cpu)> forward_kernel;
constexpr Registered<"memformer::layer_norm_no_affine_backward", decltype(backward_cpu)> backward_kernel;

struct LayerNormNoAffine {
  static constexpr bool kMaterializesGradients = false;

  struct Saved {
    Tensor x, mean, rstd;
    auto variables() { return std::tie(x, mean, rstd); }
  };

  /// x, and z for each reader.
  static std::vector<Tensor> forward(Saved* saved, const Tensor& x, int64_t readers, ScalarType dtype) {
    check(x, readers, dtype);
    auto [z, mean, rstd] = forward_kernel(x, dtype);
    if (saved != nullptr) *saved = {x, mean, rstd};
    std::vector<Tensor> results{x.detach()};
    for (int64_t i = 0; i < readers; ++i) results.push_back(z.detach());
    return results;
  }

  static Tensor backward(const Saved& s, const BackwardPass& pass) {
    std::vector<Tensor> of_readers;
    for (size_t i = 1; i < pass.gradients.size(); ++i)
      if (pass.gradients[i].defined()) of_readers.push_back(pass.gradients[i]);
    return of_readers.empty() ? pass.gradients[0] : backward_kernel(pass.optional(0), of_readers, s.x, s.mean, s.rstd);
  }
};

}  // namespace

std::vector<Tensor> layer_norm_no_affine(const Tensor& x, int64_t readers, ScalarType dtype) {
  constexpr Registered<"memformer::layer_norm_no_affine", Signature<LayerNormNoAffine>> op;
  return op(x, readers, dtype);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  define<LayerNormNoAffine>(library, "layer_norm_no_affine(Tensor x, int readers, ScalarType dtype) -> Tensor[]");
  library.def("layer_norm_no_affine_forward(Tensor x, ScalarType dtype) -> (Tensor z, Tensor mean, Tensor rstd)",
              on_cpu(&forward_cpu));
  library.def(
      "layer_norm_no_affine_backward(Tensor? grad_x, Tensor[] grads, Tensor x, Tensor mean, Tensor rstd) -> Tensor",
      on_cpu(&backward_cpu));
}

}  // namespace memformer::ops
