#include "engine/graph_inputs.h"

#include <cstring>
#include <map>
#include <utility>

namespace memformer::engine {
namespace {

constexpr int64_t kAlignment = 256;    // of a place in the block, as of a tensor of its own
constexpr int64_t kLarge = 1 << 16;    // numbers from which on a tensor is copied by itself
constexpr int64_t kRemembered = 4096;  // bytes of a block up to which it is compared with what it holds

int64_t bytes_of(const Input& input) {
  return input.tensor.numel() * static_cast<int64_t>(c10::elementSize(input.dtype));
}

}  // namespace

Tensors to_device(const Inputs& inputs, at::Device device) {
  Tensors result;
  for (const auto& [tensor, dtype] : inputs) result.push_back(tensor.to(device, dtype));
  return result;
}

GraphInputs::GraphInputs(const Inputs& inputs, at::Device device, const Share& share) {
  int64_t bytes = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto& input = inputs[i];
    at::Tensor buffer;
    if (input.tensor.is_cpu()) {
      from_host_.push_back({i, bytes});
      bytes += (bytes_of(input) + kAlignment - 1) / kAlignment * kAlignment;
    } else if (buffer = share(input, buffers_); !buffer.defined()) {
      buffer = at::empty(input.tensor.sizes(), at::TensorOptions(device).dtype(input.dtype));
    }
    buffers_.push_back(buffer);
  }
  if (from_host_.empty()) return;
  block_ = at::empty({bytes}, at::TensorOptions(device).dtype(at::kByte));
  if (bytes <= kRemembered) held_.assign(bytes, 0);
  for (const auto& [i, offset] : from_host_)
    buffers_[i] = block_.narrow(0, offset, bytes_of(inputs[i])).view(inputs[i].dtype).view(inputs[i].tensor.sizes());
}

bool GraphInputs::changes(const Inputs& inputs) {
  if (held_.empty()) return true;
  bool changed = !std::exchange(staged_, true);
  for (const auto& [i, offset] : from_host_) {
    const auto tensor = inputs[i].tensor.to(inputs[i].dtype).contiguous();
    if (tensor.numel() == 0 || std::memcmp(held_.data() + offset, tensor.const_data_ptr(), tensor.nbytes()) == 0)
      continue;
    std::memcpy(held_.data() + offset, tensor.const_data_ptr(), tensor.nbytes());
    changed = true;
  }
  return changed;
}

void GraphInputs::stage(const Inputs& inputs) {
  const at::NoGradGuard no_grad;
  if (block_.defined() && changes(inputs)) {
    // From LibTorch's pool of pinned memory, which gives a block out again when the transfers from it are over.
    auto staged = at::empty(block_.sizes(), at::TensorOptions(at::kCPU).dtype(at::kByte).pinned_memory(true));
    for (const auto& [i, offset] : from_host_) {
      const auto tensor = inputs[i].tensor.to(inputs[i].dtype).contiguous();
      if (tensor.numel() > 0)
        std::memcpy(staged.mutable_data_ptr<uint8_t>() + offset, tensor.const_data_ptr(), tensor.nbytes());
    }
    block_.copy_(staged, /*non_blocking=*/true);
  }
  std::map<std::pair<at::ScalarType, at::ScalarType>, std::pair<Tensors, Tensors>>
      by_dtypes;  // small ones of the same two go with one launch, which has few blocks for each
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto& [tensor, dtype] = inputs[i];
    if (tensor.is_cpu()) continue;
    if (tensor.numel() >= kLarge) {
      buffers_[i].copy_(tensor, /*non_blocking=*/true);
      continue;
    }
    auto& [targets, sources] = by_dtypes[{tensor.scalar_type(), dtype}];
    targets.push_back(buffers_[i]);
    sources.push_back(tensor);
  }
  for (auto& [dtypes, lists] : by_dtypes) at::_foreach_copy_(lists.first, lists.second, /*non_blocking=*/true);
}

}  // namespace memformer::engine
