// The memory's gradient on its way back across the border between two segments: unchanged, or damped and limited where
// a recipe wants the past to weigh less. The forward pass does not change.
//   g_b <- decay g_b min(1, limit mean_b ||g_b|| / ||g_b||)      for every row b; limit 0: no limit
// Letters: B batch, M slots, D width.
#pragma once
#include "core/tensor_checks.h"
#include "nn/config.h"

namespace memformer::nn {

class Border {
 public:
  explicit Border(const Config& config)
      : decay_(config.number("memoryGradient")), limit_(config.number("memoryGradientLimit")) {}

  bool changes_nothing() const { return decay_ == 1.0 && limit_ == 0.0; }
  /// x (B, M, D) itself.
  at::Tensor operator()(const at::Tensor& x) const {
    return changes_nothing() || !x.requires_grad() ? x : Crossing::apply(x, decay_, limit_);
  }

 private:
  class Crossing : public torch::autograd::Function<Crossing> {
   public:
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, double decay,
                              double limit) {
      context->saved_data["decay"] = decay;
      context->saved_data["limit"] = limit;
      return x.view_as(x);
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                   torch::autograd::variable_list grads) {
      const double decay = context->saved_data["decay"].toDouble(), limit = context->saved_data["limit"].toDouble();
      auto grad = grads[0] * decay;
      if (limit > 0) {
        const auto norm = at::linalg_vector_norm(grad.reshape({grad.size(0), -1}), 2, at::IntArrayRef{1});  // (B)
        const auto factor = (norm.mean() * limit / norm.clamp_min(1e-30)).clamp_max(1.0);
        grad = grad * factor.view({-1, 1, 1});
      }
      return {grad, {}, {}};
    }
  };

  double decay_, limit_;
};

}  // namespace memformer::nn
