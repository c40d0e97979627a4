// The gradients of a model that several ranks train, each on its rows: their sum over the ranks.
// Letters: K numbers that go along.
#pragma once
#include "distributed/group.h"
#include "engine/future.h"
#include "nn/parameters.h"

namespace memformer::engine {

struct Reduced {
  at::Tensor extras;  ///< (K) summed
  at::Tensor norm;    ///< () L2, of all summed gradients
};

/// Replaces the gradients of these parameters, on every rank, by their sums over the ranks: one collective a model,
/// where they lie. extras (K): numbers to be summed along, in one more.
Reduced reduce_gradients(distributed::Group& group, const std::vector<const nn::Parameters*>& models,
                         const at::Tensor& extras);

/// (total, ...) of every rank's rows (rows, ...), this rank's being those from `first` on. Any dtype, to the bit.
at::Tensor gather_rows(distributed::Group& group, const at::Tensor& rows, int64_t first, int64_t total);

}  // namespace memformer::engine
