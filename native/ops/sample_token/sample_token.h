// Draws one token per row from its logits:  token ~ softmax(logits / temperature), restricted to the top_k likeliest
// tokens or to those that hold top_p of the probability.
// Letters: B batch, V vocabulary.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// logits (B, V) float32, float64 or bfloat16 (on a GPU also float16); draws (B) float64, 0 <= u < 1: where in the
/// cumulative probability, from the likeliest token down, each row draws. temperature 0: the likeliest token, the first
/// of several. top_k 0: all. Ids from `tokens` on are never drawn, except `also`. Returns (B) int64, -1 where a row
/// holds NaN or infinity, or nothing but -infinity. On a CPU it draws what lib/generate/sample.ts draws; a
/// GPU the same, away from the boundaries that rounding moves, and the same each time. Without gradient.
/// Throws SHAPE, DTYPE, CONFIG.
at::Tensor sample_token(const at::Tensor& logits, const at::Tensor& draws, double temperature, int64_t top_k,
                        double top_p, int64_t tokens, int64_t also);

}  // namespace memformer::ops
