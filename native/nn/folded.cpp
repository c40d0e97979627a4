#include "nn/folded.h"

namespace memformer::nn {

const ops::FoldedNorms& folded(const std::vector<NormedLinear>& layers, Pass& pass) {
  return pass.folded(layers[0].weight, [&] {
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
        if (const auto sink = pass.sink(parameter)) sinks.push_back(*sink);
    return ops::fold_norm(weights, biases, norm_weights, norm_biases, sinks, pass.compute());
  });
}

}  // namespace memformer::nn
