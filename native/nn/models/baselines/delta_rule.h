// The layer of Gated DeltaNet (Yang et al., 2024) around the gated delta rule (nn/gated_delta.h).
//   q, k, v = silu(convolution(W x))      q and k divided by their norm per head      convolution: causal, width 4
//   a = exp(-e^A softplus(W_a x + b_a))      b = sigmoid(W_b x + b_b)      one each per head and token
//   branch = W_o (weight rms(o) silu(W_g x))
// The rule and the convolution are computed in the state's dtype, the projections in the pass's.
// Letters: B batch, T tokens, G segments at once, D width, H heads, E = D / H, R rows that are decoded, S slots.
#pragma once
#include "nn/decoding.h"
#include "nn/gated_delta.h"
#include "nn/layers.h"

namespace memformer::nn {

/// `prefix`.{norm, qkv, gates, output_gate, out}, .convolution.weight (3 D, 4), .decay (H), .output_norm.weight (E)
class DeltaRule {
 public:
  /// Of the convolution: as many tokens it reads, all but one of them earlier.
  static constexpr int64_t kWidth = 4;

  DeltaRule(Parameters& parameters, const Config& config, const std::string& prefix, double residual_gain);

  /// x (G B, T, D), consecutive segments one above the other, the first lengths (G B) int32 of a row being there
  /// (undefined: T). S (B, H, E, E) and tail (B, 3, 3 D), the last inputs of the convolution, are moved on; starts
  /// (B) bool, of each segment but the first, says the rows that begin it with zeros.
  void operator()(Residual& stream, const at::Tensor& lengths, at::Tensor& S, at::Tensor& tail,
                  const std::vector<at::Tensor>& starts, ForwardContext& ctx) const;

  /// One token a row, x (R, 1, D), of the rows' slots; S (S, H, E, E) and tail (S, 3, 3 D) are moved on in place. On a
  /// CPU row by row: what a vector unit computes of a number depends on where among others it lies.
  void decode(Residual& stream, const DecodeRows& rows, const at::Tensor& S, const at::Tensor& tail,
              ForwardContext& ctx) const;

 private:
  /// The last 3 of window (B, 3 + T, 3 D) that are there.
  static at::Tensor behind(const at::Tensor& window, const at::Tensor& lengths);
  /// window (B, 3 + T, 3 D), the last T of which are the tokens'; gates (B, T, 2 H).
  DeltaInputs of_window(const at::Tensor& window, const at::Tensor& gates) const;
  /// o (B, H, T, E), gate (B, T, D) -> (B, T, D).
  at::Tensor gated(const at::Tensor& o, const at::Tensor& gate) const;

  int64_t heads_;
  LayerNorm norm_;
  Linear qkv_, gates_, output_gate_, out_;
  at::Tensor convolution_, decay_, scale_;
};

}  // namespace memformer::nn
