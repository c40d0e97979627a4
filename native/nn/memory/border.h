// The memory's gradient on its way back across the border between two segments: unchanged, or damped and limited where
// a recipe wants the past to weigh less. The forward pass does not change.
//   g_b <- decay g_b min(1, limit mean_b ||g_b|| / ||g_b||)      for every row b; limit 0: no limit
// Letters: B batch, M slots, D width.
#pragma once
#include "core/torch.h"
#include "nn/config.h"
#include "ops/limit_rows/limit_rows.h"

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
      const auto grad = limit > 0 ? ops::limit_rows(grads[0], decay, limit) : grads[0] * decay;
      return {grad, {}, {}};
    }
  };

  double decay_, limit_;
};

}  // namespace memformer::nn
