#include "ops/decode_linear/decode_linear.h"

#include "core/op_handle.h"
#include "ops/add_norm/add_norm.h"
#include "ops/common/lanes.h"
#include "ops/decode_linear/decode_linear_checks.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
constexpr const char* kOp = "decode_linear";
constexpr int64_t kProductsOfAThread = 1 << 20;  // fewer are over before a second thread has woken up

/// Not LibTorch's: its vectors and what they leave over differ in the last bit.
template <typename acc_t>
acc_t activated(acc_t h) {
  return acc_t(0.5) * h * (acc_t(1) + std::erf(h * acc_t(M_SQRT1_2)));
}

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

  template <int rows, int across>
  void tile(int64_t r, int64_t o) const {
    acc_t sums[rows * across];
    dot_products<rows, across>(x + r * in, in, w + o * in, in, in, sums, across);
    for (int i = 0; i < rows; ++i)
      for (int c = 0; c < across; ++c) {
        const acc_t bias = b == nullptr ? acc_t(0) : static_cast<acc_t>(b[o + c]);
        const acc_t sum = sums[i * across + c] + bias;
        y[(r + i) * out + o + c] = static_cast<scalar_t>(gelu ? activated(sum) : sum);
      }
  }
};

Tensor on_cpu(const Tensor& x_in, const Tensor& weight_in, const Optional& bias_in, bool gelu, bool) {
  check_decode_linear(kOp, x_in, weight_in, bias_in);
  const auto weight = weight_in.contiguous();
  const auto bias = is_defined(bias_in) ? bias_in->contiguous() : Tensor();
  const auto x = x_in.to(accumulate_type(x_in.scalar_type())).contiguous();
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  auto y = at::empty(shape, weight.options());
  const int64_t in = weight.size(1), out = weight.size(0), R = out == 0 ? 0 : y.numel() / out;
  if (R == 0) return y;
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, weight.scalar_type(), kOp, [&] {
    const Product<scalar_t> product{x.const_data_ptr<sum_t<scalar_t>>(),
                                    weight.const_data_ptr<scalar_t>(),
                                    bias.defined() ? bias.const_data_ptr<scalar_t>() : nullptr,
                                    y.mutable_data_ptr<scalar_t>(),
                                    R,
                                    in,
                                    out,
                                    gelu};
    const int64_t grain = std::max<int64_t>(8, kProductsOfAThread / std::max<int64_t>(R * in, 1));
    at::parallel_for(0, out, grain, [&](int64_t begin, int64_t end) { product.columns(begin, end); });
  });
  return y;
}

std::tuple<Tensor, Tensor> composed(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                                    const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& weight,
                                    const Optional& bias, bool gelu, bool settled) {
  check_decode_normed_linear(x, branch, branch_bias, norm_weight, norm_bias, weight, bias);
  const auto [sum, normed] = add_norm(x, branch, {branch_bias.value_or(Tensor())}, {norm_weight}, {norm_bias}, 0.0, {},
                                      0, weight.scalar_type());
  return {sum, decode_linear(normed, weight, bias, gelu, settled)};
}

}  // namespace

Tensor decode_linear(const Tensor& x, const Tensor& weight, const Optional& bias, bool gelu, bool settled) {
  constexpr Registered<"memformer::decode_linear", decltype(decode_linear)> op;
  return op(x, weight, bias, gelu, settled);
}

std::tuple<Tensor, Tensor> decode_normed_linear(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                                                const Tensor& norm_weight, const Tensor& norm_bias,
                                                const Tensor& weight, const Optional& bias, bool gelu, bool settled) {
  constexpr Registered<"memformer::decode_normed_linear", decltype(decode_normed_linear)> op;
  return op(x, branch, branch_bias, norm_weight, norm_bias, weight, bias, gelu, settled);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def("decode_linear(Tensor x, Tensor weight, Tensor? bias, bool gelu=False, bool settled=False) -> Tensor");
  library.def(
      "decode_normed_linear(Tensor x, Tensor? branch, Tensor? branch_bias, Tensor norm_weight, Tensor norm_bias, "
      "Tensor "
      "weight, Tensor? bias, bool gelu=False, bool settled=False) -> (Tensor sum, Tensor y)");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("decode_linear", &on_cpu);
  library.impl("decode_normed_linear", &composed);
}

}  // namespace memformer::ops
