// Tensors of a pass by name, in the order of their making, for whoever wants to know why a model behaves as it does.
// Nothing is computed for it when nobody observes.
// Letters: B batch, N queries, M keys, H heads, E width of a head.
#pragma once
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "core/torch.h"

namespace memformer::nn {

class Observation {
 public:
  using Parts = std::vector<std::pair<std::string, at::Tensor>>;

  /// `wanted`: the names that are kept; empty: all.
  explicit Observation(std::vector<std::string> wanted = {}) : wanted_(std::move(wanted)) {}

  /// Whether it is worth computing.
  bool wants(const std::string& name) const {
    return wanted_.empty() || std::find(wanted_.begin(), wanted_.end(), name) != wanted_.end();
  }

  void add(const std::string& name, const at::Tensor& value) {
    if (wants(name)) parts_.emplace_back(name, value.detach().to(at::kFloat));
  }

  /// A layer's weights of its memory read, of `kReads`: q (B, H, N, E), k (B, H, M, E) or (1, H, M, E).
  void add_read(const at::Tensor& q, const at::Tensor& k, double scale) {
    if (!wants(kReads)) return;
    const auto logits = at::matmul(q.to(at::kFloat), k.to(at::kFloat).transpose(2, 3)) * scale;  // (B, H, N, M)
    const auto weights = at::softmax(logits, 3).mean(1);                                         // (B, N, M)
    reads_ = reads_.defined() ? reads_ + weights : weights;
    layers_ += 1;
  }

  /// All layers have read the memory: adds `kReads`, if any did.
  void end_reads() {
    if (layers_ > 0) add(kReads, reads_ / layers_);
  }

  /// Whether everything that was wanted by name is there.
  bool complete() const {
    return !wanted_.empty() && std::all_of(wanted_.begin(), wanted_.end(), [&](const std::string& name) {
      return std::any_of(parts_.begin(), parts_.end(), [&](const auto& part) { return part.first == name; });
    });
  }

  const Parts& parts() const { return parts_; }

 private:
  /// (B, N, M): how much of each slot a token reads, the mean of layers and heads.
  static constexpr const char* kReads = "memory_read.weights";

  std::vector<std::string> wanted_;
  Parts parts_;
  at::Tensor reads_;  // (B, N, M), the sum of the layers' so far
  int64_t layers_ = 0;
};

/// The largest |q k^T| scale of each head; q (B, H, N, E), k (B, H, M, E). (H)
inline at::Tensor largest_logits(const at::Tensor& q, const at::Tensor& k, double scale) {
  return (at::matmul(q.to(at::kFloat), k.to(at::kFloat).transpose(2, 3)) * scale).abs().amax(at::IntArrayRef{0, 2, 3});
}

}  // namespace memformer::nn
