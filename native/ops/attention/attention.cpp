#include "ops/attention/attention.h"

#include "core/cuda.h"
#include "core/gradient_sink.h"
#include "core/operator.h"
#include "ops/attention/attention_block_size.h"
#include "ops/attention/attention_checks.h"
#include "ops/attention/cross_attention.h"

// Saved for backward: q, k, v and the weights p (B H, N, M). With g = dL/dy:
//   dL/dv = p^T g      dL/ds = p (g v^T - rowsum(p g v^T))      dL/dq = dL/ds k / sqrt(E)      dL/dk = dL/ds^T q /
//   sqrt(E)
namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
constexpr const char* kOp = "attention";

void check(const Tensor& q, const Tensor& k, const Tensor& v, const Optional& mask, bool causal,
           const Optional& lengths) {
  require_floating(kOp, "q", q);
  require_shape(kOp, "q", q, {-1, -1, -1, -1});
  const int64_t B = q.size(0), H = q.size(1), N = q.size(2), E = q.size(3);
  require_shape(kOp, "k", k, {B, H, -1, E});
  const int64_t M = k.size(2);
  require_shape(kOp, "v", v, {B, H, M, E});
  require_like(kOp, "k", k, "q", q);
  require_like(kOp, "v", v, "q", q);
  check_attention_mask(kOp, mask, causal, lengths, B, N, M, "q", q);
}

/// Of (B, H, N, E).
Tensor normed_heads(const Tensor& x) {
  using HeadNorm = Tensor(const Tensor&, const Optional&, int64_t, int64_t, int64_t, double);
  constexpr Registered<"memformer::head_norm", HeadNorm> head_norm;
  return x.numel() == 0 ? x : head_norm(x, {}, x.size(3), 1, 1, 1.0);
}

bool is_fused(const Tensor& q, const Tensor& k) { return attention_is_fused(q, q.size(2), k.size(2), q.size(3)); }

/// Whether the operators below are the better way; else LibTorch's fused attention is.
bool is_short(const Tensor& q, const Tensor& k) {
  // Beyond, the weights that are held outgrow the other activations, and the fused kernel's products are worth
  // starting. On a GPU its kernels for two bytes are exact and fast at every length; that for float32 misses twice
  // plain code's error.
  constexpr int64_t kShort = 128 * 128;
  const bool two_bytes = q.scalar_type() == at::kBFloat16 || q.scalar_type() == at::kHalf;
  return is_fused(q, k) || (q.size(2) * k.size(2) <= kShort && !(q.is_cuda() && two_bytes));
}

/// Whether a head is better split over several blocks than left to LibTorch's kernel; it has no backward pass.
bool is_split(const Tensor& q, const Tensor& k) {
  const auto dtype = q.scalar_type();
  return q.is_cuda() && (dtype == at::kBFloat16 || dtype == at::kHalf) &&
         split_attention_fits(q.size(0) * q.size(1), q.size(2), k.size(2), q.size(3));
}

/// (B, H, N, E) -> (B H, N, E)
Tensor flat(const Tensor& x) { return x.reshape({x.size(0) * x.size(1), x.size(2), x.size(3)}); }

std::tuple<Tensor, Tensor> composed_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Optional& mask,
                                            bool causal, const Optional& lengths) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  const int64_t N = q.size(2), M = k.size(2);
  auto scores = at::bmm(flat(q), flat(k).transpose(1, 2)).mul_(scale);  // (B H, N, M)
  Tensor hidden;
  if (const auto seen = mask_of(mask, causal, lengths, M); is_defined(seen))
    hidden = seen->logical_not();
  else if (causal)
    hidden = at::ones({1, 1, N, M}, q.options().dtype(at::kBool)).triu_(1);
  if (hidden.defined())
    scores.view({q.size(0), q.size(1), N, M}).masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  const auto weights = at::softmax(scores, -1);
  return {at::bmm(weights, flat(v)).view(q.sizes()), weights};
}

std::tuple<Tensor, Tensor, Tensor> composed_backward(const Tensor& grad, const Tensor& q, const Tensor& k,
                                                     const Tensor& v, const Tensor& weights) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  const auto g = flat(grad);
  const auto grad_v = at::bmm(weights.transpose(1, 2), g);
  const auto grad_weights = at::bmm(g, flat(v).transpose(1, 2));
  const auto grad_scores = at::_softmax_backward_data(grad_weights, weights, -1, weights.scalar_type()).mul_(scale);
  return {at::bmm(grad_scores, flat(k)).view(q.sizes()), at::bmm(grad_scores.transpose(1, 2), flat(q)).view(k.sizes()),
          grad_v.view(v.sizes())};
}

using Fused = Tensor(const Tensor&, const Tensor&, const Tensor&, const Optional&, bool, const Optional&, bool, bool);
using FusedBackward = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                         const Optional&, bool, const Optional&, bool, bool);
constexpr Registered<"memformer::attention_forward", decltype(composed_forward)> composed_kernel;
constexpr Registered<"memformer::attention_backward", decltype(composed_backward)> composed_backward_kernel;
constexpr Registered<"memformer::attention_fused", Fused> fused_kernel;
constexpr Registered<"memformer::attention_fused_backward", FusedBackward> fused_backward_kernel;
constexpr Registered<"memformer::attention_split", Tensor(const Tensor&, const Tensor&, const Tensor&)> split_kernel;

struct ShortAttention {
  struct Saved {
    Tensor q, k, v, weights;  // no weights where one kernel has done it
    Optional mask, lengths;
    bool causal, norm_queries, norm_keys;  // the latter two: of q and k as they are saved
    auto variables() { return std::tie(q, k, v, mask, weights, lengths); }
  };

  static Tensor forward(Saved* saved, const Tensor& q, const Tensor& k, const Tensor& v, const Optional& mask,
                        bool causal, const Optional& lengths, bool norm_queries, bool norm_keys) {
    Tensor y, weights;
    if (is_fused(q, k))
      y = fused_kernel(q, k, v, mask, causal, lengths, norm_queries, norm_keys);
    else
      std::tie(y, weights) = composed_kernel(q, k, v, mask, causal, lengths);
    if (saved != nullptr) *saved = {q, k, v, weights, mask, lengths, causal, norm_queries, norm_keys};
    return y;
  }

  static std::tuple<Tensor, Tensor, Tensor> backward(const Saved& s, const BackwardPass& pass) {
    const auto& grad = pass.gradients[0];
    return s.weights.defined()
               ? composed_backward_kernel(grad, s.q, s.k, s.v, s.weights)
               : fused_backward_kernel(grad, s.q, s.k, s.v, s.mask, s.causal, s.lengths, s.norm_queries, s.norm_keys);
  }
};

/// Of the ways to attend, the best one for these sizes.
Tensor attend(const Tensor& q_in, const Tensor& k_in, const Tensor& v, const Optional& mask, bool causal,
              const Optional& lengths, bool norm_queries, bool norm_keys) {
  check(q_in, k_in, v, mask, causal, lengths);
  if (is_fused(q_in, k_in))
    return Operator<ShortAttention>::call(q_in, k_in, v, mask, causal, lengths, norm_queries, norm_keys);
  const auto q = norm_queries ? normed_heads(q_in) : q_in, k = norm_keys ? normed_heads(k_in) : k_in;
  if (is_short(q, k)) return Operator<ShortAttention>::call(q, k, v, mask, causal, lengths, false, false);
  const bool sends_back = at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  const bool masked = causal || is_defined(mask) || is_defined(lengths);
  if (sends_back && !masked && cross_attention_fits(q, k)) return cross_attention(q, k, v);
  if (!sends_back && !masked && is_split(q, k)) return split_kernel(q, k, v);
  const auto seen = mask_of(mask, causal, lengths, k.size(2));
  return at::scaled_dot_product_attention(q, k, v, seen, 0.0, causal && !is_defined(seen));
}

}  // namespace

bool attention_is_fused(const Tensor& x, int64_t N, int64_t M, int64_t E) {
  const auto dtype = x.scalar_type();
  if (!x.is_cuda() || (dtype != at::kBFloat16 && dtype != at::kHalf) || (E != 32 && E != 64)) return false;
  if (N < 1 || N > 128 || M < 1 || M > 128) return false;
  const int rows = attention_rows(static_cast<int>(N), static_cast<int>(M));
  return attention_block_bytes(rows, static_cast<int>(E)) <= cuda()->block_memory(x.device().index());
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Optional& mask, bool causal,
                 const Optional& lengths, bool norm_queries, bool norm_keys) {
  constexpr Registered<"memformer::attention", decltype(attend)> op;
  return op(q, k, v, mask, causal, lengths, norm_queries, norm_keys);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  define<&attend>(library,
                  "attention(Tensor q, Tensor k, Tensor v, Tensor? mask, bool causal, Tensor? lengths=None, bool "
                  "norm_queries=False, bool norm_keys=False) -> Tensor");
  library.def(
      "attention_forward(Tensor q, Tensor k, Tensor v, Tensor? mask, bool causal, Tensor? lengths) -> (Tensor y, "
      "Tensor weights)",
      on_every_device(&composed_forward));
  library.def(
      "attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor weights) -> (Tensor, Tensor, Tensor)",
      on_every_device(&composed_backward));
  library.def(
      "attention_fused(Tensor q, Tensor k, Tensor v, Tensor? mask, bool causal, Tensor? lengths, bool norm_queries, "
      "bool "
      "norm_keys) -> Tensor");
  library.def("attention_split(Tensor q, Tensor k, Tensor v) -> Tensor");
  library.def(
      "attention_fused_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? mask, bool causal, Tensor? lengths, "
      "bool norm_queries, bool norm_keys) -> (Tensor, Tensor, Tensor)");
}

}  // namespace memformer::ops
