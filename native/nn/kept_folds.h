// What LayerNorms folded into linear layers give where no gradient is wanted (nn/fold_layer_norm.h): kept from pass to
// pass, and made anew, in the same memory, when weights have changed. A recorded step reads it there.
#pragma once
#include <functional>
#include <map>
#include <utility>

#include "ops/fold_layer_norm/fold_layer_norm.h"

namespace memformer::nn {

class KeptFolds {
 public:
  using Make = std::function<ops::FoldedLinear()>;

  /// What is kept of the layers whose first weight this is, for passes in `dtype`, as the weights are now; null:
  /// nothing.
  const ops::FoldedLinear* find(const at::Tensor& first, at::ScalarType dtype);
  /// Keeps what make() gives.
  const ops::FoldedLinear& keep(const at::Tensor& first, at::ScalarType dtype, Make make);

  /// Weights have changed: what is kept holds no longer.
  void expire() { ++version_; }
  /// Makes all that holds no longer anew, before a recording that reads it is replayed.
  void refresh();

 private:
  struct Kept {
    Make make;
    ops::FoldedLinear folded;
    uint64_t version;
  };
  void refresh(Kept& kept) const;

  std::map<std::pair<at::TensorImpl*, at::ScalarType>, Kept> kept_;
  uint64_t version_ = 0;
};

}  // namespace memformer::nn
