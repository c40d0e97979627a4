#include "core/cuda/column_sums.cuh"
#include "core/cuda/numeric.cuh"

namespace memformer::cuda {
namespace {

constexpr int kSumRows = 16;

/// Block (x, y): 32 columns of operator y; row j of the block takes every kSumRows-th share.
template <typename acc_t>
__global__ void __launch_bounds__(kWarp* kSumRows) column_sums_kernel(const __grid_constant__ ColumnSumsBatch batch) {
  __shared__ acc_t sums[kSumRows][kWarp];
  const ColumnSums& p = batch.of[blockIdx.y];
  const int columns = p.kinds * p.width, column = blockIdx.x * kWarp + threadIdx.x;
  if (blockIdx.x * kWarp >= columns) return;
  acc_t sum = 0;
  if (column < columns) {
    const auto* partials = static_cast<const acc_t*>(p.partials) + column;
#pragma unroll 8
    for (int64_t share = threadIdx.y; share < p.shares; share += kSumRows) sum += partials[share * columns];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
#pragma unroll
  for (int row = 1; row < kSumRows; ++row) sum += sums[row][threadIdx.x];
#pragma unroll
  for (int kind = 0; kind < ColumnSums::kMostKinds; ++kind) {
    const int within = column - kind * p.width;
    if (within < 0 || within >= p.width) continue;
    auto* to = static_cast<acc_t*>(p.sums[kind]) + within;
    *to = p.add[kind] ? *to + sum : sum;
  }
}

}  // namespace

void launch_column_sums(const ColumnSumsBatch& batch, cudaStream_t stream) {
  int columns = 0;
  for (int i = 0; i < batch.count; ++i) columns = std::max(columns, batch.of[i].kinds * batch.of[i].width);
  if (columns == 0) return;
  const dim3 grid((columns + kWarp - 1) / kWarp, batch.count), block(kWarp, kSumRows);
  if (batch.is_double)
    column_sums_kernel<double><<<grid, block, 0, stream>>>(batch);
  else
    column_sums_kernel<float><<<grid, block, 0, stream>>>(batch);
}

}  // namespace memformer::cuda
