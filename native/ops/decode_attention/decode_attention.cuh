// The contract of decoding's two kernels. Which slot a row is of and where it stands is read on the device. acc is
// float, double for float64.
// Letters: R rows, S slots, T places of a slot, N keys, P positions, H heads, E width of a head.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/dtype.cuh"

namespace memformer::ops {

struct DecodeAppendParams {
  const void* qkv;           ///< (R, 3, H, E), contiguous
  const void* cos;           ///< (positions, E / 2) acc, contiguous; null: no rotation
  const void* sin;           ///< likewise
  const int32_t* slots;      ///< (R)
  const int32_t* positions;  ///< (R); a row outside S or T is not written
  void* q;                   ///< (R, H, E)
  void* keys;                ///< (S, H, T, E), contiguous
  void* values;              ///< likewise
  int64_t R, S, T;
  int H, E;
  cuda::Dtype dtype;
};

/// (S, H, N, E) with these strides, in numbers; that of E is 1.
struct DecodeCache {
  const void* data;
  int64_t s, h, n;
};

struct DecodeAttentionParams {
  const void* q;  ///< (R, H, E), contiguous; null: the row's own key and value are appended first, and its query read
  DecodeAppendParams append;  ///< where q is null: all but its q
  DecodeCache keys, values;
  const int32_t* slots;    ///< (R); null: row r is of slot r
  const int32_t* lengths;  ///< (R), held to [1, N]; null: N
  const void* bias;        ///< (R, H, N) acc; null: none
  void* y;                 ///< (R, H, E)
  int64_t R, S, N;
  int H, E;
  cuda::Dtype dtype;
  bool settled;  ///< whether all but q, or append.qkv, was there before the kernel ahead began
};

struct DecodeRowsParams {
  const int32_t* slots;            ///< (R)
  int32_t* positions;              ///< (S)
  const int32_t* context_lengths;  ///< (S)
  const int32_t* ahead;            ///< (R); null: 0
  int32_t* rows;                   ///< (3, R)
  int R, S, last;
};

/// Bytes of a block's scores over N keys, where they are kept: at most what every GPU gives a block unasked.
constexpr int64_t kMostDecodeScores = 40 * 1024;

void launch_decode_append(const DecodeAppendParams& params, cudaStream_t stream);
/// N acc take at most kMostDecodeScores bytes.
void launch_decode_attention(const DecodeAttentionParams& params, cudaStream_t stream);
void launch_decode_rows(const DecodeRowsParams& params, cudaStream_t stream);

}  // namespace memformer::ops
