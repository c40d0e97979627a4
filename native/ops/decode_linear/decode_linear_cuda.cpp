#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/op_handle.h"
#include "core/torch.h"
#include "ops/decode_linear/decode_linear.cuh"
#include "ops/decode_linear/decode_linear_checks.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
/// The operator add_norm: its C++ function is in the other shared object.
using AddNorm = std::tuple<Tensor, Tensor>(const Tensor&, const Optional&, const Optional&, const Tensor&,
                                           const Tensor&, const Optional&, const Optional&, const Optional&, double,
                                           const Optional&, int64_t, std::optional<at::ScalarType>);

const void* pointer(const Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }
Tensor contiguous(const Optional& tensor) { return is_defined(tensor) ? tensor->contiguous() : Tensor(); }

DecodeLinearParams params_of(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& y, bool gelu,
                             bool settled) {
  DecodeLinearParams p{};
  p.x = x.const_data_ptr();
  p.weight = weight.const_data_ptr();
  p.bias = pointer(bias);
  p.y = y.mutable_data_ptr();
  p.K = weight.size(1);
  p.N = weight.size(0);
  p.R = p.N == 0 ? 0 : y.numel() / p.N;
  p.gelu = gelu;
  p.settled = settled;
  p.dtype = cuda::dtype_of(weight);
  return p;
}

Tensor result_of(const Tensor& x, const Tensor& weight) {
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return at::empty(shape, weight.options());
}

Tensor linear_cuda(const Tensor& x_in, const Tensor& weight_in, const Optional& bias_in, bool gelu, bool settled) {
  check_decode_linear("decode_linear", x_in, weight_in, bias_in);
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = x_in.contiguous(), weight = weight_in.contiguous(), bias = contiguous(bias_in);
  auto y = result_of(x, weight);
  const auto p = params_of(x, weight, bias, y, gelu, settled);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  fits_tensor_cores(p) ? launch_decode_linear_on_tensor_cores(p, stream) : launch_decode_linear(p, stream);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
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

std::tuple<Tensor, Tensor> normed_linear_cuda(const Tensor& x_in, const Optional& branch_in,
                                              const Optional& branch_bias_in, const Tensor& norm_weight_in,
                                              const Tensor& norm_bias_in, const Tensor& weight_in,
                                              const Optional& bias_in, bool gelu, bool settled) {
  check_decode_normed_linear(x_in, branch_in, branch_bias_in, norm_weight_in, norm_bias_in, weight_in, bias_in);
  const c10::cuda::CUDAGuard device(x_in.device());
  const auto x = x_in.contiguous(), weight = weight_in.contiguous(), bias = contiguous(bias_in);
  const auto branch = contiguous(branch_in), branch_bias = contiguous(branch_bias_in);
  const auto norm_weight = norm_weight_in.contiguous(), norm_bias = norm_bias_in.contiguous();
  auto y = result_of(x, weight);
  auto sum = branch.defined() ? at::empty_like(x) : Tensor();
  const bool shared = in_shares(branch_in, x_in);
  const bool narrow_branch = !branch.defined() || shared || branch.scalar_type() == weight.scalar_type();
  if (x.scalar_type() == at::kFloat && narrow_branch) {
    auto p = params_of(x, weight, bias, y, gelu, settled);
    p.branch = shared ? nullptr : pointer(branch);
    p.shares = shared ? branch.const_data_ptr<float>() : nullptr;
    p.branch_bias = pointer(branch_bias);
    p.norm_weight = norm_weight.const_data_ptr<float>();
    p.norm_bias = norm_bias.const_data_ptr<float>();
    p.sum = sum.defined() ? sum.mutable_data_ptr<float>() : nullptr;
    p.eps = 1e-5f;
    if (fits_tensor_cores(p)) {
      launch_decode_linear_on_tensor_cores(p, c10::cuda::getCurrentCUDAStream());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
      return {sum.defined() ? sum : x_in, y};
    }
  }
  constexpr Registered<"memformer::add_norm", AddNorm> add_norm_op;
  const auto whole = shared ? Optional(add_shares_cuda(branch, weight.scalar_type())) : branch_in;
  const auto [added, normed] =
      add_norm_op(x, whole, branch_bias_in, norm_weight, norm_bias, {}, {}, {}, 0.0, {}, 0, weight.scalar_type());
  return {added, linear_cuda(normed, weight, bias_in, gelu, settled)};
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("decode_linear", &linear_cuda);
  library.impl("decode_normed_linear", &normed_linear_cuda);
  library.impl("decode_add_shares", &add_shares_cuda);
}

}  // namespace memformer::ops
