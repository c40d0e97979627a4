// Root mean square norm a head, without a weight: what bounds the logits of an attention (QK-norm, Henry et al. 2020).
// A row is chunks of E numbers, one a head; of every `group` consecutive chunks the first `normed` are normed, the
// others pass: of queries, keys and values beside each other the first two thirds, say.
//   y = gain x / sqrt(mean(x^2) + 1e-6)      over the E numbers of a chunk
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// Which chunks of a row are normed, and how.
struct HeadNorm {
  int64_t width;   ///< E
  int64_t group;   ///< chunks after which the pattern repeats
  int64_t normed;  ///< of these, the first so many
  double gain = 1.0;
};

/// x (..., k group E) float32, float64, bfloat16 or, on a GPU, float16 -> y alike. Sums are float32 (float64 of
/// float64). Differentiable once in x; what is kept for that is y and a number a normed chunk. Throws SHAPE, DTYPE,
/// CONFIG.
at::Tensor head_norm(const at::Tensor& x, const HeadNorm& norm);

// For operators that own what they norm: memformer::head_norm_in_place(x, width, group, normed, gain) norms x and
// returns r (rows, k normed), 1 / sqrt(mean(x^2) + 1e-6) of each chunk; memformer::head_norm_backward(grad, y, r, …) is
// dL/dx.

}  // namespace memformer::ops
