#include "nn/layers.h"

#include "core/failure.h"
#include "ops/linear/linear.h"

namespace memformer::nn {

Linear::Linear(Parameters& parameters, const std::string& prefix, int64_t in, int64_t out, double gain)
    : weight_(parameters.normal(prefix + ".weight", {out, in}, gain / std::sqrt(2.0 * static_cast<double>(in)), Parameters::Decay::yes)),
      bias_(parameters.constant(prefix + ".bias", {out}, 0.0)) {}

at::Tensor Linear::operator()(const at::Tensor& x, Pass& pass) const {
  return ops::linear(pass.cast(x), pass.working(weight_), pass.working(bias_));
}

LayerNorm::LayerNorm(Parameters& parameters, const std::string& prefix, int64_t width)
    : width_(width), weight_(parameters.constant(prefix + ".weight", {width}, 1.0)), bias_(parameters.constant(prefix + ".bias", {width}, 0.0)) {}

at::Tensor LayerNorm::operator()(const at::Tensor& x) const {
  return at::layer_norm(x.to(weight_.scalar_type()), {width_}, weight_, bias_, 1e-5);
}

FeedForward::FeedForward(Parameters& parameters, const std::string& prefix, int64_t width, int64_t inner, double residual_gain)
    : norm_(parameters, prefix + ".norm", width),
      up_(parameters, prefix + ".up", width, inner),
      down_(parameters, prefix + ".down", inner, width, residual_gain) {}

at::Tensor FeedForward::operator()(const at::Tensor& x, Pass& pass) const {
  const auto inner = pass.dropout(at::gelu(up_(norm_(x), pass)));  // (B, N, F)
  return x + pass.dropout(down_(inner, pass));
}

Embedding::Embedding(Parameters& parameters, int64_t vocabulary, int64_t width)
    : weight_(parameters.normal("embedding.weight", {vocabulary, width}, 0.02, Parameters::Decay::no)) {}

at::Tensor Embedding::operator()(const at::Tensor& tokens, Pass& pass) const {
  if (tokens.is_floating_point()) {
    require(tokens.dim() == 3 && tokens.size(2) == weight_.size(1), "SHAPE", "embedded source must be (B, T, ", weight_.size(1), "), got ",
            tokens.sizes());
    return pass.dropout(tokens.to(weight_.scalar_type()));
  }
  if (tokens.is_cpu() && tokens.numel() > 0) {
    const auto top = tokens.max().item<int64_t>();
    require(top < weight_.size(0), "TOKEN_RANGE", "token ", top, " is out of the vocabulary of ", weight_.size(0));
  }
  return pass.dropout(at::embedding(weight_, tokens.clamp_min(0)));
}

}  // namespace memformer::nn
