// Argument checks shared by all operators. A failure names the operator, the argument, what was expected and what came.
// Letters: B batch, T tokens of a segment.
#pragma once
#include <initializer_list>

#include "core/failure.h"
#include "core/torch.h"

namespace memformer {

/// `argument` of `op` has exactly this shape; -1 stands for any size.
inline void require_shape(const char* op, const char* argument, const at::Tensor& tensor,
                          std::initializer_list<int64_t> wanted) {
  bool same = tensor.dim() == static_cast<int64_t>(wanted.size());
  int64_t axis = 0;
  for (int64_t size : wanted) {
    if (!same) break;
    same = size == -1 || tensor.size(axis) == size;
    ++axis;
  }
  if (same) return;
  std::ostringstream shape;
  shape << "(";
  const char* comma = "";
  for (int64_t size : wanted) {
    shape << comma;
    if (size == -1)
      shape << "any";
    else
      shape << size;
    comma = ", ";
  }
  shape << ")";
  require(false, "SHAPE", op, ": ", argument, " must have shape ", shape.str(), ", got ", tensor.sizes());
}

inline void require_dtype(const char* op, const char* argument, const at::Tensor& tensor, at::ScalarType wanted) {
  require(tensor.scalar_type() == wanted, "DTYPE", op, ": ", argument, " must be ", c10::toString(wanted), ", got ",
          c10::toString(tensor.scalar_type()));
}

/// The dtypes that operators compute in: float32, float64 and bfloat16, on a GPU also float16.
inline void require_floating(const char* op, const char* argument, const at::Tensor& tensor) {
  const auto dtype = tensor.scalar_type();
  const bool half = dtype == at::kHalf && tensor.is_cuda();
  require(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || half, "DTYPE", op, ": ", argument,
          tensor.is_cuda() ? " must be float32, float64, bfloat16 or float16, got "
                           : " must be float32, float64 or bfloat16, got ",
          c10::toString(dtype));
}

inline void require_like(const char* op, const char* argument, const at::Tensor& tensor, const char* other_name,
                         const at::Tensor& other) {
  require(tensor.scalar_type() == other.scalar_type(), "DTYPE", op, ": ", argument, " must have ", other_name,
          "'s dtype ", c10::toString(other.scalar_type()), ", got ", c10::toString(tensor.scalar_type()));
  if (tensor.device() == other.device()) return;  // the sentence below is made of strings
  require(false, "DEVICE_MISMATCH", op, ": ", argument, " must be on ", other_name, "'s device ", other.device().str(),
          ", got ", tensor.device().str());
}

/// `lengths` (rows) int32 on the device of `like`: how many of each row's first tokens are real. None: all are.
inline void require_lengths(const char* op, const std::optional<at::Tensor>& lengths, int64_t rows,
                            const char* other_name, const at::Tensor& like) {
  if (!lengths.has_value() || !lengths->defined()) return;
  require_shape(op, "lengths", *lengths, {rows});
  require_dtype(op, "lengths", *lengths, at::kInt);
  require(lengths->device() == like.device(), "DEVICE_MISMATCH", op, ": lengths must be on ", other_name, "'s device ",
          like.device().str(), ", got ", lengths->device().str());
}

/// (B, T) bool, true at the first lengths_b tokens of each row.
inline at::Tensor first_tokens(const at::Tensor& lengths, int64_t T) {
  return at::arange(T, lengths.options()).unsqueeze(0) < lengths.unsqueeze(1);
}

/// The dtype of sums: float64 for float64, else float32.
inline at::ScalarType accumulate_type(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

/// Of an optimizer: numbers in a line, float32 or float64.
inline void require_flat(const char* op, const char* argument, const at::Tensor& tensor) {
  require_shape(op, argument, tensor, {-1});
  require(tensor.is_contiguous(), "SHAPE", op, ": ", argument, " must be contiguous");
  require(tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble, "DTYPE", op, ": ", argument,
          " must be float32 or float64, got ", c10::toString(tensor.scalar_type()));
}

}  // namespace memformer
