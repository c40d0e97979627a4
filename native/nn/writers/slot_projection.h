// What the writers share: slots and tokens projected to queries, keys and values, and slot attention over them.
//   u = LN(m);   q = u W_Q   k_self = u W_K   k = x W_K   v = x W_V        slots and tokens share W_K; biases if writerBias
// The slots enter layer-normed, as in the memory read: raw slots have norm 1 and tokens norm sqrt(D), and a softmax that weighs
// both against each other needs them on one scale. Without memoryNorm u = m.
#pragma once
#include "nn/config.h"
#include "nn/key_mask.h"
#include "nn/layers.h"

namespace memformer::nn {

class SlotProjection {
 public:
  /// Makes writer.norm.{weight, bias} (D), writer.{query, key, value}.weight (D, D) and .bias (D). `value_gain` scales W_V's start.
  SlotProjection(Parameters& parameters, const Config& config, double value_gain);

  /// u (B, M, D) of the memory (B, M, D).
  at::Tensor slots(const at::Tensor& memory, Pass& pass) const { return norm_ ? (*norm_)(memory, pass) : memory; }
  at::Tensor value(const at::Tensor& x, Pass& pass) const;
  /// Attention of the slots u (B, M, D) to themselves, with their value `own` (B, M, D) in the memory's dtype, and
  /// to the tokens x (B, T, D). Returns (B, M, D) in own's dtype.
  at::Tensor attend(const at::Tensor& u, const at::Tensor& own, const at::Tensor& x, const KeyMask& mask, Pass& pass) const;

 private:
  struct Projected {
    at::Tensor weight;               ///< (D, D)
    std::optional<at::Tensor> bias;  ///< (D)
  };
  at::Tensor project(const at::Tensor& x, const Projected& by, Pass& pass) const;

  int64_t heads_;
  double scale_;
  std::optional<LayerNorm> norm_;
  Projected query_, key_, value_;
};

}  // namespace memformer::nn
