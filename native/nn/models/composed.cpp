// The engine's side of a model whose steps JavaScript composes of operators: its parameters, and nothing else.
#include "nn/models/model.h"

namespace memformer::nn {
namespace {

class Composed final : public Model {
 public:
  using Model::Model;

  StateLayout state_layout() const override { return {}; }
  State initial_state(int64_t) const override { throw no_step(); }
  at::Tensor logits(const SegmentInput&, const at::Tensor&, const State&) const override { throw no_step(); }

 private:
  Encoding encode(const SegmentInput&, const State&, ForwardContext&) const override { throw no_step(); }
  at::Tensor decode(const SegmentInput&, const at::Tensor&, ForwardContext&) const override { throw no_step(); }

  static Failure no_step() { return {"NATIVE", "the steps of a composed model are JavaScript's"}; }
};

}  // namespace

const bool composed_registered = models().add(
    "composed", [](const Config& config, uint64_t seed) { return std::make_unique<Composed>(config, seed); });

}  // namespace memformer::nn
