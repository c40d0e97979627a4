// The stacks of layers that models are made of. Every layer is pre-LayerNorm; a last LayerNorm closes the stack.
// Letters: B batch, T tokens, N tokens of the encoder, D width, R rows that are decoded.
#pragma once
#include <functional>

#include "nn/attention.h"

namespace memformer::nn {

/// The gain of the last weights of a stack's residual branches, `branches` in each layer, by `residualStart`. "scaled":
/// their sum keeps the variance of one. "balanced": it has that of the embeddings, so that no branch drowns the token.
/// "zero": tokens start as they are.
double residual_gain(const Config& config, const std::string& start, int64_t layers, int64_t branches = 3);

/// Of the branches that read the memory or the encoder, by `readStart`.
double read_gain(const Config& config, int64_t layers);

/// Layers that read the memory: self-attention, memory read, feed-forward. Bidirectional: the encoder; causal: the
/// decoder of the "decoder" architecture.      `name`.`i`.{self_attention, memory_read, feed_forward}, `name`.norm
class MemoryStack {
 public:
  MemoryStack(Parameters& parameters, const Config& config, const std::string& name, int64_t layers, bool causal);
  /// Hidden states (B, T, D), normed, of `tokens` (B, T), which embed() makes (B, T, D) of, and the memory. What is
  /// made of the memory alone may run beside what tokens see of each other in the first layer, unless that is begun
  /// (ctx.begun()); the writer's part of it, and ctx.concurrent_work(), beside all layers.
  std::pair<at::Tensor, MemoryView> operator()(const at::Tensor& tokens, const std::function<at::Tensor()>& embed,
                                               const MemorySource& memory, const KeyMask& mask,
                                               ForwardContext& ctx) const;
  /// What tokens see of each other before the first layer reads the memory.
  Residual begin(const std::function<at::Tensor()>& embed, const KeyMask& mask, ForwardContext& ctx) const;
  /// What each layer sees of the memory.
  std::vector<CrossAttention::KeysValues> project_keys_values(const MemoryView& view, int64_t queries,
                                                              ForwardContext& ctx) const;
  /// One embedded token a row, x (R, 1, D).
  DecodedRows decode(at::Tensor x, const DecodeState& state, const DecodeRows& rows, ForwardContext& ctx) const;

 private:
  struct Layer {
    SelfAttention self_attention;
    CrossAttention memory_read;
    FeedForward feed_forward;
  };
  std::string name_;
  std::vector<Layer> layers_;
  LayerNorm norm_;
};

/// Layers that continue the text from the encoder's output: causal self-attention, cross-attention, feed-forward.
/// `decoder`.`i`.{self_attention, cross_attention, feed_forward}, decoder.norm
class DecoderStack {
 public:
  DecoderStack(Parameters& parameters, const Config& config, int64_t layers);
  /// x (B, T, D), encoded (B, N, D) -> (B, T, D), normed.
  at::Tensor operator()(at::Tensor x, const KeyMask& mask, const at::Tensor& encoded, const KeyMask& encoded_mask,
                        ForwardContext& ctx) const;
  /// What each layer sees of the encoder's output.
  std::vector<CrossAttention::KeysValues> project_keys_values(const at::Tensor& encoded, int64_t queries,
                                                              ForwardContext& ctx) const;
  /// One embedded token a row, x (R, 1, D).
  DecodedRows decode(at::Tensor x, const DecodeState& state, const DecodeRows& rows, ForwardContext& ctx) const;

 private:
  struct Layer {
    SelfAttention self_attention;
    CrossAttention cross_attention;
    FeedForward feed_forward;
  };
  std::vector<Layer> layers_;
  LayerNorm norm_;
};

}  // namespace memformer::nn
