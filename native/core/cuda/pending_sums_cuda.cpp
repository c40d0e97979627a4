#include "core/cuda/pending_sums.h"

#include <c10/cuda/CUDAException.h>

#include "core/gradient_sink.h"

namespace memformer::cuda {
namespace {

// More are not worth the memory, and the partial sums of these are still in the L2 cache of an H100.
constexpr int64_t kMostBytes = 24 << 20;

bool same_sink(const ColumnSums& a, const ColumnSums& b) {
  for (int i = 0; i < a.kinds; ++i)
    for (int j = 0; j < b.kinds; ++j)
      if (a.sums[i] == b.sums[j]) return true;
  return false;
}

}  // namespace

ColumnGradient::ColumnGradient(const std::optional<at::Tensor>& sink, bool wanted, int64_t N, int64_t D,
                               const at::TensorOptions& options)
    : to_sink_(wanted && is_defined(sink)), wanted_(wanted) {
  if (to_sink_)
    sum_ = *sink;
  else if (wanted)
    sum_ = N > 0 ? at::empty({D}, options) : at::zeros({D}, options);
}

at::Tensor ColumnGradient::result(const at::TensorOptions& options) const {
  return wanted_ && !to_sink_ ? sum_.to(options.dtype()) : at::empty({0}, options);
}

void sum_columns(const at::Tensor& partials, std::initializer_list<const ColumnGradient*> gradients) {
  ColumnSums sums{};
  sums.partials = partials.const_data_ptr();
  sums.shares = static_cast<int>(partials.size(0));
  sums.width = static_cast<int>(partials.size(2));
  bool later = true;
  for (const auto* gradient : gradients) {
    if (!gradient->wanted()) continue;
    sums.sums[sums.kinds] = gradient->sum().mutable_data_ptr();
    sums.add[sums.kinds++] = gradient->to_sink();
    later = later && gradient->to_sink();
  }
  if (later) return beside_current_stream<PendingSums>().add(partials, sums);
  ColumnSumsBatch batch{};
  batch.of[0] = sums;
  batch.count = 1;
  batch.is_double = partials.scalar_type() == at::kDouble;
  launch_column_sums(batch, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void PendingSums::add(const at::Tensor& partials, const ColumnSums& sums) {
  std::lock_guard lock(mutex_);
  const bool is_double = partials.scalar_type() == at::kDouble;
  // One launch adds to a sink once: the order of its sums is fixed.
  bool fits = batch_.count < ColumnSumsBatch::kMost && is_double == batch_.is_double;
  for (int i = 0; i < batch_.count; ++i) fits = fits && !same_sink(batch_.of[i], sums);
  if (batch_.count > 0 && !fits) launch();
  batch_.is_double = is_double;
  batch_.of[batch_.count++] = sums;
  partials_.push_back(partials);
  bytes_ += static_cast<int64_t>(partials.nbytes());
  if (bytes_ >= kMostBytes) launch();
}

void PendingSums::flush() {
  std::lock_guard lock(mutex_);
  if (batch_.count > 0) launch();
}

void PendingSums::launch() {
  const auto batch = batch_;
  const auto partials = std::move(partials_);  // let go when the kernel is enqueued, or has failed
  batch_.count = 0;
  partials_.clear();
  bytes_ = 0;
  launch_column_sums(batch, stream_);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace memformer::cuda
