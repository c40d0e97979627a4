// The attention sub-layers, residual and normalization included.
#pragma once
#include "nn/layers.h"
#include "nn/positions.h"

namespace memformer::nn {

/// x + dropout(out(attention(qkv(LN x))))      x (B, T, D);   `stack`.`layer`.self_attention.{norm, qkv, out}
class SelfAttention {
 public:
  SelfAttention(Parameters& parameters, const Config& config, const LayerPlace& place, double residual_gain);
  at::Tensor operator()(const at::Tensor& x, const KeyMask& mask, Pass& pass) const;

 private:
  bool causal_;
  LayerNorm norm_;
  Linear qkv_, out_;
  std::unique_ptr<PositionedAttention> attention_;
};

/// x + dropout(out(attention(query(LN x), key_value(context))))      x (B, T, D), context (B, N, D);   `prefix`.{norm, query, key_value, out}
/// The memory read (context: the slots, layer-normed by `prefix`.memory_norm) and the decoder's cross-attention (context: the
/// encoder's output, normed already). No positions.
class CrossAttention {
 public:
  enum class Context { memory, encoder };
  CrossAttention(Parameters& parameters, const Config& config, const std::string& prefix, Context context, double residual_gain);
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& context, const KeyMask& mask, Pass& pass) const;

 private:
  int64_t heads_;
  LayerNorm norm_;
  std::optional<LayerNorm> memory_norm_;
  Linear query_, key_value_, out_;
};

}  // namespace memformer::nn
