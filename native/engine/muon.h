// Muon (Jordan et al. 2024): momentum whose update of a matrix is orthogonalized, for the matrices of a model's layers.
// AdamW keeps what is no such matrix: embeddings, the output projection, norms, biases, slots. With c = min(1, clip /
// norm), beta the momentum, for every matrix:
//   g = c gradient      m <- beta m + (1 - beta) g      u = beta m + (1 - beta) g      W <- W (1 - rate decay) - rate
//   0.2 sqrt(max(r, s)) ortho(u)
// ortho(u) is nearly U V^T of the singular value decomposition u = U S V^T of a matrix (r, s), by five Newton-Schulz
// steps. The factor gives the update the root mean square that AdamW's has (Liu et al. 2025), so one rate and one decay
// serve both. A joint projection's matrices, those of queries, keys and values say, are orthogonalized each for itself.
#pragma once
#include "nn/parameters.h"

namespace memformer::engine {

class Muon {
 public:
  struct Options {
    double momentum = 0.95, weight_decay = 0.1;
  };
  /// Matrices of one parameter that take part: where they begin among the parameters' numbers (nn::Parameters::flat())
  /// and in `momenta`.
  struct Part {
    int64_t rows, columns, count, value_at, momentum_at;
  };

  /// momenta: those of all that this optimizer moves, in one line.
  Muon(const nn::Parameters& parameters, at::Tensor momenta, const std::vector<Part>& parts, Options options);

  /// Whether Muon moves a parameter.
  static bool moves(const nn::Parameter& parameter) { return parameter.matrices > 0; }

  /// One update, after which the gradients of its matrices are zero. norm () and scale () (undefined: 1) as in AdamW's
  /// step; where norm is not finite nothing changes but that. A matrix that no gradient ever reached
  /// stays as it is, without decay.
  void step(double rate, const at::Tensor& norm, double clip, const std::optional<at::Tensor>& grad_scale);

 private:
  struct Matrices {  ///< of one shape
    int64_t rows, columns;
    at::Tensor places;  ///< (n, 2) int64: where each begins among the values, and in momenta_
  };

  Options options_;
  const nn::Parameters& parameters_;
  at::Tensor momenta_;
  std::vector<Matrices> groups_;
};

}  // namespace memformer::engine
