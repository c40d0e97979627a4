#include "engine/graph_cache.h"

#include <algorithm>
#include <sstream>

namespace memformer::engine {
namespace {

// A training run has three or four kinds of step; a service with many lengths of input must not fill the device with
// recordings.
constexpr size_t kMost = 32;

std::string full_key(const std::string& key, const Inputs& inputs) {
  std::ostringstream text;
  text << key;
  for (const auto& [tensor, dtype] : inputs)
    text << '|' << (tensor.is_cpu() ? "host " : "") << c10::toString(dtype) << tensor.sizes();
  return text.str();
}

/// In the dtypes of `as`, or their own; `copied`: none is the tensor that was given.
Tensors in_dtypes(const Tensors& tensors, const std::vector<at::ScalarType>& as, bool copied) {
  Tensors result;
  for (size_t i = 0; i < tensors.size(); ++i)
    result.push_back(tensors[i].to(i < as.size() ? as[i] : tensors[i].scalar_type(), /*non_blocking=*/false, copied));
  return result;
}

/// The same memory, which is not held on to.
at::Tensor borrowed(const at::Tensor& tensor) {
  return at::from_blob(tensor.mutable_data_ptr(), tensor.sizes(), tensor.strides(), tensor.options());
}

}  // namespace

size_t GraphCache::size() const {
  size_t count = 0;
  for (const auto& [key, entry] : entries_) count += entry.graph != nullptr;
  return count;
}

Tensors GraphCache::run(at::Device device, const std::string& key, const Inputs& inputs, const Work& work,
                        const std::vector<at::ScalarType>& as) {
  if (!enabled_ || !device.is_cuda()) return in_dtypes(work(to_device(inputs, device)), as, /*copied=*/false);
  auto& entry = entries_[full_key(key, inputs)];
  entry.used = ++clock_;
  if (entry.warm && entry.graph == nullptr && !entry.refused) {
    capture(entry, device, inputs, work);
    evict_oldest();
  }
  if (entry.graph == nullptr) {
    auto outputs = in_dtypes(work(to_device(inputs, device)), as, /*copied=*/false);
    entry.warm = true;
    return outputs;
  }
  entry.inputs.stage(inputs);
  entry.graph->launch();
  at::NoGradGuard no_grad;
  return in_dtypes(entry.outputs, as, /*copied=*/true);
}

at::Tensor GraphCache::shared_buffer(const Input& input, const Tensors& in_use) const {
  for (const auto& [key, entry] : entries_)
    for (const auto& buffer : entry.inputs.buffers())
      if (buffer.sizes() == input.tensor.sizes() && buffer.scalar_type() == input.dtype &&
          entry.inputs.may_share(buffer) && std::none_of(in_use.begin(), in_use.end(), [&](const auto& other) {
            return other.defined() && other.is_same(buffer);
          }))
        return buffer;
  return {};
}

void GraphCache::capture(Entry& entry, at::Device device, const Inputs& inputs, const Work& work) {
  cuda()->trim();  // what warming up has left in the cache is in the way of the recordings' own pool
  if (size() == 0) pool_ = cuda()->new_pool();  // a pool is gone with the last of its recordings
  entry.graph = cuda()->graph(pool_);
  try {
    entry.inputs = GraphInputs(
        inputs, device, [this](const Input& input, const Tensors& in_use) { return shared_buffer(input, in_use); });
    entry.inputs.stage(inputs);
    entry.graph->begin();
    const auto outputs = work(entry.inputs.buffers());
    entry.graph->end();
    // Copied right after a replay, on its stream, so that the other recordings of the pool may use their memory.
    for (const auto& output : outputs) entry.outputs.push_back(borrowed(output.detach()));
  } catch (const std::exception& error) {
    entry.graph->abandon();
    entry.graph.reset();
    entry.inputs = {};
    entry.outputs.clear();
    entry.refused = true;
    refusal_ = error.what();
  }
}

void GraphCache::evict_oldest() {
  while (size() > kMost) {
    auto oldest = entries_.end();
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry)
      if (entry->second.graph != nullptr && (oldest == entries_.end() || entry->second.used < oldest->second.used))
        oldest = entry;
    entries_.erase(oldest);
  }
}

}  // namespace memformer::engine
