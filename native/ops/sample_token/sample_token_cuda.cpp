#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <limits>

#include "core/cuda/dtype_of.h"
#include "core/op_handle.h"
#include "core/torch.h"
#include "ops/sample_token/sample_token.cuh"
#include "ops/sample_token/sample_token.h"
#include "ops/sample_token/sample_token_checks.h"

namespace memformer::ops {
namespace {

using at::Tensor;

/// What a block's shared memory does not hold, and float64: by ATen's operators, which cumulate in an order of their
/// own; where the same bits are asked for each time, the CPU draws.
Tensor drawn_elsewhere(const Tensor& logits, const Tensor& draws, double temperature, int64_t top_k, double top_p,
                       int64_t tokens, int64_t also) {
  constexpr Registered<"memformer::sample_token", decltype(sample_token)> op;
  constexpr Registered<"memformer::sample_token_composed", decltype(sample_token)> composed;
  if (!at::globalContext().deterministicAlgorithms())
    return composed(logits, draws, temperature, top_k, top_p, tokens, also);
  return op(logits.cpu(), draws.cpu(), temperature, top_k, top_p, tokens, also).to(logits.device());
}

Tensor on_cuda(const Tensor& logits_in, const Tensor& draws, double temperature, int64_t top_k, double top_p,
               int64_t tokens, int64_t also) {
  check_sample_token(logits_in, draws, temperature, top_k, top_p);
  const int64_t B = logits_in.size(0), V = logits_in.size(1);
  if (logits_in.scalar_type() == at::kDouble || V > kMostSampled || V == 0)
    return drawn_elsewhere(logits_in, draws, temperature, top_k, top_p, tokens, also);
  const c10::cuda::CUDAGuard device(logits_in.device());
  const auto logits = logits_in.contiguous(), points = draws.to(logits.device()).contiguous();
  const auto drawn = at::empty({B}, logits.options().dtype(at::kLong));
  const auto small = [](int64_t value) {
    return static_cast<int>(std::clamp<int64_t>(value, -1, std::numeric_limits<int>::max()));
  };
  launch_sample_token(
      {logits.const_data_ptr(), points.const_data_ptr<double>(), drawn.mutable_data_ptr<int64_t>(), B,
       static_cast<int>(V), small(tokens), small(also), small(top_k), temperature, top_p, cuda::dtype_of(logits)},
      c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return drawn;
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) { library.impl("sample_token", &on_cuda); }

}  // namespace memformer::ops
