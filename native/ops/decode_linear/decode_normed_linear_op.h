// decode_normed_linear by name, for operators whose parts it is: its function may be in the other shared object.
#pragma once
#include "core/op_handle.h"

namespace memformer::ops {

inline constexpr Registered<"memformer::decode_normed_linear",
                            std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, const std::optional<at::Tensor>&,
                                                               const std::optional<at::Tensor>&, const at::Tensor&,
                                                               const at::Tensor&, const at::Tensor&,
                                                               const std::optional<at::Tensor>&, bool, bool)>
    decode_normed_linear_op;

}  // namespace memformer::ops
