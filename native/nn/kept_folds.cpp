#include "nn/kept_folds.h"

namespace memformer::nn {

const ops::FoldedLinear* KeptFolds::find(const at::Tensor& first, at::ScalarType dtype) {
  const auto found = kept_.find({first.unsafeGetTensorImpl(), dtype});
  if (found == kept_.end()) return nullptr;
  refresh(found->second);
  return &found->second.folded;
}

const ops::FoldedLinear& KeptFolds::keep(const at::Tensor& first, at::ScalarType dtype, Make make) {
  auto folded = make();
  const std::pair key{first.unsafeGetTensorImpl(), dtype};
  return kept_.insert_or_assign(key, Kept{std::move(make), std::move(folded), version_}).first->second.folded;
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
