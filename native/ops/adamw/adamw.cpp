#include "ops/adamw/adamw.h"

#include <numeric>

#include "core/gradient_sink.h"
#include "core/op_handle.h"
#include "core/parallel.h"
#include "ops/adamw/adamw_checks.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

double scale_of(const Optional& grad_scale) {
  return is_defined(grad_scale) ? grad_scale->to(at::kDouble).item<double>() : 1.0;
}

/// What is the same for all numbers, in the parameters' dtype.
template <typename scalar_t>
struct Step {
  Step(double scale, double rate, double t, double beta1, double beta2, double eps, double weight_decay)
      : gradient_scale(static_cast<scalar_t>(scale)),
        beta1(static_cast<scalar_t>(beta1)),
        rest1(static_cast<scalar_t>(1.0 - beta1)),
        beta2(static_cast<scalar_t>(beta2)),
        rest2(static_cast<scalar_t>(1.0 - beta2)),
        eps(static_cast<scalar_t>(eps)),
        decay(static_cast<scalar_t>(rate * weight_decay)),
        size(static_cast<scalar_t>(rate / (1.0 - std::pow(beta1, t)))),
        correction2(static_cast<scalar_t>(1.0 / std::sqrt(1.0 - std::pow(beta2, t)))) {}

  scalar_t gradient_scale, beta1, rest1, beta2, rest2, eps, decay, size, correction2;
};

/// Without branches, so that it becomes vector instructions; a number's bits do not depend on its place.
template <typename scalar_t>
void update(scalar_t* __restrict p, scalar_t* __restrict g, scalar_t* __restrict m, scalar_t* __restrict v, int64_t n,
            scalar_t decay, const Step<scalar_t>& step) {
  const auto [gradient_scale, beta1, rest1, beta2, rest2, eps, unused, size, correction2] = step;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const bool reached = (g[i] != 0) | (v[i] != 0);  // by a gradient, ever
    const scalar_t gradient = g[i] * gradient_scale;
    const scalar_t first = beta1 * m[i] + rest1 * gradient, second = beta2 * v[i] + rest2 * gradient * gradient;
    const scalar_t next = (p[i] - decay * p[i]) - size * first / (std::sqrt(second) * correction2 + eps);
    p[i] = reached ? next : p[i];
    m[i] = reached ? first : m[i];
    v[i] = second;
    g[i] = 0;
  }
}

/// Whether no gradient ever reached any of n numbers: Muon's matrices, rows of tokens that have not come yet.
template <typename scalar_t>
bool unreached(const scalar_t* g, const scalar_t* v, int64_t n) {
  constexpr int64_t kAtOnce = 128;
  for (int64_t first = 0; first < n; first += kAtOnce) {
    int found = 0;
    const int64_t end = std::min(first + kAtOnce, n);
#pragma omp simd reduction(| : found)
    for (int64_t i = first; i < end; ++i) found |= (g[i] != 0) | (v[i] != 0);
    if (found != 0) return false;
  }
  return true;
}

constexpr int64_t kBlock = 4096;  // numbers of which five buffers fit into a core's cache
constexpr int64_t kGrain = 4;     // blocks that are worth a thread

int64_t blocks_of(int64_t n) { return (n + kBlock - 1) / kBlock; }

/// visit(block, begin, end) of every block of n numbers.
template <typename Visit>
void each_block(int64_t n, const Visit& visit) {
  parallel_for(blocks_of(n), kGrain, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) visit(block, block * kBlock, std::min((block + 1) * kBlock, n));
  });
}

template <typename master_t>
void update_all(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                const Optional& working, int64_t decayed, const Step<master_t>& step) {
  auto *p = parameters.mutable_data_ptr<master_t>(), *g = gradients.mutable_data_ptr<master_t>(),
       *m = exp_avg.mutable_data_ptr<master_t>(), *v = exp_avg_sq.mutable_data_ptr<master_t>();
  each_block(parameters.numel(), [&](int64_t, int64_t begin, int64_t end) {
    const int64_t border = std::clamp(decayed, begin, end);
    if (!unreached(g + begin, v + begin, end - begin)) {
      update(p + begin, g + begin, m + begin, v + begin, border - begin, step.decay, step);
      update(p + border, g + border, m + border, v + border, end - border, master_t(0), step);
    }
    if (!is_defined(working)) return;
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, working->scalar_type(), "adamw_step", [&] {
      auto* w = working->mutable_data_ptr<scalar_t>();
      for (int64_t i = begin; i < end; ++i) w[i] = static_cast<scalar_t>(p[i]);
    });
  });
}

/// The sum of squares, by the same additions whatever the vectors of the machine.
template <typename scalar_t>
double square_sum(const scalar_t* g, int64_t n) {
  constexpr int64_t kLanes = 32;
  scalar_t lanes[kLanes] = {};
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes)
#pragma omp simd
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += g[i + lane] * g[i + lane];
  for (int64_t i = whole; i < n; ++i) lanes[i - whole] += g[i] * g[i];
  return std::accumulate(lanes, lanes + kLanes, 0.0);
}

void step_cpu(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg, const Tensor& exp_avg_sq,
              const Optional& working, const Tensor& step, const Tensor& norm, const Tensor& rate, int64_t decayed,
              double beta1, double beta2, double eps, double weight_decay, double clip, const Optional& grad_scale) {
  check_adamw_step(parameters, gradients, exp_avg, exp_avg_sq, working, step, norm, rate, decayed);
  const double length = norm.to(at::kDouble).item<double>();
  if (std::isfinite(length)) {
    const double clipped = clip > 0 ? std::min(1.0, clip / (length + 1e-6)) : 1.0, t = step.item<float>() + 1.0;
    const double scale = clipped / scale_of(grad_scale);
    AT_DISPATCH_FLOATING_TYPES(parameters.scalar_type(), "adamw_step", [&] {
      update_all(parameters, gradients, exp_avg, exp_avg_sq, working, decayed,
                 Step<scalar_t>(scale, rate.item<float>(), t, beta1, beta2, eps, weight_decay));
    });
    step.add_(1);
  } else {
    gradients.zero_();
  }
}

Tensor norm_cpu(const Tensor& gradients, const Optional& grad_scale) {
  require_flat("gradient_norm", "gradients", gradients);
  const int64_t n = gradients.numel();
  std::vector<double> squares(static_cast<size_t>(blocks_of(n)));
  AT_DISPATCH_FLOATING_TYPES(gradients.scalar_type(), "gradient_norm", [&] {
    const auto* g = gradients.const_data_ptr<scalar_t>();
    each_block(n, [&](int64_t block, int64_t begin, int64_t end) {
      squares[static_cast<size_t>(block)] = square_sum(g + begin, end - begin);
    });
  });
  const double square = std::accumulate(squares.begin(), squares.end(), 0.0);
  return at::scalar_tensor(std::sqrt(square) / scale_of(grad_scale), gradients.options());
}

}  // namespace

void adamw_step(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                const Optional& working, const Tensor& step, const Tensor& norm, const Tensor& rate, int64_t decayed,
                double beta1, double beta2, double eps, double weight_decay, double clip, const Optional& grad_scale) {
  constexpr Registered<"memformer::adamw_step", decltype(adamw_step)> op;
  at::AutoDispatchBelowADInplaceOrView below;
  op(parameters, gradients, exp_avg, exp_avg_sq, working, step, norm, rate, decayed, beta1, beta2, eps, weight_decay,
     clip, grad_scale);
}

Tensor gradient_norm(const Tensor& gradients, const Optional& grad_scale) {
  constexpr Registered<"memformer::gradient_norm", decltype(gradient_norm)> op;
  at::AutoDispatchBelowADInplaceOrView below;
  return op(gradients, grad_scale);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "adamw_step(Tensor(a!) parameters, Tensor(b!) gradients, Tensor(c!) exp_avg, Tensor(d!) exp_avg_sq, Tensor(e!)? "
      "working,"
      " Tensor(f!) step, Tensor norm, Tensor rate, int decayed, float beta1, float beta2, float eps, float "
      "weight_decay, float clip,"
      " Tensor? grad_scale) -> ()");
  library.def("gradient_norm(Tensor gradients, Tensor? grad_scale) -> Tensor");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("adamw_step", &step_cpu);
  library.impl("gradient_norm", &norm_cpu);
}

}  // namespace memformer::ops
