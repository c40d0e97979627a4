#include "nn/attention.h"

namespace memformer::nn {
namespace {

std::string layer_prefix(const LayerPlace& place) { return place.stack + "." + std::to_string(place.layer) + ".self_attention"; }

}  // namespace

SelfAttention::SelfAttention(Parameters& parameters, const Config& config, const LayerPlace& place, double residual_gain)
    : causal_(place.causal),
      norm_(parameters, layer_prefix(place) + ".norm", config.integer("width")),
      qkv_(parameters, layer_prefix(place) + ".qkv", config.integer("width"), 3 * config.integer("width")),
      out_(parameters, layer_prefix(place) + ".out", config.integer("width"), config.integer("width"), residual_gain),
      attention_(position_schemes().make(config.text("position"), parameters, config, place)) {}

at::Tensor SelfAttention::operator()(const at::Tensor& x, const KeyMask& mask, Pass& pass) const {
  return x + pass.dropout(out_((*attention_)(qkv_(norm_(x), pass), mask, causal_, pass), pass));
}

CrossAttention::CrossAttention(Parameters& parameters, const Config& config, const std::string& prefix, Context context, double residual_gain)
    : heads_(config.integer("heads")),
      norm_(parameters, prefix + ".norm", config.integer("width")),
      memory_norm_(context == Context::memory ? std::optional<LayerNorm>(LayerNorm(parameters, prefix + ".memory_norm", config.integer("width")))
                                              : std::nullopt),
      query_(parameters, prefix + ".query", config.integer("width"), config.integer("width")),
      key_value_(parameters, prefix + ".key_value", config.integer("width"), 2 * config.integer("width")),
      out_(parameters, prefix + ".out", config.integer("width"), config.integer("width"), residual_gain) {}

at::Tensor CrossAttention::operator()(const at::Tensor& x, const at::Tensor& context, const KeyMask& mask, Pass& pass) const {
  const int64_t B = x.size(0), T = x.size(1), N = context.size(1), H = heads_, E = x.size(2) / H;
  const auto q = query_(norm_(x), pass).view({B, T, H, E}).transpose(1, 2);                                   // (B, H, T, E)
  const auto kv = key_value_(memory_norm_ ? (*memory_norm_)(context) : context, pass).view({B, N, 2, H, E});  // K, V
  const auto k = kv.select(2, 0).transpose(1, 2), v = kv.select(2, 1).transpose(1, 2);                        // (B, H, N, E)
  return x + pass.dropout(out_(attend(q, k, v, mask, /*causal=*/false), pass));
}

}  // namespace memformer::nn
