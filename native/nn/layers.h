// The layers every model shares. Each makes its parameters under `prefix` when it is made; all are pre-LayerNorm building blocks.
#pragma once
#include "nn/parameters.h"
#include "nn/pass.h"

namespace memformer::nn {

/// y = x W^T + b.   x (..., in) -> (..., out);   `prefix`.weight (out, in), `prefix`.bias (out)
class Linear {
 public:
  /// W ~ N(0, gain^2 / (2 in)).
  Linear(Parameters& parameters, const std::string& prefix, int64_t in, int64_t out, double gain = 1.0);
  at::Tensor operator()(const at::Tensor& x, Pass& pass) const;

 private:
  at::Tensor weight_, bias_;
};

/// Layer normalization over the last axis, eps 1e-5, in the dtype of x's residual stream; `prefix`.weight, `prefix`.bias (D)
class LayerNorm {
 public:
  LayerNorm(Parameters& parameters, const std::string& prefix, int64_t width);
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  int64_t width_;
  at::Tensor weight_, bias_;
};

/// x + dropout(down(dropout(gelu(up(LN x)))))      x (B, N, D);   `prefix`.{norm, up, down}
class FeedForward {
 public:
  FeedForward(Parameters& parameters, const std::string& prefix, int64_t width, int64_t inner, double residual_gain);
  at::Tensor operator()(const at::Tensor& x, Pass& pass) const;

 private:
  LayerNorm norm_;
  Linear up_, down_;
};

/// Token embedding, shared by the stacks of a model and, when tied, by the output.   `embedding`.weight (V, D)
class Embedding {
 public:
  Embedding(Parameters& parameters, int64_t vocabulary, int64_t width);
  /// tokens (B, T) int64, padding as token 0; or (B, T, D) floating: embedded already. Returns (B, T, D).
  /// Throws TOKEN_RANGE (checked on the CPU; lib/ checks for every device).
  at::Tensor operator()(const at::Tensor& tokens, Pass& pass) const;
  const at::Tensor& weight() const { return weight_; }

 private:
  at::Tensor weight_;
};

}  // namespace memformer::nn
