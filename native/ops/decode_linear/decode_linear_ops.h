// decode_linear and decode_normed_linear by name, for operators whose parts they are: their functions may be in the
// other shared object.
#pragma once
#include "core/op_handle.h"

namespace memformer::ops {

inline constexpr Registered<"memformer::decode_linear",
                            at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, bool,
                                       bool, std::optional<at::ScalarType>)>
    decode_linear_op;

inline constexpr Registered<"memformer::decode_normed_linear",
                            std::tuple<at::Tensor, at::Tensor>(
                                const at::Tensor&, const std::optional<at::Tensor>&, const std::optional<at::Tensor>&,
                                const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                const std::optional<at::Tensor>&, bool, bool, std::optional<at::ScalarType>)>
    decode_normed_linear_op;

}  // namespace memformer::ops
