#include "ops/feed_forward/feed_forward.cuh"

#include <algorithm>

#include "core/cuda/tensor_map.cuh"
#include "ops/feed_forward/panel_results.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

/// Block (share, panel).
template <typename T, bool backward>
__global__ void __launch_bounds__(Panel::kThreads, 1)
    feed_forward_kernel(const __grid_constant__ Maps maps, const FeedForwardParams p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) char shared[];
  auto& memory = *reinterpret_cast<PanelMemory*>(shared);
  const PanelWork work(p.N, p.D);
  const int warp = __shfl_sync(kAllLanes, threadIdx.x / kWarp, 0), lane = threadIdx.x % kWarp;
  if (threadIdx.x == 0) init_barriers(memory);
  for (int i = threadIdx.x; i < Panel::kColumns; i += Panel::kThreads)
    memory.bias[i] = work.column() + i < p.F ? widen(static_cast<const T*>(p.bias)[work.column() + i]) : 0.0f;
  __syncthreads();
  if (warp < 4) {
    give_registers<40>();
    if (lane == 0) {
      if (warp == 0)
        load_operands<backward>(memory, maps.a, maps.b, work);
      else if (warp <= Panel::kWorkers && backward)
        load_and_store(memory, maps, work, warp - 1);
      else if (warp <= Panel::kWorkers)
        store_results(memory, maps, work, warp - 1, p.pre != nullptr);
    }
  } else {
    take_registers<232>();
    const int worker = warp / 4 - 1;
    const PieceLane place;
    Buffers buffers{memory, worker};
    float sums[2][64], totals[2][16] = {};
    for (int tile = worker; tile < work.tiles; tile += Panel::kWorkers) {
      multiply<T, backward>(memory, work, worker, tile, sums);
      if constexpr (backward)
        send_back<T>(memory, place, buffers, sums, totals);
      else
        activate<T>(memory, place, buffers, sums, p.pre != nullptr);
    }
    if constexpr (backward) store_totals(memory, work, totals, p);
  }
#else
  asm volatile("trap;");  // nobody else launches it
#endif
}

int multiprocessors() {
  int device = 0, count = 0;
  const bool known = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess;
  return known ? count : 1;
}

int panels(int64_t F) { return static_cast<int>(ceil_div(F, Panel::kColumns)); }

template <typename T, bool backward>
cudaError_t launch(const Maps& maps, const FeedForwardParams& p, cudaStream_t stream) {
  const auto kernel = &feed_forward_kernel<T, backward>;
  const auto status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(PanelMemory));
  if (status != cudaSuccess) return status;
  kernel<<<dim3(p.shares, panels(p.F)), Panel::kThreads, sizeof(PanelMemory), stream>>>(maps, p);
  return cudaGetLastError();
}

template <bool backward>
cudaError_t launch(const FeedForwardParams& p, cudaStream_t stream) {
  if (p.N == 0 || p.F == 0) return cudaSuccess;
  Maps maps{};
  cudaError_t status = cudaSuccess;
  const auto make = [&](CUtensorMap& map, const void* data, int64_t rows, int64_t columns, int box_rows) {
    if (status == cudaSuccess) status = make_tensor_map(map, data, rows, columns, box_rows, p.dtype);
  };
  make(maps.a, p.x, p.N, p.D, Panel::kRows);
  if (backward)
    make(maps.b, p.weight, p.D, p.F, Panel::kSlice);
  else
    make(maps.b, p.weight, p.F, p.D, Panel::kColumns);
  if (p.pre != nullptr) make(maps.pre, p.pre, p.N, p.F, Panel::kPiece);
  make(maps.out, p.out, p.N, p.F, Panel::kPiece);
  if (status != cudaSuccess) return status;
  return p.dtype == Dtype::f16 ? launch<__half, backward>(maps, p, stream)
                               : launch<__nv_bfloat16, backward>(maps, p, stream);
}

}  // namespace

int feed_forward_shares(int64_t N, int64_t F) {
  const int64_t fit = std::max(1, multiprocessors() / std::max(1, panels(F)));
  return static_cast<int>(std::min(fit, ceil_div(N, Panel::kRows)));
}

cudaError_t launch_feed_forward_forward(const FeedForwardParams& params, cudaStream_t stream) {
  return launch<false>(params, stream);
}

cudaError_t launch_feed_forward_backward(const FeedForwardParams& params, cudaStream_t stream) {
  return launch<true>(params, stream);
}

}  // namespace memformer::ops
