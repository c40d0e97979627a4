// The attention sub-layers, each with the normalization before it.
// Letters: B batch, T tokens, N rows of the context, D width, H heads, E = D / H, R rows that are decoded.
#pragma once
#include "nn/layers.h"
#include "nn/memory/view.h"
#include "nn/positions/positions.h"

namespace memformer::nn {

/// branch = out(attention(qkv(LN x)))      x (B, T, D);   `stack`.`layer`.self_attention.{norm, qkv, out}
class SelfAttention {
 public:
  SelfAttention(Parameters& parameters, const Config& config, const LayerPlace& place, double residual_gain);
  void operator()(Residual& stream, const KeyMask& mask, ForwardContext& ctx) const;
  /// One token a row, x (R, 1, D), behind those in the cache.
  void decode(Residual& stream, const DecodeRows& rows, const KeyValueCache& cache, ForwardContext& ctx) const;

 private:
  std::string name_;
  bool causal_;
  LayerNorm norm_;
  QueryKeyValue qkv_;
  Linear out_;
  std::unique_ptr<PositionedAttention> attention_;
};

/// branch = out(attention(query(LN x), keys, values))      x (B, T, D), context (B, N, D);   `prefix`.{norm, query,
/// key_value, out} With readGate the memory read's branch is multiplied by `prefix`.gate (D), which starts at 0. The
/// memory read (context: the slots, layer-normed by `prefix`.memory_norm if memoryNorm) and the decoder's
/// cross-attention (context: the encoder's output, normed already). No positions.
class CrossAttention {
 public:
  enum class Context { memory, encoder };
  CrossAttention(Parameters& parameters, const Config& config, const std::string& prefix, Context context,
                 double residual_gain);

  struct KeysValues {
    at::Tensor keys, values;   ///< (B, H, N, E), or (1, H, N, E): every row sees the same
    bool keys_normed = false;  ///< if queryKeyNorm; else who attends has to
  };
  /// Each layer's keys and values of a context that all of them share. queries: how many tokens of a row attend to
  /// them, by operator(), which may norm the keys itself; 0: by decode, which does not.
  static std::vector<KeysValues> project_keys_values(const std::vector<const CrossAttention*>& layers,
                                                     const at::Tensor& context, int64_t queries, ForwardContext& ctx);
  /// Each layer's keys and values of the memory, which each normalizes for itself if memoryNorm.
  static std::vector<KeysValues> project_memory_keys_values(const std::vector<const CrossAttention*>& layers,
                                                            const MemoryView& view, int64_t queries,
                                                            ForwardContext& ctx);

  void operator()(Residual& stream, const KeysValues& seen, const KeyMask& mask, ForwardContext& ctx) const;
  /// One token a row, x (R, 1, D); what each slot sees is in the cache.
  void decode(Residual& stream, const DecodeRows& rows, const KeyValueCache& cache, ForwardContext& ctx) const;

 private:
  /// query (B, T, D), normed if queryKeyNorm.
  at::Tensor normed_heads(const at::Tensor& query) const;
  /// Whether attention norms the keys of a context (B, N, D) where so many queries of a row attend to it.
  bool norms_late(const at::Tensor& context, int64_t queries) const;
  /// The branch from what was read, (B, T, D), heads merged.
  Projection branch(const at::Tensor& read, ForwardContext& ctx) const;

  std::string name_;
  bool reads_memory_;
  int64_t heads_;
  bool normed_;  // queries and keys
  LayerNorm norm_;
  std::optional<LayerNorm> memory_norm_;
  Linear query_, key_value_, out_;
  std::optional<at::Tensor> gate_;
};

}  // namespace memformer::nn
