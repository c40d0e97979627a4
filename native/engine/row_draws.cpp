#include "engine/row_draws.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/sample_token/sample_token.h"

namespace memformer::engine {
namespace {

at::Tensor draw_alike(const at::Tensor& logits, const at::Tensor& points, const Sampling& sampling) {
  auto open = logits;
  if (sampling.bias.defined() || std::isfinite(sampling.floor)) open = open.to(at::kDouble);
  if (sampling.bias.defined()) open = open.add(sampling.bias);
  if (sampling.gaps.defined()) open = open.add(sampling.gaps);
  if (std::isfinite(sampling.floor)) {
    const auto below = open.sub(open.amax(-1, /*keepdim=*/true)).lt(sampling.floor);
    open = open.masked_fill(below, -std::numeric_limits<double>::infinity());
  }
  return ops::sample_token(open, points, sampling.temperature, sampling.top_k, sampling.top_p, sampling.tokens,
                           sampling.also);
}

}  // namespace

RowDraws::RowDraws(const std::vector<Sampling>& samplings, const std::vector<int64_t>& of, at::Device device) {
  for (const auto& sampling : samplings) groups_.push_back({sampling, {}, {}});
  for (size_t r = 0; r < of.size(); ++r) groups_.at(of[r]).rows.push_back(static_cast<int64_t>(r));
  if (groups_.size() == 1) return;
  for (auto& group : groups_) group.index = at::tensor(group.rows, at::kLong).to(device, /*non_blocking=*/true);
}

at::Tensor RowDraws::draw(const at::Tensor& logits, const at::Tensor& points) const {
  if (groups_.size() == 1) return draw_alike(logits, points, groups_[0].sampling);
  auto drawn = at::empty({logits.size(0)}, logits.options().dtype(at::kLong));
  for (const auto& [sampling, rows, index] : groups_) {
    const auto some = std::lower_bound(rows.begin(), rows.end(), logits.size(0)) - rows.begin();
    if (some == 0) continue;
    const auto own = index.narrow(0, 0, some);
    drawn.index_copy_(0, own, draw_alike(logits.index_select(0, own), points.index_select(0, own), sampling));
  }
  return drawn;
}

}  // namespace memformer::engine
