// The contract of rotary_qkv's kernel, which serves both directions: heads of E = 2 half numbers are read from three
// places, turned by the angle (backward: by minus the angle), the third only copied, and written side by side. Forward
// it adds a bias first, backward it sums what it writes over the tokens. acc is float, double for float64.
// Letters: B batch, T tokens, H heads, E width of a head.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

/// (B, H, T, E) with these strides, in numbers; that of E is 1.
struct RotaryHeads {
  const void* data;
  int64_t b, h, t;
};

struct RotaryQkvParams {
  RotaryHeads q, k, v;
  const void* bias;  ///< (3, H, E); null: none
  const void* cos;   ///< (T, half) acc, contiguous
  const void* sin;   ///< (T, half) acc, contiguous
  void* packed;      ///< (B, T, 3, H, E), contiguous
  void* partials;    ///< (shares, 3, H, E) acc, for the sums over tokens; null: not wanted
  int64_t B, T;
  int64_t shares;  ///< of the B T tokens, at most as many
  int H, half;
  bool opposite;
  cuda::Dtype dtype;
};

/// Into how many shares the tokens are split: few where sums over them are taken. `width` is 3 D.
int64_t rotary_qkv_shares(int64_t tokens, int64_t width, bool summed, cuda::Dtype dtype);
void launch_rotary_qkv(const RotaryQkvParams& params, cudaStream_t stream);

}  // namespace memformer::ops
