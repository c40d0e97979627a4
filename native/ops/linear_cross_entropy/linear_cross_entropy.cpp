#include "ops/linear_cross_entropy/linear_cross_entropy.h"

#include "core/gradient_sink.h"
#include "core/operator.h"
#include "ops/common/matrix_product.h"

// Saved for backward: dtotal/dhidden (N, D) and either dtotal/dweight (V, D) and, with a bias, dtotal/dbias (V), both
// in the dtype of sums; or in place of these two, where all rows are one chunk and a GPU has little to add up,
// dtotal/dlogits (N, V).
namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
constexpr const char* kOp = "linear_cross_entropy";

void check(const Tensor& hidden, const Tensor& weight, const Optional& bias, const Tensor& target,
           const Tensor& loss_weights, const Optional& sink, const Optional& bias_sink, int64_t chunk) {
  require_floating(kOp, "hidden", hidden);
  require_shape(kOp, "hidden", hidden, {-1, -1});
  require_shape(kOp, "weight", weight, {-1, hidden.size(1)});
  require_like(kOp, "weight", weight, "hidden", hidden);
  if (is_defined(bias)) {
    require_shape(kOp, "bias", *bias, {weight.size(0)});
    require_like(kOp, "bias", *bias, "hidden", hidden);
  }
  require_shape(kOp, "target", target, {hidden.size(0)});
  require_dtype(kOp, "target", target, at::kLong);
  require_shape(kOp, "loss_weights", loss_weights, {-1});
  require_dtype(kOp, "loss_weights", loss_weights, accumulate_type(hidden.scalar_type()));
  require(loss_weights.device() == hidden.device(), "DEVICE_MISMATCH",
          "linear_cross_entropy: loss_weights must be on hidden's device ", hidden.device().str(), ", got ",
          loss_weights.device().str());
  require(chunk >= 1, "CONFIG", "linear_cross_entropy: chunk must be at least 1, got ", chunk);
  const int64_t groups = loss_weights.size(0);
  require(groups >= 1 && hidden.size(0) % groups == 0, "CONFIG", "linear_cross_entropy: the ", hidden.size(0),
          " rows must fall into equal groups, got ", groups, " groups");
  require(is_defined(bias) || !is_defined(bias_sink), "CONFIG", "linear_cross_entropy: a bias_sink needs a bias");
  require_sink(kOp, "bias_sink", bias_sink, weight.size(0), weight);
  if (!is_defined(sink)) return;
  require_shape(kOp, "sink", *sink, {weight.size(0), weight.size(1)});
  require_dtype(kOp, "sink", *sink, accumulate_type(weight.scalar_type()));
}

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> forward_cpu(const Tensor& hidden, const Tensor& weight,
                                                                    const Optional& bias, const Tensor& target,
                                                                    const Tensor& loss_weights, bool with_grad,
                                                                    int64_t chunk) {
  const int64_t N = hidden.size(0), V = weight.size(0), groups = loss_weights.size(0),
                top = N == 0 ? -1 : target.max().item<int64_t>();
  require(top < V, "TOKEN_RANGE", "linear_cross_entropy: target holds token ", top, ", the vocabulary has ", V);
  const auto wide = hidden.options().dtype(loss_weights.scalar_type());
  const auto count = target.ge(0).view({groups, N / groups}).sum(1), divisor = count.clamp_min(1).to(wide.dtype());
  const auto factors = (loss_weights / divisor).repeat_interleave(N / groups);  // (N), of a row's loss in total
  const auto losses = at::empty({N}, wide);
  const auto grad_hidden = with_grad ? at::empty_like(hidden) : Tensor();
  const auto grad_weight = with_grad ? at::zeros(weight.sizes(), wide) : Tensor();
  const auto grad_bias = with_grad && is_defined(bias) ? at::zeros({V}, wide) : Tensor();
  for (int64_t start = 0; start < N; start += chunk) {
    const int64_t rows = std::min(chunk, N - start);
    const auto h = hidden.narrow(0, start, rows), y = target.narrow(0, start, rows);
    const auto scored = y.ge(0).to(wide.dtype()).unsqueeze(1), index = y.clamp_min(0).unsqueeze(1);
    auto log_p = at::log_softmax(affine(h, weight, bias).to(wide.dtype()), 1);  // (rows, V)
    losses.narrow(0, start, rows).copy_((log_p.gather(1, index) * scored).squeeze(1).neg_());
    if (!with_grad) continue;
    auto grad_logits = log_p.exp_();
    grad_logits.scatter_add_(1, index, at::full_like(scored, -1))
        .mul_(scored * factors.narrow(0, start, rows).unsqueeze(1));
    const auto narrow_grad = grad_logits.to(hidden.scalar_type());
    grad_hidden.narrow(0, start, rows).copy_(matrix_product(narrow_grad, weight));
    grad_weight.add_(matrix_product(narrow_grad.t(), h));
    if (grad_bias.defined()) grad_bias.add_(grad_logits.sum(0));
  }
  const auto loss = losses.view({groups, N / groups}).sum(1) / divisor;
  std::vector<Tensor> saved;
  if (with_grad) saved = {grad_hidden, grad_weight};
  if (grad_bias.defined()) saved.push_back(grad_bias);
  return {(loss * loss_weights).sum(), loss, count, saved};
}

std::tuple<Tensor, Tensor, Tensor> backward_cpu(const Tensor& grad, at::TensorList saved, const Tensor& /*hidden*/,
                                                const Tensor& weight, const Optional& bias, const Optional& sink,
                                                const Optional& bias_sink, int64_t /*chunk*/) {
  const auto none = at::empty({0}, weight.options());
  const auto scaled = [&](const Tensor& gradient, const Optional& to) {
    if (!is_defined(to)) return (gradient * grad).to(weight.scalar_type());
    to->addcmul_(gradient, grad);
    return none;
  };
  return {saved[0] * grad.to(saved[0].scalar_type()), scaled(saved[1], sink),
          is_defined(bias) ? scaled(saved[2], bias_sink) : none};
}

constexpr Registered<"memformer::linear_cross_entropy_forward", decltype(forward_cpu)> forward_kernel;
constexpr Registered<"memformer::linear_cross_entropy_backward", decltype(backward_cpu)> backward_kernel;

struct LinearCrossEntropy {
  static constexpr size_t kDifferentiableResults = 1;  // total, without loss and count

  struct Saved {
    Tensor hidden, weight;
    Optional bias;
    std::vector<Tensor> kept;
    int64_t chunk;
    Destination of_weight, of_bias;
    auto variables() { return std::tie(hidden, weight, bias, kept); }
  };

  static std::tuple<Tensor, Tensor, Tensor> forward(Saved* saved, const Tensor& hidden, const Tensor& weight,
                                                    const Optional& bias, const Tensor& target,
                                                    const Tensor& loss_weights, const Optional& sink,
                                                    const Optional& bias_sink, int64_t chunk) {
    check(hidden, weight, bias, target, loss_weights, sink, bias_sink, chunk);
    auto [total, loss, count, kept] =
        forward_kernel(hidden, weight, bias, target, loss_weights, saved != nullptr, chunk);
    if (saved != nullptr) *saved = {hidden, weight, bias, std::move(kept), chunk, {weight, sink}, {bias, bias_sink}};
    return {total, loss, count};
  }

  static std::tuple<Tensor, Tensor, Tensor> backward(const Saved& s, const BackwardPass& pass) {
    auto [hidden, weight, bias] = backward_kernel(pass.gradients[0], s.kept, s.hidden, s.weight, s.bias,
                                                  s.of_weight.sink, s.of_bias.sink, s.chunk);
    return {hidden, s.of_weight(std::move(weight)), s.of_bias(std::move(bias))};
  }
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy(const Tensor& hidden, const Trained& weight,
                                                        const Trained& bias, const Tensor& target,
                                                        const Tensor& loss_weights, int64_t chunk) {
  constexpr Registered<"memformer::linear_cross_entropy", Signature<LinearCrossEntropy>> op;
  return op(hidden, weight.value, bias.optional(), target, loss_weights, weight.sink, bias.sink, chunk);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  define<LinearCrossEntropy>(
      library,
      "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor? bias, Tensor target, Tensor loss_weights, Tensor? "
      "sink, Tensor? bias_sink, int chunk) -> (Tensor total, Tensor loss, Tensor count)");
  library.def(
      "linear_cross_entropy_forward(Tensor hidden, Tensor weight, Tensor? bias, Tensor target, Tensor loss_weights, "
      "bool with_grad, int chunk) -> (Tensor total, Tensor loss, Tensor count, Tensor[] saved)",
      on_cpu(&forward_cpu));
  library.def(
      "linear_cross_entropy_backward(Tensor grad, Tensor[] saved, Tensor hidden, Tensor weight, Tensor? bias, "
      "Tensor(a!)? sink, Tensor(b!)? bias_sink, int chunk) -> (Tensor grad_hidden, Tensor grad_weight, Tensor "
      "grad_bias)",
      on_cpu(&backward_cpu));
}

}  // namespace memformer::ops
