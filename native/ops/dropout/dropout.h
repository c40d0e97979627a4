// Dropout whose mask is a pure function of (seed, site, element). It draws nothing from a generator and saves nothing,
// so a replayed segment drops exactly what its first run dropped, on any device and with any number of threads.
// Letters: G seeds.
#pragma once
#include "core/torch.h"

namespace memformer::ops {

/// x of any shape, float32, float64 or bfloat16 (on a GPU also float16); 0 <= p < 1; seed () int64, or (G): x falls
/// into G equal shares, each dropped with its own seed as if it were called for alone; site numbers the dropouts of one
/// pass. Element i of the contiguous x is kept, times 1 / (1 - p), where word i % 4 of Philox4x32-10(key = seed,
/// counter = (i / 4, site)) is at least p 2^32; otherwise it is 0. The gradient is the same operator on the gradient.
/// Throws CONFIG, DTYPE, SHAPE, DEVICE_MISMATCH.
at::Tensor dropout(const at::Tensor& x, double p, const at::Tensor& seed, int64_t site);

}  // namespace memformer::ops
