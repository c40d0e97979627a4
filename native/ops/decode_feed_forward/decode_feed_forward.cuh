// The contract of the kernel that is the feed-forward layer of a decoding step.
// Letters: R rows, D width, F inner width.
#pragma once
#include "ops/decode_linear/decode_linear.cuh"

namespace memformer::ops {

struct DecodeFeedForwardParams {
  DecodeLinearParams up;  ///< with a norm: K = D, N = F; no y. settled says it of `down` as well
  const void* down;       ///< (D, F)
  float* shares;          ///< (R, kDecodeShares, D)
};

/// Whether launch_decode_feed_forward takes these on the current device: compute capability 9.0 with clusters of 8
/// blocks, two bytes a number, 1 to 8 rows, D 256 or 512, F 4 D, pointers of 16 bytes.
bool fits_decode_feed_forward(const DecodeFeedForwardParams& params);
void launch_decode_feed_forward(const DecodeFeedForwardParams& params, cudaStream_t stream);

}  // namespace memformer::ops
