// What travels through one pass over one segment: the dtype to compute in, dropout and its seed.
#pragma once
#include <unordered_map>

#include "core/torch.h"
#include "ops/dropout/dropout.h"

namespace memformer::nn {

class Pass {
 public:
  /// dropout 0 turns it off; seed () int64 decides every mask of the pass.
  Pass(at::ScalarType compute, double dropout, at::Tensor seed) : compute_(compute), dropout_(dropout), seed_(std::move(seed)) {}

  /// Sites are numbered as they are met, so the same model code meets the same masks again when it is replayed.
  at::Tensor dropout(const at::Tensor& x) {
    if (dropout_ == 0.0) return x;
    return ops::dropout(x, dropout_, seed_, site_++);
  }

  /// A weight in the dtype of the pass, cast once a pass; the gradient flows back to the float32 master.
  at::Tensor working(const at::Tensor& weight) {
    if (weight.scalar_type() == compute_ || compute_ == at::kFloat || compute_ == at::kDouble) return weight;
    auto& copy = copies_[weight.unsafeGetTensorImpl()];
    if (!copy.defined()) copy = weight.to(compute_);
    return copy;
  }

  at::Tensor cast(const at::Tensor& x) const { return compute_ == at::kBFloat16 ? x.to(compute_) : x; }

 private:
  at::ScalarType compute_;
  double dropout_;
  at::Tensor seed_;
  int64_t site_ = 0;
  std::unordered_map<at::TensorImpl*, at::Tensor> copies_;
};

}  // namespace memformer::nn
