// Attention and the product behind it in one kernel: a block for each row, head and part of the product's columns.
// Every part reads the head anew, from the L2 cache, so that no block waits for another. Why the bits are those of the
// parts one after the other: head_product.cuh.
#include "ops/decode_attention_linear/decode_attention_linear.cuh"
#include "core/cuda/dependent_launch.cuh"
#include "ops/decode_attention/decode_attention_head.cuh"
#include "ops/decode_attention_linear/head_product.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = kReaders, kWarps = kReaderWarps;

template <typename T, int head_shares, int tiles>
struct Layout {
  using Product = HeadProduct<T, head_shares, tiles, kWarps>;
  Product product;
  float query[kHead], scratch[read_scratch</*packed=*/true>(0, kHead)];
  alignas(16) T own_key[kHead];
  alignas(16) T own_value[kHead];
  alignas(16) T read[kHead];
};

template <typename T, int head_shares, int tiles>
__global__ void __launch_bounds__(kThreads) decode_attention_linear_kernel(const DecodeAttentionLinearParams p) {
  using Shared = Layout<T, head_shares, tiles>;
  constexpr int width = Shared::Product::width, parts = Shared::Product::parts;
  __shared__ Shared shared;
  const int h = blockIdx.x / parts, part = blockIdx.x % parts;
  const int64_t row = blockIdx.y;

  shared.product.ask(static_cast<const T*>(p.weight), h, part);
  HeadReader<T, /*packed=*/true, /*own_apart=*/true, kHead> reader(p.attention, row, h);
  wait_for_previous();
  let_next_begin();
  if (p.attention.q == nullptr) {
    const auto& append = p.attention.append;
    const auto* qkv = static_cast<const T*>(append.qkv) + (row * 3 * append.H + h) * kHead;
    turn_own_head(append, row, h, qkv, int64_t{width}, /*writes=*/part == 0, shared.query, shared.own_key,
                  shared.own_value);
    // Not from the cache: the part that writes there may come later.
    if (has_place(append, row)) reader.read_own(shared.own_key, shared.own_value);
  } else {
    const auto* q = static_cast<const T*>(p.attention.q) + row * width + h * kHead;
    if (threadIdx.x < kHead) shared.query[threadIdx.x] = convert<float>(q[threadIdx.x]);
  }
  __syncthreads();
  reader.read(p.attention, shared.query, shared.scratch, shared.read);
  arrived();
  __syncthreads();
  shared.product.multiply(shared.read, row, h, part, p.shares);
}

template <typename T, int head_shares, int tiles>
void launch_parts(const DecodeAttentionLinearParams& p, cudaStream_t stream) {
  const dim3 grid(p.attention.H * HeadProduct<T, head_shares, tiles, kWarps>::parts,
                  static_cast<unsigned>(p.attention.R));
  constexpr auto kernel = decode_attention_linear_kernel<T, head_shares, tiles>;
  cuda::launch<DecodeAttentionLinearParams>(kernel, grid, kThreads, 0, stream, p, p.attention.settled);
}

/// Few rows want many blocks, many rows few that read the same head.
template <typename T, int head_shares>
void launch_head(const DecodeAttentionLinearParams& p, cudaStream_t stream) {
  if (p.attention.R <= 4)
    launch_parts<T, head_shares, 2>(p, stream);
  else
    launch_parts<T, head_shares, 4>(p, stream);
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
