// The paper's relative positions: an embedding for each offset, added to keys and to values.
#include "nn/positions/heads.h"
#include "nn/positions/positions.h"
#include "ops/decode_attention/decode_attention.h"

namespace memformer::nn {
namespace {

using at::Tensor;

/// A_ij = (q_i.k_j + q_i.r_{i-j}) / sqrt(E);  h_i = sum_j softmax(A)_ij (v_j + r_{i-j}).   r:
/// `…self_attention.relative` (2 R - 1, D)
class Relative final : public PositionedAttention {
 public:
  Relative(Parameters& parameters, const Config& config, const LayerPlace& place)
      : heads_(config.integer("heads")),
        reach_(config.integer("segmentLength") + place.beside),
        table_(parameters.normal(place.stack + "." + std::to_string(place.layer) + ".self_attention.relative",
                                 {2 * reach_ - 1, config.integer("width")}, 0.02, Parameters::Decay::no)) {}

  Tensor operator()(const Tensor& x, const QueryKeyValue& project, const KeyMask& mask, bool causal,
                    ForwardContext& ctx) const override {
    const auto [q, k, v] = split_heads(project(x, ctx), heads_);
    const int64_t B = q.size(0), T = q.size(2), E = q.size(3);
    const auto offsets =
        at::arange(-(T - 1), T, q.options().dtype(at::kLong)).clamp(-(reach_ - 1), reach_ - 1) + (reach_ - 1);
    const auto r =
        ctx.cast(table_).index_select(0, offsets).view({2 * T - 1, heads_, E}).transpose(0, 1);  // (H, 2 T - 1, E)
    const auto position = at::arange(T, offsets.options());
    const auto index =
        (position.unsqueeze(1) - position.unsqueeze(0) + (T - 1)).expand({B, heads_, T, T});  // of r_{i-j}
    const auto by_offset = at::matmul(q, r.transpose(1, 2));                                  // (B, H, T, 2 T - 1)
    const auto scores =
        (at::matmul(q, k.transpose(2, 3)) + by_offset.gather(3, index)) / std::sqrt(static_cast<double>(E));
    const auto weights = at::softmax(masked(scores, mask, causal), -1);
    const auto weights_by_offset = at::zeros_like(by_offset).scatter(3, index, weights);
    return merge(at::matmul(weights, v) + at::matmul(weights_by_offset, r));
  }

  /// A row's keys and values are copies with r added: q.(k + r) and weights of (v + r).
  Tensor decode(const Tensor& rows_qkv, const DecodeRows& rows, const KeyValueCache& cache,
                ForwardContext& ctx) const override {
    const auto qkv = rows_qkv.squeeze(1);
    const auto q = ops::decode_append(qkv, {}, {}, rows.slots, rows.positions, cache.keys, cache.values);
    const int64_t R = q.size(0), T = cache.keys.size(2), E = cache.keys.size(3);
    const auto offsets =
        (rows.positions.unsqueeze(1) - at::arange(T, rows.positions.options())).clamp(-(reach_ - 1), reach_ - 1) +
        (reach_ - 1);  // (R, T) of i - j
    const auto r = ctx.cast(table_)
                       .index_select(0, offsets.reshape({-1}))
                       .view({R, T, heads_, E})
                       .transpose(1, 2);  // (R, H, T, E)
    const auto keys = cache.keys.index_select(0, rows.slots) + r, values = cache.values.index_select(0, rows.slots) + r;
    return ops::decode_attention(q, keys, values, {}, rows.lengths, {}).unsqueeze(1);
  }

 private:
  int64_t heads_, reach_;
  Tensor table_;
};

const bool registered = position_schemes().add(
    "relative",
    [](Parameters& parameters, const Config& config, const LayerPlace& place) -> std::unique_ptr<PositionedAttention> {
      return std::make_unique<Relative>(parameters, config, place);
    });

}  // namespace
}  // namespace memformer::nn
