#include "ops/add_norm/add_norm.h"

#include "core/gradient_sink.h"
#include "core/op_handle.h"
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
  static const auto dropout = find_op<Tensor(const Tensor&, double, const Tensor&, int64_t)>("memformer::dropout");
  return p == 0.0 ? branch : dropout.call(branch, p, *seed, site);
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

const auto& forward_op() {
  static const auto op = find_op<decltype(forward_cpu)>("memformer::add_norm_forward");
  return op;
}

const auto& backward_op() {
  static const auto op = find_op<decltype(backward_cpu)>("memformer::add_norm_backward");
  return op;
}

class AddNorm : public torch::autograd::Function<AddNorm> {
 public:
  /// {sum, normed}, or {normed} without a branch: then sum is x, and its gradient takes its own way.
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const Tensor& x,
                                                const Optional& branch, const Optional& branch_bias,
                                                const Tensor& weight, const Tensor& bias, const Optional& weight_sink,
                                                const Optional& bias_sink, const Optional& branch_bias_sink, double p,
                                                const Optional& seed, int64_t site, int64_t dtype) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [sum, normed, mean, rstd] =
        forward_op().call(x, branch, branch_bias, weight, bias, p, seed, site, static_cast<ScalarType>(dtype));
    const bool with_branch = is_defined(branch);
    context->save_for_backward({with_branch ? sum : x, mean, rstd, weight, seed.value_or(Tensor())});
    context->set_materialize_grads(false);
    // No saved variables: other backward passes add to the sinks meanwhile.
    context->saved_data["weight_sink"] = weight_sink;
    context->saved_data["bias_sink"] = bias_sink;
    context->saved_data["branch_bias_sink"] = branch_bias_sink;
    context->saved_data["p"] = p;
    context->saved_data["site"] = site;
    context->saved_data["branch_dtype"] = static_cast<int64_t>(with_branch ? branch->scalar_type() : x.scalar_type());
    context->saved_data["with_branch"] = with_branch;
    context->saved_data["with_branch_bias"] = is_defined(branch_bias);
    if (!with_branch) return {normed};
    return {sum, normed};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto saved = context->get_saved_variables();
    auto& data = context->saved_data;
    const bool with_branch = data["with_branch"].toBool(), with_branch_bias = data["with_branch_bias"].toBool();
    const auto weight_sink = data["weight_sink"].toOptional<Tensor>(),
               bias_sink = data["bias_sink"].toOptional<Tensor>();
    const auto branch_bias_sink = data["branch_bias_sink"].toOptional<Tensor>();
    const auto branch_dtype = static_cast<ScalarType>(data["branch_dtype"].toInt());
    const auto optional = [](const Tensor& tensor) { return tensor.defined() ? Optional(tensor) : std::nullopt; };
    auto [x, branch, weight, bias, branch_bias] =
        backward_op().call(with_branch ? optional(grads[0]) : std::nullopt, optional(grads.back()), saved[0], saved[1],
                           saved[2], saved[3], weight_sink, bias_sink, branch_bias_sink, data["p"].toDouble(),
                           optional(saved[4]), data["site"].toInt(), branch_dtype, with_branch, with_branch_bias);
    if (!with_branch) branch.reset();
    if (!with_branch_bias || is_defined(branch_bias_sink)) branch_bias.reset();
    if (is_defined(weight_sink)) weight.reset();
    if (is_defined(bias_sink)) bias.reset();
    return {x, branch, branch_bias, weight, bias, {}, {}, {}, {}, {}, {}, {}};
  }
};

std::tuple<Tensor, Tensor> with_gradient(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                                         const Tensor& weight, const Tensor& bias, const Optional& weight_sink,
                                         const Optional& bias_sink, const Optional& branch_bias_sink, double p,
                                         const Optional& seed, int64_t site, std::optional<ScalarType> asked) {
  const auto dtype = asked.value_or(x.scalar_type());
  check(x, branch, branch_bias, weight, bias, {weight_sink, bias_sink, branch_bias_sink}, p, seed, dtype);
  const auto results = AddNorm::apply(x, branch, branch_bias, weight, bias, weight_sink, bias_sink, branch_bias_sink, p,
                                      seed, site, static_cast<int64_t>(dtype));
  return {is_defined(branch) ? results[0] : x, results.back()};
}

std::tuple<Tensor, Tensor> without_gradient(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                                            const Tensor& weight, const Tensor& bias, const Optional& weight_sink,
                                            const Optional& bias_sink, const Optional& branch_bias_sink, double p,
                                            const Optional& seed, int64_t site, std::optional<ScalarType> asked) {
  const auto dtype = asked.value_or(x.scalar_type());
  check(x, branch, branch_bias, weight, bias, {weight_sink, bias_sink, branch_bias_sink}, p, seed, dtype);
  auto [sum, normed, mean, rstd] = forward_op().call(x, branch, branch_bias, weight, bias, p, seed, site, dtype);
  return {is_defined(branch) ? sum : x, normed};
}

}  // namespace

std::tuple<Tensor, Tensor> add_norm(const Tensor& x, const Optional& branch, const Trained& branch_bias,
                                    const Trained& weight, const Trained& bias, double p, const Optional& seed,
                                    int64_t site, std::optional<ScalarType> dtype) {
  static const auto op = find_op<decltype(without_gradient)>("memformer::add_norm");
  return op.call(x, branch, branch_bias.optional(), weight.value, bias.value, weight.sink, bias.sink, branch_bias.sink,
                 p, seed, site, dtype);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "add_norm(Tensor x, Tensor? branch, Tensor? branch_bias, Tensor weight, Tensor bias, Tensor? weight_sink, "
      "Tensor? bias_sink,"
      " Tensor? branch_bias_sink, float p, Tensor? seed, int site, ScalarType? dtype) -> (Tensor sum, Tensor normed)");
  library.def(
      "add_norm_forward(Tensor x, Tensor? branch, Tensor? branch_bias, Tensor weight, Tensor bias, float p, Tensor? "
      "seed, int site,"
      " ScalarType dtype) -> (Tensor sum, Tensor normed, Tensor mean, Tensor rstd)");
  library.def(
      "add_norm_backward(Tensor? grad_sum, Tensor? grad_normed, Tensor sum, Tensor mean, Tensor rstd, Tensor weight,"
      " Tensor(a!)? weight_sink, Tensor(b!)? bias_sink, Tensor(c!)? branch_bias_sink, float p, Tensor? seed, int site,"
      " ScalarType branch_dtype, bool with_branch, bool with_branch_bias)"
      " -> (Tensor grad_x, Tensor grad_branch, Tensor grad_weight, Tensor grad_bias, Tensor grad_branch_bias)");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("add_norm_forward", &forward_cpu);
  library.impl("add_norm_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) { library.impl("add_norm", &without_gradient); }
TORCH_LIBRARY_IMPL(memformer, Autograd, library) { library.impl("add_norm", &with_gradient); }

}  // namespace memformer::ops
