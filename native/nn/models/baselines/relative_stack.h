// Transformer-XL's layers (Dai et al., 2019), pre-LayerNorm: causal, over their own inputs of C tokens before the
// segment and the segment's. No gradient flows into the former.
//   h~ = [cache, h]      A_ij = ((q_i + u) . k_j + (q_i + v) . W_r R_{i-j}) / sqrt(E)      R: sines, then cosines
// Letters: B batch, T tokens, G segments at once, C places of the cache, N = C + T, P places of any row, n others, L
// layers, D width, H heads, E = D / H, R rows that are decoded, S slots.
#pragma once
#include <functional>

#include "nn/attention.h"

namespace memformer::nn {

/// `prefix`.self_attention.{norm, query, key_value, out}, .relative.weight (D, D), .content_bias and .position_bias (D)
class RelativeAttention {
 public:
  RelativeAttention(Parameters& parameters, const Config& config, const std::string& prefix, double gain);

  /// cached: from the layer's input (B, T, D) to those before it, (B, C, D); seen (B, 1, T, N); distances (N, D): R of
  /// N - 1 down to 0. Returns the layer's input.
  using Cached = std::function<at::Tensor(const at::Tensor& input)>;
  at::Tensor operator()(Residual& stream, const Cached& cached, const at::Tensor& seen, const at::Tensor& distances,
                        ForwardContext& ctx) const;

  /// Keys and values (B, H, C, E) of cached inputs.
  CrossAttention::KeysValues of_cache(const at::Tensor& cache, ForwardContext& ctx) const;

  /// One token a row, x (R, 1, D), behind the C cached ones, of which filled (R) are there; distances (N, D): R of 0
  /// up to N - 1. Returns the layer's input.
  at::Tensor decode(Residual& stream, const DecodeRows& rows, const KeyValueCache& own, const KeyValueCache& context,
                    const at::Tensor& filled, const at::Tensor& distances, ForwardContext& ctx) const;

  /// What h (B, T, D), inputs of this layer, read of others (B, n, D), there (B, n) bool, by content alone, in the
  /// parameters' dtype: (B, H, T, E). No gradient reaches this layer's weights; it does reach `others`.
  at::Tensor content_read(const at::Tensor& h, const at::Tensor& others, const at::Tensor& there) const;

 private:
  std::pair<at::Tensor, at::Tensor> keys_values(const at::Tensor& normed, ForwardContext& ctx) const;
  /// (B, P, 2 D), projected, to keys, normed if queryKeyNorm, and values: (B, H, P, E) each.
  std::pair<at::Tensor, at::Tensor> split(const at::Tensor& key_value) const;
  /// query (B, P, D), normed if queryKeyNorm.
  at::Tensor norm_if(const at::Tensor& query) const;
  at::Tensor bias(const at::Tensor& parameter, ForwardContext& ctx) const;

  int64_t heads_;
  bool normed_;  // queries and keys
  LayerNorm norm_;
  Linear query_, key_value_, out_;
  at::Tensor relative_, content_bias_, position_bias_;
};

/// Tokens before the segment, as the layers met them, at the end of C places.
struct RelativeCache {
  at::Tensor inputs;  ///< (B, L, C, D)
  at::Tensor filled;  ///< (B) int64, how many there are
};

/// What each layer sees before the segments of a batch, as RelativeAttention::Cached: of C places, of which filled (B)
/// are there.
struct RelativeCaches {
  int64_t places;
  at::Tensor filled;
  std::function<at::Tensor(int64_t layer, const at::Tensor& input)> of_layer;
};

// G consecutive segments of the same B rows as (G B) rows, one segment above the other: what a segment sees of those
// before it are a layer's inputs of this very pass, into which no gradient flows, so that a layer takes all segments at
// once.

/// What a segment may see, (B, P, D): place 0 is nothing, then come the places of `first` (B, n, D), then the tokens of
/// a layer's input (G B, T, D), row by row. Without gradient.
at::Tensor pool_of(const std::vector<at::Tensor>& first, const at::Tensor& input);

/// Of a pool (B, P, D) what places (G, B, n) int64 name: (G B, n, D).
at::Tensor picked(const at::Tensor& pool, const at::Tensor& places);

/// `decoder`.`i`.{self_attention, feed_forward}, decoder.norm; where the layers read a memory, too, between the two
/// `decoder`.`i`.memory_read
class RelativeStack {
 public:
  RelativeStack(Parameters& parameters, const Config& config, bool reads_memory = false);

  using MemoryKeysValues = std::vector<CrossAttention::KeysValues>;
  /// x (B, T, D) embedded tokens, real (B, T) bool or undefined: all; memory: what each layer that reads it sees of it.
  /// Returns (B, T, D), normed, and each layer's input (B, T, D) without gradient.
  std::pair<at::Tensor, std::vector<at::Tensor>> operator()(at::Tensor x, const at::Tensor& real,
                                                            const RelativeCache& cache, ForwardContext& ctx,
                                                            const MemoryKeysValues& memory = {}) const;
  std::pair<at::Tensor, std::vector<at::Tensor>> operator()(at::Tensor x, const at::Tensor& real,
                                                            const RelativeCaches& caches, ForwardContext& ctx,
                                                            const MemoryKeysValues& memory = {}) const;
  /// What each layer sees of the cache.
  std::vector<CrossAttention::KeysValues> project_keys_values(const RelativeCache& cache, ForwardContext& ctx) const;
  /// What each layer sees of the memory, for so many queries.
  MemoryKeysValues project_memory(const MemoryView& view, int64_t queries, ForwardContext& ctx) const;
  /// One embedded token a row, x (R, 1, D), filled (R) of whose cache are there; the context is the cache's places, and
  /// behind them the memory's slots where layers read them. Returns (R, 1, D), normed, and the layers' inputs
  /// (R, L, 1, D).
  std::pair<at::Tensor, at::Tensor> decode(at::Tensor x, const DecodeState& state, const DecodeRows& rows,
                                           const at::Tensor& filled, ForwardContext& ctx) const;
  const RelativeAttention& attention(size_t layer) const { return layers_[layer].attention; }

 private:
  struct Layer {
    RelativeAttention attention;
    std::optional<CrossAttention> memory_read;
    FeedForward feed_forward;
  };
  int64_t slots_;  // that a layer reads; 0: none
  std::vector<Layer> layers_;
  LayerNorm norm_;
};

/// (B, T) bool: which of a segment's tokens are there.
at::Tensor real_of(const KeyMask& mask, int64_t B, int64_t T, at::Device device);

/// (B, P) bool: the places of right-aligned rows of which filled (B) are there.
at::Tensor right_aligned(const at::Tensor& filled, int64_t places);

/// Those of x (B, L, P, D) that are there (B, P), moved to the end, in their order.
at::Tensor moved_right(const at::Tensor& x, const at::Tensor& there);

}  // namespace memformer::nn
