// What Muon (engine/muon.h) does number by number, before and after its matrices are orthogonalized. The matrices lie
// in flat buffers, wherever they are there. With c = min(1, clip / (norm + 1e-6)) / grad_scale, for each number:
//   g = c gradient      m <- beta m + (1 - beta) g      u = beta m + (1 - beta) g      W <- kept W - size direction
// Letters: N numbers of the parameters' buffers, M of the momenta's, n matrices, (r, s) their shape.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// Momentum of n matrices in place; their gradients are 0 afterwards. gradients (N), momenta (M): both float32 or both
/// float64; places (n, 2) int64: where a matrix begins in gradients, and in momenta; no two overlap. norm () that of
/// all gradients divided by grad_scale () (undefined: 1). Returns u (n, r, s) in `dtype`. Where norm is not finite
/// momenta stay and u is 0. clip 0 never clips. No gradient. Places beyond a buffer are the caller's fault: a CPU
/// refuses them, a GPU passes over such a matrix. Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
at::Tensor muon_momentum(const at::Tensor& gradients, const at::Tensor& momenta, const at::Tensor& places, int64_t rows,
                         int64_t columns, const at::Tensor& norm, const std::optional<at::Tensor>& grad_scale,
                         double clip, double beta, at::ScalarType dtype);

/// values (N) float32 or float64: of each matrix whose norm is above 0, W <- kept W - size direction. directions (n, r,
/// s) of a floating dtype, norms (n) float32 or float64, places as above, of which the first counts. No gradient.
/// Throws SHAPE, DTYPE, DEVICE_MISMATCH, CONFIG.
void muon_step(const at::Tensor& values, const at::Tensor& places, const at::Tensor& directions,
               const at::Tensor& norms, double kept, double size);

}  // namespace memformer::ops
