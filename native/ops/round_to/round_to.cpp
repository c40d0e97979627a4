#include "ops/round_to/round_to.h"

#include "core/op_handle.h"
#include "core/operator.h"
#include "ops/round_to/round_to_checks.h"

namespace memformer::ops {
namespace {

using at::Tensor;

Tensor round_cpu(const Tensor& x, at::ScalarType dtype) {
  check_round_to(x, dtype);
  return x.contiguous().to(dtype).to(x.scalar_type());
}

}  // namespace

Tensor round_to(const Tensor& x, at::ScalarType dtype) {
  constexpr Registered<"memformer::round_to", decltype(round_to)> op;
  at::AutoDispatchBelowADInplaceOrView below;
  return op(x, dtype);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) { library.def("round_to(Tensor x, ScalarType dtype) -> Tensor"); }
TORCH_LIBRARY_IMPL(memformer, CPU, library) { library.impl("round_to", &round_cpu); }

}  // namespace memformer::ops
