// Arithmetic that all kernels share: conversion between narrow dtypes and the dtype of sums, loads of several numbers
// at once, sums over a warp and over a block. The order of every sum is fixed: the same input gives the same bits.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "core/cuda/dtype.cuh"

namespace memformer::cuda {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kLog2E = 1.4426950408889634f;  // exp(x) = exp2(x log2(e))

/// The dtype sums over T are carried in: float, double for double.
template <typename T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename T>
using accumulate_t = typename Accumulate<T>::type;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }

/// To nearest, ties to even.
template <typename To, typename From>
__device__ __forceinline__ To convert(From x) {
  const auto wide = widen(x);
  if constexpr (sizeof(To) == 2) {
    if constexpr (std::is_same_v<To, __half>)
      return __float2half_rn(static_cast<float>(wide));
    else
      return __float2bfloat16_rn(static_cast<float>(wide));
  } else {
    return static_cast<To>(wide);
  }
}

/// N neighbours, read or written in accesses of up to 16 bytes.
template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T value[N];
};

/// from[0..N) to acc; `from` is aligned as Pack<T, N> is.
template <int N, typename acc_t, typename T>
__device__ __forceinline__ void load(const T* from, acc_t (&to)[N]) {
  const auto pack = *reinterpret_cast<const Pack<T, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = convert<acc_t>(pack.value[i]);
}

template <int N, typename acc_t, typename T>
__device__ __forceinline__ void store(const acc_t (&from)[N], T* to) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.value[i] = convert<T>(from[i]);
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

/// Whether rows of `width` numbers from `pointer` can be read N at a time. An absent tensor always can.
template <int N, typename T>
bool fits_packs(const T* pointer, int64_t width) {
  return width % N == 0 && reinterpret_cast<uintptr_t>(pointer) % alignof(Pack<T, N>) == 0;
}

/// a / b, by a division of 32 bits where both are below 2^32: a fifth of the work.
__device__ __forceinline__ uint64_t quotient(uint64_t a, uint64_t b) {
  return (a | b) >> 32 == 0 ? static_cast<uint32_t>(a) / static_cast<uint32_t>(b) : a / b;
}

/// The sum over the lanes of a warp, in every lane.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

/// The sums of N values over the lanes of a warp, N a power of two: lane l gets the sum of value l / (32 / N). At each
/// step lanes halve what they still hold, so that few numbers are exchanged.
template <int N, typename T>
__device__ __forceinline__ T warp_sums(T (&value)[N]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int half = N / 2; half > 0; half /= 2) {
    const int offset = half * (kWarp / N);
    const bool upper = (lane & offset) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const T kept = upper ? value[i + half] : value[i], sent = upper ? value[i] : value[i + half];
      value[i] = kept + __shfl_xor_sync(kAllLanes, sent, offset);
    }
  }
  T sum = value[0];
#pragma unroll
  for (int offset = kWarp / N / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
  return sum;
}

template <typename T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value = max(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
}

/// The sum over a block of `threads` (a multiple of 32) along x, in every thread. All threads must come here.
template <int threads, typename T>
__device__ __forceinline__ T block_sum(T value) {
  constexpr int warps = threads / kWarp;
  __shared__ T partial[warps];
  value = warp_sum(value);
  __syncthreads();  // those of the call before have been read
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  T sum = partial[0];
#pragma unroll
  for (int warp = 1; warp < warps; ++warp) sum += partial[warp];
  return sum;
}

/// The largest over the block, as block_sum.
template <int threads, typename T>
__device__ __forceinline__ T block_max(T value) {
  constexpr int warps = threads / kWarp;
  __shared__ T partial[warps];
  value = warp_max(value);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  T most = partial[0];
#pragma unroll
  for (int warp = 1; warp < warps; ++warp) most = max(most, partial[warp]);
  return most;
}

template <typename T>
struct Type {
  using type = T;
};

/// Calls `body(Type<scalar_t>())` with the type of `dtype`: the one dtype switch of a launcher.
template <typename Body>
void for_dtype(Dtype dtype, Body&& body) {
  switch (dtype) {
    case Dtype::f32:
      return body(Type<float>());
    case Dtype::f64:
      return body(Type<double>());
    case Dtype::bf16:
      return body(Type<__nv_bfloat16>());
    case Dtype::f16:
      return body(Type<__half>());
  }
}

}  // namespace memformer::cuda
