// Rotary positions (RoPE): queries and keys are turned by the angle of their position.
#include "nn/positions/positions.h"
#include "ops/attention/attention.h"
#include "ops/attention/rotary_attention.h"
#include "ops/decode_attention/decode_attention.h"

namespace memformer::nn {
namespace {

using at::Tensor;

class Rotary final : public PositionedAttention {
 public:
  Rotary(const Config& config, const LayerPlace& place)
      : heads_(config.integer("heads")), longest_(config.integer("segmentLength") + place.beside) {}

  Tensor operator()(const Tensor& x, const QueryKeyValue& project, const KeyMask& mask, bool causal,
                    ForwardContext& ctx) const override {
    const int64_t T = x.size(1);
    const bool norms = project.normed() && ops::attention_is_fused(x, T, T, x.size(2) / heads_);
    // Its bias is added with the rotation, and there it is normed where that costs nothing.
    const auto qkv = norms ? project.unnormed(x, ctx) : project.without_bias(x, ctx);
    const auto [cos, sin] = angles(qkv.product.size(1), qkv.product.size(2) / (6 * heads_), qkv.product);
    return ops::rotary_attention(qkv.product, qkv.bias, cos, sin, mask.attention(causal), causal, heads_,
                                 mask.lengths(causal), norms);
  }

  Tensor decode(const Tensor& rows_qkv, const DecodeRows& rows, const KeyValueCache& cache,
                ForwardContext&) const override {
    const auto qkv = rows_qkv.squeeze(1);
    const auto [cos, sin] = *rotation(cache);
    const auto q = ops::decode_append(qkv, cos, sin, rows.slots, rows.positions, cache.keys, cache.values);
    return ops::decode_attention(q, cache.keys, cache.values, rows.slots, rows.lengths, {}).unsqueeze(1);
  }

  std::optional<std::pair<Tensor, Tensor>> rotation(const KeyValueCache& cache) const override {
    return angles(cache.keys.size(2), cache.keys.size(3) / 2, cache.keys);
  }

 private:
  /// (T, E / 2) each, of `half` = E / 2, where `like` is: angle of position t in frequency e is t / 10000^(2 e / E).
  /// Made once, for the longest sequence: a recorded step goes on reading the table that it was recorded with.
  std::pair<Tensor, Tensor> angles(int64_t T, int64_t half, const Tensor& like) const {
    const auto dtype = like.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    if (!cos_.defined() || cos_.size(0) < T || cos_.scalar_type() != dtype || cos_.device() != like.device()) {
      const auto options = at::TensorOptions().dtype(at::kDouble);
      const auto rate = at::pow(10000.0, at::arange(half, options) / static_cast<double>(-half));
      const auto angle = at::outer(at::arange(std::max(T, longest_), options), rate);
      cos_ = angle.cos().to(like.device(), dtype);
      sin_ = angle.sin().to(like.device(), dtype);
    }
    return {cos_.narrow(0, 0, T), sin_.narrow(0, 0, T)};
  }

  int64_t heads_, longest_;
  mutable Tensor cos_, sin_;  // only ever touched by the engine's thread
};

const bool registered = position_schemes().add(
    "rotary", [](Parameters&, const Config& config, const LayerPlace& place) -> std::unique_ptr<PositionedAttention> {
      return std::make_unique<Rotary>(config, place);
    });

}  // namespace
}  // namespace memformer::nn
