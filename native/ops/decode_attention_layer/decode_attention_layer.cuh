// The contract of the kernel that is an attention layer of a decoding step.
// Letters: R rows, D width, H heads, E = D / H.
#pragma once
#include "ops/decode_attention/decode_attention.cuh"
#include "ops/decode_linear/decode_linear.cuh"

namespace memformer::ops {

struct DecodeAttentionLayerParams {
  DecodeLinearParams projection;  ///< with a norm: K = D, N = D, or 3 D of self-attention; no y. settled says it of all
  DecodeAttentionParams attention;  ///< no y. q, or where it is null append.qkv, is not read: the kernel makes it
  const void* weight;               ///< (D, D)
  float* shares;                    ///< (R, kDecodeShares, D)
  bool norm_heads;                  ///< query, and key of self-attention
};

/// Rows up to which a layer is one kernel: every row reads the weights anew, so that more are better served by a
/// projection of all of them.
constexpr int64_t kMostLayerRows = 4;

/// Whether launch_decode_attention_layer takes these on the current device: compute capability 9.0 with clusters of 4
/// blocks, two bytes a number, D 256 or 512, E 64, R at least 1, pointers and strides of 16 bytes.
bool fits_decode_attention_layer(const DecodeAttentionLayerParams& params);
void launch_decode_attention_layer(const DecodeAttentionLayerParams& params, cudaStream_t stream);

}  // namespace memformer::ops
