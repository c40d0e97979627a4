// AdamW (Loshchilov and Hutter 2019) over a model's parameters in flat buffers, and the gradient norm it clips by. For
// each of the n numbers, with t = step + 1, c = min(1, clip / (norm + 1e-6)), and weight decay for the first `decayed`
// alone:
//   g = c gradient / grad_scale      m = beta1 m + (1 - beta1) g      v = beta2 v + (1 - beta2) g^2
//   p = p (1 - rate weight_decay) - rate m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// One step in place; afterwards gradients are 0 and step is one more. parameters, gradients, exp_avg (m), exp_avg_sq
/// (v): (n), all float32 or all float64; working (n) in another floating dtype, or undefined: receives the new
/// parameters. step, rate () float32; norm () that of the gradients divided by grad_scale () (undefined: 1). Where norm
/// is not finite, gradients become 0 and nothing else changes. A number that no gradient has ever reached (gradient and
/// v are 0) stays as it is, without decay. clip 0 never clips. No gradient.
/// Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
void adamw_step(const at::Tensor& parameters, const at::Tensor& gradients, const at::Tensor& exp_avg,
                const at::Tensor& exp_avg_sq, const std::optional<at::Tensor>& working, const at::Tensor& step,
                const at::Tensor& norm, const at::Tensor& rate, int64_t decayed, double beta1, double beta2, double eps,
                double weight_decay, double clip, const std::optional<at::Tensor>& grad_scale);

/// The L2 norm of gradients (n), float32 or float64, divided by grad_scale (). Returns () in their dtype. No gradient.
/// Throws SHAPE, DTYPE.
at::Tensor gradient_norm(const at::Tensor& gradients, const std::optional<at::Tensor>& grad_scale);

}  // namespace memformer::ops
