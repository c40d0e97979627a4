// Shared by the writers: slots and tokens projected to queries, keys and values, and slot attention over them.
//   u = LN(m);   q = u W_Q   k_self = u W_K   k = x W_K   v = x W_V        slots and tokens share W_K; biases if
//   writerBias
// The slots enter layer-normed, as in the memory read: a softmax that weighs them against tokens needs both on one
// scale. Without memoryNorm u = m. writerQueryKeyNorm: q, k_self and k are divided by their root mean square a head,
// and q multiplied by a learned number a head. writerSharpness: k_self is multiplied by a learned number a head, so
// that the tokens' logits start with that deviation and a slot still holds on to itself. writerValues: v as it is;
// "centered": less its mean over the segment's tokens, for what all tokens share tells nothing of any; "normed": of
// norm writerValueGain a token, where that of a slot is 1.
// Letters: B batch, M slots, T tokens, N slots or tokens, D width, H heads, E = D / H.
#pragma once
#include "nn/config.h"
#include "nn/key_mask.h"
#include "nn/layers.h"
#include "nn/memory/view.h"

namespace memformer::nn {

class SlotProjection {
 public:
  /// Makes writer.norm.{weight, bias} (D), writer.{query, key, value}.weight (D, D) and .bias (D). `value_gain` scales
  /// W_V's start; `own_values`: own_value() will be asked for.
  SlotProjection(Parameters& parameters, const Config& config, double value_gain, bool own_values);

  /// u W_V (B, M, D), in the pass's dtype.
  at::Tensor own_value(const MemoryView& view, ForwardContext& ctx) const {
    return of_slots(view, view.for_own_value, 2, ctx);
  }
  /// Leaves the slots' queries and own keys in the view, for attend().
  void prepare(MemoryView& view, ForwardContext& ctx) const {
    view.query = query(view, ctx);
    view.own_key = own_key(view, ctx);
  }
  /// Attention of the slots to themselves, with their value `own` (B, M, D) in the memory's dtype, and
  /// to the tokens x (B, T, D). Returns (B, M, D) in own's dtype.
  at::Tensor attend(const MemoryView& view, const at::Tensor& own, const at::Tensor& x, const KeyMask& mask,
                    ForwardContext& ctx) const;

 private:
  struct Projected {
    at::Tensor weight;               ///< (D, D)
    std::optional<at::Tensor> bias;  ///< (D)
  };
  at::Tensor project(const at::Tensor& x, const Projected& by, ForwardContext& ctx) const;
  /// The slots by the projection of that number among query, key and value: `use` is what Slots holds for it.
  at::Tensor of_slots(const MemoryView& view, const at::Tensor& use, size_t number, ForwardContext& ctx) const;

  /// Notes writer.self (B, H, M), the weight of each slot on itself, writer.logits (H), the largest, and writer.values
  /// (B, T, D).
  void note(const at::Tensor& q, const at::Tensor& own_key, const at::Tensor& k, const at::Tensor& v,
            const KeyMask& mask, Observation& seen) const;
  at::Tensor query(const MemoryView& view, ForwardContext& ctx) const;
  /// (B, N, D), each head over its root mean square.
  at::Tensor of_heads(const at::Tensor& x, const std::optional<at::Tensor>& gains = {}) const;
  at::Tensor key(const at::Tensor& projected) const;
  at::Tensor own_key(const MemoryView& view, ForwardContext& ctx) const;
  at::Tensor values(const at::Tensor& x, const KeyMask& mask, ForwardContext& ctx) const;

  enum class Values { plain, centered, normed };
  int64_t heads_;
  double scale_;
  Values values_;
  double value_norm_;
  std::optional<at::Tensor> self_gain_;  // (H), of the slots' own keys
  std::optional<at::Tensor> gain_;       // (H), of the queries
  bool own_values_;
  std::optional<LayerNorm> norm_;
  Projected query_, key_, value_;
};

}  // namespace memformer::nn
