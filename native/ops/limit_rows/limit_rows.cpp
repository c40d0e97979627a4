#include "ops/limit_rows/limit_rows.h"

#include "core/op_handle.h"
#include "core/operator.h"
#include "ops/limit_rows/limit_rows_checks.h"

namespace memformer::ops {
namespace {

using at::Tensor;

Tensor limit_cpu(const Tensor& x, double decay, double limit) {
  check_limit_rows(x, decay, limit);
  if (x.numel() == 0) return x.contiguous();
  const auto norms = at::linalg_vector_norm(x.reshape({x.size(0), -1}), 2, at::IntArrayRef{1}, false,
                                            accumulate_type(x.scalar_type()));
  const auto factors = (norms.mean() * limit / norms.clamp_min(1e-30)).clamp_max(1.0) * decay;
  auto shape = std::vector<int64_t>(static_cast<size_t>(x.dim()), 1);
  shape[0] = x.size(0);
  return (x * factors.view(shape)).to(x.scalar_type()).contiguous();
}

}  // namespace

Tensor limit_rows(const Tensor& x, double decay, double limit) {
  constexpr Registered<"memformer::limit_rows", decltype(limit_rows)> op;
  at::AutoDispatchBelowADInplaceOrView below;
  return op(x, decay, limit);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) { library.def("limit_rows(Tensor x, float decay, float limit) -> Tensor"); }
TORCH_LIBRARY_IMPL(memformer, CPU, library) { library.impl("limit_rows", &limit_cpu); }

}  // namespace memformer::ops
