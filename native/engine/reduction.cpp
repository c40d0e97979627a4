#include "engine/reduction.h"

#include "core/failure.h"
#include "engine/gradients.h"

namespace memformer::engine {
namespace {

constexpr const char* kReduction = "the sum of the gradients";

/// All gradients in one buffer, behind them a 1 for each parameter that has one, behind these the extras.
at::Tensor reduce_apart(distributed::Group& group, const std::vector<const nn::Parameters*>& models,
                        const at::Tensor& extras) {
  int64_t numbers = 0, parameters = 0;
  for (const auto* model : models) {
    numbers += model->count();
    parameters += static_cast<int64_t>(model->all().size());
  }
  auto buffer = at::zeros({numbers + parameters + extras.numel()}, at::dtype(models[0]->dtype()));
  const auto reached = buffer.narrow(0, numbers, parameters),
             behind = buffer.narrow(0, numbers + parameters, extras.numel());
  const auto each = [&](const auto& visit) {
    int64_t at = 0, i = 0;
    for (const auto* model : models)
      for (const auto& parameter : model->all()) {
        visit(parameter.value, buffer.narrow(0, at, parameter.value.numel()).view(parameter.value.sizes()), i++);
        at += parameter.value.numel();
      }
  };
  each([&](const at::Tensor& value, at::Tensor piece, int64_t i) {
    if (!value.grad().defined()) return;
    piece.copy_(value.grad());
    reached[i].fill_(1.0);
  });
  behind.copy_(extras);
  group.all_reduce(buffer, kReduction);
  const auto ranks = reached.to(at::kDouble);  // that have a gradient of each parameter
  each([&](const at::Tensor& value, const at::Tensor& piece, int64_t i) {
    if (ranks.const_data_ptr<double>()[i] == 0.0) return;
    if (value.grad().defined())
      value.mutable_grad().copy_(piece);
    else
      value.mutable_grad() = piece.clone();
  });
  return behind.clone();
}

at::Tensor reduce_flat(distributed::Group& group, const std::vector<const nn::Parameters*>& models,
                       const at::Tensor& extras) {
  for (const auto* model : models) group.all_reduce(model->flat()->gradients, kReduction);
  const auto sums = extras.to(models[0]->flat()->gradients.device(), /*non_blocking=*/false, /*copy=*/true);
  group.all_reduce(sums, kReduction);
  return sums;
}

}  // namespace

Reduced reduce_gradients(distributed::Group& group, const std::vector<const nn::Parameters*>& models,
                         const at::Tensor& extras) {
  at::NoGradGuard no_grad;
  require(!models.empty() && extras.dim() == 1, "SHAPE", "a reduction takes models, and a list of numbers");
  auto sums = models[0]->flat() ? reduce_flat(group, models, extras) : reduce_apart(group, models, extras);
  Tensors norms;
  for (const auto* model : models) norms.push_back(gradient_norm(*model));
  auto norm = norms.size() == 1 ? norms[0] : at::linalg_vector_norm(at::stack(norms));
  return {std::move(sums), std::move(norm)};
}

at::Tensor gather_rows(distributed::Group& group, const at::Tensor& rows, int64_t first, int64_t total) {
  at::NoGradGuard no_grad;
  require(rows.dim() > 0 && first >= 0 && first + rows.size(0) <= total, "SHAPE", "rows ", first, " to ",
          first + (rows.dim() > 0 ? rows.size(0) : 0), " are not among ", total);
  auto sizes = rows.sizes().vec();
  sizes[0] = total;
  auto all = at::zeros(sizes, rows.options());
  all.narrow(0, first, rows.size(0)).copy_(rows);
  if (all.numel() > 0) group.all_reduce(all.view({-1}).view(at::kByte), "the states of all rows");
  return all;
}

}  // namespace memformer::engine
