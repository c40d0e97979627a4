// The contract of the kernel that is a decoding step's attention and the product behind it.
// Letters: R rows, D width, H heads, E = D / H.
#pragma once
#include "ops/decode_attention/decode_attention.cuh"

namespace memformer::ops {

struct DecodeAttentionLinearParams {
  DecodeAttentionParams attention;  ///< no y; settled says it of the weight as well
  const void* weight;               ///< (D, D)
  float* shares;                    ///< (R, kDecodeShares, D)
};

/// Whether launch_decode_attention_linear takes these on the current device: compute capability 9.0, two bytes a
/// number, D 256 or 512, E 64, R at least 1, pointers and strides of 16 bytes.
bool fits_decode_attention_linear(const DecodeAttentionLinearParams& params);
void launch_decode_attention_linear(const DecodeAttentionLinearParams& params, cudaStream_t stream);

}  // namespace memformer::ops
