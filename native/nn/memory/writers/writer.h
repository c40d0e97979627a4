// A memory writer: how the slots take in a segment. One file per writer; its last lines register it.
// Letters: B batch, M slots, T tokens of a segment, D width.
#pragma once
#include <memory>

#include "core/registry.h"
#include "nn/config.h"
#include "nn/key_mask.h"
#include "nn/layers.h"
#include "nn/memory/view.h"

namespace memformer::nn {

class Writer {
 public:
  virtual ~Writer() = default;
  /// x (B, T, D), the normed output of the last layer that reads tokens.
  /// Returns the written memory (B, M, D), before forgetting.
  virtual at::Tensor operator()(const MemoryView& view, const at::Tensor& x, const KeyMask& mask,
                                ForwardContext& ctx) const = 0;
  /// Computes what it can of the memory alone, and leaves it in the view.
  virtual void prepare(MemoryView&, ForwardContext&) const {}
  /// Whether a row without tokens comes back to the bit as it was.
  virtual bool keeps_rows_without_tokens() const { return false; }
};

/// Writers by name: "slot-attention" (the paper's), "gru".
Registry<std::unique_ptr<Writer>, Parameters&, const Config&>& writers();

}  // namespace memformer::nn
