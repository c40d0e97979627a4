#include "nn/kept_folds.h"

namespace memformer::nn {

const ops::FoldedLinear& KeptFolds::of(const at::Tensor& first, at::ScalarType dtype, const Make& make) {
  const auto key = std::pair(first.unsafeGetTensorImpl(), dtype);
  const auto found = kept_.find(key);
  if (found == kept_.end()) return kept_.emplace(key, Kept{make, make(), version_}).first->second.folded;
  refresh(found->second);
  return found->second.folded;
}

void KeptFolds::refresh() {
  for (auto& [key, kept] : kept_) refresh(kept);
}

void KeptFolds::refresh(Kept& kept) const {
  if (kept.version == version_) return;
  const at::NoGradGuard no_grad;
  const auto now = kept.make();
  at::_foreach_copy_(kept.folded.weights, now.weights);
  if (!now.biases.empty()) at::_foreach_copy_(kept.folded.biases, now.biases);
  kept.version = version_;
}

}  // namespace memformer::nn
