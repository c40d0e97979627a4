#include "nn/fold_layer_norm.h"

namespace memformer::nn {

const ops::FoldedLinear& fold_layer_norm(const std::vector<NormedLinear>& layers, ForwardContext& ctx) {
  return ctx.cached_fold(layers[0].weight, [&] {
    std::vector<at::Tensor> weights, biases, norm_weights, norm_biases, sinks;
    for (const auto& layer : layers) {
      const auto& [norm_weight, norm_bias] = layer.norm->parameters();
      weights.push_back(layer.weight);
      if (layer.bias) biases.push_back(*layer.bias);
      norm_weights.push_back(norm_weight);
      norm_biases.push_back(norm_bias);
    }
    for (const auto* kind : {&weights, &biases, &norm_weights, &norm_biases})
      for (const auto& parameter : *kind)
        if (const auto sink = ctx.sink(parameter)) sinks.push_back(*sink);
    return ops::fold_layer_norm(weights, biases, norm_weights, norm_biases, sinks, ctx.compute());
  });
}

}  // namespace memformer::nn
