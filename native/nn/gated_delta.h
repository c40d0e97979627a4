// The gated delta rule (Yang et al., Gated Delta Networks, 2024): a matrix that forgets by a factor and replaces what
// it holds under a key.
//   S_t = a_t S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T      o_t = S_t q_t
// Letters: B batch, T tokens, G segments, H heads, E width of a head, C tokens of a chunk.
#pragma once
#include "core/torch.h"

namespace memformer::nn {

/// float32 or float64, all the same.
struct DeltaInputs {
  at::Tensor q, k, v;    ///< (B, H, T, E); k of norm 1 at most
  at::Tensor log_decay;  ///< (B, H, T), log a_t <= 0
  at::Tensor rate;       ///< (B, H, T), b_t in [0, 1]; a token with a = 1 and b = 0 leaves S as it is
};
struct DeltaOutputs {
  at::Tensor o;  ///< (B, H, T, E)
  at::Tensor S;  ///< (B, H, E, E), after the last token
};

/// Chunk by chunk. In a chunk S_t = g_t S_0 + sum_{i <= t} (g_t / g_i) u_i k_i^T, g_t the product of its a up to t, and
///   (I + A) U = diag(b) (V - diag(g) K S_0^T)      A_ti = b_t (g_t / g_i) k_t.k_i, i < t
/// so that all chunks' (I + A)^-1 diag(b) [V, diag(g) K] are one triangular solve (the WY form), and S_0 alone goes
/// from chunk to chunk. S (B, H, E, E). Differentiable in everything. starts (B) bool of G - 1 segments: the inputs are
/// those of G, one above the other, (G B, ...), and so is o; rows that start with a segment forget S before it.
DeltaOutputs gated_delta_chunks(const DeltaInputs& inputs, const at::Tensor& S,
                                const std::vector<at::Tensor>& starts = {});

/// One token, T = 1, without gradient, by products whose numbers do not depend on the rows beside them.
DeltaOutputs gated_delta_step(const DeltaInputs& inputs, const at::Tensor& S);

}  // namespace memformer::nn
