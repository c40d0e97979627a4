// The contract of attention over more keys than a block takes: AttentionParams with M up to kMostSplits * kSplitKeys,
// without mask, lengths, bias, angles and causal. Letters: M keys.
#pragma once
#include "ops/attention/attention.cuh"

namespace memformer::ops {

/// Whether the current device launches clusters of a head's blocks.
bool fits_split_attention(const AttentionParams& params);
void launch_split_attention(const AttentionParams& params, cudaStream_t stream);

}  // namespace memformer::ops
