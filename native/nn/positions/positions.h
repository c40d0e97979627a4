// Self-attention under each position scheme, from the normed input to the merged heads. Positions count within a
// segment.
// Letters: B batch, T queries, N keys, D width, H heads, E = D / H, R rows that are decoded, P
// positions.
#pragma once
#include <memory>

#include "core/registry.h"
#include "nn/config.h"
#include "nn/decoding.h"
#include "nn/key_mask.h"
#include "nn/query_key_value.h"

namespace memformer::nn {

class PositionedAttention {
 public:
  virtual ~PositionedAttention() = default;
  /// x (B, T, D), normed; project: to Q, K, V side by side (B, T, 3 D). Returns (B, T, D), heads merged.
  virtual at::Tensor operator()(const at::Tensor& x, const QueryKeyValue& project, const KeyMask& mask, bool causal,
                                ForwardContext& ctx) const = 0;
  /// One token a row, behind those of its slot: qkv (R, 1, 3 D) goes into the cache and reads it. Returns (R, 1, D).
  virtual at::Tensor decode(const at::Tensor& qkv, const DecodeRows& rows, const KeyValueCache& cache,
                            ForwardContext& ctx) const = 0;
  /// Cosines and sines (P, E / 2) of the angles by which queries and keys are turned, where that is all that positions
  /// do: where rows are of different slots, decode_self_attention of them is then decode. None elsewhere.
  virtual std::optional<std::pair<at::Tensor, at::Tensor>> rotation(const KeyValueCache&) const { return std::nullopt; }
};

/// Where an attention stands: parameters of a stack are made by its first layer.
struct LayerPlace {
  std::string stack;  ///< "encoder" or "decoder"
  int64_t layer;
  bool causal;
  int64_t beside = 0;  ///< tokens of its sequences that are not the segment's: of a memory that is read as tokens
};

/// Schemes by name: "rotary", "relative" (the paper's first version), "t5".
Registry<std::unique_ptr<PositionedAttention>, Parameters&, const Config&, const LayerPlace&>& position_schemes();

/// softmax(q k^T / sqrt(E)) v over the keys of the mask; q (B, H, T, E), k, v (B, H, N, E) -> (B, T, D). norm_queries
/// and norm_keys: as ops::attention.
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const KeyMask& mask,
                  bool norm_queries = false, bool norm_keys = false);

}  // namespace memformer::nn
