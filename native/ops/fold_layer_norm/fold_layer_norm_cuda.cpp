#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/cuda/pending_sums.h"
#include "core/cuda/side_stream.h"
#include "core/gradient_sink.h"
#include "core/torch.h"
#include "ops/fold_layer_norm/fold_layer_norm.cuh"

namespace memformer::ops {
namespace {

using at::Tensor;
using at::TensorList;

std::vector<Tensor> contiguous(TensorList tensors) {
  std::vector<Tensor> result;
  for (const auto& tensor : tensors) result.push_back(tensor.contiguous());
  return result;
}

/// Of the layers from `first` on; biases may be empty.
FoldLayerNormParams params_of(const std::vector<Tensor>& weights, const std::vector<Tensor>& biases,
                              const std::vector<Tensor>& norm_weights, const std::vector<Tensor>& norm_biases,
                              size_t first) {
  FoldLayerNormParams p{};
  p.layers = static_cast<int>(std::min<size_t>(kFoldedLayers, weights.size() - first));
  for (int l = 0; l < p.layers; ++l) {
    p.weights[l] = weights[first + l].const_data_ptr();
    p.biases[l] = biases.empty() ? nullptr : biases[first + l].const_data_ptr();
    p.norm_weights[l] = norm_weights[first + l].const_data_ptr();
    p.norm_biases[l] = norm_biases[first + l].const_data_ptr();
  }
  p.R = weights[0].size(0);
  p.D = weights[0].size(1);
  p.acc = cuda::dtype_of(weights[0]);
  return p;
}

std::tuple<Tensor, Tensor> forward_cuda(TensorList weights_in, TensorList biases_in, TensorList norm_weights_in,
                                        TensorList norm_biases_in, at::ScalarType dtype) {
  const c10::cuda::CUDAGuard device(weights_in[0].device());
  const auto weights = contiguous(weights_in), biases = contiguous(biases_in);
  const auto norm_weights = contiguous(norm_weights_in), norm_biases = contiguous(norm_biases_in);
  const int64_t L = static_cast<int64_t>(weights.size()), R = weights[0].size(0), D = weights[0].size(1);
  const auto options = weights[0].options().dtype(dtype);
  const auto weight = at::empty({L * R, D}, options), bias = at::empty({L * R}, options);
  for (int64_t first = 0; first < L; first += kFoldedLayers) {
    FoldLayerNormForwardParams params{};
    params.of = params_of(weights, biases, norm_weights, norm_biases, static_cast<size_t>(first));
    params.weight = weight.narrow(0, first * R, params.of.layers * R).mutable_data_ptr();
    params.bias = bias.narrow(0, first * R, params.of.layers * R).mutable_data_ptr();
    params.dtype = cuda::dtype_of(dtype);
    launch_fold_layer_norm_forward(params, c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {weight, bias};
}

std::vector<Tensor> backward_cuda(const Tensor& grad_in, const Tensor& grad_bias_in, TensorList weights_in,
                                  TensorList norm_weights_in, TensorList norm_biases_in, bool with_biases,
                                  TensorList sinks_in) {
  const c10::cuda::CUDAGuard device(weights_in[0].device());
  cuda::beside_current_stream<cuda::PendingSums>()
      .flush();  // what is still on its way to the sinks of the folded tensors
  cuda::beside_current_stream<cuda::SideStream>().join();
  const auto weights = contiguous(weights_in), norm_weights = contiguous(norm_weights_in),
             norm_biases = contiguous(norm_biases_in);
  const auto grad = grad_in.contiguous(), grad_bias = grad_bias_in.contiguous();
  const size_t L = weights.size(), norms = with_biases ? 2 * L : L;
  const int64_t R = weights[0].size(0), D = weights[0].size(1);
  const auto options = weights[0].options();
  auto sums = sinks_in.vec();
  if (sinks_in.empty()) {
    for (size_t l = 0; l < L; ++l) sums.push_back(at::zeros({R, D}, options));
    for (size_t l = L; l < norms; ++l) sums.push_back(at::zeros({R}, options));
    for (size_t l = 0; l < 2 * L; ++l) sums.push_back(at::zeros({D}, options));
  }
  const int64_t shares = fold_layer_norm_shares(R);
  for (size_t first = 0; first < L; first += kFoldedLayers) {
    FoldLayerNormBackwardParams params{};
    params.of = params_of(weights, {}, norm_weights, norm_biases, first);
    const int64_t layers = params.of.layers, start = static_cast<int64_t>(first) * R;
    const auto partials = at::empty({layers, shares, 2, D}, options);
    params.grad = grad.narrow(0, start, layers * R).const_data_ptr();
    params.grad_bias = grad_bias.narrow(0, start, layers * R).const_data_ptr();
    for (int64_t l = 0; l < layers; ++l) {
      params.weight_sums[l] = sums[first + l].mutable_data_ptr();
      params.bias_sums[l] = with_biases ? sums[L + first + l].mutable_data_ptr() : nullptr;
    }
    params.partials = partials.mutable_data_ptr();
    params.shares = shares;
    launch_fold_layer_norm_backward(params, c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    for (int64_t l = 0; l < layers; ++l) {
      const cuda::ColumnGradient of_weight(sums[norms + first + l], true, R, D, options),
          of_bias(sums[norms + L + first + l], true, R, D, options);
      cuda::sum_columns(partials[l], {&of_weight, &of_bias});
    }
  }
  if (!sinks_in.empty()) return {};
  cuda::beside_current_stream<cuda::PendingSums>().flush();
  return sums;
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("fold_layer_norm_forward", &forward_cuda);
  library.impl("fold_layer_norm_backward", &backward_cuda);
}

}  // namespace memformer::ops
