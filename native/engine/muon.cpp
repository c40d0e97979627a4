#include "engine/muon.h"

#include <map>

namespace memformer::engine {
namespace {

// The polynomial a x + b x^3 + c x^5 that five steps of bring singular values from (0, 1] to about 1 (Jordan et al.
// 2024).
constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;
constexpr int kSteps = 5;
constexpr double kLikeAdamW = 0.2;  // the usual root mean square of AdamW's update

}  // namespace

at::Tensor orthogonalized(const at::Tensor& matrices) {
  const bool tall = matrices.size(1) > matrices.size(2);
  auto x = tall ? matrices.transpose(1, 2) : matrices;
  x = x / (at::linalg_vector_norm(x, 2, at::IntArrayRef{1, 2}, true) + 1e-7);
  for (int step = 0; step < kSteps; ++step) {
    const auto square = at::bmm(x, x.transpose(1, 2));
    x = at::baddbmm(x, at::baddbmm(square, square, square, kB, kC), x, kA, 1.0);
  }
  return tall ? x.transpose(1, 2) : x;
}

Muon::Muon(const std::vector<Part>& parts, Options options) : options_(options) {
  std::map<std::pair<int64_t, int64_t>, Matrices> by_shape;
  for (const auto& [parameter, piece, momentum] : parts) {
    parameters_.push_back(parameter.value);
    if (piece.size() == 0) continue;
    const auto rows = parameter.value.size(0) / parameter.matrices, columns = parameter.value.size(1);
    const auto matrices = [&](const at::Tensor& tensor) { return tensor.view({-1, rows, columns}); };
    const auto first = piece.begin / (rows * columns), count = piece.size() / (rows * columns);
    auto& group = by_shape[{rows, columns}];
    group.rows = rows;
    group.columns = columns;
    group.parameters.push_back(parameter.value);
    group.first.push_back(first);
    group.values.push_back(matrices(parameter.value.detach()).narrow(0, first, count));
    group.momenta.push_back(matrices(momentum));
  }
  for (auto& [shape, group] : by_shape) groups_.push_back(std::move(group));
}

void Muon::step(double rate, const at::Tensor& norm, double clip, const std::optional<at::Tensor>& grad_scale) {
  at::NoGradGuard no_grad;
  const auto finite = norm.isfinite();
  auto factor = clip > 0 ? (clip / (norm + 1e-6)).clamp_max(1.0) : at::ones_like(norm);
  if (grad_scale) factor = factor / *grad_scale;
  for (auto& group : groups_) step(group, rate, finite, factor);
  Tensors used;
  for (const auto& parameter : parameters_) used.push_back(parameter.grad());
  if (!used.empty()) at::_foreach_zero_(used);
}

void Muon::step(Matrices& group, double rate, const at::Tensor& finite, const at::Tensor& factor) {
  Tensors values, momenta, gradients;
  std::vector<int64_t> each;
  for (size_t i = 0; i < group.parameters.size(); ++i) {
    const auto& gradient = group.parameters[i].grad();
    each.push_back(group.values[i].size(0));
    values.push_back(group.values[i]);
    momenta.push_back(group.momenta[i]);
    gradients.push_back(gradient.reshape({-1, group.rows, group.columns}).narrow(0, group.first[i], each.back()));
  }
  const auto g = at::cat(gradients) * factor, before = at::cat(momenta), w = at::cat(values);
  const auto m = at::where(finite, before.lerp(g, 1.0 - options_.momentum), before);
  const auto u = at::where(finite, g.lerp(m, options_.momentum), at::zeros_like(g));
  const bool narrow = u.is_cuda() && u.scalar_type() == at::kFloat;
  const auto direction = orthogonalized(narrow ? u.to(at::kBFloat16) : u).to(w.scalar_type());
  const auto moved = finite.logical_and(at::amax(m.abs(), {1, 2}, true).gt(0));
  const double size = rate * kLikeAdamW * std::sqrt(static_cast<double>(std::max(group.rows, group.columns)));
  const auto next = at::where(moved, w * (1.0 - rate * options_.weight_decay) - direction * size, w);
  at::_foreach_copy_(values, next.split_with_sizes(each));
  at::_foreach_copy_(momenta, m.split_with_sizes(each));
}

}  // namespace memformer::engine
