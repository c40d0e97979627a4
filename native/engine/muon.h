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
#include "nn/parameters.h"

namespace memformer::engine {

class Muon {
 public:
  struct Options {
    double momentum = 0.95, weight_decay = 0.1;
  };

  /// momenta: m of every parameter that takes part, in the parameter's shape, by parameters.all()'s order.
  Muon(const nn::Parameters& parameters, Options options, const std::map<std::string, at::Tensor>& momenta);

  /// Whether Muon moves a parameter.
  static bool moves(const nn::Parameter& parameter) { return parameter.matrices > 0; }

  /// One update, after which the gradients of its matrices are gone (flat: zero). norm () and scale () (undefined: 1)
  /// as in AdamW's step; where norm is not finite nothing changes but that. A matrix that no gradient ever reached
  /// stays as it is, without decay.
  void step(double rate, const at::Tensor& norm, double clip, const std::optional<at::Tensor>& grad_scale);

 private:
  struct Matrices {  ///< of one shape, (r, s) each
    std::vector<at::Tensor> values, momenta, parameters;
    std::vector<int64_t> each;  ///< how many of them a parameter holds
    int64_t rows, columns;
  };
  void step(Matrices& group, double rate, const at::Tensor& finite, const at::Tensor& factor);

  const nn::Parameters& parameters_;
  Options options_;
  std::vector<Matrices> groups_;
};

/// ortho() of matrices (n, r, s) of a floating dtype, computed in it.
at::Tensor orthogonalized(const at::Tensor& matrices);

}  // namespace memformer::engine
