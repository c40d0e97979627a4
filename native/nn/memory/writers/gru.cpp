// The writer of lucidrains' port: slot attention with projected values, a GRU cell between what was read and the slot,
// and a feed-forward on top.
//   w = W_O slot_attention(u, u W_V, x)        m' = GRU(input w, hidden m)        m'' = m' + FF(LN m')
#include "nn/memory/writers/slot_projection.h"
#include "nn/memory/writers/writer.h"

namespace memformer::nn {
namespace {

class GruWriter final : public Writer {
 public:
  GruWriter(Parameters& parameters, const Config& config)
      : width_(config.integer("width")),
        projection_(parameters, config, config.number("writerValueGain"), /*own_values=*/true),
        out_(parameters, "writer.out", width_, width_),
        weight_ih_(gate(parameters, "weight_ih")),
        weight_hh_(gate(parameters, "weight_hh")),
        bias_ih_(parameters.constant("writer.gru.bias_ih", {3 * width_}, 0.0)),
        bias_hh_(parameters.constant("writer.gru.bias_hh", {3 * width_}, 0.0)),
        feed_forward_(parameters, "writer.feed_forward", width_, config.integer("feedForward"), 1.0) {}

  at::Tensor operator()(const MemoryView& view, const at::Tensor& x, const KeyMask& mask,
                        ForwardContext& ctx) const override {
    const auto& memory = view.raw;
    const auto own = projection_.own_value(view, ctx).to(memory.scalar_type());
    const auto read = out_(projection_.attend(view, own, x, mask, ctx), ctx).to(memory.scalar_type());
    const auto written = at::gru_cell(read.reshape({-1, width_}), memory.reshape({-1, width_}), weight_ih_, weight_hh_,
                                      bias_ih_, bias_hh_);
    auto exact = ctx.exact();
    const auto next = written.view_as(memory);
    return next + feed_forward_(next, exact);
  }
  void prepare(MemoryView& view, ForwardContext& ctx) const override { projection_.prepare(view, ctx); }

 private:
  at::Tensor gate(Parameters& parameters, const std::string& name) const {
    return parameters.normal("writer.gru." + name, {3 * width_, width_},
                             1.0 / std::sqrt(3.0 * static_cast<double>(width_)), Parameters::Decay::yes,
                             /*matrices=*/3);
  }

  int64_t width_;
  SlotProjection projection_;
  Linear out_;
  at::Tensor weight_ih_, weight_hh_, bias_ih_, bias_hh_;  // (3 D, D), (3 D): reset, update, new
  FeedForward feed_forward_;
};

}  // namespace

const bool gru_registered = writers().add("gru", [](Parameters& parameters, const Config& config) {
  return std::make_unique<GruWriter>(parameters, config);
});

}  // namespace memformer::nn
