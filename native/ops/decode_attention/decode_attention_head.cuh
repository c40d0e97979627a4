// One (row, head) of a decoding step's attention, for kernels that have a block for each: what is read before the query
// is there, and the rest. Sums have one order, whatever the kernel. Multiplications whose product is added are written
// as fma: which of them the compiler contracts would else depend on what is around them.
// Letters: N keys, E width of a head.
#pragma once
#include "core/cuda/dependent_launch.cuh"
#include "core/cuda/numeric.cuh"
#include "ops/common/head_norm_eps.h"
#include "ops/decode_attention/decode_attention.cuh"

namespace memformer::ops {

constexpr int kReaders = 256, kReaderWarps = kReaders / cuda::kWarp;  // of a block
constexpr int kHeld = 4;  // keys and values that a thread takes into registers before its query is there

/// Number e of a head's query (part 0), key (1) or value (2), which `head` points to, turned by its position's angle.
template <typename T>
__device__ __forceinline__ cuda::accumulate_t<T> turned(const DecodeAppendParams& p, const T* head, int part, int e,
                                                        int64_t position) {
  using namespace cuda;
  using acc_t = accumulate_t<T>;
  const auto x = convert<acc_t>(head[e]);
  if (p.cos == nullptr || part == 2) return x;
  const int half = p.E / 2;
  const bool first = e < half;
  const int64_t angle = position * half + (first ? e : e - half);
  const auto other = convert<acc_t>(head[first ? e + half : e - half]);
  const acc_t cos = static_cast<const acc_t*>(p.cos)[angle], sin = static_cast<const acc_t*>(p.sin)[angle];
  const acc_t across = other * sin;
  return fma(x, cos, first ? -across : across);
}

/// Whether the cache has a place for a row's own token.
__device__ __forceinline__ bool has_place(const DecodeAppendParams& p, int64_t r) {
  const int64_t slot = p.slots[r], position = p.positions[r];
  return slot >= 0 && slot < p.S && position >= 0 && position < p.T;
}

/// One head of a row's own token, whose query is at `qkv`, its key `apart` numbers behind and its value as far behind
/// that: keep(part, e, number) of each, turned, and if it `writes`, key and value into the cache. A row that lies
/// outside the cache is not turned and not written.
template <typename T, typename Keep>
__device__ __forceinline__ void turn_head(const DecodeAppendParams& p, int64_t r, int h, const T* qkv, int64_t apart,
                                          int thread, int threads, bool writes, Keep&& keep) {
  using namespace cuda;
  using acc_t = accumulate_t<T>;
  const int64_t slot = p.slots[r], position = p.positions[r];
  const bool inside = has_place(p, r);
  const int64_t place = ((slot * p.H + h) * p.T + position) * p.E;
  for (int i = thread; i < 3 * p.E; i += threads) {
    const int part = i / p.E, e = i % p.E;
    const auto* head = qkv + part * apart;
    const auto rounded = convert<T>(inside ? turned(p, head, part, e, position) : convert<acc_t>(head[e]));
    keep(part, e, rounded);
    if (part != 0 && inside && writes) static_cast<T*>(part == 1 ? p.keys : p.values)[place + e] = rounded;
  }
}

/// The same: key and value into the cache, the query to `query` (E).
template <typename T, typename query_t>
__device__ __forceinline__ void append_head(const DecodeAppendParams& p, int64_t r, int h, const T* qkv, int64_t apart,
                                            int thread, int threads, query_t* query) {
  turn_head(p, r, h, qkv, apart, thread, threads, /*writes=*/true, [&](int part, int e, T rounded) {
    if (part == 0) query[e] = cuda::convert<query_t>(rounded);
  });
}

/// The same for a block of kReaders: the query to `query`, key and value to `key` and `value` (E), and if it `writes`
/// into the cache as well.
template <typename T>
__device__ __forceinline__ void turn_own_head(const DecodeAppendParams& p, int64_t r, int h, const T* qkv,
                                              int64_t apart, bool writes, float* query, T* key, T* value) {
  turn_head(p, r, h, qkv, apart, threadIdx.x, kReaders, writes, [&](int part, int e, T rounded) {
    if (part == 0)
      query[e] = cuda::convert<float>(rounded);
    else
      (part == 1 ? key : value)[e] = rounded;
  });
}

/// A warp divides the 64 numbers at `head` by their root mean square: the bits of head_norm, whose order of sums this
/// is.
template <typename T>
__device__ __forceinline__ void norm_head(T* head) {
  using namespace cuda;
  constexpr int numbers = 16 / sizeof(T), lanes = 64 / numbers;
  static_assert(lanes == 8, "of two bytes a number");
  const int lane = threadIdx.x % kWarp, first = lane % lanes * numbers;
  float x[numbers], sum = 0;
  load(head + first, x);
#pragma unroll
  for (int i = 0; i < numbers; ++i) sum = fma(x[i], x[i], sum);
#pragma unroll
  for (int offset = lanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
  const float by = 1.0f / sqrt(sum / 64.0f + static_cast<float>(kHeadNormEps));
#pragma unroll
  for (int i = 0; i < numbers; ++i) x[i] *= by;
  __syncwarp();
  if (lane < lanes) store(x, head + first);
}

/// Numbers of the scratch memory that HeadReader takes.
template <bool packed>
constexpr int64_t read_scratch(int64_t N, int64_t E) {
  return packed ? kReaderWarps * (E + 2) : N;
}

/// The keys and values of one head of a row's slot. `packed`: they are read 16 bytes at a time, L = E / numbers lanes a
/// key, which divides a warp. The block has kReaders threads, all of which come to every call. `own_apart`: the row's
/// own key and value may be read elsewhere than in the cache. `width`: E where it is known, and sums over lanes have no
/// loops then; 0: it is p's.
template <typename T, bool packed, bool own_apart = false, int width = 0>
class HeadReader {
 public:
  using acc_t = cuda::accumulate_t<T>;

  /// Takes what lies there since earlier steps, and asks for the angles of the row's position.
  __device__ __forceinline__ HeadReader(const DecodeAttentionParams& p, int64_t r, int h)
      : appends_(p.q == nullptr),
        of_key_(packed ? p.E / numbers : cuda::kWarp),
        own_(static_cast<int>(threadIdx.x) % lanes()),
        group_(static_cast<int>(threadIdx.x) / lanes()) {
    using namespace cuda;
    int64_t slot = p.slots == nullptr ? r : p.slots[r];
    slot = slot < 0 ? 0 : slot >= p.S ? p.S - 1 : slot;
    const int N = static_cast<int>(p.N);
    n_ = appends_ ? p.append.positions[r] + 1 : p.lengths == nullptr ? N : p.lengths[r];
    n_ = n_ < 1 ? 1 : n_ > N ? N : n_;
    earlier_ = appends_ ? n_ - 1 : n_;
    keys_ = static_cast<const T*>(p.keys.data) + slot * p.keys.s + h * p.keys.h;
    values_ = static_cast<const T*>(p.values.data) + slot * p.values.s + h * p.values.h;
    if constexpr (own_apart) read_own(keys_ + earlier_ * p.keys.n, values_ + earlier_ * p.values.n);
    bias_ = p.bias == nullptr ? nullptr : static_cast<const acc_t*>(p.bias) + (r * p.H + h) * p.N;
    if constexpr (packed) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i)
        if (const int j = group_ + i * groups(); j < earlier_) {
          held_keys_[i] = pack(key_at(p, j));
          held_values_[i] = pack(value_at(p, j));
        }
    }
    if (appends_ && p.append.cos != nullptr && threadIdx.x < p.E / 2 && n_ <= p.append.T) {
      const int64_t angle = int64_t{n_ - 1} * (p.E / 2) + threadIdx.x;
      prefetch(static_cast<const acc_t*>(p.append.cos) + angle);
      prefetch(static_cast<const acc_t*>(p.append.sin) + angle);
    }
  }

  /// Where the row's own key and value (E) are read instead: multiples of 16 bytes where packed.
  __device__ __forceinline__ void read_own(const T* key, const T* value) {
    static_assert(own_apart);
    own_key_ = key;
    own_value_ = value;
  }

  /// y (E) of `query` (E), both in memory that the block shares, or y anywhere; scratch: read_scratch numbers. A
  /// barrier lies behind what was written to `query`, and one has to follow before y is read.
  __device__ __forceinline__ void read(const DecodeAttentionParams& p, const acc_t* query, acc_t* scratch, T* y) {
    if constexpr (packed)
      read_packed(p, query, scratch, y);
    else
      read_numbers(p, query, scratch, y);
  }

 private:
  static constexpr int numbers = 16 / sizeof(T);
  using Numbers = cuda::Pack<T, numbers>;

  /// Of a key, and how many groups of so many the block has.
  __device__ __forceinline__ int lanes() const {
    if constexpr (packed && width > 0)
      return width / numbers;
    else
      return of_key_;
  }
  __device__ __forceinline__ int groups() const { return kReaders / lanes(); }

  __device__ __forceinline__ const T* key_at(const DecodeAttentionParams& p, int j) const {
    return own_apart && j >= earlier_ ? own_key_ : keys_ + j * p.keys.n;
  }
  __device__ __forceinline__ const T* value_at(const DecodeAttentionParams& p, int j) const {
    return own_apart && j >= earlier_ ? own_value_ : values_ + j * p.values.n;
  }

  __device__ __forceinline__ Numbers pack(const T* row) const {
    return *reinterpret_cast<const Numbers*>(row + own_ * numbers);
  }

  /// Has it widened from here on, and not before: registers hold twice as many numbers of two bytes.
  __device__ __forceinline__ static void pin(Numbers& held) {
    auto* words = reinterpret_cast<uint32_t*>(&held);
    asm volatile("" : "+r"(words[0]), "+r"(words[1]), "+r"(words[2]), "+r"(words[3]));
  }

  __device__ __forceinline__ acc_t scale(const DecodeAttentionParams& p) const {
    return acc_t(1) / sqrt(static_cast<acc_t>(width > 0 ? width : p.E));
  }

  /// Every warp weights its own keys against the largest of its own scores, kHeld times the block's groups of lanes at
  /// a time; the warps' sums are then brought to the largest of all.
  __device__ __forceinline__ void read_packed(const DecodeAttentionParams& p, const acc_t* query, acc_t* partial,
                                              T* y) {
    using namespace cuda;
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, E = width > 0 ? width : p.E;
    const acc_t scaled = scale(p);
    acc_t mine[numbers], sums[numbers] = {}, most = -INFINITY, total = 0;
#pragma unroll
    for (int k = 0; k < numbers; ++k) mine[k] = query[own_ * numbers + k];
    for (int from = 0; from < n_; from += kHeld * groups()) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i)
        if (const int j = from + i * groups() + group_; j < n_ && (from > 0 || j >= earlier_)) {
          held_keys_[i] = pack(key_at(p, j));
          held_values_[i] = pack(value_at(p, j));
        }
      acc_t scores[kHeld], largest = most;
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int first = from + i * groups(), j = first + group_;
        scores[i] = -INFINITY;
        if (first >= n_) continue;  // for all lanes of all warps
        acc_t sum = 0;
        pin(held_keys_[i]);
#pragma unroll
        for (int k = 0; k < numbers; ++k) sum = fma(mine[k], convert<acc_t>(held_keys_[i].value[k]), sum);
#pragma unroll
        for (int offset = lanes() / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
        if (j < n_) scores[i] = fma(sum, scaled, bias_ == nullptr ? acc_t(0) : bias_[j]);
        largest = max(largest, scores[i]);
      }
#pragma unroll
      for (int offset = lanes(); offset < kWarp; offset *= 2)
        largest = max(largest, __shfl_xor_sync(kAllLanes, largest, offset));
      const acc_t against = largest == -INFINITY ? acc_t(0) : largest;
      const acc_t rescale = exp(most - against);  // 0 before the first keys
      most = largest;
      total *= rescale;
#pragma unroll
      for (int k = 0; k < numbers; ++k) sums[k] *= rescale;
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        if (from + i * groups() + group_ >= n_) continue;
        pin(held_values_[i]);
        const acc_t weight = exp(scores[i] - against);
        total += weight;
#pragma unroll
        for (int k = 0; k < numbers; ++k) sums[k] = fma(weight, convert<acc_t>(held_values_[i].value[k]), sums[k]);
      }
    }
#pragma unroll
    for (int offset = lanes(); offset < kWarp; offset *= 2) total += __shfl_xor_sync(kAllLanes, total, offset);
    acc_t* of_warp = partial + warp * (E + 2);
#pragma unroll
    for (int offset = lanes(); offset < kWarp; offset *= 2) {
#pragma unroll
      for (int k = 0; k < numbers; ++k) sums[k] += __shfl_xor_sync(kAllLanes, sums[k], offset);
    }
    if (lane < lanes()) {
#pragma unroll
      for (int k = 0; k < numbers; ++k) of_warp[own_ * numbers + k] = sums[k];
    }
    if (lane == 0) {
      of_warp[E] = most;
      of_warp[E + 1] = total;
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) >= E) return;  // warps that have no number of y
    acc_t by[kReaderWarps];
    most = -INFINITY, total = 0;
#pragma unroll
    for (int other = 0; other < kReaderWarps; ++other) most = max(most, partial[other * (E + 2) + E]);
#pragma unroll
    for (int other = 0; other < kReaderWarps; ++other) {
      by[other] = exp(partial[other * (E + 2) + E] - most);
      total = fma(by[other], partial[other * (E + 2) + E + 1], total);
    }
    for (int e = threadIdx.x; e < E; e += kReaders) {
      acc_t sum = 0;
#pragma unroll
      for (int other = 0; other < kReaderWarps; ++other) sum = fma(by[other], partial[other * (E + 2) + e], sum);
      y[e] = convert<T>(sum / total);
    }
  }

  /// The same where keys are read number by number: a warp a key, then a thread a number of y.
  __device__ __forceinline__ void read_numbers(const DecodeAttentionParams& p, const acc_t* query, acc_t* weights,
                                               T* y) {
    using namespace cuda;
    const acc_t by = scale(p);
#pragma unroll 4
    for (int j = group_; j < n_; j += groups()) {
      acc_t sum = 0;
      for (int e = own_; e < p.E; e += kWarp) sum = fma(query[e], convert<acc_t>(key_at(p, j)[e]), sum);
      sum = warp_sum(sum);
      if (own_ == 0) weights[j] = fma(sum, by, bias_ == nullptr ? acc_t(0) : bias_[j]);
    }
    __syncthreads();
    acc_t most = weights[0];
    for (int j = threadIdx.x; j < n_; j += kReaders) most = max(most, weights[j]);
    most = block_max<kReaders>(most);
    acc_t total = 0;
    for (int j = threadIdx.x; j < n_; j += kReaders) {
      weights[j] = exp(weights[j] - most);
      total += weights[j];
    }
    total = block_sum<kReaders>(total);  // its barriers: every weight is there
    for (int e = threadIdx.x; e < p.E; e += kReaders) {
      acc_t sum = 0;
      for (int j = 0; j < n_; ++j) sum = fma(weights[j], convert<acc_t>(value_at(p, j)[e]), sum);
      y[e] = convert<T>(sum / total);
    }
  }

  const bool appends_;
  const int of_key_;       // lanes
  const int own_, group_;  // this thread's place among those of its key, and which these are
  int n_, earlier_;        // keys, and those that were there before the row's own
  const T *keys_, *values_, *own_key_, *own_value_;
  const acc_t* bias_;
  Numbers held_keys_[kHeld], held_values_[kHeld];
};

/// Whether HeadReader reads these packed.
template <typename T>
bool reads_packed(const DecodeAttentionParams& p) {
  constexpr int numbers = 16 / sizeof(T);
  const auto whole = [](int64_t stride) { return stride % numbers == 0; };
  const auto packs = [&](const DecodeCache& cache) {
    return reinterpret_cast<uintptr_t>(cache.data) % 16 == 0 && whole(cache.s) && whole(cache.h) && whole(cache.n);
  };
  const int lanes = p.E / numbers;
  return lanes > 0 && whole(p.E) && cuda::kWarp % lanes == 0 && packs(p.keys) && packs(p.values);
}

}  // namespace memformer::ops
