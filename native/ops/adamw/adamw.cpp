#include "ops/adamw/adamw.h"

#include "core/gradient_sink.h"
#include "core/op_handle.h"
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
  scalar_t gradient_scale, rate, beta1, beta2, eps, decay, correction1, correction2_root;
};

template <typename scalar_t>
void update(scalar_t* p, const scalar_t* g, scalar_t* m, scalar_t* v, int64_t n, int64_t decayed,
            const Step<scalar_t>& step) {
  at::parallel_for(0, n, 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (g[i] == 0 && v[i] == 0) continue;
      const scalar_t gradient = g[i] * step.gradient_scale;
      if (i < decayed) p[i] -= step.rate * step.decay * p[i];
      m[i] += (1 - step.beta1) * (gradient - m[i]);
      v[i] = step.beta2 * v[i] + (1 - step.beta2) * gradient * gradient;
      p[i] -= step.rate / step.correction1 * m[i] / (std::sqrt(v[i]) / step.correction2_root + step.eps);
    }
  });
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
      const Step<scalar_t> values{static_cast<scalar_t>(scale),
                                  static_cast<scalar_t>(rate.item<float>()),
                                  static_cast<scalar_t>(beta1),
                                  static_cast<scalar_t>(beta2),
                                  static_cast<scalar_t>(eps),
                                  static_cast<scalar_t>(weight_decay),
                                  static_cast<scalar_t>(1.0 - std::pow(beta1, t)),
                                  static_cast<scalar_t>(std::sqrt(1.0 - std::pow(beta2, t)))};
      update<scalar_t>(parameters.mutable_data_ptr<scalar_t>(), gradients.const_data_ptr<scalar_t>(),
                       exp_avg.mutable_data_ptr<scalar_t>(), exp_avg_sq.mutable_data_ptr<scalar_t>(),
                       parameters.numel(), decayed, values);
    });
    if (is_defined(working)) working->copy_(parameters);
    step.add_(1);
  }
  gradients.zero_();
}

Tensor norm_cpu(const Tensor& gradients, const Optional& grad_scale) {
  require_flat("gradient_norm", "gradients", gradients);
  double square = 0;
  AT_DISPATCH_FLOATING_TYPES(gradients.scalar_type(), "gradient_norm", [&] {
    const auto* g = gradients.const_data_ptr<scalar_t>();
    for (int64_t i = 0; i < gradients.numel(); ++i) square += static_cast<double>(g[i]) * static_cast<double>(g[i]);
  });
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
