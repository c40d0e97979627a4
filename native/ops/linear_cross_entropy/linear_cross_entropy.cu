// A block takes a row, in accesses of 16 bytes where V allows it, and holds the first kHeld of each thread in
// registers: a row of up to 32,768 bfloat16 logits is read once, and its gradient written over it.
#include <cmath>
#include <type_traits>

#include "core/cuda/numeric.cuh"
#include "ops/linear_cross_entropy/linear_cross_entropy.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kSumThreads = 1024;
constexpr int kHeld = 8;
constexpr int64_t kSmallVocabulary = 4096;  // up to here 128 threads have enough to do, beyond 512

/// The largest number met, and the sum of exp(number - the largest), scaled down when that grows.
template <typename acc_t>
struct Exponentials {
  acc_t most = -INFINITY, sum = 0;

  template <int wide>
  __device__ __forceinline__ void meet(const acc_t (&x)[wide]) {
    acc_t larger = most;
#pragma unroll
    for (int i = 0; i < wide; ++i) larger = max(larger, x[i]);
    sum *= exp(most - larger);
#pragma unroll
    for (int i = 0; i < wide; ++i) sum += exp(x[i] - larger);
    most = larger;
  }
};

template <typename scalar_t, int wide, int threads>
__global__ void __launch_bounds__(threads) cross_entropy_kernel(const CrossEntropyParams p) {
  using acc_t = accumulate_t<scalar_t>;
  using Few = Pack<scalar_t, wide>;
  const int64_t row = blockIdx.x, V = p.V, target = p.target[row];
  auto* logits = static_cast<scalar_t*>(p.logits) + row * V;
  auto& loss = static_cast<acc_t*>(p.loss)[row];
  const auto place = [&](int turn) { return (int64_t{turn} * threads + threadIdx.x) * wide; };
  if (target < 0) {
    if (threadIdx.x == 0) loss = 0;
    const acc_t zeros[wide] = {};
    if (p.factors != nullptr)
      for (int64_t v = place(0); v < V; v += threads * wide) store(zeros, logits + v);
    return;
  }
  Few held[kHeld];
#pragma unroll
  for (int turn = 0; turn < kHeld; ++turn)
    if (place(turn) < V) held[turn] = *reinterpret_cast<const Few*>(logits + place(turn));
  Exponentials<acc_t> own;
  acc_t x[wide];
#pragma unroll
  for (int turn = 0; turn < kHeld; ++turn) {
    if (place(turn) >= V) continue;
    load(held[turn].value, x);
    own.meet(x);
  }
  for (int64_t v = place(kHeld); v < V; v += threads * wide) {
    load(logits + v, x);
    own.meet(x);
  }
  const acc_t of_target = threadIdx.x == 0 ? convert<acc_t>(logits[target]) : acc_t(0);
  const acc_t largest = block_max<threads>(own.most);
  // A thread that met nothing has most = -inf and sum = 0. After this sum all have read what is written below.
  const acc_t lse = largest + log(block_sum<threads>(own.sum * exp(own.most - largest)));
  if (threadIdx.x == 0) loss = lse - of_target;
  if (p.factors == nullptr) return;
  const acc_t factor = static_cast<const acc_t*>(p.factors)[(p.first + row) / p.share];
  const auto leave = [&](int64_t v) {
#pragma unroll
    for (int i = 0; i < wide; ++i) x[i] = (exp(x[i] - lse) - (v + i == target ? acc_t(1) : acc_t(0))) * factor;
    store(x, logits + v);
  };
#pragma unroll
  for (int turn = 0; turn < kHeld; ++turn) {
    if (place(turn) >= V) continue;
    load(held[turn].value, x);
    leave(place(turn));
  }
  for (int64_t v = place(kHeld); v < V; v += threads * wide) {
    load(logits + v, x);
    leave(v);
  }
}

template <typename acc_t>
__global__ void __launch_bounds__(kSumThreads) cross_entropy_count_kernel(const CrossEntropyCountParams p) {
  int64_t count = 0;
  for (int64_t n = threadIdx.x; n < p.share; n += kSumThreads) count += p.target[blockIdx.x * p.share + n] >= 0;
  count = block_sum<kSumThreads>(count);
  if (threadIdx.x != 0) return;
  p.count[blockIdx.x] = count;
  static_cast<acc_t*>(p.factors)[blockIdx.x] =
      static_cast<const acc_t*>(p.loss_weights)[blockIdx.x] / static_cast<acc_t>(max(count, int64_t{1}));
}

template <typename acc_t>
__global__ void __launch_bounds__(kSumThreads) cross_entropy_sum_kernel(const CrossEntropySumParams p) {
  acc_t total = 0;
  for (int64_t group = 0; group < p.groups; ++group) {
    acc_t sum = 0;
    for (int64_t n = threadIdx.x; n < p.share; n += kSumThreads)
      sum += static_cast<const acc_t*>(p.losses)[group * p.share + n];
    const acc_t loss = block_sum<kSumThreads>(sum) / static_cast<acc_t>(max(p.count[group], int64_t{1}));
    total += static_cast<const acc_t*>(p.loss_weights)[group] * loss;
    if (threadIdx.x == 0) static_cast<acc_t*>(p.loss)[group] = loss;
  }
  if (threadIdx.x == 0) *static_cast<acc_t*>(p.total) = total;
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
    if (p.V <= kSmallVocabulary)
      packed ? body(type, Wide(), Few()) : body(type, One(), Few());
    else
      packed ? body(type, Wide(), Many()) : body(type, One(), Many());
  });
}

}  // namespace

void launch_cross_entropy_count(const CrossEntropyCountParams& p, cudaStream_t stream) {
  const auto groups = static_cast<unsigned>(p.groups);
  if (p.dtype == Dtype::f64)
    cross_entropy_count_kernel<double><<<groups, kSumThreads, 0, stream>>>(p);
  else
    cross_entropy_count_kernel<float><<<groups, kSumThreads, 0, stream>>>(p);
}

void launch_cross_entropy(const CrossEntropyParams& p, cudaStream_t stream) {
  if (p.rows == 0) return;
  for_row_shape(p, [&](auto type, auto wide, auto threads) {
    cross_entropy_kernel<typename decltype(type)::type, wide.value, threads.value>
        <<<p.rows, threads.value, 0, stream>>>(p);
  });
}

void launch_cross_entropy_sum(const CrossEntropySumParams& p, cudaStream_t stream) {
  if (p.dtype == Dtype::f64)
    cross_entropy_sum_kernel<double><<<1, kSumThreads, 0, stream>>>(p);
  else
    cross_entropy_sum_kernel<float><<<1, kSumThreads, 0, stream>>>(p);
}

}  // namespace memformer::ops
