// Attention and the product behind it in one kernel: a block for each row, head and part of the product's columns.
// Every part reads the head anew, from the L2 cache, so that no block waits for another; a block's part of the weights
// comes to shared memory before the kernel ahead has ended.
//
// Why the bits are those of the parts one after the other: a head is 8 / H whole shares of the product's inner axis,
// and a share's terms are added by add_chunk, from zero, chunk by chunk, as decode_linear's warps add them. Here row 0
// of the tensor cores' tile is the row, there any; a row of their result does not depend on the other rows, nor a
// column on the other columns, which decode_linear rests on as well. Whoever reads the shares adds them in their order
// and rounds.
#include "ops/decode_attention_linear/decode_attention_linear.cuh"
#include "core/cuda/dependent_launch.cuh"
#include "ops/decode_attention/decode_attention_head.cuh"
#include "ops/decode_linear/decode_linear_row.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = kReaders, kWarps = kReaderWarps;
constexpr int kHead = 64;                      // E
constexpr int kChunks = kHead / kDecodeChunk;  // of a head
constexpr int kUnasked = 48 * 1024;            // bytes of shared memory that a block has without being allowed them

/// `head_shares` of the inner axis a head, `tiles` of 8 columns a warp.
template <typename T, int head_shares, int tiles>
struct Layout {
  static constexpr int width = kDecodeShares / head_shares * kHead, columns = kWarps * tiles * 8;
  static constexpr int parts = width / columns;
  static constexpr int share_chunks = kChunks / head_shares;
  static_assert(kChunks % head_shares == 0 && width % columns == 0);

  uint4 weights[kWarps][tiles * kChunks][kWarp];  // 16 bytes a lane, read by the lane that has asked for them
  float query[kHead], partial[kReaderWarps][kHead];
  alignas(16) T own_key[kHead];
  alignas(16) T own_value[kHead];
  alignas(16) T read[kHead];
  alignas(16) float scores[1];  // (N)

  static size_t bytes(int64_t N) { return sizeof(Layout) + sizeof(float) * N; }
};

template <typename T, int head_shares, int tiles>
__global__ void __launch_bounds__(kThreads) decode_attention_linear_kernel(const DecodeAttentionLinearParams p) {
  using Shared = Layout<T, head_shares, tiles>;
  constexpr int width = Shared::width;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<Shared*>(shared_bytes);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int h = blockIdx.x / Shared::parts, part = blockIdx.x % Shared::parts;
  const int64_t row = blockIdx.y;
  const int first_column = part * Shared::columns + warp * tiles * 8;
  const auto* weight = static_cast<const T*>(p.weight);

  // The lane's part of every chunk: numbers 8 t of column g of a tile.
#pragma unroll
  for (int n = 0; n < tiles; ++n)
#pragma unroll
    for (int c = 0; c < kChunks; ++c)
      copy_16_bytes(&shared.weights[warp][n * kChunks + c][lane],
                    weight + (first_column + 8 * n + g) * width + h * kHead + c * kDecodeChunk + 8 * t, 16);
  HeadReader<T, /*packed=*/true, kThreads, /*own_apart=*/true> reader(p.attention, row, h);
  wait_for_previous();
  let_next_begin();
  if (p.attention.q == nullptr) {
    const auto& append = p.attention.append;
    const auto* qkv = static_cast<const T*>(append.qkv) + (row * 3 * append.H + h) * kHead;
    turn_head(append, row, h, qkv, int64_t{width}, threadIdx.x, kThreads, /*writes=*/part == 0,
              [&](int kind, int e, T number) {
                if (kind == 0)
                  shared.query[e] = convert<float>(number);
                else
                  (kind == 1 ? shared.own_key : shared.own_value)[e] = number;
              });
    // Not from the cache: the part that writes there may come later.
    if (has_place(append, row)) reader.read_own(shared.own_key, shared.own_value);
  } else {
    const auto* q = static_cast<const T*>(p.attention.q) + row * width + h * kHead;
    if (threadIdx.x < kHead) shared.query[threadIdx.x] = convert<float>(q[threadIdx.x]);
  }
  __syncthreads();
  reader.read(p.attention, shared.query, shared.scores, &shared.partial[0][0], shared.read);
  arrived();
  __syncthreads();
  uint4 read[kChunks];
  constexpr uint4 none{0, 0, 0, 0};
#pragma unroll
  for (int c = 0; c < kChunks; ++c)
    read[c] = g == 0 ? *reinterpret_cast<const uint4*>(shared.read + c * kDecodeChunk + 8 * t) : none;
  float* to = p.shares + (row * kDecodeShares + h * head_shares) * width + first_column;
#pragma unroll
  for (int n = 0; n < tiles; ++n)
#pragma unroll
    for (int share = 0; share < head_shares; ++share) {
      float sums[4] = {};
#pragma unroll
      for (int i = 0; i < Shared::share_chunks; ++i) {
        const int c = share * Shared::share_chunks + i;
        add_chunk<T>(sums, read[c], none, shared.weights[warp][n * kChunks + c][lane]);
      }
      if (g == 0) *reinterpret_cast<float2*>(to + share * width + 8 * n + 2 * t) = {sums[0], sums[1]};
    }
}

template <typename T, int head_shares, int tiles>
void launch_parts(const DecodeAttentionLinearParams& p, cudaStream_t stream) {
  using Shared = Layout<T, head_shares, tiles>;
  const dim3 grid(p.attention.H * Shared::parts, static_cast<unsigned>(p.attention.R));
  const size_t bytes = Shared::bytes(p.attention.N);
  constexpr auto kernel = decode_attention_linear_kernel<T, head_shares, tiles>;
  if (bytes > kUnasked)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  cuda::launch<DecodeAttentionLinearParams>(kernel, grid, kThreads, bytes, stream, p, p.attention.settled);
}

/// Few rows want many blocks, many rows few that read the same head.
template <typename T, int head_shares>
void launch_head(const DecodeAttentionLinearParams& p, cudaStream_t stream) {
  if (p.attention.R <= 2)
    launch_parts<T, head_shares, 2>(p, stream);
  else if (p.attention.R <= 4)
    launch_parts<T, head_shares, 4>(p, stream);
  else
    launch_parts<T, head_shares, 8>(p, stream);
}

}  // namespace

bool fits_decode_attention_linear(const DecodeAttentionLinearParams& p) {
  const auto& attention = p.attention;
  const bool heads = attention.E == kHead && (attention.H == kDecodeShares || 2 * attention.H == kDecodeShares);
  const bool aligned = reinterpret_cast<uintptr_t>(p.weight) % 16 == 0;
  bool fits = heads && aligned && attention.R > 0 && attention.R <= 65535 && launches_dependents();
  for_dtype(attention.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    fits &= sizeof(T) == 2 && reads_packed<T>(attention);
  });
  return fits;
}

void launch_decode_attention_linear(const DecodeAttentionLinearParams& p, cudaStream_t stream) {
  for_dtype(p.attention.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 2)
      p.attention.H == kDecodeShares ? launch_head<T, 1>(p, stream) : launch_head<T, 2>(p, stream);
  });
}

}  // namespace memformer::ops
