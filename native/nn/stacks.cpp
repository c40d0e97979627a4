#include "nn/stacks.h"

#include "nn/side_by_side.h"

namespace memformer::nn {

double residual_gain(const Config& config, const std::string& start, int64_t layers, int64_t branches) {
  require(start == "scaled" || start == "balanced" || start == "zero", "CONFIG", "there is no residual start '", start,
          "'; known: scaled, balanced, zero");
  const double token = config.flag("embeddingNorm") ? 1.0 : config.number("embeddingDeviation");
  const double sum = start == "scaled" ? 1.0 : start == "balanced" ? token : 0.0;
  return sum / std::sqrt(static_cast<double>(branches * layers));
}

double read_gain(const Config& config, int64_t layers) {
  const auto& start = config.text("readStart");
  return residual_gain(config, start == "same" ? config.text("residualStart") : start, layers);
}

namespace {

/// Notes the stream after a layer, its last branch added: `name`.stream (B, T, D).
void note(const Residual& stream, const std::string& name, const ForwardContext& ctx) {
  if (ctx.observation() == nullptr || !ctx.observation()->wants(name + ".stream")) return;
  auto sum = stream.x;
  if (stream.branch) sum = sum + stream.branch->product.to(sum.scalar_type());
  if (const auto bias = stream.branch ? stream.branch->bias.value : at::Tensor(); bias.defined())
    sum = sum + bias.to(sum.scalar_type());
  ctx.observation()->add(name + ".stream", sum);
}

}  // namespace

MemoryStack::MemoryStack(Parameters& parameters, const Config& config, const std::string& name, int64_t layers,
                         bool causal)
    : name_(name),
      layers_([&] {
        std::vector<Layer> made;
        const double gain = residual_gain(config, config.text("residualStart"), layers),
                     of_reads = read_gain(config, layers);
        for (int64_t i = 0; i < layers; ++i) {
          const auto prefix = name + "." + std::to_string(i);
          made.push_back(
              {SelfAttention(parameters, config, {name, i, causal}, gain),
               CrossAttention(parameters, config, prefix + ".memory_read", CrossAttention::Context::memory, of_reads),
               FeedForward(parameters, prefix + ".feed_forward", config.integer("width"), config.integer("feedForward"),
                           gain)});
        }
        return made;
      }()),
      norm_(parameters, name + ".norm", config.integer("width")) {}

std::vector<CrossAttention::KeysValues> MemoryStack::project_keys_values(const MemoryView& view, int64_t queries,
                                                                         ForwardContext& ctx) const {
  std::vector<const CrossAttention*> reads;
  for (const auto& layer : layers_) reads.push_back(&layer.memory_read);
  return CrossAttention::project_memory_keys_values(reads, view, queries, ctx);
}

Residual MemoryStack::begin(const std::function<at::Tensor()>& embed, const KeyMask& mask, ForwardContext& ctx) const {
  Residual stream{embed(), std::nullopt};
  note(stream, name_ + ".embedding", ctx);
  layers_[0].self_attention(stream, mask, ctx);
  return stream;
}

std::pair<at::Tensor, MemoryView> MemoryStack::operator()(const at::Tensor& tokens,
                                                          const std::function<at::Tensor()>& embed,
                                                          const MemorySource& memory, const KeyMask& mask,
                                                          ForwardContext& ctx) const {
  MemoryView view;
  std::vector<CrossAttention::KeysValues> seen;
  Residual stream;
  const auto of_memory = [&] {
    view = memory.read();
    seen = project_keys_values(view, tokens.size(1), ctx);
  };
  if (const auto& begun = ctx.begun()) {
    of_memory();
    stream = *begun;
  } else {
    side_by_side(tokens, {of_memory, [&] { stream = begin(embed, mask, ctx); }});
  }
  const auto held = stream;  // what runs beside the layers may have the GPU stream that this was made on
  at::Tensor hidden;
  const auto of_both = [&] {
    for (size_t i = 0; i < layers_.size(); ++i) {
      if (i > 0) layers_[i].self_attention(stream, mask, ctx);
      layers_[i].memory_read(stream, seen[i], KeyMask(), ctx);
      layers_[i].feed_forward(stream, ctx);
      note(stream, name_ + "." + std::to_string(i), ctx);
    }
    hidden = norm_(stream, ctx);
  };
  std::vector<Part> parts;
  if (memory.prepare) parts.push_back([&] { memory.prepare(view); });
  parts.push_back(of_both);
  if (ctx.concurrent_work()) parts.push_back(ctx.concurrent_work());
  side_by_side(tokens, parts);
  return {hidden, view};
}

DecodedRows MemoryStack::decode(at::Tensor x, const DecodeState& state, const DecodeRows& rows,
                                ForwardContext& ctx) const {
  Residual stream{std::move(x), std::nullopt};
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].self_attention.decode(stream, rows, state.layers[i], ctx);
    layers_[i].memory_read.decode(stream, rows, state.context[i], ctx);
    layers_[i].feed_forward(stream, ctx);
  }
  return {std::move(stream), norm_};
}

DecoderStack::DecoderStack(Parameters& parameters, const Config& config, int64_t layers)
    : layers_([&] {
        std::vector<Layer> made;
        const double gain = residual_gain(config, config.text("residualStart"), layers),
                     of_reads = read_gain(config, layers);
        for (int64_t i = 0; i < layers; ++i) {
          const auto prefix = "decoder." + std::to_string(i);
          made.push_back({SelfAttention(parameters, config, {"decoder", i, true}, gain),
                          CrossAttention(parameters, config, prefix + ".cross_attention",
                                         CrossAttention::Context::encoder, of_reads),
                          FeedForward(parameters, prefix + ".feed_forward", config.integer("width"),
                                      config.integer("feedForward"), gain)});
        }
        return made;
      }()),
      norm_(parameters, "decoder.norm", config.integer("width")) {}

std::vector<CrossAttention::KeysValues> DecoderStack::project_keys_values(const at::Tensor& encoded, int64_t queries,
                                                                          ForwardContext& ctx) const {
  std::vector<const CrossAttention*> cross_attentions;
  for (const auto& layer : layers_) cross_attentions.push_back(&layer.cross_attention);
  return CrossAttention::project_keys_values(cross_attentions, encoded, queries, ctx);
}

at::Tensor DecoderStack::operator()(at::Tensor x, const KeyMask& mask, const at::Tensor& encoded,
                                    const KeyMask& encoded_mask, ForwardContext& ctx) const {
  const auto seen = project_keys_values(encoded, x.size(1), ctx);
  Residual stream{std::move(x), std::nullopt};
  note(stream, "decoder.embedding", ctx);
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].self_attention(stream, mask, ctx);
    layers_[i].cross_attention(stream, seen[i], encoded_mask, ctx);
    layers_[i].feed_forward(stream, ctx);
    note(stream, "decoder." + std::to_string(i), ctx);
  }
  return norm_(stream, ctx);
}

DecodedRows DecoderStack::decode(at::Tensor x, const DecodeState& state, const DecodeRows& rows,
                                 ForwardContext& ctx) const {
  Residual stream{std::move(x), std::nullopt};
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].self_attention.decode(stream, rows, state.layers[i], ctx);
    layers_[i].cross_attention.decode(stream, rows, state.context[i], ctx);
    layers_[i].feed_forward(stream, ctx);
  }
  return {std::move(stream), norm_};
}

}  // namespace memformer::nn
