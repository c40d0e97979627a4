// The contract of fold_layer_norm's kernels: layers of R rows of D numbers, contiguous. acc is float or double, the
// parameters' dtype and that of sums.
// Letters: R outputs, D width.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

constexpr int kFoldedLayers = 8;  // of one launch

struct FoldLayerNormParams {
  const void* weights[kFoldedLayers];       ///< (R, D) acc
  const void* biases[kFoldedLayers];        ///< (R) acc, or null; unused in the backward pass
  const void* norm_weights[kFoldedLayers];  ///< (D) acc
  const void* norm_biases[kFoldedLayers];   ///< (D) acc
  int layers;
  int64_t R, D;
  cuda::Dtype acc;
};

struct FoldLayerNormForwardParams {
  FoldLayerNormParams of;
  void* weight;  ///< (layers R, D) of `dtype`
  void* bias;    ///< (layers R) of `dtype`
  cuda::Dtype dtype;
};

struct FoldLayerNormBackwardParams {
  FoldLayerNormParams of;
  const void* grad;                  ///< (layers R, D) acc, of the folded weights
  const void* grad_bias;             ///< (layers R) acc, of the folded biases
  void* weight_sums[kFoldedLayers];  ///< (R, D) acc, added to
  void* bias_sums[kFoldedLayers];    ///< (R) acc, added to, or null
  void* partials;                    ///< (layers, shares, 2, D) acc: of the norms' weights, then biases
  int64_t shares;
};

void launch_fold_layer_norm_forward(const FoldLayerNormForwardParams& params, cudaStream_t stream);
/// Shares that the R rows fall into.
int64_t fold_layer_norm_shares(int64_t R);
void launch_fold_layer_norm_backward(const FoldLayerNormBackwardParams& params, cudaStream_t stream);

}  // namespace memformer::ops
