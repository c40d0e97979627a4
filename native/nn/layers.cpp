#include "nn/layers.h"

#include "core/failure.h"
#include "ops/add_norm/add_norm.h"
#include "ops/decode_linear/decode_linear.h"
#include "ops/dropout/dropout.h"
#include "ops/feed_forward/feed_forward.h"
#include "ops/head_norm/head_norm.h"
#include "ops/linear/linear.h"
#include "ops/token_embedding/token_embedding.h"

namespace memformer::nn {

Linear::Linear(Parameters& parameters, const std::string& prefix, int64_t in, int64_t out, double gain,
               int64_t matrices)
    : weight_(parameters.normal(prefix + ".weight", {out, in}, gain / std::sqrt(2.0 * static_cast<double>(in)),
                                Parameters::Decay::yes, matrices)),
      bias_(parameters.constant(prefix + ".bias", {out}, 0.0)) {}

at::Tensor Linear::operator()(const at::Tensor& x, Pass& pass) const {
  if (pass.row_by_row()) return ops::decode_linear(pass.cast(x), pass.working(weight_), pass.working(bias_));
  return ops::linear(pass.cast(x), pass.working(weight_), pass.working(bias_), pass.sink(weight_), pass.sink(bias_));
}

Projection Linear::without_bias(const at::Tensor& x, Pass& pass) const {
  if (pass.row_by_row()) return {ops::decode_linear(pass.cast(x), pass.working(weight_), {}), pass.working(bias_), {}};
  return {ops::linear(pass.cast(x), pass.working(weight_), {}, pass.sink(weight_), {}), pass.working(bias_),
          pass.sink(bias_)};
}

LayerNorm::LayerNorm(Parameters& parameters, const std::string& prefix, int64_t width)
    : weight_(parameters.constant(prefix + ".weight", {width}, 1.0)),
      bias_(parameters.constant(prefix + ".bias", {width}, 0.0)) {}

at::Tensor LayerNorm::operator()(Residual& stream, Pass& pass) const {
  std::optional<at::Tensor> branch, branch_bias;
  Sink branch_bias_sink;
  DropoutSite dropout{0.0, std::nullopt, 0};
  if (stream.branch) {
    branch = stream.branch->product;
    if (stream.branch->bias.defined()) branch_bias = stream.branch->bias;
    branch_bias_sink = stream.branch->bias_sink;
    dropout = pass.next_dropout();
  }
  auto [sum, normed] =
      ops::add_norm(stream.x, branch, branch_bias, weight_, bias_, pass.sink(weight_), pass.sink(bias_),
                    branch_bias_sink, dropout.rate, dropout.seed, dropout.site, pass.compute());
  stream = {sum, std::nullopt};
  return normed;
}

at::Tensor LayerNorm::operator()(const at::Tensor& x, Pass& pass) const {
  Residual stream{x.to(weight_.scalar_type()), std::nullopt};
  return (*this)(stream, pass);
}

FeedForward::FeedForward(Parameters& parameters, const std::string& prefix, int64_t width, int64_t inner,
                         double residual_gain)
    : norm_(parameters, prefix + ".norm", width),
      up_(parameters, prefix + ".up", width, inner),
      down_(parameters, prefix + ".down", inner, width, residual_gain) {}

at::Tensor FeedForward::product(const at::Tensor& normed, bool biased, Pass& pass) const {
  const auto [up, up_bias] = up_.parameters();
  const auto [down, down_bias] = down_.parameters();
  const auto added = biased ? std::optional(pass.working(down_bias)) : std::nullopt;
  if (pass.row_by_row()) {
    const auto activation =
        ops::decode_linear(pass.cast(normed), pass.working(up), pass.working(up_bias), /*gelu=*/true);
    return ops::decode_linear(activation, pass.working(down), added);
  }
  const auto dropout = pass.next_dropout();
  return ops::feed_forward(pass.cast(normed), pass.working(up), pass.working(up_bias), pass.working(down), added,
                           pass.sink(up), pass.sink(up_bias), pass.sink(down), biased ? pass.sink(down_bias) : Sink(),
                           dropout.rate, dropout.seed, dropout.site);
}

void FeedForward::operator()(Residual& stream, Pass& pass) const {
  const auto down_bias = down_.parameters().second;
  stream.branch = Projection{product(norm_(stream, pass), false, pass), pass.working(down_bias), pass.sink(down_bias)};
}

at::Tensor FeedForward::operator()(const at::Tensor& x, Pass& pass) const {
  return product(norm_(x, pass), true, pass);
}

Embedding::Embedding(Parameters& parameters, const std::string& prefix, const Config& config)
    : weight_(parameters.normal(prefix + ".weight", {config.integer("vocabulary"), config.integer("width")},
                                config.number("embeddingDeviation"), Parameters::Decay::no)),
      normed_(config.flag("embeddingNorm")) {}

at::Tensor Embedding::operator()(const at::Tensor& tokens, Pass& pass) const {
  const auto dropped = [&](const at::Tensor& x) {
    const auto dropout = pass.next_dropout();
    return dropout.rate == 0.0 ? x : ops::dropout(x, dropout.rate, *dropout.seed, dropout.site);
  };
  if (!tokens.is_floating_point()) {
    const auto x = ops::token_embedding(tokens, weight_, pass.sink(weight_));
    return dropped(normed_ ? ops::head_norm(x, {x.size(-1), 1, 1}) : x);
  }
  require(tokens.dim() == 3 && tokens.size(2) == weight_.size(1), "SHAPE", "embedded source must be (B, T, ",
          weight_.size(1), "), got ", tokens.sizes());
  return dropped(tokens.to(weight_.scalar_type()));
}

}  // namespace memformer::nn
