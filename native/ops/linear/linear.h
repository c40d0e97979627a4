// y = x W^T + b, the projection everything is made of, with all three products through ops/common/matrix_product.h.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// x (..., in), weight (out, in), bias (out) or undefined, all of one dtype. Returns (..., out). Differentiable once in
/// all three. weight_sink (out, in) and bias_sink (out), float32 (float64 for float64): the gradients of weight and
/// bias are added to them instead of being sent back; a bias_sink needs a weight_sink. Throws SHAPE, DTYPE,
/// DEVICE_MISMATCH, CONFIG.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                  const std::optional<at::Tensor>& weight_sink, const std::optional<at::Tensor>& bias_sink);

/// weight_sink += grad^T x, bias_sink += the sum of grad over its rows.   grad (n, out), x (n, in) of one dtype, rows
/// of any stride. On a GPU a small product runs beside the current stream: nobody may read the sinks before
/// linear_join.
void linear_accumulate(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight_sink,
                       const std::optional<at::Tensor>& bias_sink);

/// The current stream of `like`'s device waits for all that linear_accumulate has put beside it, and makes the
/// additions to sinks that other operators have put off.
void linear_join(const at::Tensor& like);

}  // namespace memformer::ops
