// T5's relative positions: a bias for each bucket of distance.
#include "nn/positions/heads.h"
#include "nn/positions/positions.h"
#include "ops/decode_attention/decode_attention.h"

namespace memformer::nn {
namespace {

using at::Tensor;

/// The bucket of each (query, key): (T, T) int64 in [0, buckets). Bidirectional: half the buckets look ahead, half
/// back.
Tensor t5_buckets(int64_t T, int64_t buckets, int64_t most_distant, bool bidirectional) {
  const auto position = at::arange(T, at::kLong);
  const auto ahead = position.unsqueeze(0) - position.unsqueeze(1);  // key - query
  auto bucket = at::zeros_like(ahead);
  auto distance = ahead.neg().clamp_min(0);
  if (bidirectional) {
    buckets /= 2;
    bucket = ahead.gt(0).to(at::kLong) * buckets;
    distance = ahead.abs();
  }
  // Half of them one distance each, the others growing logarithmically up to most_distant.
  const int64_t exact = buckets / 2;
  // The division comes first: log(8) / log(16) is exactly 3 / 4 in float64, and the bucket of distance 64 hangs on it.
  const double span = std::log(static_cast<double>(most_distant) / static_cast<double>(exact));
  const auto share = (distance.clamp_min(1).to(at::kDouble) / static_cast<double>(exact)).log() / span;
  const auto far = (share * static_cast<double>(buckets - exact)).to(at::kLong) + exact;
  return bucket + at::where(distance.lt(exact), distance, far.clamp_max(buckets - 1));
}

/// A bias a head and bucket of distance, shared by the layers of a stack: `stack`.relative_bias (32, H)
class T5 final : public PositionedAttention {
 public:
  static constexpr int64_t kBuckets = 32, kMostDistant = 128;

  T5(Parameters& parameters, const Config& config, const LayerPlace& place)
      : heads_(config.integer("heads")),
        longest_(config.integer("segmentLength") + place.beside),
        looks_both_ways_(looks_both_ways(config.text("positionBuckets"), place.causal)) {
    const auto name = place.stack + ".relative_bias";
    bias_ = parameters.has(name) ? parameters.at(name)
                                 : parameters.normal(name, {kBuckets, heads_}, 0.02, Parameters::Decay::no);
  }

  Tensor operator()(const Tensor& x, const QueryKeyValue& project, const KeyMask& mask, bool causal,
                    ForwardContext& ctx) const override {
    const auto [q, k, v] = split_heads(project(x, ctx), heads_);
    const int64_t T = q.size(2);
    const auto bias =
        at::embedding(ctx.cast(bias_), buckets(T, q.device())).permute({2, 0, 1}).unsqueeze(0);  // (1, H, T, T)
    // Written out: with a learned bias the fused attention picks another kernel under a gradient than without one, and
    // a replayed memory would not be the first sweep's to the bit.
    const auto scores = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3))) + bias;
    return merge(at::matmul(at::softmax(masked(scores, mask, causal), -1), v));
  }

  Tensor decode(const Tensor& rows_qkv, const DecodeRows& rows, const KeyValueCache& cache,
                ForwardContext& ctx) const override {
    const auto qkv = rows_qkv.squeeze(1);
    const auto q = ops::decode_append(qkv, {}, {}, rows.slots, rows.positions, cache.keys, cache.values);
    const auto of_rows = buckets(cache.keys.size(2), q.device()).index_select(0, rows.positions);  // (R, T)
    const auto bias = at::embedding(ctx.cast(bias_), of_rows).to(accumulate_type(q.scalar_type())).transpose(1, 2);
    return ops::decode_attention(q, cache.keys, cache.values, rows.slots, rows.lengths, bias).unsqueeze(1);
  }

 private:
  /// (T, T), the corner of a table that is made once, for the longest sequence: a recorded step goes on reading the one
  /// that it was recorded with.
  Tensor buckets(int64_t T, at::Device device) const {
    if (!buckets_.defined() || buckets_.size(0) < T || buckets_.device() != device)
      buckets_ = t5_buckets(std::max(T, longest_), kBuckets, kMostDistant, looks_both_ways_).to(device);
    return buckets_.narrow(0, 0, T).narrow(1, 0, T);
  }

  /// "t5": a stack that sees what is ahead has buckets for it. "lucidrains": the other way round, as that port has it:
  /// its encoder puts all that is ahead into one bucket, its decoder keeps half of the buckets for what it never sees.
  static bool looks_both_ways(const std::string& buckets, bool causal) {
    require(buckets == "t5" || buckets == "lucidrains", "CONFIG", "there are no position buckets '", buckets,
            "'; known: t5, lucidrains");
    return causal == (buckets == "lucidrains");
  }

  int64_t heads_, longest_;
  bool looks_both_ways_;
  Tensor bias_;
  mutable Tensor buckets_;  // only ever touched by the engine's thread
};

const bool registered = position_schemes().add(
    "t5",
    [](Parameters& parameters, const Config& config, const LayerPlace& place) -> std::unique_ptr<PositionedAttention> {
      return std::make_unique<T5>(parameters, config, place);
    });

}  // namespace
}  // namespace memformer::nn
