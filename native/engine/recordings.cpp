#include "engine/recordings.h"

#include <algorithm>
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

Tensors copies(const Tensors& tensors) {
  Tensors result;
  for (const auto& tensor : tensors) result.push_back(tensor.clone());
  return result;
}

void copy_into(const Tensors& targets, const Tensors& sources) {
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < targets.size(); ++i) targets[i].copy_(sources[i], /*non_blocking=*/true);
}

/// The same memory, which is not held on to.
at::Tensor borrowed(const at::Tensor& tensor) {
  return at::from_blob(tensor.mutable_data_ptr(), tensor.sizes(), tensor.strides(), tensor.options());
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
  copy_into(entry.inputs, inputs);
  entry.recording->replay();
  at::NoGradGuard no_grad;
  return copies(entry.outputs);
}

Tensors Recordings::places_for(const Tensors& inputs, at::Device device) const {
  Tensors places;
  const auto fits = [&](const at::Tensor& place, const at::Tensor& input) {
    return place.sizes() == input.sizes() && place.scalar_type() == input.scalar_type() &&
           std::none_of(places.begin(), places.end(), [&](const auto& taken) { return taken.is_same(place); });
  };
  for (const auto& input : inputs) {
    at::Tensor found;
    for (const auto& [key, entry] : entries_)
      for (const auto& place : entry.inputs)
        if (!found.defined() && fits(place, input)) found = place;
    places.push_back(found.defined() ? found : at::empty(input.sizes(), input.options().device(device).requires_grad(false)));
  }
  return places;
}

void Recordings::record(Entry& entry, at::Device device, const Tensors& inputs, const Work& work) {
  cuda()->trim();  // what warming up has left in the cache is in the way of the recordings' own pool
  if (size() == 0) pool_ = cuda()->new_pool();  // a pool is gone with the last of its recordings
  entry.recording = cuda()->recording(pool_);
  try {
    entry.inputs = places_for(inputs, device);
    copy_into(entry.inputs, inputs);
    entry.recording->begin();
    const auto outputs = work(entry.inputs);
    entry.recording->end();
    // Copied right after a replay, on its stream, so that the other recordings of the pool may use their memory.
    for (const auto& output : outputs) entry.outputs.push_back(borrowed(output.detach()));
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
