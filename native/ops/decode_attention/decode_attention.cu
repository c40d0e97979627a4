// One block a (row, head). Sums have one order whatever rows are beside: a row's numbers are its own.
#include "ops/decode_attention/decode_attention.cuh"
#include "core/cuda/dependent_launch.cuh"
#include "core/cuda/numeric.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kHeld = 8;  // keys and values that a thread takes into registers before its query is there

/// Number e of a head's query (part 0), key (1) or value (2), which `head` points to, turned by its position's angle.
template <typename T>
__device__ __forceinline__ accumulate_t<T> turned(const DecodeAppendParams& p, const T* head, int part, int e,
                                                  int64_t position) {
  using acc_t = accumulate_t<T>;
  const auto x = convert<acc_t>(head[e]);
  if (p.cos == nullptr || part == 2) return x;
  const int half = p.E / 2;
  const bool first = e < half;
  const int64_t angle = position * half + (first ? e : e - half);
  const auto other = convert<acc_t>(head[first ? e + half : e - half]);
  const acc_t cos = static_cast<const acc_t*>(p.cos)[angle], sin = static_cast<const acc_t*>(p.sin)[angle];
  return first ? x * cos - other * sin : x * cos + other * sin;
}

/// One head of a row's own token: its key and value into the cache, its query to `query` (E). A row that lies outside
/// the cache is not turned and not written.
template <typename T, typename query_t>
__device__ __forceinline__ void append_head(const DecodeAppendParams& p, int64_t r, int h, int thread, int threads,
                                            query_t* query) {
  using acc_t = accumulate_t<T>;
  const int64_t slot = p.slots[r], position = p.positions[r];
  const bool inside = slot >= 0 && slot < p.S && position >= 0 && position < p.T;
  const auto* qkv = static_cast<const T*>(p.qkv) + (r * 3 * p.H + h) * p.E;
  const int64_t place = ((slot * p.H + h) * p.T + position) * p.E;
  for (int i = thread; i < 3 * p.E; i += threads) {
    const int part = i / p.E, e = i % p.E;
    const auto* head = qkv + int64_t{part} * p.H * p.E;
    const auto rounded = convert<T>(inside ? turned(p, head, part, e, position) : convert<acc_t>(head[e]));
    if (part == 0)
      query[e] = convert<query_t>(rounded);
    else if (inside)
      static_cast<T*>(part == 1 ? p.keys : p.values)[place + e] = rounded;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) decode_append_kernel(const DecodeAppendParams p) {
  const int64_t r = blockIdx.x;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int h = warp; h < p.H; h += kWarps)
    append_head<T>(p, r, h, lane, kWarp, static_cast<T*>(p.q) + (r * p.H + h) * p.E);
}

/// `packed`: keys and values are read 16 bytes at a time, L = E / numbers lanes a key, which divides a warp.
template <typename T, bool packed>
__global__ void __launch_bounds__(kThreads) decode_attention_kernel(const DecodeAttentionParams p) {
  using acc_t = accumulate_t<T>;
  constexpr int numbers = 16 / sizeof(T);
  extern __shared__ __align__(16) unsigned char shared[];
  auto* weights = reinterpret_cast<acc_t*>(shared);  // (N)
  auto* query = weights + p.N;                       // (E)
  auto* partial = query + p.E;                       // (kWarps, E)
  const int64_t r = blockIdx.x;
  const int h = blockIdx.y, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, E = p.E;
  int64_t slot = p.slots == nullptr ? r : p.slots[r];
  slot = slot < 0 ? 0 : slot >= p.S ? p.S - 1 : slot;
  const bool appends = p.q == nullptr;
  int64_t n = appends ? int64_t{p.append.positions[r]} + 1 : p.lengths == nullptr ? p.N : p.lengths[r];
  n = n < 1 ? 1 : n > p.N ? p.N : n;
  const auto* keys = static_cast<const T*>(p.keys.data) + slot * p.keys.s + h * p.keys.h;
  const auto* values = static_cast<const T*>(p.values.data) + slot * p.values.s + h * p.values.h;
  const auto* bias = p.bias == nullptr ? nullptr : static_cast<const acc_t*>(p.bias) + (r * p.H + h) * p.N;
  const acc_t scale = acc_t(1) / sqrt(static_cast<acc_t>(E));
  const int lanes = packed ? E / numbers : kWarp, own = threadIdx.x % lanes;  // of a key, and this one's place there
  const int group = threadIdx.x / lanes, groups = kThreads / lanes;
  // What lies there since earlier steps is read before this step's query is there.
  using Numbers = Pack<T, numbers>;
  Numbers held_keys[kHeld], held_values[kHeld];
  const int64_t earlier = appends ? n - 1 : n;
  if constexpr (packed) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      if (const int64_t j = group + i * groups; j < earlier) {
        held_keys[i] = *reinterpret_cast<const Numbers*>(keys + j * p.keys.n + own * numbers);
        held_values[i] = *reinterpret_cast<const Numbers*>(values + j * p.values.n + own * numbers);
      }
  }
  if (appends && p.append.cos != nullptr && threadIdx.x < E / 2 && n <= p.append.T) {
    const int64_t angle = (n - 1) * (E / 2) + threadIdx.x;
    prefetch(static_cast<const acc_t*>(p.append.cos) + angle);
    prefetch(static_cast<const acc_t*>(p.append.sin) + angle);
  }
  wait_for_previous();
  let_next_begin();
  if (appends) {
    append_head<T>(p.append, r, h, threadIdx.x, kThreads, query);
  } else {
    const auto* q = static_cast<const T*>(p.q) + (r * p.H + h) * E;
    for (int e = threadIdx.x; e < E; e += kThreads) query[e] = convert<acc_t>(q[e]);
  }
  __syncthreads();
  acc_t mine[numbers] = {};
  if constexpr (packed) {
#pragma unroll
    for (int i = 0; i < numbers; ++i) mine[i] = query[own * numbers + i];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int64_t j = group + i * groups;
      if (int64_t{i} * groups >= n) break;
      acc_t sum = 0;
      if (j < n) {
        if (j >= earlier) held_keys[i] = *reinterpret_cast<const Numbers*>(keys + j * p.keys.n + own * numbers);
#pragma unroll
        for (int k = 0; k < numbers; ++k) sum += mine[k] * convert<acc_t>(held_keys[i].value[k]);
      }
      for (int offset = lanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
      if (own == 0 && j < n) weights[j] = sum * scale + (bias == nullptr ? acc_t(0) : bias[j]);
    }
  }
#pragma unroll 4
  for (int64_t from = packed ? kHeld * groups : 0; from < n; from += groups) {  // all lanes of a warp take every turn
    const int64_t j = from + group;
    acc_t sum = 0;
    if (j < n) {
      if constexpr (packed) {
        acc_t key[numbers];
        load(keys + j * p.keys.n + own * numbers, key);
#pragma unroll
        for (int i = 0; i < numbers; ++i) sum += mine[i] * key[i];
      } else {
        for (int e = own; e < E; e += kWarp) sum += query[e] * convert<acc_t>(keys[j * p.keys.n + e]);
      }
    }
    for (int offset = lanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
    if (own == 0 && j < n) weights[j] = sum * scale + (bias == nullptr ? acc_t(0) : bias[j]);
  }
  __syncthreads();
  acc_t most = weights[0];
  for (int64_t j = threadIdx.x; j < n; j += kThreads) most = max(most, weights[j]);
  most = block_max<kThreads>(most);
  acc_t total = 0;
  for (int64_t j = threadIdx.x; j < n; j += kThreads) {
    weights[j] = exp(weights[j] - most);
    total += weights[j];
  }
  total = block_sum<kThreads>(total);  // its barriers: every weight is there
  auto* y = static_cast<T*>(p.y) + (r * p.H + h) * E;
  if constexpr (packed) {
    acc_t sums[numbers] = {};
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int64_t j = group + i * groups;
      if (j >= n) break;
      if (j >= earlier) held_values[i] = *reinterpret_cast<const Numbers*>(values + j * p.values.n + own * numbers);
      const acc_t weight = weights[j];
#pragma unroll
      for (int k = 0; k < numbers; ++k) sums[k] += weight * convert<acc_t>(held_values[i].value[k]);
    }
#pragma unroll 4
    for (int64_t j = group + int64_t{kHeld} * groups; j < n; j += groups) {
      acc_t value[numbers];
      load(values + j * p.values.n + own * numbers, value);
      const acc_t weight = weights[j];
#pragma unroll
      for (int i = 0; i < numbers; ++i) sums[i] += weight * value[i];
    }
#pragma unroll
    for (int i = 0; i < numbers; ++i) {
      for (int offset = lanes; offset < kWarp; offset *= 2) sums[i] += __shfl_xor_sync(kAllLanes, sums[i], offset);
      if (lane < lanes) partial[warp * E + own * numbers + i] = sums[i];
    }
    __syncthreads();
    for (int e = threadIdx.x; e < E; e += kThreads) {
      acc_t sum = partial[e];
#pragma unroll
      for (int other = 1; other < kWarps; ++other) sum += partial[other * E + e];
      y[e] = convert<T>(sum / total);
    }
  } else {
    for (int e = threadIdx.x; e < E; e += kThreads) {
      acc_t sum = 0;
      for (int64_t j = 0; j < n; ++j) sum += weights[j] * convert<acc_t>(values[j * p.values.n + e]);
      y[e] = convert<T>(sum / total);
    }
  }
}

/// One block: every row reads where its slot stands before any moves it on.
__global__ void decode_rows_kernel(const DecodeRowsParams p) {
  for (int r = threadIdx.x; r < p.R; r += blockDim.x) {
    const int slot = min(max(p.slots[r], 0), p.S - 1);
    const int position = min(p.positions[slot] + (p.ahead == nullptr ? 0 : p.ahead[r]), p.last);
    p.rows[r] = position;
    p.rows[p.R + r] = position + 1;
    p.rows[2 * p.R + r] = p.context_lengths[slot];
  }
  __syncthreads();
  for (int r = threadIdx.x; r < p.R; r += blockDim.x) atomicAdd(p.positions + min(max(p.slots[r], 0), p.S - 1), 1);
  __syncthreads();
  for (int r = threadIdx.x; r < p.R; r += blockDim.x)
    atomicMin(p.positions + min(max(p.slots[r], 0), p.S - 1), p.last + 1);
}

/// Whether rows of the cache can be read 16 bytes at a time.
template <typename T>
bool packs(const DecodeCache& cache, int E) {
  constexpr int numbers = 16 / sizeof(T);
  const auto whole = [](int64_t stride) { return stride % numbers == 0; };
  return reinterpret_cast<uintptr_t>(cache.data) % 16 == 0 && whole(E) && whole(cache.s) && whole(cache.h) &&
         whole(cache.n);
}

}  // namespace

void launch_decode_append(const DecodeAppendParams& p, cudaStream_t stream) {
  if (p.R == 0) return;
  for_dtype(p.dtype, [&](auto type) {
    decode_append_kernel<typename decltype(type)::type><<<static_cast<unsigned>(p.R), kThreads, 0, stream>>>(p);
  });
}

void launch_decode_attention(const DecodeAttentionParams& p, cudaStream_t stream) {
  if (p.R == 0) return;
  for_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const dim3 grid(static_cast<unsigned>(p.R), static_cast<unsigned>(p.H));
    const size_t bytes = (p.N + (1 + kWarps) * p.E) * sizeof(accumulate_t<T>);
    const int lanes = p.E * static_cast<int>(sizeof(T)) / 16;
    const bool shared_out = lanes > 0 && kWarp % lanes == 0;
    if (shared_out && packs<T>(p.keys, p.E) && packs<T>(p.values, p.E))
      cuda::launch<DecodeAttentionParams>(decode_attention_kernel<T, true>, grid, kThreads, bytes, stream, p,
                                          p.settled);
    else
      cuda::launch<DecodeAttentionParams>(decode_attention_kernel<T, false>, grid, kThreads, bytes, stream, p,
                                          p.settled);
  });
}

void launch_decode_rows(const DecodeRowsParams& p, cudaStream_t stream) {
  if (p.R == 0) return;
  decode_rows_kernel<<<1, 256, 0, stream>>>(p);
}

}  // namespace memformer::ops
