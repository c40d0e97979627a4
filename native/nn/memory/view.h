// The memory as one segment reads it: its slots, and the normalized copies that its readers take. Raw slots have norm
// 1, tokens norm sqrt(D). With memoryNorm every reader layer-norms the slots for itself, with a weight and bias that
// are folded into its projection.
// Letters: B batch, M slots, C constant slots, D width.
#pragma once
#include <functional>

#include "nn/forward_context.h"
#include "ops/layer_norm_no_affine/layer_norm_no_affine.h"

namespace memformer::nn {

struct MemoryView {
  at::Tensor raw;        ///< (B, M, D) in the parameters' dtype
  bool normed;           ///< whether what follows is standardized, in the pass's dtype; else it is `raw`
  at::Tensor for_reads;  ///< (B, M + C, D), for the layers that read the memory: the slots, then the constant ones
  at::Tensor for_query, for_key, for_own_value;  ///< (B, M, D), for the writer
  /// (B, M, D): what the writer has made of the first two already (Writer::prepare); undefined: nothing yet.
  at::Tensor query = {}, own_key = {};

  /// constants (C, D), learned slots that are read beside the memory's, or undefined.
  static MemoryView of(const at::Tensor& memory, bool normed, const ForwardContext& ctx,
                       const at::Tensor& constants = {}) {
    const auto with_constants = [&](const at::Tensor& raw) {
      return at::cat({raw, constants.unsqueeze(0).expand({raw.size(0), -1, -1})}, 1);
    };
    if (!normed) return {memory, false, constants.defined() ? with_constants(memory) : memory, memory, memory, memory};
    if (constants.defined()) {
      const auto uses = ops::layer_norm_no_affine(memory, 3, ctx.compute());
      return {uses[0], true,    ops::layer_norm_no_affine(with_constants(uses[0]), 1, ctx.compute())[1],
              uses[1], uses[2], uses[3]};
    }
    const auto uses = ops::layer_norm_no_affine(memory, 4, ctx.compute());
    return {uses[0], true, uses[1], uses[2], uses[3], uses[4]};
  }
};

/// Where a stack of layers gets its memory from.
struct MemorySource {
  std::function<MemoryView()> read;
  /// What the writer makes of the memory alone; empty: nobody writes.
  std::function<void(MemoryView&)> prepare;
};

}  // namespace memformer::nn
