// The paper's writer: slot attention with the raw slot as its own value and no output projection, so that a slot which
// attends to itself alone is left exactly as it was.
//   a_i = softmax([ q_i.k_i , q_i K_x^T ] / (sqrt(E) tau))        m'_i = a_i0 m_i + a_i1.. V_x
#include "nn/memory/writers/slot_projection.h"
#include "nn/memory/writers/writer.h"

namespace memformer::nn {
namespace {

class SlotAttentionWriter final : public Writer {
 public:
  // Tokens have norm sqrt(D), slots norm 1: W_V starts so that both weigh the same in the sum.
  SlotAttentionWriter(Parameters& parameters, const Config& config)
      : projection_(parameters, config, config.number("writerValueGain") / std::sqrt(config.number("width")),
                    /*own_values=*/false) {}

  at::Tensor operator()(const MemoryView& view, const at::Tensor& x, const KeyMask& mask,
                        ForwardContext& ctx) const override {
    return projection_.attend(view, view.raw, x, mask, ctx);
  }
  void prepare(MemoryView& view, ForwardContext& ctx) const override { projection_.prepare(view, ctx); }
  bool keeps_rows_without_tokens() const override { return true; }

 private:
  SlotProjection projection_;
};

}  // namespace

Registry<std::unique_ptr<Writer>, Parameters&, const Config&>& writers() {
  static Registry<std::unique_ptr<Writer>, Parameters&, const Config&> registry("writer");
  return registry;
}

const bool slot_attention_registered =
    writers().add("slot-attention", [](Parameters& parameters, const Config& config) {
      return std::make_unique<SlotAttentionWriter>(parameters, config);
    });

}  // namespace memformer::nn
