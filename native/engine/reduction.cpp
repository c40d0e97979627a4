#include "engine/reduction.h"

#include "core/failure.h"
#include "engine/gradients.h"

namespace memformer::engine {
namespace {

constexpr const char* kReduction = "the sum of the gradients";

}  // namespace

Reduced reduce_gradients(distributed::Group& group, const std::vector<const nn::Parameters*>& models,
                         const at::Tensor& extras) {
  at::NoGradGuard no_grad;
  require(!models.empty() && extras.dim() == 1, "SHAPE", "a reduction takes models, and a list of numbers");
  for (const auto* model : models) group.all_reduce(model->gradients(), kReduction);
  auto sums = extras.to(models[0]->gradients().device(), /*non_blocking=*/false, /*copy=*/true);
  group.all_reduce(sums, kReduction);
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
