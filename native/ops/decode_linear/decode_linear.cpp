#include "ops/decode_linear/decode_linear.h"

#include "core/op_handle.h"
#include "ops/add_norm/add_norm.h"
#include "ops/common/gelu_lanes.h"
#include "ops/common/lanes.h"
#include "ops/common/layer_norm_eps.h"
#include "ops/decode_linear/decode_linear_checks.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
using Dtype = std::optional<at::ScalarType>;
constexpr const char* kOp = "decode_linear";

/// x (R, in), w (out, in), b (out) or null; columns first to last of y (R, out).
template <typename scalar_t>
struct Product {
  using acc_t = sum_t<scalar_t>;
  const acc_t* x;
  const scalar_t *w, *b;
  scalar_t* y;
  int64_t R, in, out;
  bool gelu;

  void columns(int64_t first, int64_t last) const {
    int64_t r = 0;
    for (; r + 4 <= R; r += 4) {
      int64_t o = first;
      for (; o + 2 <= last; o += 2) tile<4, 2>(r, o);
      for (; o < last; ++o) tile<4, 1>(r, o);
    }
    for (; r < R; ++r) {
      int64_t o = first;
      for (; o + 8 <= last; o += 8) tile<1, 8>(r, o);
      for (; o < last; ++o) tile<1, 1>(r, o);
    }
  }

  /// By itself: inlined, the sums of its inner loop go through memory.
  template <int rows, int across>
  __attribute__((noinline)) void tile(int64_t r, int64_t o) const {
    acc_t sums[rows * across];
    dot_products<rows, across>(x + r * in, in, w + o * in, in, in, sums, across);
    if (b != nullptr)
      for (int i = 0; i < rows * across; ++i) sums[i] += static_cast<acc_t>(b[o + i % across]);
    if (gelu) gelu_in_place(sums, rows * across);
    for (int i = 0; i < rows * across; ++i) y[(r + i / across) * out + o + i % across] = static_cast<scalar_t>(sums[i]);
  }

  /// On one thread: a product of few rows waits for memory, and a second thread makes a token slower.
  void all() const { columns(0, out); }
};

/// sum = x + branch + branch_bias and (sum - mean) rstd weight + bias, of rows of D numbers. x, branch (R, D), the
/// others (D); branch and branch_bias may be null, sum with them.
template <typename acc_t>
struct AddNormRows {
  const acc_t *x, *branch, *branch_bias, *weight, *bias;
  acc_t* sum;
  int64_t D;

  void row(int64_t r, acc_t* normed) const {
    const acc_t* of = x + r * D;
    if (branch != nullptr) {
      acc_t* to = sum + r * D;
      const acc_t* added = branch + r * D;
      for (int64_t d = 0; d < D; ++d) to[d] = of[d] + added[d];
      if (branch_bias != nullptr)
        for (int64_t d = 0; d < D; ++d) to[d] += branch_bias[d];
      of = to;
    }
    const acc_t mean = total(of, [](lanes_t<acc_t> v, lanes_t<acc_t> to, acc_t) { return to + v; }, 0) / D;
    const acc_t square = total(
        of, [](lanes_t<acc_t> v, lanes_t<acc_t> to, acc_t about) { return fused<acc_t>(v - about, v - about, to); },
        mean);
    const acc_t rstd = acc_t(1) / std::sqrt(square / D + static_cast<acc_t>(kLayerNormEps));
    for (int64_t d = 0; d < D; ++d) normed[d] = std::fma((of[d] - mean) * rstd, weight[d], bias[d]);
  }

 private:
  /// Vectors first, then what they leave over: the order depends on D alone.
  template <typename Add>
  acc_t total(const acc_t* of, Add add, acc_t about) const {
    lanes_t<acc_t> sums{};
    const int64_t whole = D / kLanes<acc_t> * kLanes<acc_t>;
    for (int64_t d = 0; d < whole; d += kLanes<acc_t>) sums = add(load_lanes(of + d), sums, about);
    acc_t all = sum_lanes<acc_t>(sums);
    for (int64_t d = whole; d < D; ++d) {
      const lanes_t<acc_t> one = add(lanes_t<acc_t>{of[d]}, lanes_t<acc_t>{}, about);
      all += one[0];
    }
    return all;
  }
};

Tensor in_dtype(const Tensor& y, const Dtype& dtype) { return y.to(dtype.value_or(y.scalar_type())); }

Tensor on_cpu(const Tensor& x_in, const Tensor& weight_in, const Optional& bias_in, bool gelu, bool, Dtype dtype) {
  check_decode_linear(kOp, x_in, weight_in, bias_in);
  const auto weight = weight_in.contiguous();
  const auto bias = is_defined(bias_in) ? bias_in->contiguous() : Tensor();
  const auto x = x_in.to(accumulate_type(x_in.scalar_type())).contiguous();
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  auto y = at::empty(shape, weight.options());
  const int64_t in = weight.size(1), out = weight.size(0), R = out == 0 ? 0 : y.numel() / out;
  if (R == 0) return in_dtype(y, dtype);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, weight.scalar_type(), kOp, [&] {
    const Product<scalar_t> product{x.const_data_ptr<sum_t<scalar_t>>(),
                                    weight.const_data_ptr<scalar_t>(),
                                    bias.defined() ? bias.const_data_ptr<scalar_t>() : nullptr,
                                    y.mutable_data_ptr<scalar_t>(),
                                    R,
                                    in,
                                    out,
                                    gelu};
    product.all();
  });
  return in_dtype(y, dtype);
}

Tensor add_shares_on_cpu(const Tensor& shares, at::ScalarType dtype) {
  check_decode_shares("decode_add_shares", shares);
  auto sum = at::zeros_like(shares.select(-2, 0));
  for (int64_t i = 0; i < kDecodeShares; ++i) sum += shares.select(-2, i);
  return sum.to(dtype);
}

std::tuple<Tensor, Tensor> composed(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                                    const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& weight,
                                    const Optional& bias, bool gelu, bool settled, Dtype dtype) {
  check_decode_normed_linear(x, branch, branch_bias, norm_weight, norm_bias, weight, bias);
  const auto [sum, normed] = add_norm(x, branch, {branch_bias.value_or(Tensor())}, {norm_weight}, {norm_bias}, 0.0, {},
                                      0, weight.scalar_type());
  return {sum, decode_linear(normed, weight, bias, gelu, settled, dtype)};
}

/// One pass over everything where all is of one dtype in which sums are carried.
std::tuple<Tensor, Tensor> normed_on_cpu(const Tensor& x_in, const Optional& branch_in, const Optional& branch_bias_in,
                                         const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& weight,
                                         const Optional& bias, bool gelu, bool settled, Dtype result) {
  if (in_shares(branch_in, x_in)) {
    check_decode_normed_linear(x_in, branch_in, branch_bias_in, norm_weight, norm_bias, weight, bias);
    return normed_on_cpu(x_in, add_shares_on_cpu(*branch_in, weight.scalar_type()), branch_bias_in, norm_weight,
                         norm_bias, weight, bias, gelu, settled, result);
  }
  const auto dtype = x_in.scalar_type();
  const auto fits = [&](const Optional& part) {
    return !is_defined(part) || (part->scalar_type() == dtype && part->is_contiguous());
  };
  if ((dtype != at::kFloat && dtype != at::kDouble) || weight.scalar_type() != dtype || !x_in.is_contiguous() ||
      !weight.is_contiguous() || !fits(branch_in) || !fits(branch_bias_in) || !fits(bias))
    return composed(x_in, branch_in, branch_bias_in, norm_weight, norm_bias, weight, bias, gelu, settled, result);
  check_decode_normed_linear(x_in, branch_in, branch_bias_in, norm_weight, norm_bias, weight, bias);
  const auto of_norm = norm_weight.contiguous(), norm_shift = norm_bias.contiguous();
  const int64_t D = x_in.size(-1), R = D == 0 ? 0 : x_in.numel() / D;
  auto shape = x_in.sizes().vec();
  shape.back() = weight.size(0);
  auto y = at::empty(shape, weight.options());
  const auto sum = is_defined(branch_in) ? at::empty_like(x_in) : x_in;
  if (R == 0) return {sum, in_dtype(y, result)};
  AT_DISPATCH_FLOATING_TYPES(dtype, kOp, [&] {
    const auto numbers = [](const Optional& part) {
      return is_defined(part) ? part->const_data_ptr<scalar_t>() : nullptr;
    };
    const AddNormRows<scalar_t> rows{x_in.const_data_ptr<scalar_t>(),
                                     numbers(branch_in),
                                     numbers(branch_bias_in),
                                     of_norm.const_data_ptr<scalar_t>(),
                                     norm_shift.const_data_ptr<scalar_t>(),
                                     is_defined(branch_in) ? sum.mutable_data_ptr<scalar_t>() : nullptr,
                                     D};
    std::vector<scalar_t> normed(R * D);
    for (int64_t r = 0; r < R; ++r) rows.row(r, normed.data() + r * D);
    const Product<scalar_t> product{normed.data(),
                                    weight.const_data_ptr<scalar_t>(),
                                    numbers(bias),
                                    y.mutable_data_ptr<scalar_t>(),
                                    R,
                                    D,
                                    weight.size(0),
                                    gelu};
    product.all();
  });
  return {sum, in_dtype(y, result)};
}

}  // namespace

Tensor decode_linear(const Tensor& x, const Tensor& weight, const Optional& bias, bool gelu, bool settled,
                     Dtype dtype) {
  constexpr Registered<"memformer::decode_linear", decltype(decode_linear)> op;
  return op(x, weight, bias, gelu, settled, dtype);
}

std::tuple<Tensor, Tensor> decode_normed_linear(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                                                const Tensor& norm_weight, const Tensor& norm_bias,
                                                const Tensor& weight, const Optional& bias, bool gelu, bool settled,
                                                Dtype dtype) {
  constexpr Registered<"memformer::decode_normed_linear", decltype(decode_normed_linear)> op;
  return op(x, branch, branch_bias, norm_weight, norm_bias, weight, bias, gelu, settled, dtype);
}

Tensor decode_add_shares(const Tensor& shares, at::ScalarType dtype) {
  constexpr Registered<"memformer::decode_add_shares", decltype(decode_add_shares)> op;
  return op(shares, dtype);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def("decode_add_shares(Tensor shares, ScalarType dtype) -> Tensor");
  library.def(
      "decode_linear(Tensor x, Tensor weight, Tensor? bias, bool gelu=False, bool settled=False, "
      "ScalarType? dtype=None) -> Tensor");
  library.def(
      "decode_normed_linear(Tensor x, Tensor? branch, Tensor? branch_bias, Tensor norm_weight, Tensor norm_bias, "
      "Tensor weight, Tensor? bias, bool gelu=False, bool settled=False, ScalarType? dtype=None) -> (Tensor sum, "
      "Tensor y)");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("decode_linear", &on_cpu);
  library.impl("decode_normed_linear", &normed_on_cpu);
  library.impl("decode_add_shares", &add_shares_on_cpu);
}

}  // namespace memformer::ops
