// A block takes a row, in accesses of 16 bytes where V allows it. Forward reads it once: every thread keeps the largest logit it has
// met, m, and the sum of exp(logit - m), which is scaled down when m grows.
#include <cmath>
#include <type_traits>

#include "core/cuda/numeric.cuh"
#include "ops/linear_cross_entropy/linear_cross_entropy.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kSumThreads = 1024;
constexpr int64_t kSmallVocabulary = 4096;  // up to here 128 threads have enough to do, beyond 512

template <typename scalar_t, int wide, int threads>
__global__ void __launch_bounds__(threads) cross_entropy_forward_kernel(const CrossEntropyParams p) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t row = blockIdx.x, V = p.V, target = p.target[row];
  const auto* logits = static_cast<const scalar_t*>(p.logits) + row * V;
  acc_t most = -INFINITY, sum = 0;
#pragma unroll 2
  for (int64_t v = threadIdx.x * wide; v < V; v += threads * wide) {
    acc_t x[wide];
    load(logits + v, x);
    acc_t larger = most;
#pragma unroll
    for (int i = 0; i < wide; ++i) larger = max(larger, x[i]);
    sum *= exp(most - larger);
#pragma unroll
    for (int i = 0; i < wide; ++i) sum += exp(x[i] - larger);
    most = larger;
  }
  const acc_t largest = block_max<threads>(most);
  // A thread that met nothing has most = -inf and sum = 0.
  const acc_t total = block_sum<threads>(sum * exp(most - largest));
  if (threadIdx.x != 0) return;
  const acc_t lse = largest + log(total);
  static_cast<acc_t*>(p.lse)[row] = lse;
  static_cast<acc_t*>(p.loss)[row] = target < 0 ? acc_t(0) : lse - convert<acc_t>(logits[target]);
}

template <typename scalar_t, int wide, int threads>
__global__ void __launch_bounds__(threads) cross_entropy_backward_kernel(const CrossEntropyParams p) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t row = blockIdx.x, V = p.V, target = p.target[row];
  auto* logits = static_cast<scalar_t*>(p.logits) + row * V;
  const acc_t lse = static_cast<const acc_t*>(p.lse)[row], grad = static_cast<const acc_t*>(p.grad)[(p.first + row) / p.share];
#pragma unroll 2
  for (int64_t v = threadIdx.x * wide; v < V; v += threads * wide) {
    acc_t x[wide] = {};
    if (target >= 0) {
      load(logits + v, x);
#pragma unroll
      for (int i = 0; i < wide; ++i) x[i] = (exp(x[i] - lse) - (v + i == target ? acc_t(1) : acc_t(0))) * grad;
    }
    store(x, logits + v);
  }
}

template <typename acc_t>
__global__ void __launch_bounds__(kSumThreads) cross_entropy_sum_kernel(const CrossEntropySumParams p) {
  acc_t loss = 0;
  int64_t count = 0;
  const int64_t first = blockIdx.x * p.share;
  for (int64_t n = first + threadIdx.x; n < first + p.share; n += kSumThreads) {
    loss += static_cast<const acc_t*>(p.losses)[n];
    count += p.target[n] >= 0;
  }
  loss = block_sum<kSumThreads>(loss);
  count = block_sum<kSumThreads>(count);
  if (threadIdx.x != 0) return;
  static_cast<acc_t*>(p.loss)[blockIdx.x] = loss;
  p.count[blockIdx.x] = count;
}

/// Calls `body(Type<scalar_t>(), wide, threads)`, the last two as integral constants.
template <typename Body>
void for_row_shape(const CrossEntropyParams& p, Body&& body) {
  for_dtype(p.dtype, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    constexpr int wide = 16 / sizeof(scalar_t);
    using Wide = std::integral_constant<int, wide>;
    using One = std::integral_constant<int, 1>;
    using Few = std::integral_constant<int, 128>;
    using Many = std::integral_constant<int, 512>;
    const bool packed = fits_packs<wide>(static_cast<const scalar_t*>(p.logits), p.V);
    if (p.V <= kSmallVocabulary) packed ? body(type, Wide(), Few()) : body(type, One(), Few());
    else packed ? body(type, Wide(), Many()) : body(type, One(), Many());
  });
}

}  // namespace

void launch_cross_entropy_forward(const CrossEntropyParams& p, cudaStream_t stream) {
  if (p.rows == 0) return;
  for_row_shape(p, [&](auto type, auto wide, auto threads) {
    cross_entropy_forward_kernel<typename decltype(type)::type, wide.value, threads.value><<<p.rows, threads.value, 0, stream>>>(p);
  });
}

void launch_cross_entropy_sum(const CrossEntropySumParams& p, cudaStream_t stream) {
  if (p.dtype == Dtype::f64) cross_entropy_sum_kernel<double><<<p.groups, kSumThreads, 0, stream>>>(p);
  else cross_entropy_sum_kernel<float><<<p.groups, kSumThreads, 0, stream>>>(p);
}

void launch_cross_entropy_backward(const CrossEntropyParams& p, cudaStream_t stream) {
  if (p.rows == 0) return;
  for_row_shape(p, [&](auto type, auto wide, auto threads) {
    cross_entropy_backward_kernel<typename decltype(type)::type, wide.value, threads.value><<<p.rows, threads.value, 0, stream>>>(p);
  });
}

}  // namespace memformer::ops
