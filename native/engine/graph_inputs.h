// What a recorded step reads: tensors at places of their own, into which each run's are copied. What comes from the
// host goes in one transfer from pinned memory: one from pageable memory would wait for all that the stream has been
// given, and there would be many.
#pragma once
#include <functional>

#include "engine/future.h"

namespace memformer::engine {

/// A tensor that a step takes, wherever it lies, and the dtype that it has in there.
struct Input {
  at::Tensor tensor;
  at::ScalarType dtype;
};
using Inputs = std::vector<Input>;

/// The tensors on `device`, in those dtypes; the same ones where they are so already.
Tensors to_device(const Inputs& inputs, at::Device device);

class GraphInputs {
 public:
  /// The place, another recording's, of an input that is on the device; undefined where there is none that `in_use`
  /// lacks.
  using Share = std::function<at::Tensor(const Input& input, const Tensors& in_use)>;

  GraphInputs() = default;
  /// Places on `device` for inputs like these.
  GraphInputs(const Inputs& inputs, at::Device device, const Share& share);

  const Tensors& buffers() const { return buffers_; }
  /// Whether another recording may read `buffer` too, which runs before or after.
  bool may_share(const at::Tensor& buffer) const { return !block_.defined() || !buffer.is_alias_of(block_); }

  /// Copies inputs, of the same shapes and dtypes and from host or device as those before, to their places, which
  /// nobody else writes to. Does not wait.
  void stage(const Inputs& inputs);

 private:
  struct FromHost {
    size_t input;
    int64_t offset;  // bytes, in the block
  };
  /// Whether what comes from the host differs from what lies there already. A step of decoding gets its rows' slots,
  /// which are mostly those of the step before.
  bool changes(const Inputs& inputs);

  Tensors buffers_;
  std::vector<FromHost> from_host_;
  at::Tensor block_;           // (bytes) uint8: the places of what comes from the host
  std::vector<uint8_t> held_;  // what the block holds, of a small one; empty: not known
  bool staged_ = false;
};

}  // namespace memformer::engine
