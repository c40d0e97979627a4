#include "engine/recordings.h"

#include <sstream>

namespace memformer::engine {
namespace {

// A training run has three or four kinds of step; a service with many lengths of input must not fill the device with recordings.
constexpr size_t kMost = 32;

std::string full_key(const std::string& key, const Tensors& inputs) {
  std::ostringstream text;
  text << key;
  for (const auto& input : inputs) text << '|' << c10::toString(input.scalar_type()) << input.sizes();
  return text.str();
}

Tensors copies(const Tensors& tensors, at::Device device) {
  Tensors result;
  for (const auto& tensor : tensors) result.push_back(tensor.detach().to(tensor.options().device(device), /*non_blocking=*/false, /*copy=*/true));
  return result;
}

Tensors brought(const Tensors& tensors, at::Device device) {
  Tensors result;
  for (const auto& tensor : tensors) result.push_back(tensor.to(device));
  return result;
}

}  // namespace

size_t Recordings::size() const {
  size_t count = 0;
  for (const auto& [key, entry] : entries_) count += entry.recording != nullptr;
  return count;
}

Tensors Recordings::run(at::Device device, const std::string& key, const Tensors& inputs, const Work& work) {
  if (!enabled_ || !device.is_cuda()) return work(brought(inputs, device));
  auto& entry = entries_[full_key(key, inputs)];
  entry.used = ++clock_;
  if (entry.warm && entry.recording == nullptr && !entry.refused) {
    record(entry, device, inputs, work);
    forget_oldest();
  }
  if (entry.recording == nullptr) {
    auto outputs = work(brought(inputs, device));
    entry.warm = true;
    return outputs;
  }
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < inputs.size(); ++i) entry.inputs[i].copy_(inputs[i], /*non_blocking=*/true);
  entry.recording->replay();
  return copies(entry.outputs, device);
}

void Recordings::record(Entry& entry, at::Device device, const Tensors& inputs, const Work& work) {
  cuda()->trim();  // what warming up has left in the cache is in the way of the recordings' own pool
  if (size() == 0) pool_ = cuda()->new_pool();  // a pool is gone with the last of its recordings
  entry.recording = cuda()->recording(pool_);
  try {
    entry.inputs = copies(inputs, device);
    entry.recording->begin();
    entry.outputs = work(entry.inputs);
    for (auto& output : entry.outputs) output = output.detach();
    entry.recording->end();
  } catch (const std::exception& error) {
    entry.recording->abandon();
    entry.recording.reset();
    entry.inputs.clear();
    entry.outputs.clear();
    entry.refused = true;
    refusal_ = error.what();
  }
}

void Recordings::forget_oldest() {
  while (size() > kMost) {
    auto oldest = entries_.end();
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry)
      if (entry->second.recording != nullptr && (oldest == entries_.end() || entry->second.used < oldest->second.used)) oldest = entry;
    entries_.erase(oldest);
  }
}

}  // namespace memformer::engine
