#include "engine/muon.h"

#include <map>

#include "ops/muon/muon.h"

namespace memformer::engine {
namespace {

// The polynomial a x + b x^3 + c x^5 that five steps of bring singular values from (0, 1] to about 1 (Jordan et al.
// 2024).
constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;
constexpr int kSteps = 5;
constexpr double kLikeAdamW = 0.2;  // the usual root mean square of AdamW's update

/// ortho() of matrices, computed in their dtype, and their Frobenius norms.
struct Orthogonalized {
  at::Tensor directions;  // (n, r, s)
  at::Tensor norms;       // (n) float32, float64 for float64
};

/// matrices (n, r, s) of a floating dtype.
Orthogonalized orthogonalized(const at::Tensor& matrices) {
  // With s the smaller Gram matrix, x x^T or x^T x, one step is x <- (a + b s + c s^2) x, or x from the left.
  const bool tall = matrices.size(1) > matrices.size(2);
  const auto sums = matrices.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto x = matrices;
  at::Tensor norms;
  for (int step = 0; step < kSteps; ++step) {
    const auto flipped = x.transpose(1, 2);
    auto square = tall ? at::bmm(flipped, x) : at::bmm(x, flipped);
    at::Tensor shrink;  // the first step's x is `matrices` times this
    if (step == 0) {
      norms = square.diagonal(0, 1, 2).sum(-1, false, sums).sqrt();
      shrink = (norms + 1e-7).reciprocal().view({-1, 1, 1});
      square.mul_(shrink * shrink);
    }
    auto polynomial = at::baddbmm(square, square, square, kB, kC);
    polynomial.diagonal(0, 1, 2).add_(kA);
    if (step == 0) polynomial.mul_(shrink);
    x = tall ? at::bmm(x, polynomial) : at::bmm(polynomial, x);
  }
  return {x, norms};
}

}  // namespace

Muon::Muon(const nn::Parameters& parameters, at::Tensor momenta, const std::vector<Part>& parts, Options options)
    : options_(options), parameters_(parameters), momenta_(std::move(momenta)) {
  std::map<std::pair<int64_t, int64_t>, std::vector<int64_t>> by_shape;
  for (const auto& [rows, columns, count, value_at, momentum_at] : parts)
    for (int64_t i = 0; i < count; ++i) {
      auto& places = by_shape[{rows, columns}];
      places.push_back(value_at + i * rows * columns);
      places.push_back(momentum_at + i * rows * columns);
    }
  for (const auto& [shape, places] : by_shape)
    groups_.push_back({shape.first, shape.second,
                       at::tensor(places, at::kLong).view({-1, 2}).to(parameters_.flat().values.device())});
}

void Muon::step(double rate, const at::Tensor& norm, double clip, const std::optional<at::Tensor>& grad_scale) {
  at::NoGradGuard no_grad;
  const auto& values = parameters_.flat().values;
  const bool narrow = values.is_cuda() && values.scalar_type() == at::kFloat;
  for (const auto& [rows, columns, places] : groups_) {
    const auto u = ops::muon_momentum(parameters_.gradients(), momenta_, places, rows, columns, norm, grad_scale, clip,
                                      options_.momentum, narrow ? at::kBFloat16 : values.scalar_type());
    const auto [directions, norms] = orthogonalized(u);
    ops::muon_step(values, places, directions, norms, 1.0 - rate * options_.weight_decay,
                   rate * kLikeAdamW * std::sqrt(static_cast<double>(std::max(rows, columns))));
  }
}

}  // namespace memformer::engine
