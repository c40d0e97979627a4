// A model's steps as memory replay back-propagation takes them, recorded where there is a GPU.
// Letters: G segments of a step.
#pragma once
#include "engine/graph_cache.h"
#include "nn/models/model.h"

namespace memformer::engine {

/// Its tensors as a model takes them; they may lie anywhere, and be of any integer dtype.
nn::SegmentInput on_device(const nn::SegmentInput& segment, at::Device device);

/// Segments may be as on_device() takes them.
class Steps {
 public:
  explicit Steps(std::shared_ptr<nn::Model> model);

  /// The critical path of G consecutive segments, without gradient: the state after the last. A part that is kept in
  /// two bytes where the layout has four may be given so; then it is rounded so after every segment, and comes so.
  nn::State advance(const std::vector<nn::SegmentInput>& segments, const nn::State& state);

  struct Replayed {
    at::Tensor loss, count;  ///< (G) each
    nn::State state;     ///< after the window's last segment; empty unless `last`, for then it has been known before
    nn::State gradient;  ///< dL/dstate of the differentiable parts
  };
  /// G consecutive segments with gradient from `state` as a leaf, and back at once: adds the parameters' gradients of
  /// sum over g of weights_g loss_g + <gradient, last state>. weights (G). `last`: no later loss follows, and gradient
  /// is empty; else it holds dL/dstate of the differentiable parts, whose number may be 0. Throws SHAPE otherwise.
  Replayed replay(const std::vector<nn::SegmentInput>& segments, const nn::State& state, const at::Tensor& weights,
                  const nn::State& gradient, bool last);

  /// Losses of G consecutive segments with the memory and with each ablation of it; see nn::Model::score. held: the
  /// state's parts and the flags; empty before the first segment. On a CPU `between` is called between the parts of the
  /// work, and may throw.
  nn::Scores score(const std::vector<nn::SegmentInput>& segments, const nn::State& state, const Tensors& held,
                   const std::vector<std::string>& ablations, const std::function<void()>& between);

  const nn::StateLayout& layout() const { return layout_; }
  GraphCache& graphs() { return graphs_; }

 private:
  Tensors run(const std::string& key, const Inputs& inputs, const GraphCache::Work& work,
              const std::vector<at::ScalarType>& as = {});

  std::shared_ptr<nn::Model> model_;
  nn::StateLayout layout_;
  GraphCache graphs_;
};

}  // namespace memformer::engine
