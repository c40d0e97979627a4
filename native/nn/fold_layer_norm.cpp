#include "nn/fold_layer_norm.h"

namespace memformer::nn {

const ops::FoldedLinear& fold_layer_norm(const std::vector<NormedLinear>& layers, ForwardContext& ctx) {
  const auto& first = layers[0].weight;
  const bool keeps = !at::GradMode::is_enabled();
  if (const auto* kept = keeps ? ctx.folds().find(first, ctx.compute()) : nullptr) return *kept;
  std::vector<at::Tensor> weights, biases, norm_weights, norm_biases;
  for (const auto& layer : layers) {
    const auto& [norm_weight, norm_bias] = layer.norm->parameters();
    weights.push_back(layer.weight);
    if (layer.bias) biases.push_back(*layer.bias);
    norm_weights.push_back(norm_weight);
    norm_biases.push_back(norm_bias);
  }
  if (keeps)
    return ctx.folds().keep(first, ctx.compute(), [=, dtype = ctx.compute()] {
      return ops::fold_layer_norm(weights, biases, norm_weights, norm_biases, {}, dtype);
    });
  return ctx.cached_fold(first, [&] {
    std::vector<at::Tensor> sinks;
    for (const auto* kind : {&weights, &biases, &norm_weights, &norm_biases})
      for (const auto& parameter : *kind)
        if (const auto sink = ctx.sink(parameter)) sinks.push_back(*sink);
    return ops::fold_layer_norm(weights, biases, norm_weights, norm_biases, sinks, ctx.compute());
  });
}

}  // namespace memformer::nn
