// Steps recorded once and replayed with one launch: at the length of a segment a GPU is through with a kernel before
// the next one has been started, so starting them one by one costs more than they do.
#pragma once
#include <functional>
#include <map>

#include "core/cuda.h"
#include "engine/graph_inputs.h"

namespace memformer::engine {

class GraphCache {
 public:
  using Work = std::function<Tensors(const Tensors&)>;

  /// Runs `work` on the inputs, brought to `device` and their dtypes. On a GPU the first call of a key, with inputs of
  /// these shapes, runs as it is, which also warms up whatever is made lazily; the second is recorded; it and all later
  /// ones replay the recording on copies of the inputs and return copies of the outputs. What `work` does beyond its
  /// outputs (add to gradients) must happen on the device alone. Where recording fails it goes on as without, see
  /// refusal(). `as`: the dtypes that the outputs come in; none: those they are made in.
  Tensors run(at::Device device, const std::string& key, const Inputs& inputs, const Work& work,
              const std::vector<at::ScalarType>& as = {});

  /// Drops all recordings and their memory.
  void clear() { entries_.clear(); }
  size_t size() const;
  /// Why a step could not be recorded, empty when none failed.
  const std::string& refusal() const { return refusal_; }
  void enable(bool enabled) { enabled_ = enabled; }
  bool enabled() const { return enabled_; }

 private:
  struct Entry {
    bool warm = false, refused = false;
    std::unique_ptr<Graph> graph;
    GraphInputs inputs;
    Tensors outputs;  // what it writes, in the pool's memory
    int64_t used = 0;
  };
  void capture(Entry& entry, at::Device device, const Inputs& inputs, const Work& work);
  /// Entries share places of a shape and dtype, for they run one after the other.
  at::Tensor shared_buffer(const Input& input, const Tensors& in_use) const;
  void evict_oldest();

  std::map<std::string, Entry> entries_;
  GraphPool pool_;
  std::string refusal_;
  int64_t clock_ = 0;
  bool enabled_ = true;
};

}  // namespace memformer::engine
