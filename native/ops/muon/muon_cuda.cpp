#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/cuda/dtype_of.h"
#include "core/gradient_sink.h"
#include "core/torch.h"
#include "ops/muon/muon.cuh"
#include "ops/muon/muon_checks.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

constexpr int64_t kMostMatrices = 65535;  // of a grid along y

void require_few(const char* op, const Tensor& places) {
  require(places.size(0) <= kMostMatrices, "CONFIG", op, ": at most ", kMostMatrices, " matrices, got ",
          places.size(0));
}

Tensor momentum_cuda(const Tensor& gradients, const Tensor& momenta, const Tensor& places, int64_t rows,
                     int64_t columns, const Tensor& norm_in, const Optional& grad_scale_in, double clip, double beta,
                     at::ScalarType dtype) {
  check_muon_momentum(gradients, momenta, places, rows, columns, norm_in, dtype);
  require_few("muon_momentum", places);
  const c10::cuda::CUDAGuard device(gradients.device());
  const auto norm = norm_in.to(gradients.scalar_type());
  const auto grad_scale = is_defined(grad_scale_in) ? grad_scale_in->to(gradients.scalar_type()) : Tensor();
  const auto u = at::empty({places.size(0), rows, columns}, gradients.options().dtype(dtype));
  MuonMomentumParams p{};
  p.gradients = gradients.mutable_data_ptr();
  p.momenta = momenta.mutable_data_ptr();
  p.places = places.const_data_ptr<int64_t>();
  p.norm = norm.const_data_ptr();
  p.grad_scale = grad_scale.defined() ? grad_scale.const_data_ptr() : nullptr;
  p.u = u.mutable_data_ptr();
  p.n = places.size(0), p.size = rows * columns;
  p.N = gradients.size(0), p.M = momenta.size(0);
  p.clip = clip, p.beta = beta;
  p.dtype = cuda::dtype_of(gradients);
  p.u_dtype = cuda::dtype_of(u);
  launch_muon_momentum(p, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return u;
}

void step_cuda(const Tensor& values, const Tensor& places, const Tensor& directions_in, const Tensor& norms_in,
               double kept, double size) {
  check_muon_step(values, places, directions_in, norms_in);
  require_few("muon_step", places);
  const c10::cuda::CUDAGuard device(values.device());
  const auto directions = directions_in.contiguous(), norms = norms_in.to(values.scalar_type()).contiguous();
  MuonStepParams p{};
  p.values = values.mutable_data_ptr();
  p.places = places.const_data_ptr<int64_t>();
  p.directions = directions.const_data_ptr();
  p.norms = norms.const_data_ptr();
  p.n = places.size(0), p.size = directions.size(1) * directions.size(2);
  p.N = values.size(0);
  p.kept = kept, p.by = size;
  p.dtype = cuda::dtype_of(values);
  p.direction_dtype = cuda::dtype_of(directions);
  launch_muon_step(p, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("muon_momentum", &momentum_cuda);
  library.impl("muon_step", &step_cuda);
}

}  // namespace memformer::ops
