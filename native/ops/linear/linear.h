// The projection that everything is made of:  y = x W^T + b.  All three products go through
// ops/common/matrix_product.h.
#pragma once
#include "core/trained.h"

namespace memformer::ops {

/// x (..., in), weight (out, in), bias (out) or undefined, all of one dtype: float32, float64 or bfloat16 (on a GPU
/// also float16). Returns (..., out). Differentiable once in all three. With sinks (out, in) and (out), float32
/// (float64 for float64), the backward pass adds the gradients to them and returns none; a bias's sink needs a
/// weight's. Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
at::Tensor linear(const at::Tensor& x, const Trained& weight, const Trained& bias);

/// weight_sink += grad^T x, bias_sink += sum of grad over its rows.   grad (n, out), x (n, in) of one dtype, rows of
/// any stride. On a GPU a small product runs beside the current stream: do not read the sinks before
/// synchronize_side_stream.
void linear_accumulate(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight_sink,
                       const std::optional<at::Tensor>& bias_sink);

/// Makes the current stream of `like`'s device wait for everything that linear_accumulate has put beside it, and
/// performs the additions to sinks that any operator has deferred.
void synchronize_side_stream(const at::Tensor& like);

}  // namespace memformer::ops
