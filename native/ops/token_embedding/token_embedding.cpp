#include "ops/token_embedding/token_embedding.h"

#include "core/gradient_sink.h"
#include "core/operator.h"
#include "core/parallel.h"

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

/// Adds row i of rows (n, D) to row tokens_i of sums (vocabulary, D). Threads share out the columns, so that the order
/// of the additions is that of the tokens on any number of them.
template <typename scalar_t>
void add_rows(scalar_t* sums, const scalar_t* rows, const int64_t* tokens, int64_t n, int64_t D) {
  constexpr int64_t kGrain = 32768;  // additions that are worth a thread
  parallel_for(D, std::max<int64_t>(16, kGrain / std::max<int64_t>(n, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < n; ++i) {
      auto* sum = sums + std::max<int64_t>(tokens[i], 0) * D;
      const auto* row = rows + i * D;
#pragma omp simd
      for (int64_t d = begin; d < end; ++d) sum[d] += row[d];
    }
  });
}

Tensor backward_cpu(const Tensor& grad, const Tensor& tokens_in, const Sink& sink, int64_t vocabulary) {
  const auto rows = grad.to(accumulate_type(grad.scalar_type())).contiguous(), tokens = tokens_in.contiguous();
  const auto sums = is_defined(sink) ? *sink : at::zeros({vocabulary, grad.size(-1)}, rows.options());
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "token_embedding_backward", [&] {
    add_rows(sums.mutable_data_ptr<scalar_t>(), rows.const_data_ptr<scalar_t>(), tokens.const_data_ptr<int64_t>(),
             tokens.numel(), grad.size(-1));
  });
  return is_defined(sink) ? at::empty({0}, grad.options()) : sums.to(grad.scalar_type());
}

constexpr Registered<"memformer::token_embedding_forward", decltype(forward_cpu)> forward_kernel;
constexpr Registered<"memformer::token_embedding_backward", decltype(backward_cpu)> backward_kernel;

struct TokenEmbedding {
  struct Saved {
    Tensor tokens;
    int64_t vocabulary;
    Destination of_weight;
    auto variables() { return std::tie(tokens); }
  };

  static Tensor forward(Saved* saved, const Tensor& tokens, const Tensor& weight, const Sink& sink) {
    check(tokens, weight, sink);
    if (saved != nullptr) *saved = {tokens, weight.size(0), {weight, sink}};
    return forward_kernel(tokens, weight);
  }

  static std::tuple<Tensor, Tensor> backward(const Saved& s, const BackwardPass& pass) {
    return {Tensor(), s.of_weight(backward_kernel(pass.gradients[0], s.tokens, s.of_weight.sink, s.vocabulary))};
  }
};

}  // namespace

Tensor token_embedding(const Tensor& tokens, const Trained& weight) {
  constexpr Registered<"memformer::token_embedding", Signature<TokenEmbedding>> op;
  return op(tokens, weight.value, weight.sink);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  define<TokenEmbedding>(library, "token_embedding(Tensor tokens, Tensor weight, Tensor? sink) -> Tensor");
  library.def("token_embedding_forward(Tensor tokens, Tensor weight) -> Tensor", on_cpu(&forward_cpu));
  library.def("token_embedding_backward(Tensor grad, Tensor tokens, Tensor(a!)? sink, int vocabulary) -> Tensor",
              on_cpu(&backward_cpu));
}

}  // namespace memformer::ops
