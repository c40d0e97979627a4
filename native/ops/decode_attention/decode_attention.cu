// One block a (row, head). Sums have one order whatever rows are beside: a row's numbers are its own.
#include "ops/decode_attention/decode_attention.cuh"
#include "ops/decode_attention/decode_attention_head.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = kReaders, kWarps = kReaderWarps;

template <typename T>
__global__ void __launch_bounds__(kThreads) decode_append_kernel(const DecodeAppendParams p) {
  const int64_t r = blockIdx.x;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int h = warp; h < p.H; h += kWarps)
    append_head<T>(p, r, h, static_cast<const T*>(p.qkv) + (r * 3 * p.H + h) * p.E, int64_t{p.H} * p.E, lane, kWarp,
                   static_cast<T*>(p.q) + (r * p.H + h) * p.E);
}

/// `packed`, `width`: as HeadReader's.
template <typename T, bool packed, int width = 0>
__global__ void __launch_bounds__(kReaders, 4) decode_attention_kernel(const DecodeAttentionParams p) {
  using acc_t = accumulate_t<T>;
  extern __shared__ __align__(16) unsigned char shared[];
  auto* query = reinterpret_cast<acc_t*>(shared);  // (E)
  auto* scratch = query + p.E;                     // HeadReader's
  const int64_t r = blockIdx.x;
  const int h = blockIdx.y, E = width > 0 ? width : p.E;
  HeadReader<T, packed, /*own_apart=*/false, width> reader(p, r, h);
  wait_for_previous();
  let_next_begin();
  if (p.q == nullptr) {
    const auto* qkv = static_cast<const T*>(p.append.qkv) + (r * 3 * p.H + h) * E;
    append_head<T>(p.append, r, h, qkv, int64_t{p.H} * E, threadIdx.x, kReaders, query);
  } else {
    const auto* q = static_cast<const T*>(p.q) + (r * p.H + h) * E;
    for (int e = threadIdx.x; e < E; e += kReaders) query[e] = convert<acc_t>(q[e]);
  }
  __syncthreads();
  reader.read(p, query, scratch, static_cast<T*>(p.y) + (r * p.H + h) * E);
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
    const auto launch = [&](auto kernel, int64_t scratch) {
      const size_t bytes = (p.E + scratch) * sizeof(accumulate_t<T>);
      cuda::launch<DecodeAttentionParams>(kernel, grid, kThreads, bytes, stream, p, p.settled);
    };
    if (reads_packed<T>(p) && p.E == 64)
      launch(decode_attention_kernel<T, true, 64>, read_scratch<true>(p.N, p.E));
    else if (reads_packed<T>(p))
      launch(decode_attention_kernel<T, true>, read_scratch<true>(p.N, p.E));
    else
      launch(decode_attention_kernel<T, false>, read_scratch<false>(p.N, p.E));
  });
}

void launch_decode_rows(const DecodeRowsParams& p, cudaStream_t stream) {
  if (p.R == 0) return;
  decode_rows_kernel<<<1, 256, 0, stream>>>(p);
}

}  // namespace memformer::ops
