// Gradients that are sums over rows, between a kernel's partial sums and their sinks. Nothing needs them before the
// backward pass is over, so they are deferred and the sums of many operators are added by one kernel.
// Letters: N rows, D numbers of the gradient.
#pragma once
#include <initializer_list>
#include <mutex>
#include <vector>

#include "core/cuda/column_sums.cuh"
#include "core/cuda/per_stream.h"
#include "core/torch.h"

namespace memformer::cuda {

/// A parameter's gradient: added to its sink, or a tensor of its own.
class ColumnGradient {
 public:
  /// (D), for N rows; `options` have the dtype of sums. Not `wanted`: result() is empty.
  ColumnGradient(const std::optional<at::Tensor>& sink, bool wanted, int64_t N, int64_t D,
                 const at::TensorOptions& options);
  bool wanted() const { return wanted_; }
  bool to_sink() const { return to_sink_; }
  const at::Tensor& sum() const { return sum_; }
  /// The gradient in `options`' dtype; (0) where it went into a sink or was not wanted.
  at::Tensor result(const at::TensorOptions& options) const;

 private:
  at::Tensor sum_;
  bool to_sink_, wanted_;
};

/// Adds `partials` (shares, kinds, D) up over the shares, kind i into the i-th of the wanted gradients: when
/// PendingSums are flushed if all of them go into sinks, else now.
void sum_columns(const at::Tensor& partials, std::initializer_list<const ColumnGradient*> gradients);

class PendingSums {
 public:
  explicit PendingSums(c10::cuda::CUDAStream stream) : stream_(stream) {}
  void add(const at::Tensor& partials, const ColumnSums& sums);
  /// Adds up what has been put off, on its stream.
  void flush();

 private:
  void launch();

  std::mutex mutex_;
  c10::cuda::CUDAStream stream_;
  std::vector<at::Tensor> partials_;
  ColumnSumsBatch batch_{};
  int64_t bytes_ = 0;
};

}  // namespace memformer::cuda
