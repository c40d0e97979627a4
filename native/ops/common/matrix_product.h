// float32 matrix products on a CPU, through oneDNN where LibTorch has it: up to three times as fast as the BLAS behind
// at::mm on processors that BLAS was not written for. For the other dtypes LibTorch already takes that path, or has no
// other.
#pragma once
#include "core/torch.h"

namespace memformer {

/// x (n, k) W^T + b -> (n, m), W (m, k) of any strides, b (m) or undefined. No gradient.
at::Tensor affine(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

/// a (n, k) b (k, m) -> (n, m), of any strides. No gradient.
at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b);

}  // namespace memformer
