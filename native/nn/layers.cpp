#include "nn/layers.h"

#include "core/failure.h"
#include "ops/add_norm/add_norm.h"
#include "ops/decode_feed_forward/decode_feed_forward.h"
#include "ops/decode_linear/decode_linear.h"
#include "ops/dropout/dropout.h"
#include "ops/feed_forward/feed_forward.h"
#include "ops/head_norm/head_norm.h"
#include "ops/linear/linear.h"
#include "ops/token_embedding/token_embedding.h"

namespace memformer::nn {

std::pair<std::optional<at::Tensor>, std::optional<at::Tensor>> Residual::decoded_branch() const {
  if (!branch) return {};
  return {branch->product, branch->bias.optional()};
}

Linear::Linear(Parameters& parameters, const std::string& prefix, int64_t in, int64_t out, double gain,
               int64_t matrices)
    : weight_(parameters.normal(prefix + ".weight", {out, in}, gain / std::sqrt(2.0 * static_cast<double>(in)),
                                Parameters::Decay::yes, matrices)),
      bias_(parameters.constant(prefix + ".bias", {out}, 0.0)) {}

at::Tensor Linear::operator()(const at::Tensor& x, ForwardContext& ctx) const {
  if (ctx.row_by_row())
    return ops::decode_linear(ctx.cast(x), ctx.working(weight_), ctx.working(bias_), false, /*settled=*/true);
  return ops::linear(ctx.cast(x), ctx.trained(weight_), ctx.trained(bias_));
}

Projection Linear::without_bias(const at::Tensor& x, ForwardContext& ctx) const {
  if (ctx.row_by_row())
    return {ops::decode_linear(ctx.cast(x), ctx.working(weight_), {}, false, /*settled=*/true), {ctx.working(bias_)}};
  return {ops::linear(ctx.cast(x), ctx.trained(weight_), {}), ctx.trained(bias_)};
}

Projection Linear::of_rows(const at::Tensor& product, ForwardContext& ctx) const {
  return {product.unsqueeze(1), {ctx.working(bias_)}};
}

LayerNorm::LayerNorm(Parameters& parameters, const std::string& prefix, int64_t width)
    : weight_(parameters.constant(prefix + ".weight", {width}, 1.0)),
      bias_(parameters.constant(prefix + ".bias", {width}, 0.0)) {}

at::Tensor LayerNorm::operator()(Residual& stream, ForwardContext& ctx) const {
  std::optional<at::Tensor> branch;
  Trained branch_bias;
  DropoutSite dropout{0.0, std::nullopt, 0};
  if (stream.branch) {
    const auto& product = stream.branch->product;
    branch = product.dim() > stream.x.dim() ? ops::decode_add_shares(product, ctx.compute()) : product;
    branch_bias = stream.branch->bias;
    dropout = ctx.next_dropout();
  }
  const Trained weight{weight_, ctx.sink(weight_)}, bias{bias_, ctx.sink(bias_)};  // in the parameters' dtype
  auto [sum, normed] = ops::add_norm(stream.x, branch, branch_bias, weight, bias, dropout.rate, dropout.seed,
                                     dropout.site, ctx.compute());
  stream = {sum, std::nullopt};
  return normed;
}

at::Tensor LayerNorm::operator()(const at::Tensor& x, ForwardContext& ctx) const {
  Residual stream{x.to(weight_.scalar_type()), std::nullopt};
  return (*this)(stream, ctx);
}

at::Tensor LayerNorm::then(const Linear& linear, Residual& stream, ForwardContext& ctx) const {
  const auto [weight, bias] = linear.parameters();
  return then(ctx.working(weight), ctx.working(bias), stream);
}

at::Tensor LayerNorm::then(const at::Tensor& weight, const std::optional<at::Tensor>& bias, Residual& stream,
                           std::optional<at::ScalarType> dtype) const {
  const auto [branch, branch_bias] = stream.decoded_branch();
  auto [sum, y] = ops::decode_normed_linear(stream.x, branch, branch_bias, weight_, bias_, weight, bias, /*gelu=*/false,
                                            /*settled=*/true, dtype);
  stream = {sum, std::nullopt};
  return y;
}

const at::Tensor& DecodedRows::normed(ForwardContext& ctx) {
  if (!normed_.defined()) normed_ = (*norm_)(*stream_, ctx);
  return normed_;
}

DecodedRows DecodedRows::last() const {
  const auto of = [](const at::Tensor& rows) { return rows.narrow(0, rows.size(0) - 1, 1); };
  if (normed_.defined()) return of(normed_);
  Residual stream{of(stream_->x), stream_->branch};
  if (stream.branch) stream.branch->product = of(stream.branch->product);
  return {std::move(stream), *norm_};
}

at::Tensor DecodedRows::then(const at::Tensor& weight, const std::optional<at::Tensor>& bias, at::ScalarType dtype,
                             ForwardContext& ctx) {
  if (!normed_.defined()) return norm_->then(weight, bias, *stream_, dtype).squeeze(1);
  return ops::decode_linear(ctx.cast(normed_.squeeze(1)), weight, bias, /*gelu=*/false, /*settled=*/true, dtype);
}

FeedForward::FeedForward(Parameters& parameters, const std::string& prefix, int64_t width, int64_t inner,
                         double residual_gain)
    : norm_(parameters, prefix + ".norm", width),
      up_(parameters, prefix + ".up", width, inner),
      down_(parameters, prefix + ".down", inner, width, residual_gain) {}

at::Tensor FeedForward::product(const at::Tensor& normed, bool biased, ForwardContext& ctx) const {
  const auto [up, up_bias] = up_.parameters();
  const auto [down, down_bias] = down_.parameters();
  const auto added = biased ? ctx.trained(down_bias) : Trained{};
  const auto dropout = ctx.next_dropout();
  return ops::feed_forward(ctx.cast(normed), ctx.trained(up), ctx.trained(up_bias), ctx.trained(down), added,
                           dropout.rate, dropout.seed, dropout.site);
}

at::Tensor FeedForward::decode(Residual& stream, ForwardContext& ctx) const {
  const auto [norm_weight, norm_bias] = norm_.parameters();
  const auto [up, up_bias] = up_.parameters();
  const auto [branch, branch_bias] = stream.decoded_branch();
  auto [sum, product] =
      ops::decode_feed_forward(stream.x, branch, branch_bias, norm_weight, norm_bias, ctx.working(up),
                               ctx.working(up_bias), ctx.working(down_.parameters().first), /*settled=*/true);
  stream = {sum, std::nullopt};
  return product;
}

void FeedForward::operator()(Residual& stream, ForwardContext& ctx) const {
  const auto down_bias = down_.parameters().second;
  const auto branch = ctx.row_by_row() ? decode(stream, ctx) : product(norm_(stream, ctx), false, ctx);
  stream.branch = Projection{branch, ctx.trained(down_bias)};
}

at::Tensor FeedForward::operator()(const at::Tensor& x, ForwardContext& ctx) const {
  return product(norm_(x, ctx), true, ctx);
}

Embedding::Embedding(Parameters& parameters, const std::string& prefix, const Config& config)
    : weight_(parameters.normal(prefix + ".weight", {config.integer("vocabulary"), config.integer("width")},
                                config.number("embeddingDeviation"), Parameters::Decay::no)),
      normed_(config.flag("embeddingNorm")) {}

at::Tensor Embedding::operator()(const at::Tensor& tokens, ForwardContext& ctx) const {
  const auto dropped = [&](const at::Tensor& x) {
    const auto dropout = ctx.next_dropout();
    return dropout.rate == 0.0 ? x : ops::dropout(x, dropout.rate, *dropout.seed, dropout.site);
  };
  if (!tokens.is_floating_point()) {
    const auto x = ops::token_embedding(tokens, {weight_, ctx.sink(weight_)});
    return dropped(normed_ ? ops::head_norm(x, {x.size(-1), 1, 1}) : x);
  }
  require(tokens.dim() == 3 && tokens.size(2) == weight_.size(1), "SHAPE", "embedded source must be (B, T, ",
          weight_.size(1), "), got ", tokens.sizes());
  return dropped(tokens.to(weight_.scalar_type()));
}

}  // namespace memformer::nn
