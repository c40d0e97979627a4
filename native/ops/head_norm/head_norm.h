// Root mean square norm per head, without a weight: it bounds the logits of an attention (QK-norm, Henry et al. 2020).
// A row consists of chunks of E numbers, one per head. Of every `group` consecutive chunks the first `normed` are
// normalized and the others pass through: with queries, keys and values side by side, the first two thirds.
//   y = gain x / sqrt(mean(x^2) + 1e-6)      over the E numbers of a chunk; times its own gain, where chunks have some
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
/// float32 (float64 for float64). gains (normed) in the dtype of sums, or undefined: the first normed chunk of every
/// group is multiplied by the first, and so on. Differentiable once in x and gains; keeps y (with gains x) and one
/// number per normalized chunk for backward. Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
at::Tensor head_norm(const at::Tensor& x, const HeadNorm& norm, const std::optional<at::Tensor>& gains = {});

// For operators that own their input: memformer::head_norm_in_place(x, width, group, normed, gain) normalizes x and
// returns r (rows, k normed), 1 / sqrt(mean(x^2) + 1e-6) of each chunk; memformer::head_norm_backward(grad, y, r, …) is
// dL/dx; memformer::head_norm_gains_backward(grad, x, r, gains, …) is dL/dx and dL/dgains.

}  // namespace memformer::ops
