// Root mean square norm per head, without a weight: it bounds the logits of an attention (QK-norm, Henry et al. 2020).
// A row consists of chunks of E numbers, one per head. Of every `group` consecutive chunks the first `normed` are
// normalized and the others pass through: with queries, keys and values side by side, the first two thirds.
//   y = gain x / sqrt(mean(x^2) + 1e-6)      over the E numbers of a chunk
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// Which chunks of a row are normalized, and how.
struct HeadNorm {
  int64_t width;   ///< E
  int64_t group;   ///< chunks after which the pattern repeats
  int64_t normed;  ///< of these, the first so many
  double gain = 1.0;
};

/// x (..., k group E) float32, float64 or bfloat16 (on a GPU also float16). Returns y in x's shape and dtype. Sums are
/// float32 (float64 for float64). Differentiable once in x; keeps y and one number per normalized chunk for backward.
/// Throws SHAPE, DTYPE, CONFIG.
at::Tensor head_norm(const at::Tensor& x, const HeadNorm& norm);

// For operators that own their input: memformer::head_norm_in_place(x, width, group, normed, gain) normalizes x and
// returns r (rows, k normed), 1 / sqrt(mean(x^2) + 1e-6) of each chunk; memformer::head_norm_backward(grad, y, r, …) is
// dL/dx.

}  // namespace memformer::ops
