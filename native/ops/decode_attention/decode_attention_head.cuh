// One (row, head) of a decoding step's attention, for kernels that have a block for each: what is read before the query
// is there, and the rest. Sums have one order, whatever the kernel. Multiplications whose product is added are written
// as fma: which of them the compiler contracts would else depend on what is around them.
// Letters: N keys, E width of a head.
#pragma once
#include "core/cuda/dependent_launch.cuh"
#include "core/cuda/numeric.cuh"
#include "ops/decode_attention/decode_attention.cuh"

namespace memformer::ops {

constexpr int kReaders = 128, kReaderWarps = kReaders / cuda::kWarp;  // a block's first threads
constexpr int kHeld = 8;  // keys and values that a thread takes into registers before its query is there

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

/// The keys and values of one head of a row's slot. `packed`: they are read 16 bytes at a time, L = E / numbers lanes a
/// key, which divides a warp. The block has `threads`, at least kReaders, all of which come to every call: the first
/// kReaders read, the others wait at the barriers. `own_apart`: the row's own key and value may be read elsewhere than
/// in the cache.
template <typename T, bool packed, int threads, bool own_apart = false>
class HeadReader {
 public:
  using acc_t = cuda::accumulate_t<T>;

  /// Takes what lies there since earlier steps, and asks for the angles of the row's position.
  __device__ __forceinline__ HeadReader(const DecodeAttentionParams& p, int64_t r, int h)
      : appends_(p.q == nullptr),
        lanes_(packed ? p.E / numbers : cuda::kWarp),
        own_(threadIdx.x % lanes_),
        group_(threadIdx.x / lanes_),
        groups_(kReaders / lanes_) {
    using namespace cuda;
    int64_t slot = p.slots == nullptr ? r : p.slots[r];
    slot = slot < 0 ? 0 : slot >= p.S ? p.S - 1 : slot;
    n_ = appends_ ? int64_t{p.append.positions[r]} + 1 : p.lengths == nullptr ? p.N : p.lengths[r];
    n_ = n_ < 1 ? 1 : n_ > p.N ? p.N : n_;
    earlier_ = appends_ ? n_ - 1 : n_;
    keys_ = static_cast<const T*>(p.keys.data) + slot * p.keys.s + h * p.keys.h;
    values_ = static_cast<const T*>(p.values.data) + slot * p.values.s + h * p.values.h;
    if constexpr (own_apart) read_own(keys_ + earlier_ * p.keys.n, values_ + earlier_ * p.values.n);
    bias_ = p.bias == nullptr ? nullptr : static_cast<const acc_t*>(p.bias) + (r * p.H + h) * p.N;
    if constexpr (packed) {
      if (reads()) {
#pragma unroll
        for (int i = 0; i < kHeld; ++i)
          if (const int64_t j = group_ + i * groups_; j < earlier_) {
            held_keys_[i] = pack(keys_ + j * p.keys.n);
            held_values_[i] = pack(values_ + j * p.values.n);
          }
      }
    }
    if (appends_ && p.append.cos != nullptr && threadIdx.x < p.E / 2 && n_ <= p.append.T) {
      const int64_t angle = (n_ - 1) * (p.E / 2) + threadIdx.x;
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

  /// y (E) of `query` (E), both in memory that the block shares, or y anywhere; weights (N) and partial (kReaderWarps,
  /// E) are scratch. A barrier lies behind what was written to `query`, and one has to follow before y is read.
  __device__ __forceinline__ void read(const DecodeAttentionParams& p, const acc_t* query, acc_t* weights,
                                       acc_t* partial, T* y) {
    using namespace cuda;
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, E = p.E;
    const acc_t scale = acc_t(1) / sqrt(static_cast<acc_t>(E));
    if (reads()) score(p, query, scale, weights);
    __syncthreads();
    acc_t most = weights[0];
    if (reads())
      for (int64_t j = threadIdx.x; j < n_; j += kReaders) most = max(most, weights[j]);
    most = block_max<threads>(most);
    acc_t total = 0;
    if (reads())
      for (int64_t j = threadIdx.x; j < n_; j += kReaders) {
        weights[j] = exp(weights[j] - most);
        total += weights[j];
      }
    total = block_sum<threads>(total);  // its barriers: every weight is there; who does not read adds 0
    if constexpr (packed) {
      if (reads()) {
        acc_t sums[numbers] = {};
#pragma unroll
        for (int i = 0; i < kHeld; ++i) {
          const int64_t j = group_ + i * groups_;
          if (j >= n_) break;
          if (j >= earlier_) held_values_[i] = pack(value_at(p, j));
          pin(held_values_[i]);
          const acc_t weight = weights[j];
#pragma unroll
          for (int k = 0; k < numbers; ++k) sums[k] = fma(weight, convert<acc_t>(held_values_[i].value[k]), sums[k]);
        }
#pragma unroll 4
        for (int64_t j = group_ + int64_t{kHeld} * groups_; j < n_; j += groups_) {
          acc_t value[numbers];
          load(value_at(p, j) + own_ * numbers, value);
          const acc_t weight = weights[j];
#pragma unroll
          for (int i = 0; i < numbers; ++i) sums[i] = fma(weight, value[i], sums[i]);
        }
#pragma unroll
        for (int i = 0; i < numbers; ++i) {
          for (int offset = lanes_; offset < kWarp; offset *= 2) sums[i] += __shfl_xor_sync(kAllLanes, sums[i], offset);
          if (lane < lanes_) partial[warp * E + own_ * numbers + i] = sums[i];
        }
      }
      __syncthreads();
      if (reads())
        for (int e = threadIdx.x; e < E; e += kReaders) {
          acc_t sum = partial[e];
#pragma unroll
          for (int other = 1; other < kReaderWarps; ++other) sum += partial[other * E + e];
          y[e] = convert<T>(sum / total);
        }
    } else if (reads()) {
      for (int e = threadIdx.x; e < E; e += kReaders) {
        acc_t sum = 0;
        for (int64_t j = 0; j < n_; ++j) sum = fma(weights[j], convert<acc_t>(value_at(p, j)[e]), sum);
        y[e] = convert<T>(sum / total);
      }
    }
  }

 private:
  static constexpr int numbers = 16 / sizeof(T);
  using Numbers = cuda::Pack<T, numbers>;

  __device__ __forceinline__ static bool reads() { return threads == kReaders || threadIdx.x < kReaders; }

  __device__ __forceinline__ const T* key_at(const DecodeAttentionParams& p, int64_t j) const {
    return own_apart && j >= earlier_ ? own_key_ : keys_ + j * p.keys.n;
  }
  __device__ __forceinline__ const T* value_at(const DecodeAttentionParams& p, int64_t j) const {
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

  /// The scores of all keys, in `weights`.
  __device__ __forceinline__ void score(const DecodeAttentionParams& p, const acc_t* query, acc_t scale,
                                        acc_t* weights) {
    using namespace cuda;
    const auto put = [&](int64_t j, acc_t sum) {
      for (int offset = lanes_ / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
      if (own_ == 0 && j < n_) weights[j] = fma(sum, scale, bias_ == nullptr ? acc_t(0) : bias_[j]);
    };
    acc_t mine[numbers] = {};
    if constexpr (packed) {
#pragma unroll
      for (int i = 0; i < numbers; ++i) mine[i] = query[own_ * numbers + i];
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int64_t j = group_ + i * groups_;
        if (int64_t{i} * groups_ >= n_) break;
        acc_t sum = 0;
        if (j < n_) {
          if (j >= earlier_) held_keys_[i] = pack(key_at(p, j));
          pin(held_keys_[i]);
#pragma unroll
          for (int k = 0; k < numbers; ++k) sum = fma(mine[k], convert<acc_t>(held_keys_[i].value[k]), sum);
        }
        put(j, sum);
      }
    }
#pragma unroll 4
    for (int64_t from = packed ? kHeld * groups_ : 0; from < n_; from += groups_) {  // all lanes of a warp take each
      const int64_t j = from + group_;
      acc_t sum = 0;
      if (j < n_) {
        if constexpr (packed) {
          acc_t key[numbers];
          load(key_at(p, j) + own_ * numbers, key);
#pragma unroll
          for (int i = 0; i < numbers; ++i) sum = fma(mine[i], key[i], sum);
        } else {
          for (int e = own_; e < p.E; e += kWarp) sum = fma(query[e], convert<acc_t>(key_at(p, j)[e]), sum);
        }
      }
      put(j, sum);
    }
  }

  const bool appends_;
  const int lanes_, own_;     // of a key, and this thread's place there
  const int group_, groups_;  // of lanes
  int64_t n_, earlier_;       // keys, and those that were there before the row's own
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
