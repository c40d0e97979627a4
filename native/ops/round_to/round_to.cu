#include "ops/round_to/round_to.cuh"
#include "core/cuda/dependent_launch.cuh"
#include "core/cuda/numeric.cuh"

namespace memformer::ops {
namespace {

using namespace cuda;

constexpr int kThreads = 256;

template <typename T, typename Narrow, int wide>
__global__ void __launch_bounds__(kThreads) round_to_kernel(const RoundToParams p) {
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * wide;
  if (i >= p.n) return;
  wait_for_previous();
  T value[wide];
  load(static_cast<const T*>(p.x) + i, value);
#pragma unroll
  for (int k = 0; k < wide; ++k) value[k] = convert<T>(convert<Narrow>(value[k]));
  store(value, static_cast<T*>(p.y) + i);
}

}  // namespace

void launch_round_to(const RoundToParams& p, cudaStream_t stream) {
  if (p.n == 0) return;
  for_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) > 2) {
      const auto start = [&](auto narrow, auto wide) {
        cuda::launch<RoundToParams>(round_to_kernel<T, typename decltype(narrow)::type, wide.value>,
                                    static_cast<unsigned>(ceil_div(p.n, int64_t{kThreads} * wide.value)), kThreads, 0,
                                    stream, p, /*early=*/true);
      };
      const auto of = [&](auto narrow) {
        constexpr int most = 16 / sizeof(T);
        if (fits_packs<most>(static_cast<const T*>(p.x), p.n) && fits_packs<most>(static_cast<const T*>(p.y), p.n))
          start(narrow, std::integral_constant<int, most>());
        else
          start(narrow, std::integral_constant<int, 1>());
      };
      if (p.narrow == Dtype::bf16)
        of(Type<__nv_bfloat16>());
      else
        of(Type<__half>());
    }
  });
}

}  // namespace memformer::ops
