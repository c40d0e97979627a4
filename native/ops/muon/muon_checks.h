// Checks of the arguments of muon_momentum and muon_step, on every device.
#pragma once
#include "core/tensor_checks.h"

namespace memformer::ops {

inline void check_muon_places(const char* op, const at::Tensor& places, const char* buffer, const at::Tensor& like) {
  require_shape(op, "places", places, {-1, 2});
  require_dtype(op, "places", places, at::kLong);
  require(places.is_contiguous(), "SHAPE", op, ": places must be contiguous");
  require(places.device() == like.device(), "DEVICE_MISMATCH", op, ": places must be on ", buffer, "'s device ",
          like.device().str(), ", got ", places.device().str());
}

inline void check_muon_momentum(const at::Tensor& gradients, const at::Tensor& momenta, const at::Tensor& places,
                                int64_t rows, int64_t columns, const at::Tensor& norm, at::ScalarType dtype) {
  constexpr const char* op = "muon_momentum";
  require_flat(op, "gradients", gradients);
  require_flat(op, "momenta", momenta);
  require_like(op, "momenta", momenta, "gradients", gradients);
  check_muon_places(op, places, "gradients", gradients);
  require(rows > 0 && columns > 0, "CONFIG", op, ": a matrix has at least a row and a column, got ", rows, " and ",
          columns);
  require_shape(op, "norm", norm, {});
  require(norm.device() == gradients.device(), "DEVICE_MISMATCH", op, ": norm must be on gradients's device ",
          gradients.device().str(), ", got ", norm.device().str());
  require(at::isFloatingType(dtype), "DTYPE", op, ": the result is of a floating dtype, got ", c10::toString(dtype));
}

inline void check_muon_step(const at::Tensor& values, const at::Tensor& places, const at::Tensor& directions,
                            const at::Tensor& norms) {
  constexpr const char* op = "muon_step";
  require_flat(op, "values", values);
  check_muon_places(op, places, "values", values);
  require_shape(op, "directions", directions, {places.size(0), -1, -1});
  require(directions.is_floating_point(), "DTYPE", op, ": directions must be of a floating dtype, got ",
          c10::toString(directions.scalar_type()));
  require_shape(op, "norms", norms, {places.size(0)});
  require(directions.device() == values.device() && norms.device() == values.device(), "DEVICE_MISMATCH", op,
          ": directions and norms must be on values's device ", values.device().str(), ", got ",
          directions.device().str(), " and ", norms.device().str());
}

}  // namespace memformer::ops
