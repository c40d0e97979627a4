// The arguments of decode_normed_linear, checked, as its kernel reads them: for every operator that norms and
// multiplies before it does something else.
#pragma once
#include "core/cuda/dtype_of.h"
#include "core/torch.h"
#include "ops/decode_linear/decode_linear.cuh"
#include "ops/decode_linear/decode_linear_checks.h"

namespace memformer::ops {

/// Parameters without y, and the tensors that they point to.
class PreparedNormedLinear {
 public:
  using Tensor = at::Tensor;
  using Optional = std::optional<at::Tensor>;

  DecodeLinearParams params{};

  /// As decode_normed_linear's.
  PreparedNormedLinear(const Tensor& x_in, const Optional& branch_in, const Optional& branch_bias_in,
                       const Tensor& norm_weight_in, const Tensor& norm_bias_in, const Tensor& weight_in,
                       const Optional& bias_in, bool gelu, bool settled) {
    check_decode_normed_linear(x_in, branch_in, branch_bias_in, norm_weight_in, norm_bias_in, weight_in, bias_in);
    const auto keep = [&](const Optional& tensor) -> const Tensor& {
      return held_.emplace_back(is_defined(tensor) ? tensor->contiguous() : Tensor());
    };
    const auto pointer = [&](const Optional& tensor) {
      const auto& kept = keep(tensor);
      return kept.defined() ? kept.const_data_ptr() : nullptr;
    };
    held_.reserve(7);
    x_ = x_in;
    const auto dtype = weight_in.scalar_type();
    const bool branched = is_defined(branch_in), shared = in_shares(branch_in, x_in);
    fits_dtypes_ = x_in.scalar_type() == at::kFloat && (!branched || shared || branch_in->scalar_type() == dtype);
    if (!fits_dtypes_) return;
    params.x = pointer(x_in);
    if (shared)
      params.shares = keep(branch_in).const_data_ptr<float>();
    else
      params.branch = pointer(branch_in);
    params.branch_bias = pointer(branch_bias_in);
    params.norm_weight = keep(norm_weight_in).const_data_ptr<float>();
    params.norm_bias = keep(norm_bias_in).const_data_ptr<float>();
    params.weight = pointer(weight_in);
    params.bias = pointer(bias_in);
    params.K = weight_in.size(1);
    params.N = weight_in.size(0);
    params.R = params.K == 0 ? 0 : x_in.numel() / params.K;
    params.eps = 1e-5f;
    params.gelu = gelu;
    params.settled = settled;
    params.dtype = cuda::dtype_of(weight_in);
  }

  /// Whether a kernel may take them: it fits params then, and makes the same bits.
  bool fits_dtypes() const { return fits_dtypes_; }

  /// Has the stream's sum written, and returns it: x itself without a branch.
  Tensor sum() {
    if (params.branch == nullptr && params.shares == nullptr) return x_;
    const auto made = at::empty(x_.sizes(), x_.options());
    params.sum = made.mutable_data_ptr<float>();
    return made;
  }

 private:
  Tensor x_;
  std::vector<Tensor> held_;
  bool fits_dtypes_;
};

}  // namespace memformer::ops
