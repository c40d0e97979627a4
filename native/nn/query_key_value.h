// The projection of self-attention: queries, keys and values side by side, (B, T, 3 D).
// Letters: B batch, T tokens, D width, H heads, E = D / H.
#pragma once
#include "nn/layers.h"
#include "ops/head_norm/head_norm.h"

namespace memformer::nn {

/// `prefix`.qkv. With `normed`, the query and the key of every head are divided by their root mean square, which a
/// rotation leaves as it is: a logit is then at most sqrt(E).
class QueryKeyValue {
 public:
  QueryKeyValue(Parameters& parameters, const std::string& prefix, int64_t width, int64_t heads, bool normed)
      : linear_(parameters, prefix + ".qkv", width, 3 * width, 1.0, /*matrices=*/3), heads_(heads), normed_(normed) {}

  at::Tensor operator()(const at::Tensor& x, ForwardContext& ctx) const {
    return normed_ ? norm(linear_(x, ctx)) : linear_(x, ctx);
  }
  /// Of the rows of a decoding step: see LayerNorm::then.
  at::Tensor after(const LayerNorm& layer_norm, Residual& stream, ForwardContext& ctx) const {
    const auto qkv = layer_norm.then(linear_, stream, ctx);
    return normed_ ? norm(qkv) : qkv;
  }
  /// The bias is left to the operator that reads the product; where it had to be added before, there is none.
  Projection without_bias(const at::Tensor& x, ForwardContext& ctx) const {
    return normed_ ? Projection{norm(linear_(x, ctx))} : linear_.without_bias(x, ctx);
  }

  /// As without_bias, but not normed: for an operator that norms by itself.
  Projection unnormed(const at::Tensor& x, ForwardContext& ctx) const { return linear_.without_bias(x, ctx); }
  bool normed() const { return normed_; }
  /// Weight (3 D, D) and bias (3 D).
  auto parameters() const { return linear_.parameters(); }

  /// The largest logit of each head by content alone, before positions, (H).
  at::Tensor largest_logits(const at::Tensor& x, ForwardContext& ctx) const {
    const auto qkv = (*this)(x, ctx);
    const int64_t B = qkv.size(0), T = qkv.size(1), E = qkv.size(2) / (3 * heads_);
    const auto parts = qkv.view({B, T, 3, heads_, E}).permute({2, 0, 3, 1, 4});
    return nn::largest_logits(parts[0], parts[1], 1.0 / std::sqrt(static_cast<double>(E)));
  }

 private:
  at::Tensor norm(const at::Tensor& qkv) const {
    return ops::head_norm(qkv, {qkv.size(2) / (3 * heads_), 3 * heads_, 2 * heads_});
  }

  Linear linear_;
  int64_t heads_;
  bool normed_;
};

}  // namespace memformer::nn
