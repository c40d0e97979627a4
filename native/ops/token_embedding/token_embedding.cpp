#include "ops/token_embedding/token_embedding.h"

#include "core/gradient_sink.h"
#include "core/op_handle.h"

// Saved for backward: the tokens.      dL/dweight[v] = sum of dL/dy_bt over the places (b, t) of token v
namespace memformer::ops {
namespace {

using at::Tensor;
using Sink = std::optional<Tensor>;
constexpr const char* kOp = "token_embedding";

void check(const Tensor& tokens, const Tensor& weight, const Sink& sink) {
  require_dtype(kOp, "tokens", tokens, at::kLong);
  require_shape(kOp, "tokens", tokens, {-1, -1});
  require_floating(kOp, "weight", weight);
  require_shape(kOp, "weight", weight, {-1, -1});
  require(tokens.device() == weight.device(), "DEVICE_MISMATCH", "token_embedding: tokens must be on weight's device ",
          weight.device().str(), ", got ", tokens.device().str());
  if (!is_defined(sink)) return;
  require_shape(kOp, "sink", *sink, {weight.size(0), weight.size(1)});
  require_dtype(kOp, "sink", *sink, accumulate_type(weight.scalar_type()));
  require(sink->is_contiguous(), "SHAPE", "token_embedding: sink must be contiguous");
}

Tensor forward_cpu(const Tensor& tokens, const Tensor& weight) {
  if (tokens.numel() > 0) {
    const auto top = tokens.max().item<int64_t>();
    require(top < weight.size(0), "TOKEN_RANGE", "token ", top, " is out of the vocabulary of ", weight.size(0));
  }
  return at::embedding(weight, tokens.clamp_min(0));
}

Tensor backward_cpu(const Tensor& grad, const Tensor& tokens, const Sink& sink, int64_t vocabulary) {
  const auto wide = grad.to(accumulate_type(grad.scalar_type()));
  const auto grad_weight = at::embedding_dense_backward(wide, tokens.clamp_min(0), vocabulary, /*padding_idx=*/-1,
                                                        /*scale_grad_by_freq=*/false);
  if (!is_defined(sink)) return grad_weight.to(grad.scalar_type());
  sink->add_(grad_weight);
  return at::empty({0}, grad.options());
}

const auto& forward_op() {
  static const auto op = find_op<decltype(forward_cpu)>("memformer::token_embedding_forward");
  return op;
}

const auto& backward_op() {
  static const auto op = find_op<decltype(backward_cpu)>("memformer::token_embedding_backward");
  return op;
}

class TokenEmbedding : public torch::autograd::Function<TokenEmbedding> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& tokens, const Tensor& weight,
                        const Sink& sink) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({tokens});
    context->saved_data["sink"] = sink;  // no saved variable: other backward passes add to it meanwhile
    context->saved_data["vocabulary"] = weight.size(0);
    return forward_op().call(tokens, weight);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto sink = context->saved_data["sink"].toOptional<Tensor>();
    auto grad_weight = backward_op().call(grads[0], context->get_saved_variables()[0], sink,
                                          context->saved_data["vocabulary"].toInt());
    if (is_defined(sink)) grad_weight.reset();
    return {{}, grad_weight, {}};
  }
};

Tensor with_gradient(const Tensor& tokens, const Tensor& weight, const Sink& sink) {
  check(tokens, weight, sink);
  return TokenEmbedding::apply(tokens, weight, sink);
}

Tensor without_gradient(const Tensor& tokens, const Tensor& weight, const Sink& sink) {
  check(tokens, weight, sink);
  return forward_op().call(tokens, weight);
}

}  // namespace

Tensor token_embedding(const Tensor& tokens, const Trained& weight) {
  static const auto op = find_op<decltype(with_gradient)>("memformer::token_embedding");
  return op.call(tokens, weight.value, weight.sink);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def("token_embedding(Tensor tokens, Tensor weight, Tensor? sink) -> Tensor");
  library.def("token_embedding_forward(Tensor tokens, Tensor weight) -> Tensor");
  library.def("token_embedding_backward(Tensor grad, Tensor tokens, Tensor(a!)? sink, int vocabulary) -> Tensor");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("token_embedding_forward", &forward_cpu);
  library.impl("token_embedding_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) {
  library.impl("token_embedding", &without_gradient);
}
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("token_embedding", &with_gradient); }

}  // namespace memformer::ops
