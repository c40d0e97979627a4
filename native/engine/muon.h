// Muon (Jordan et al. 2024): momentum whose update of a matrix is orthogonalized, for the matrices of a model's layers.
// AdamW keeps what is no such matrix: embeddings, the output projection, norms, biases, slots. With c = min(1, clip /
// norm), beta the momentum, for every matrix:
//   g = c gradient      m <- beta m + (1 - beta) g      u = beta m + (1 - beta) g      W <- W (1 - rate decay) - rate
//   0.2 sqrt(max(r, s)) ortho(u)
// ortho(u) is nearly U V^T of the singular value decomposition u = U S V^T of a matrix (r, s), by five Newton-Schulz
// steps. The factor gives the update the root mean square that AdamW's has (Liu et al. 2025), so one rate and one decay
// serve both. A joint projection's matrices, those of queries, keys and values say, are orthogonalized each for itself.
#pragma once
#include "engine/future.h"
#include "engine/shares.h"
#include "nn/parameters.h"

namespace memformer::engine {

class Muon {
 public:
  struct Options {
    double momentum = 0.95, weight_decay = 0.1;
  };
  /// A parameter that takes part: which of its numbers, matrices as a whole, and m of these.
  struct Part {
    nn::Parameter parameter;
    Piece piece;
    at::Tensor momentum;
  };

  /// parts: in parameters.all()'s order, those of which this rank has no matrix too.
  Muon(const std::vector<Part>& parts, Options options);

  /// Whether Muon moves a parameter.
  static bool moves(const nn::Parameter& parameter) { return parameter.matrices > 0; }

  /// One update, after which the gradients of its matrices are zero. norm () and scale () (undefined: 1) as in AdamW's
  /// step; where norm is not finite nothing changes but that. A matrix that no gradient ever reached
  /// stays as it is, without decay.
  void step(double rate, const at::Tensor& norm, double clip, const std::optional<at::Tensor>& grad_scale);

 private:
  struct Matrices {           ///< of one shape, (r, s) each
    Tensors values, momenta;  ///< (n, r, s) of each parameter
    Tensors parameters;
    std::vector<int64_t> first;  ///< of a parameter's matrices, the first that takes part
    int64_t rows, columns;
  };
  void step(Matrices& group, double rate, const at::Tensor& finite, const at::Tensor& factor);

  Options options_;
  Tensors parameters_;
  std::vector<Matrices> groups_;
};

/// ortho() of matrices (n, r, s) of a floating dtype, computed in it.
at::Tensor orthogonalized(const at::Tensor& matrices);

}  // namespace memformer::engine
