// The activation of a feed-forward layer, with the bias before it and the dropout after it, in one pass:
//   y = dropout(gelu(x + bias)),      gelu(h) = h/2 (1 + erf(h / sqrt(2)))
// Letters: C channels.
#pragma once
#include "core/trained.h"

namespace memformer::ops {

/// x (..., C) float32, float64 or bfloat16 (on a GPU also float16), of any shape without bias; bias (C) in x's dtype or
/// undefined, added without rounding; dropout is ops::dropout's with (p, seed, site), without rounding before it; with
/// p = 0 nothing is dropped and seed may be undefined. Returns x's shape and dtype. Saves x and bias alone.
/// Differentiable once in both. With a sink, (C) float32 (float64 for float64), the backward pass adds the bias's
/// gradient to it and returns none. On a GPU the addition is deferred: do not read the sink before
/// synchronize_side_stream. Throws CONFIG, DTYPE, SHAPE, DEVICE_MISMATCH.
at::Tensor gelu_dropout(const at::Tensor& x, const Trained& bias, double p, const std::optional<at::Tensor>& seed,
                        int64_t site);

}  // namespace memformer::ops
