#include "ops/add_norm/add_norm.h"

#include "core/gradient_sink.h"
#include "core/operator.h"
#include "ops/common/dropout_seed.h"
#include "ops/common/layer_norm_eps.h"

// Saved for backward: sum (..., D), mean and rstd = 1 / sqrt(variance + eps) (N), one a row.
// With g = dL/dnormed weight and z = (sum - mean) rstd:
//   dL/dx = dL/dsum + rstd (g - mean(g) - z mean(g z))      dL/dbranch = dropout(dL/dx)      dL/dbranch_bias = sum over
//   rows of dL/dbranch dL/dweight = sum over rows of dL/dnormed z              dL/dbias = sum over rows of dL/dnormed
namespace memformer::ops {
namespace {

using at::ScalarType;
using at::Tensor;
using Optional = std::optional<Tensor>;
constexpr const char* kOp = "add_norm";

bool is_half(ScalarType dtype) { return dtype == at::kBFloat16 || dtype == at::kHalf; }

struct Sinks {
  const Optional &weight, &bias, &branch_bias;
};

void check_branch(const Tensor& x, const Tensor& branch, const Optional& bias, const Sinks& sinks, double p,
                  const Optional& seed) {
  require(branch.sizes() == x.sizes(), "SHAPE", kOp, ": branch must have x's shape ", x.sizes(), ", got ",
          branch.sizes());
  if (is_defined(bias)) {
    require_shape(kOp, "branch_bias", *bias, {x.size(-1)});
    require_like(kOp, "branch_bias", *bias, "branch", branch);
    require_sink(kOp, "branch_bias_sink", sinks.branch_bias, x.size(-1), x);
  }
  require(p >= 0.0 && p < 1.0, "CONFIG", kOp, ": p must be at least 0 and below 1, got ", p);
  if (p == 0.0) return;
  require(is_defined(seed), "CONFIG", kOp, ": dropout needs a seed");
  require_dropout_seed(kOp, *seed, x);
}

void check(const Tensor& x, const Optional& branch, const Optional& branch_bias, const Tensor& weight,
           const Tensor& bias, const Sinks& sinks, double p, const Optional& seed, ScalarType dtype) {
  require_floating(kOp, "x", x);
  require(x.dim() >= 1 && x.size(-1) >= 1, "SHAPE", kOp, ": x must have rows of at least one number, got ", x.sizes());
  require_shape(kOp, "weight", weight, {x.size(-1)});
  require_like(kOp, "weight", weight, "x", x);
  require_shape(kOp, "bias", bias, {x.size(-1)});
  require_like(kOp, "bias", bias, "x", x);
  require_sink(kOp, "weight_sink", sinks.weight, x.size(-1), x);
  require_sink(kOp, "bias_sink", sinks.bias, x.size(-1), x);
  const auto within = [&](ScalarType other) {
    return other == x.scalar_type() || (x.scalar_type() == at::kFloat && is_half(other));
  };
  const char* or_narrow = ", or bfloat16 or float16 beside a float32 x, got ";
  require(within(dtype), "DTYPE", kOp, ": dtype must be x's dtype ", x.scalar_type(), or_narrow, dtype);
  require(is_defined(branch) || !is_defined(branch_bias), "CONFIG", kOp, ": a branch_bias needs a branch");
  require(is_defined(branch_bias) || !is_defined(sinks.branch_bias), "CONFIG", kOp,
          ": a branch_bias_sink needs a branch_bias");
  if (!is_defined(branch)) return;
  const auto narrow = branch->scalar_type();
  require(within(narrow), "DTYPE", kOp, ": branch must have x's dtype ", x.scalar_type(), or_narrow, narrow);
  require(!is_half(narrow) || !is_half(dtype) || narrow == dtype, "DTYPE", kOp,
          ": branch and dtype must not mix bfloat16 and float16");
  check_branch(x, *branch, branch_bias, sinks, p, seed);
}

Tensor dropped(const Tensor& branch, double p, const Optional& seed, int64_t site) {
  constexpr Registered<"memformer::dropout", Tensor(const Tensor&, double, const Tensor&, int64_t)> dropout;
  return p == 0.0 ? branch : dropout(branch, p, *seed, site);
}

/// x + dropout(branch + bias), in x's dtype.
Tensor summed(const Tensor& x, const Tensor& branch, const Optional& bias, double p, const Optional& seed,
              int64_t site) {
  const auto wide = accumulate_type(x.scalar_type());
  if (p == 0.0) {
    auto sum = at::add(x.to(wide), branch.to(wide));
    return (is_defined(bias) ? sum.add_(bias->to(wide)) : sum).to(x.scalar_type());
  }
  const auto biased = is_defined(bias) ? at::add(branch.to(wide), bias->to(wide)) : branch.to(wide);
  return at::add(x.to(wide), dropped(biased, p, seed, site)).to(x.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward_cpu(const Tensor& x, const Optional& branch,
                                                       const Optional& branch_bias, const Tensor& weight,
                                                       const Tensor& bias, double p, const Optional& seed, int64_t site,
                                                       ScalarType dtype) {
  const auto wide = accumulate_type(x.scalar_type());
  const auto sum = is_defined(branch) ? summed(x, *branch, branch_bias, p, seed, site) : Tensor();
  const auto rows = (sum.defined() ? sum : x).to(wide);
  const auto [normed, mean, rstd] =
      at::native_layer_norm(rows, weight.sizes(), weight.to(wide), bias.to(wide), kLayerNormEps);
  return {sum.defined() ? sum.contiguous() : at::empty({0}, x.options()), normed.to(dtype), mean.reshape({-1}),
          rstd.reshape({-1})};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward_cpu(
    const Optional& grad_sum, const Optional& grad_normed, const Tensor& sum, const Tensor& mean, const Tensor& rstd,
    const Tensor& weight, const Optional& weight_sink, const Optional& bias_sink, const Optional& branch_bias_sink,
    double p, const Optional& seed, int64_t site, ScalarType branch_dtype, bool with_branch, bool with_branch_bias) {
  const auto wide = accumulate_type(sum.scalar_type());
  const auto grad = is_defined(grad_normed) ? grad_normed->to(wide) : at::zeros_like(sum, sum.options().dtype(wide));
  auto rows = sum.sizes().vec();
  rows.back() = 1;
  const auto w = weight.to(wide), s = sum.to(wide).contiguous(), m = mean.view(rows), r = rstd.view(rows);
  auto grad_x =
      std::get<0>(at::native_layer_norm_backward(grad.contiguous(), s, w.sizes(), m, r, w, w, {true, false, false}));
  // Not LibTorch's own sums, which run down the rows one by one: a float32 loses digits on the way.
  const auto down = [&](const Tensor& x) { return x.reshape({-1, sum.size(-1)}).sum(0); };
  const auto grad_weight = down((s - m).mul_(r).mul_(grad)), grad_bias = down(grad);
  if (is_defined(grad_sum)) grad_x = grad_x + grad_sum->to(wide);
  const auto none = at::empty({0}, sum.options().dtype(branch_dtype));
  const auto grad_branch = with_branch ? dropped(grad_x, p, seed, site) : none;
  const auto grad_branch_bias =
      with_branch_bias ? accumulate_or_return(down(grad_branch), branch_bias_sink, branch_dtype) : none;
  return {grad_x.to(sum.scalar_type()), grad_branch.to(branch_dtype),
          accumulate_or_return(grad_weight, weight_sink, weight.scalar_type()),
          accumulate_or_return(grad_bias, bias_sink, weight.scalar_type()), grad_branch_bias};
}

constexpr Registered<"memformer::add_norm_forward", decltype(forward_cpu)> forward_kernel;
constexpr Registered<"memformer::add_norm_backward", decltype(backward_cpu)> backward_kernel;

struct AddNorm {
  static constexpr bool kMaterializesGradients = false;

  struct Saved {
    Tensor sum, mean, rstd, weight;
    Optional seed;
    double p;
    int64_t site;
    bool with_branch;
    ScalarType branch_dtype;
    Destination of_branch_bias, of_weight, of_bias;
    auto variables() { return std::tie(sum, mean, rstd, weight, seed); }
  };

  /// normed and sum; without a branch there is no sum.
  static std::tuple<Tensor, Tensor> forward(Saved* saved, const Tensor& x, const Optional& branch,
                                            const Optional& branch_bias, const Tensor& weight, const Tensor& bias,
                                            const Optional& weight_sink, const Optional& bias_sink,
                                            const Optional& branch_bias_sink, double p, const Optional& seed,
                                            int64_t site, std::optional<ScalarType> asked) {
    const auto dtype = asked.value_or(x.scalar_type());
    check(x, branch, branch_bias, weight, bias, {weight_sink, bias_sink, branch_bias_sink}, p, seed, dtype);
    const bool with_branch = is_defined(branch);
    auto [sum, normed, mean, rstd] = forward_kernel(x, branch, branch_bias, weight, bias, p, seed, site, dtype);
    if (saved != nullptr)
      *saved = {.sum = with_branch ? sum : x,
                .mean = mean,
                .rstd = rstd,
                .weight = weight,
                .seed = seed,
                .p = p,
                .site = site,
                .with_branch = with_branch,
                .branch_dtype = (with_branch ? *branch : x).scalar_type(),
                .of_branch_bias = {branch_bias, branch_bias_sink},
                .of_weight = {weight, weight_sink},
                .of_bias = {bias, bias_sink}};
    return {normed, with_branch ? sum : Tensor()};
  }

  /// sum and normed. Without a branch sum is x itself, whose gradient takes its own way.
  template <typename... Others>
  static std::tuple<Tensor, Tensor> results(std::tuple<Tensor, Tensor>&& given, const Tensor& x, const Others&...) {
    auto& [normed, sum] = given;
    return {sum.defined() ? std::move(sum) : x, std::move(normed)};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(const Saved& s, const BackwardPass& pass) {
    auto [x, branch, weight, bias, branch_bias] = backward_kernel(
        pass.optional(1), pass.optional(0), s.sum, s.mean, s.rstd, s.weight, s.of_weight.sink, s.of_bias.sink,
        s.of_branch_bias.sink, s.p, s.seed, s.site, s.branch_dtype, s.with_branch, s.of_branch_bias.given);
    return {x, s.with_branch ? branch : Tensor(), s.of_branch_bias(std::move(branch_bias)),
            s.of_weight(std::move(weight)), s.of_bias(std::move(bias))};
  }
};

}  // namespace

std::tuple<Tensor, Tensor> add_norm(const Tensor& x, const Optional& branch, const Trained& branch_bias,
                                    const Trained& weight, const Trained& bias, double p, const Optional& seed,
                                    int64_t site, std::optional<ScalarType> dtype) {
  constexpr Registered<"memformer::add_norm", Signature<AddNorm>> op;
  return op(x, branch, branch_bias.optional(), weight.value, bias.value, weight.sink, bias.sink, branch_bias.sink, p,
            seed, site, dtype);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  define<AddNorm>(library,
                  "add_norm(Tensor x, Tensor? branch, Tensor? branch_bias, Tensor weight, Tensor bias, Tensor? "
                  "weight_sink, Tensor? bias_sink, Tensor? branch_bias_sink, float p, Tensor? seed, int site, "
                  "ScalarType? dtype) -> (Tensor sum, Tensor normed)");
  library.def(
      "add_norm_forward(Tensor x, Tensor? branch, Tensor? branch_bias, Tensor weight, Tensor bias, float p, Tensor? "
      "seed, int site, ScalarType dtype) -> (Tensor sum, Tensor normed, Tensor mean, Tensor rstd)",
      on_cpu(&forward_cpu));
  library.def(
      "add_norm_backward(Tensor? grad_sum, Tensor? grad_normed, Tensor sum, Tensor mean, Tensor rstd, Tensor weight, "
      "Tensor(a!)? weight_sink, Tensor(b!)? bias_sink, Tensor(c!)? branch_bias_sink, float p, Tensor? seed, int site, "
      "ScalarType branch_dtype, bool with_branch, bool with_branch_bias) -> (Tensor grad_x, Tensor grad_branch, "
      "Tensor grad_weight, Tensor grad_bias, Tensor grad_branch_bias)",
      on_cpu(&backward_cpu));
}

}  // namespace memformer::ops
