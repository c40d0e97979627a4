#include "ops/muon/muon.h"

#include "core/gradient_sink.h"
#include "core/op_handle.h"
#include "core/parallel.h"
#include "ops/muon/muon_checks.h"

namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

constexpr int64_t kGrain = 16384;  // numbers that are worth a thread

/// visit(matrix, its two places) of every matrix of `size` numbers, in buffers of so many; other -1: the second is not
/// one.
template <typename Visit>
void each_matrix(const char* op, const Tensor& places, int64_t size, int64_t buffer, int64_t other, Visit&& visit) {
  const auto* place = places.const_data_ptr<int64_t>();
  const auto inside = [&](int64_t at, int64_t numbers) { return at >= 0 && at <= numbers - size; };
  for (int64_t i = 0; i < places.size(0); ++i)
    require(inside(place[2 * i], buffer) && (other < 0 || inside(place[2 * i + 1], other)), "CONFIG", op,
            ": a matrix of ", size, " numbers lies outside its buffer, at ", place[2 * i], " and ", place[2 * i + 1]);
  parallel_for(places.size(0), std::max<int64_t>(1, kGrain / size), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) visit(i, place[2 * i], place[2 * i + 1]);
  });
}

template <typename scalar_t>
void add_momentum(scalar_t* __restrict g, scalar_t* __restrict m, scalar_t* __restrict u, int64_t size, scalar_t scale,
                  scalar_t kept, scalar_t rest) {
#pragma omp simd
  for (int64_t k = 0; k < size; ++k) {
    const scalar_t gradient = scale * g[k], next = kept * m[k] + rest * gradient;
    m[k] = next;
    u[k] = kept * next + rest * gradient;
    g[k] = 0;
  }
}

template <typename scalar_t>
void move(scalar_t* __restrict w, const scalar_t* __restrict direction, int64_t size, scalar_t kept, scalar_t by) {
#pragma omp simd
  for (int64_t k = 0; k < size; ++k) w[k] = kept * w[k] - by * direction[k];
}

Tensor momentum_cpu(const Tensor& gradients, const Tensor& momenta, const Tensor& places, int64_t rows, int64_t columns,
                    const Tensor& norm, const Optional& grad_scale, double clip, double beta, at::ScalarType dtype) {
  check_muon_momentum(gradients, momenta, places, rows, columns, norm, dtype);
  const double length = norm.to(at::kDouble).item<double>();
  const double clipped = clip > 0 ? std::min(1.0, clip / (length + 1e-6)) : 1.0;
  const double scale = clipped / (is_defined(grad_scale) ? grad_scale->to(at::kDouble).item<double>() : 1.0);
  const int64_t size = rows * columns;
  const auto u = at::empty({places.size(0), rows, columns}, gradients.options());
  AT_DISPATCH_FLOATING_TYPES(gradients.scalar_type(), "muon_momentum", [&] {
    auto *g = gradients.mutable_data_ptr<scalar_t>(), *m = momenta.mutable_data_ptr<scalar_t>(),
         *to = u.mutable_data_ptr<scalar_t>();
    each_matrix(
        "muon_momentum", places, size, gradients.size(0), momenta.size(0), [&](int64_t i, int64_t at, int64_t m_at) {
          if (std::isfinite(length)) {
            add_momentum(g + at, m + m_at, to + i * size, size, scalar_t(scale), scalar_t(beta), scalar_t(1.0 - beta));
          } else {
            std::fill_n(g + at, size, scalar_t(0));
            std::fill_n(to + i * size, size, scalar_t(0));
          }
        });
  });
  return u.to(dtype);
}

void step_cpu(const Tensor& values, const Tensor& places, const Tensor& directions_in, const Tensor& norms_in,
              double kept, double by) {
  check_muon_step(values, places, directions_in, norms_in);
  const auto directions = directions_in.to(values.scalar_type()).contiguous(),
             norms = norms_in.to(at::kDouble).contiguous();
  const auto* norm = norms.const_data_ptr<double>();
  const int64_t size = directions.size(1) * directions.size(2);
  AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "muon_step", [&] {
    const auto* direction = directions.const_data_ptr<scalar_t>();
    auto* w = values.mutable_data_ptr<scalar_t>();
    each_matrix("muon_step", places, size, values.size(0), -1, [&](int64_t i, int64_t at, int64_t) {
      if (norm[i] > 0) move(w + at, direction + i * size, size, scalar_t(kept), scalar_t(by));
    });
  });
}

}  // namespace

Tensor muon_momentum(const Tensor& gradients, const Tensor& momenta, const Tensor& places, int64_t rows,
                     int64_t columns, const Tensor& norm, const Optional& grad_scale, double clip, double beta,
                     at::ScalarType dtype) {
  constexpr Registered<"memformer::muon_momentum", decltype(muon_momentum)> op;
  at::AutoDispatchBelowADInplaceOrView below;
  return op(gradients, momenta, places, rows, columns, norm, grad_scale, clip, beta, dtype);
}

void muon_step(const Tensor& values, const Tensor& places, const Tensor& directions, const Tensor& norms, double kept,
               double size) {
  constexpr Registered<"memformer::muon_step", decltype(muon_step)> op;
  at::AutoDispatchBelowADInplaceOrView below;
  op(values, places, directions, norms, kept, size);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "muon_momentum(Tensor(a!) gradients, Tensor(b!) momenta, Tensor places, int rows, int columns, Tensor norm, "
      "Tensor? grad_scale, float clip, float beta, ScalarType dtype) -> Tensor");
  library.def(
      "muon_step(Tensor(a!) values, Tensor places, Tensor directions, Tensor norms, float kept, float size) -> ()");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) {
  library.impl("muon_momentum", &momentum_cpu);
  library.impl("muon_step", &step_cpu);
}

}  // namespace memformer::ops
