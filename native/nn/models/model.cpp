#include "nn/models/model.h"

#include "ops/linear/linear.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace memformer::nn {
namespace {

// Rows of logits held at a time: 4 Mi numbers, 16 MiB of float32.
int64_t chunk_rows(int64_t vocabulary) { return std::max<int64_t>(16, (int64_t{4} << 20) / std::max<int64_t>(vocabulary, 1)); }

at::ScalarType parameter_dtype(const Config& config) { return config.text("precision") == "float64" ? at::kDouble : at::kFloat; }

}  // namespace

Model::Model(const Config& config, uint64_t seed)
    : parameters_(seed, parameter_dtype(config)),
      bos_(config.integer("bos")),
      compute_(config.text("precision") == "bfloat16" ? at::kBFloat16 : parameter_dtype(config)),
      dropout_(config.number("dropout")) {}

Pass Model::start(const SegmentInput& segment) const { return Pass(compute_, segment.training ? dropout_ : 0.0, segment.seed); }

void Model::make_output(const Config& config, const at::Tensor& embedding) {
  output_ = config.flag("tieEmbedding") ? embedding
                                        : parameters_.normal("output.weight", embedding.sizes(), 0.02, Parameters::Decay::yes);
}

at::Tensor Model::project(const at::Tensor& hidden, Pass& pass) const {
  return ops::linear(pass.cast(hidden), pass.working(output_), {}).to(parameters_.dtype());
}

Outputs Model::score(const at::Tensor& hidden, const at::Tensor& target, Pass& pass, State state) const {
  require(hidden.size(0) == target.size(0) && hidden.size(1) == target.size(1), "SHAPE", "target must be (", hidden.size(0), ", ",
          hidden.size(1), "), got ", target.sizes());
  const auto [sum, count] = ops::linear_cross_entropy(pass.cast(hidden).reshape({-1, hidden.size(2)}), pass.working(output_),
                                                      target.reshape({-1}), chunk_rows(output_.size(0)));
  return {sum / count.clamp_min(1).to(sum.scalar_type()), count, std::move(state)};
}

Registry<std::unique_ptr<Model>, const Config&, uint64_t>& models() {
  static Registry<std::unique_ptr<Model>, const Config&, uint64_t> registry("model variant");
  return registry;
}

}  // namespace memformer::nn
