#include "nn/positions/positions.h"

#include "nn/positions/heads.h"
#include "ops/attention/attention.h"

namespace memformer::nn {

using at::Tensor;
using Scheme = std::unique_ptr<PositionedAttention>;

Registry<Scheme, Parameters&, const Config&, const LayerPlace&>& position_schemes() {
  static Registry<Scheme, Parameters&, const Config&, const LayerPlace&> registry("position scheme");
  return registry;
}

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const KeyMask& mask, bool norm_queries,
              bool norm_keys) {
  return merge(ops::attention(q, k, v, mask.attention(/*causal=*/false), /*causal=*/false, mask.lengths(), norm_queries,
                              norm_keys));
}

}  // namespace memformer::nn
