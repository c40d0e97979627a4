#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/op_handle.h"
#include "core/torch.h"
#include "ops/decode_linear/decode_linear_prepared.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
using Dtype = std::optional<at::ScalarType>;
/// The operator add_norm: its C++ function is in the other shared object.
using AddNorm = std::tuple<Tensor, Tensor>(const Tensor&, const Optional&, const Optional&, const Tensor&,
                                           const Tensor&, const Optional&, const Optional&, const Optional&, double,
                                           const Optional&, int64_t, std::optional<at::ScalarType>);

const void* pointer(const Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }
Tensor contiguous(const Optional& tensor) { return is_defined(tensor) ? tensor->contiguous() : Tensor(); }

/// Without y.
DecodeLinearParams params_of(const Tensor& x, const Tensor& weight, const Tensor& bias, bool gelu, bool settled) {
  DecodeLinearParams p{};
  p.x = x.const_data_ptr();
  p.weight = weight.const_data_ptr();
  p.bias = pointer(bias);
  p.K = weight.size(1);
  p.N = weight.size(0);
  p.R = c10::multiply_integers(x.sizes().slice(0, x.dim() - 1));
  p.gelu = gelu;
  p.settled = settled;
  p.dtype = cuda::dtype_of(weight);
  return p;
}

/// Whether the kernels on tensor cores hand y out in `dtype`.
bool widens(const Tensor& weight, const Dtype& dtype) {
  return dtype == at::kFloat && weight.scalar_type() != at::kFloat;
}

Tensor result_of(const Tensor& x, const Tensor& weight, bool widened) {
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return at::empty(shape, widened ? weight.options().dtype(at::kFloat) : weight.options());
}

Tensor linear_cuda(const Tensor& x_in, const Tensor& weight_in, const Optional& bias_in, bool gelu, bool settled,
                   Dtype dtype) {
  check_decode_linear("decode_linear", x_in, weight_in, bias_in);
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = x_in.contiguous(), weight = weight_in.contiguous(), bias = contiguous(bias_in);
  auto p = params_of(x, weight, bias, gelu, settled);
  const bool fits = fits_tensor_cores(p);
  p.widened = fits && widens(weight, dtype);
  auto y = result_of(x, weight, p.widened);
  p.y = y.mutable_data_ptr();
  const auto stream = c10::cuda::getCurrentCUDAStream();
  fits ? launch_decode_linear_on_tensor_cores(p, stream) : launch_decode_linear(p, stream);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y.to(dtype.value_or(y.scalar_type()));
}

Tensor add_shares_cuda(const Tensor& shares_in, at::ScalarType dtype) {
  check_decode_shares("decode_add_shares", shares_in);
  const c10::cuda::CUDAGuard device(shares_in.device());
  const auto shares = shares_in.contiguous();
  auto shape = shares.sizes().vec();
  shape.erase(shape.end() - 2);
  const auto y = at::empty(shape, shares.options().dtype(dtype));
  const int64_t N = y.size(-1), R = N == 0 ? 0 : y.numel() / N;
  launch_decode_add_shares({shares.const_data_ptr<float>(), y.mutable_data_ptr(), R, N, cuda::dtype_of(y)},
                           c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

std::tuple<Tensor, Tensor> normed_linear_cuda(const Tensor& x, const Optional& branch, const Optional& branch_bias,
                                              const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& weight,
                                              const Optional& bias, bool gelu, bool settled, Dtype dtype) {
  PreparedNormedLinear prepared(x, branch, branch_bias, norm_weight, norm_bias, weight, bias, gelu, settled);
  const c10::cuda::CUDAGuard device(x.device());
  auto& p = prepared.params;
  const bool fits = prepared.fits_dtypes() && fits_tensor_cores(p);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  if (fits && p.R <= kMostNormedRows) {
    p.widened = widens(weight, dtype);
    auto y = result_of(x, weight, p.widened);
    p.y = y.mutable_data_ptr();
    const auto sum = prepared.sum();
    launch_decode_linear_on_tensor_cores(p, stream);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return {sum, y.to(dtype.value_or(y.scalar_type()))};
  }
  const auto whole = in_shares(branch, x) ? Optional(add_shares_cuda(*branch, weight.scalar_type())) : branch;
  if (fits && in_shares(branch, x))
    return normed_linear_cuda(x, whole, branch_bias, norm_weight, norm_bias, weight, bias, gelu, settled, dtype);
  if (fits) {
    const auto sum = prepared.sum(), normed = at::empty(x.sizes(), weight.options());
    launch_decode_norm({p, normed.mutable_data_ptr()}, stream);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return {sum, linear_cuda(normed, weight, bias, gelu, settled, dtype)};
  }
  constexpr Registered<"memformer::add_norm", AddNorm> add_norm_op;
  const auto [sum, normed] =
      add_norm_op(x, whole, branch_bias, norm_weight, norm_bias, {}, {}, {}, 0.0, {}, 0, weight.scalar_type());
  return {sum, linear_cuda(normed, weight, bias, gelu, settled, dtype)};
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("decode_linear", &linear_cuda);
  library.impl("decode_normed_linear", &normed_linear_cuda);
  library.impl("decode_add_shares", &add_shares_cuda);
}

}  // namespace memformer::ops
