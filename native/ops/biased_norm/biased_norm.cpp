#include "ops/biased_norm/biased_norm.h"

#include "core/gradient_sink.h"
#include "core/operator.h"
#include "core/parallel.h"

// Saved for backward: the result y and the clamped norm n (B, M). With g = dL/dy:
//   dL/ds = (g - y (y.g)) / n    where n > eps,    g / eps    where the norm was clamped;    dL/dbias = sum over B of
//   dL/ds; dL/dmemory = dL/ds, 0 in rows that start anew. A row without tokens that does not start anew: dL/dmemory =
//   g, nothing to the bias.
namespace memformer::ops {
namespace {

using Rows = std::optional<at::Tensor>;
constexpr const char* kOp = "biased_norm";

void check(const at::Tensor& memory, const at::Tensor& bias, const Rows& reset, const Rows& lengths) {
  require_floating(kOp, "memory", memory);
  require_shape(kOp, "memory", memory, {-1, -1, -1});
  require_shape(kOp, "bias", bias, {memory.size(1), memory.size(2)});
  require_like(kOp, "bias", bias, "memory", memory);
  require_lengths(kOp, lengths, memory.size(0), "memory", memory);
  if (!is_defined(reset)) return;
  require_shape(kOp, "reset", *reset, {memory.size(0)});
  require_dtype(kOp, "reset", *reset, at::kBool);
  require(reset->device() == memory.device(), "DEVICE_MISMATCH", kOp, ": reset must be on memory's device ",
          memory.device().str(), ", got ", reset->device().str());
}

/// x (B, M, D), zeros in the rows of `reset`.
at::Tensor without(const at::Tensor& x, const Rows& reset) {
  return is_defined(reset) ? x.masked_fill(reset->view({-1, 1, 1}), 0) : x;
}

/// (B) bool, the rows that keep their memory; undefined: none.
at::Tensor kept_rows(const Rows& reset, const Rows& lengths) {
  if (!is_defined(lengths)) return {};
  const auto empty = lengths->le(0);
  return (is_defined(reset) ? empty.logical_and(reset->logical_not()) : empty).contiguous();
}

/// kept (B), or null.
template <typename scalar_t, typename sum_t>
void forward_rows(const scalar_t* memory, const scalar_t* bias, const bool* kept, scalar_t* y, sum_t* norm,
                  int64_t rows, int64_t M, int64_t D, sum_t eps) {
  parallel_for(rows, std::max<int64_t>(1, 4096 / std::max<int64_t>(D, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const scalar_t* m = memory + row * D;
      const scalar_t* v = bias + (row % M) * D;
      if (kept != nullptr && kept[row / M]) {
        std::copy(m, m + D, y + row * D);
        norm[row] = 1;
        continue;
      }
      sum_t square = 0;
#pragma omp simd reduction(+ : square)
      for (int64_t d = 0; d < D; ++d) {
        const sum_t s = static_cast<sum_t>(m[d]) + static_cast<sum_t>(v[d]);
        square += s * s;
      }
      const sum_t n = std::max(std::sqrt(square), eps);
      norm[row] = n;
      for (int64_t d = 0; d < D; ++d)
        y[row * D + d] = static_cast<scalar_t>((static_cast<sum_t>(m[d]) + static_cast<sum_t>(v[d])) / n);
    }
  });
}

/// dL/ds; in rows that are kept, 0.
template <typename scalar_t, typename sum_t>
void backward_rows(const scalar_t* grad, const scalar_t* y, const sum_t* norm, const bool* kept, scalar_t* grad_s,
                   int64_t rows, int64_t M, int64_t D, sum_t eps) {
  parallel_for(rows, std::max<int64_t>(1, 4096 / std::max<int64_t>(D, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const scalar_t* g = grad + row * D;
      const scalar_t* y_row = y + row * D;
      if (kept != nullptr && kept[row / M]) {
        std::fill(grad_s + row * D, grad_s + (row + 1) * D, scalar_t(0));
        continue;
      }
      sum_t dot = 0;
      if (norm[row] > eps) {
#pragma omp simd reduction(+ : dot)
        for (int64_t d = 0; d < D; ++d) dot += static_cast<sum_t>(y_row[d]) * static_cast<sum_t>(g[d]);
      }
      for (int64_t d = 0; d < D; ++d)
        grad_s[row * D + d] =
            static_cast<scalar_t>((static_cast<sum_t>(g[d]) - static_cast<sum_t>(y_row[d]) * dot) / norm[row]);
    }
  });
}

const bool* data_or_null(const at::Tensor& rows) { return rows.defined() ? rows.const_data_ptr<bool>() : nullptr; }

std::tuple<at::Tensor, at::Tensor> forward_cpu(const at::Tensor& memory_in, const at::Tensor& bias_in, double eps,
                                               const Rows& reset, const Rows& lengths) {
  const auto memory = without(memory_in, reset).contiguous(), bias = bias_in.contiguous(),
             kept = kept_rows(reset, lengths);
  const int64_t B = memory.size(0), M = memory.size(1), D = memory.size(2);
  auto y = at::empty_like(memory);
  auto norm = at::empty({B, M}, memory.options().dtype(accumulate_type(memory.scalar_type())));
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, memory.scalar_type(), kOp, [&] {
    using sum_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    forward_rows<scalar_t, sum_t>(memory.const_data_ptr<scalar_t>(), bias.const_data_ptr<scalar_t>(),
                                  data_or_null(kept), y.mutable_data_ptr<scalar_t>(), norm.mutable_data_ptr<sum_t>(),
                                  B * M, M, D, static_cast<sum_t>(eps));
  });
  return {y, norm};
}

std::tuple<at::Tensor, at::Tensor> backward_cpu(const at::Tensor& grad_in, const at::Tensor& y, const at::Tensor& norm,
                                                double eps, const Rows& reset, const Rows& lengths) {
  const auto grad = grad_in.contiguous(), kept = kept_rows(reset, lengths);
  auto grad_memory = at::empty_like(y);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, y.scalar_type(), kOp, [&] {
    using sum_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    backward_rows<scalar_t, sum_t>(
        grad.const_data_ptr<scalar_t>(), y.const_data_ptr<scalar_t>(), norm.const_data_ptr<sum_t>(), data_or_null(kept),
        grad_memory.mutable_data_ptr<scalar_t>(), norm.numel(), y.size(1), y.size(2), static_cast<sum_t>(eps));
  });
  const auto sent = without(grad_memory, reset);
  return {kept.defined() ? at::where(kept.view({-1, 1, 1}), grad, sent) : sent, grad_memory.sum(0)};
}

constexpr Registered<"memformer::biased_norm_forward", decltype(forward_cpu)> forward_kernel;
constexpr Registered<"memformer::biased_norm_backward", decltype(backward_cpu)> backward_kernel;

struct BiasedNorm {
  struct Saved {
    at::Tensor y, norm;
    double eps;
    Rows reset, lengths;
    auto variables() { return std::tie(y, norm, reset, lengths); }
  };

  static at::Tensor forward(Saved* saved, const at::Tensor& memory, const at::Tensor& bias, double eps,
                            const Rows& reset, const Rows& lengths) {
    check(memory, bias, reset, lengths);
    auto [y, norm] = forward_kernel(memory, bias, eps, reset, lengths);
    if (saved != nullptr) *saved = {y, norm, eps, reset, lengths};
    return y;
  }

  static std::tuple<at::Tensor, at::Tensor> backward(const Saved& s, const BackwardPass& pass) {
    return backward_kernel(pass.gradients[0], s.y, s.norm, s.eps, s.reset, s.lengths);
  }
};

}  // namespace

at::Tensor biased_norm(const at::Tensor& memory, const at::Tensor& bias, double eps, const Rows& reset,
                       const Rows& lengths) {
  constexpr Registered<"memformer::biased_norm", Signature<BiasedNorm>> op;
  return op(memory, bias, eps, reset, lengths);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  define<BiasedNorm>(
      library,
      "biased_norm(Tensor memory, Tensor bias, float eps, Tensor? reset=None, Tensor? lengths=None) -> Tensor");
  library.def(
      "biased_norm_forward(Tensor memory, Tensor bias, float eps, Tensor? reset, Tensor? lengths) -> (Tensor y, Tensor "
      "norm)",
      on_cpu(&forward_cpu));
  library.def(
      "biased_norm_backward(Tensor grad, Tensor y, Tensor norm, float eps, Tensor? reset, Tensor? lengths) -> (Tensor "
      "grad_memory, Tensor grad_bias)",
      on_cpu(&backward_cpu));
}

}  // namespace memformer::ops
