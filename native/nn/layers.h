// The layers that all models share, as pre-LayerNorm building blocks. Each creates its parameters under `prefix` when
// it is constructed.
// Letters: B batch, T tokens, N rows of any sequence, D width, V vocabulary, R rows that are decoded.
#pragma once
#include "nn/config.h"
#include "nn/forward_context.h"
#include "nn/parameters.h"

namespace memformer::nn {

/// A projection whose bias is still to be added, by the operator that reads it next, in the same pass over memory.
struct Projection {
  at::Tensor product;  ///< x W^T (..., out) in the pass's dtype; of a decoding step also in shares (..., 8, out), which
                       ///< are still to be added as well (ops/decode_linear)
  Trained bias = {};   ///< (out), the same; undefined where it is added already
};

/// The residual stream between two sub-layers: x, and the last sub-layer's branch, which the next normalization adds to
/// it (after dropout).
struct Residual {
  at::Tensor x;                      ///< (B, N, D) in the parameters' dtype
  std::optional<Projection> branch;  ///< (B, N, D)

  /// The branch and its bias, as the operators of a decoding step take them.
  std::pair<std::optional<at::Tensor>, std::optional<at::Tensor>> decoded_branch() const;
};

/// y = x W^T + b.   x (..., in) -> (..., out);   `prefix`.weight (out, in), `prefix`.bias (out)
class Linear {
 public:
  /// W ~ N(0, gain^2 / (2 in)).
  Linear(Parameters& parameters, const std::string& prefix, int64_t in, int64_t out, double gain = 1.0,
         int64_t matrices = 1);
  at::Tensor operator()(const at::Tensor& x, ForwardContext& ctx) const;
  Projection without_bias(const at::Tensor& x, ForwardContext& ctx) const;
  /// The projection of a decoding step's rows, where an operator has multiplied by the weight: its product (R, out), or
  /// in shares, as that of (R, 1, out).
  Projection of_rows(const at::Tensor& product, ForwardContext& ctx) const;
  /// Weight and bias, for operators that take several layers' at once.
  std::pair<at::Tensor, at::Tensor> parameters() const { return {weight_, bias_}; }

 private:
  at::Tensor weight_, bias_;
};

/// Layer normalization over the last axis, eps 1e-5: from the parameters' dtype to the pass's. `prefix`.weight,
/// `prefix`.bias (D)
class LayerNorm {
 public:
  LayerNorm(Parameters& parameters, const std::string& prefix, int64_t width);
  /// Adds the branch, also one in shares, to the stream and normalizes the sum.
  at::Tensor operator()(Residual& stream, ForwardContext& ctx) const;
  at::Tensor operator()(const at::Tensor& x, ForwardContext& ctx) const;
  /// The rows of a decoding step: adds the branch to the stream, and returns linear of the normed sum.
  at::Tensor then(const Linear& linear, Residual& stream, ForwardContext& ctx) const;
  /// The same by a weight (out, D) and a bias (out) or none, as they are computed with; in `dtype`, by default theirs.
  at::Tensor then(const at::Tensor& weight, const std::optional<at::Tensor>& bias, Residual& stream,
                  std::optional<at::ScalarType> dtype = {}) const;
  /// Weight and bias, for what folds them into the layer behind.
  std::pair<at::Tensor, at::Tensor> parameters() const { return {weight_, bias_}; }

 private:
  at::Tensor weight_, bias_;
};

/// What a stack ends with in a decoding step, of R rows (R, 1, D): normed, or a stream whose norm whoever reads it
/// takes.
class DecodedRows {
 public:
  DecodedRows(at::Tensor normed) : normed_(std::move(normed)) {}
  DecodedRows(Residual stream, const LayerNorm& norm) : stream_(std::move(stream)), norm_(&norm) {}

  /// (R, 1, D), normed once.
  const at::Tensor& normed(ForwardContext& ctx);
  /// The last row alone.
  DecodedRows last() const;
  /// Their product (R, out) with a weight (out, D) and a bias (out) or none, as they are computed with, in `dtype`.
  at::Tensor then(const at::Tensor& weight, const std::optional<at::Tensor>& bias, at::ScalarType dtype,
                  ForwardContext& ctx);

 private:
  at::Tensor normed_;  // undefined: not yet
  std::optional<Residual> stream_;
  const LayerNorm* norm_ = nullptr;
};

/// branch = down(dropout(gelu(up(LN x))))      x (B, N, D);   `prefix`.{norm, up, down}
class FeedForward {
 public:
  FeedForward(Parameters& parameters, const std::string& prefix, int64_t width, int64_t inner, double residual_gain);
  void operator()(Residual& stream, ForwardContext& ctx) const;
  /// The branch of x alone, with its bias.
  at::Tensor operator()(const at::Tensor& x, ForwardContext& ctx) const;

 private:
  at::Tensor product(const at::Tensor& normed, bool biased, ForwardContext& ctx) const;
  at::Tensor decode(Residual& stream, ForwardContext& ctx) const;

  LayerNorm norm_;
  Linear up_, down_;
};

/// Token embedding, shared by the stacks of a model and by the output where the configuration says so. `prefix`.weight
/// (V, D)
class Embedding {
 public:
  /// W ~ N(0, embeddingDeviation^2); with embeddingNorm a token enters divided by its root mean square.
  Embedding(Parameters& parameters, const std::string& prefix, const Config& config);
  /// tokens (B, T) int64, padding as token 0; or (B, T, D) floating: embedded already. Returns (B, T, D).
  /// Throws TOKEN_RANGE (checked on the CPU; lib/ checks for every device).
  at::Tensor operator()(const at::Tensor& tokens, ForwardContext& ctx) const;
  const at::Tensor& weight() const { return weight_; }

 private:
  at::Tensor weight_;
  bool normed_;
};

}  // namespace memformer::nn
