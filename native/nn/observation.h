// Tensors of a pass by name, in the order of their making, for whoever wants to know why a model behaves as it does.
// Nothing is computed for it when nobody observes.
// Letters: B batch, N queries, M keys, H heads, E width of a head.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "core/torch.h"

namespace memformer::nn {

struct Observation {
  std::vector<std::pair<std::string, at::Tensor>> parts;

  void add(const std::string& name, const at::Tensor& value) {
    parts.emplace_back(name, value.detach().to(at::kFloat));
  }
};

/// The largest |q k^T| scale of each head; q (B, H, N, E), k (B, H, M, E). (H)
inline at::Tensor largest_logits(const at::Tensor& q, const at::Tensor& k, double scale) {
  return (at::matmul(q.to(at::kFloat), k.to(at::kFloat).transpose(2, 3)) * scale).abs().amax(at::IntArrayRef{0, 2, 3});
}

}  // namespace memformer::nn
