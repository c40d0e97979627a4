#include "nn/positions/positions.h"

#include "ops/attention/attention.h"
#include "ops/attention/rotary_attention.h"
#include "ops/common/packed_qkv.h"

namespace memformer::nn {
namespace {

using at::Tensor;

struct Heads {
  Tensor q, k, v;  // (B, H, T, E)
};

Heads split_heads(const Tensor& qkv, int64_t H) { return {part_of(qkv, 0, H), part_of(qkv, 1, H), part_of(qkv, 2, H)}; }

Tensor merge(const Tensor& heads) {
  const int64_t B = heads.size(0), H = heads.size(1), T = heads.size(2), E = heads.size(3);
  return heads.transpose(1, 2).reshape({B, T, H * E});
}

/// Hides from `scores` (B, H, T, T) what a query may not see.
Tensor masked(const Tensor& scores, const KeyMask& mask, bool causal) {
  const auto hidden = -std::numeric_limits<double>::infinity();
  const int64_t T = scores.size(3);
  if (const auto seen = mask.attention(causal)) return scores.masked_fill(seen->logical_not(), hidden);
  if (const auto lengths = mask.lengths(causal))
    return scores.masked_fill(first_tokens(lengths->clamp_min(1), T).logical_not().view({-1, 1, 1, T}), hidden);
  if (!causal) return scores;
  return scores.masked_fill(at::ones({T, T}, scores.options().dtype(at::kBool)).triu(1), hidden);
}

class Rotary final : public PositionedAttention {
 public:
  explicit Rotary(const Config& config) : heads_(config.integer("heads")) {}

  Tensor operator()(const Tensor& x, const QueryKeyValue& project, const KeyMask& mask, bool causal,
                    Pass& pass) const override {
    const auto qkv = project.without_bias(x, pass);  // its bias is added with the rotation
    const auto [cos, sin] = angles(qkv.product);
    return ops::rotary_attention(qkv.product, qkv.bias, qkv.bias_sink, cos, sin, mask.attention(causal), causal, heads_,
                                 mask.lengths(causal));
  }

 private:
  /// (T, E / 2) each: angle of position t in frequency e is t / 10000^(2 e / E). Kept for the last T.
  std::pair<Tensor, Tensor> angles(const Tensor& qkv) const {
    const int64_t T = qkv.size(1), half = qkv.size(2) / (6 * heads_);
    const auto dtype = qkv.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    if (!cos_.defined() || cos_.size(0) != T || cos_.scalar_type() != dtype || cos_.device() != qkv.device()) {
      const auto options = at::TensorOptions().dtype(at::kDouble);
      const auto rate = at::pow(10000.0, at::arange(half, options) / static_cast<double>(-half));
      const auto angle = at::outer(at::arange(T, options), rate);
      cos_ = angle.cos().to(qkv.device(), dtype);
      sin_ = angle.sin().to(qkv.device(), dtype);
    }
    return {cos_, sin_};
  }

  int64_t heads_;
  mutable Tensor cos_, sin_;  // only ever touched by the engine's thread
};

/// A_ij = (q_i.k_j + q_i.r_{i-j}) / sqrt(E);  h_i = sum_j softmax(A)_ij (v_j + r_{i-j}).   r:
/// `…self_attention.relative` (2 R - 1, D)
class Relative final : public PositionedAttention {
 public:
  Relative(Parameters& parameters, const Config& config, const LayerPlace& place)
      : heads_(config.integer("heads")),
        reach_(config.integer("segment")),
        table_(parameters.normal(place.stack + "." + std::to_string(place.layer) + ".self_attention.relative",
                                 {2 * reach_ - 1, config.integer("width")}, 0.02, Parameters::Decay::no)) {}

  Tensor operator()(const Tensor& x, const QueryKeyValue& project, const KeyMask& mask, bool causal,
                    Pass& pass) const override {
    const auto [q, k, v] = split_heads(project(x, pass), heads_);
    const int64_t B = q.size(0), T = q.size(2), E = q.size(3);
    const auto offsets =
        at::arange(-(T - 1), T, q.options().dtype(at::kLong)).clamp(-(reach_ - 1), reach_ - 1) + (reach_ - 1);
    const auto r =
        pass.cast(table_).index_select(0, offsets).view({2 * T - 1, heads_, E}).transpose(0, 1);  // (H, 2 T - 1, E)
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

 private:
  int64_t heads_, reach_;
  Tensor table_;
};

/// A bias a head and bucket of distance, shared by the layers of a stack: `stack`.relative_bias (32, H)
class T5 final : public PositionedAttention {
 public:
  static constexpr int64_t kBuckets = 32, kMostDistant = 128;

  T5(Parameters& parameters, const Config& config, const LayerPlace& place)
      : heads_(config.integer("heads")),
        looks_both_ways_(looks_both_ways(config.text("positionBuckets"), place.causal)) {
    const auto name = place.stack + ".relative_bias";
    bias_ = parameters.has(name) ? parameters.at(name)
                                 : parameters.normal(name, {kBuckets, heads_}, 0.02, Parameters::Decay::no);
  }

  Tensor operator()(const Tensor& x, const QueryKeyValue& project, const KeyMask& mask, bool causal,
                    Pass& pass) const override {
    const auto [q, k, v] = split_heads(project(x, pass), heads_);
    const int64_t T = q.size(2);
    if (!buckets_.defined() || buckets_.size(0) != T || buckets_.device() != q.device())
      buckets_ = t5_buckets(T, kBuckets, kMostDistant, looks_both_ways_).to(q.device());
    const auto bias = at::embedding(pass.cast(bias_), buckets_).permute({2, 0, 1}).unsqueeze(0);  // (1, H, T, T)
    // Written out: with a learned bias the fused attention picks another kernel under a gradient than without one, and
    // a replayed memory would not be the first sweep's to the bit.
    const auto scores = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3))) + bias;
    return merge(at::matmul(at::softmax(masked(scores, mask, causal), -1), v));
  }

 private:
  /// "t5": a stack that sees what is ahead has buckets for it. "lucidrains": the other way round, as that port has it:
  /// its encoder puts all that is ahead into one bucket, its decoder keeps half of the buckets for what it never sees.
  static bool looks_both_ways(const std::string& buckets, bool causal) {
    require(buckets == "t5" || buckets == "lucidrains", "CONFIG", "there are no position buckets '", buckets,
            "'; known: t5, lucidrains");
    return causal == (buckets == "lucidrains");
  }

  int64_t heads_;
  bool looks_both_ways_;
  Tensor bias_;
  mutable Tensor buckets_;  // of the last T; only ever touched by the engine's thread
};

using Scheme = std::unique_ptr<PositionedAttention>;
const bool rotary_registered = position_schemes().add(
    "rotary",
    [](Parameters&, const Config& config, const LayerPlace&) -> Scheme { return std::make_unique<Rotary>(config); });
const bool relative_registered = position_schemes().add(
    "relative", [](Parameters& parameters, const Config& config, const LayerPlace& place) -> Scheme {
      return std::make_unique<Relative>(parameters, config, place);
    });
const bool t5_registered =
    position_schemes().add("t5", [](Parameters& parameters, const Config& config, const LayerPlace& place) -> Scheme {
      return std::make_unique<T5>(parameters, config, place);
    });

}  // namespace

Registry<Scheme, Parameters&, const Config&, const LayerPlace&>& position_schemes() {
  static Registry<Scheme, Parameters&, const Config&, const LayerPlace&> registry("position scheme");
  return registry;
}

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const KeyMask& mask) {
  return merge(ops::attention(q, k, v, mask.attention(/*causal=*/false), /*causal=*/false, mask.lengths()));
}

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

}  // namespace memformer::nn
