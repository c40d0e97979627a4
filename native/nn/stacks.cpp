#include "nn/stacks.h"

namespace memformer::nn {
namespace {

/// "scaled": the sum of a stack's 3 L residual branches keeps the variance of one. "balanced": it has that of the
/// embeddings, so that no branch drowns the token. "zero": tokens start as they are.
double residual_gain(const Config& config, const std::string& start, int64_t layers) {
  require(start == "scaled" || start == "balanced" || start == "zero", "CONFIG", "there is no residual start '", start,
          "'; known: scaled, balanced, zero");
  const double token = config.flag("embeddingNorm") ? 1.0 : config.number("embeddingDeviation");
  const double sum = start == "scaled" ? 1.0 : start == "balanced" ? token : 0.0;
  return sum / std::sqrt(3.0 * static_cast<double>(layers));
}

/// Of the branches that read the memory or the encoder.
double read_gain(const Config& config, int64_t layers) {
  const auto& start = config.text("readStart");
  return residual_gain(config, start == "same" ? config.text("residualStart") : start, layers);
}

/// Notes the stream after a layer, its last branch added: `name`.stream (B, T, D).
void note(const Residual& stream, const std::string& name, const Pass& pass) {
  if (pass.observation() == nullptr) return;
  auto sum = stream.x;
  if (stream.branch) sum = sum + stream.branch->product.to(sum.scalar_type());
  if (stream.branch && stream.branch->bias.defined()) sum = sum + stream.branch->bias.to(sum.scalar_type());
  pass.observation()->add(name + ".stream", sum);
}

}  // namespace

ReadingStack::ReadingStack(Parameters& parameters, const Config& config, const std::string& name, int64_t layers,
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

std::vector<CrossAttention::KeysValues> ReadingStack::look_at(const Slots& slots, Pass& pass) const {
  std::vector<const CrossAttention*> reads;
  for (const auto& layer : layers_) reads.push_back(&layer.memory_read);
  return CrossAttention::look_at_memory(reads, slots, pass);
}

at::Tensor ReadingStack::operator()(at::Tensor x, const Slots& slots, const KeyMask& mask, Pass& pass) const {
  const auto seen = look_at(slots, pass);
  Residual stream{std::move(x), std::nullopt};
  note(stream, name_ + ".embedding", pass);
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].self_attention(stream, mask, pass);
    layers_[i].memory_read(stream, seen[i], KeyMask(), pass);
    layers_[i].feed_forward(stream, pass);
    note(stream, name_ + "." + std::to_string(i), pass);
  }
  return norm_(stream, pass);
}

at::Tensor ReadingStack::decode(at::Tensor x, const DecodeState& state, const DecodeRows& rows, Pass& pass) const {
  Residual stream{std::move(x), std::nullopt};
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].self_attention.decode(stream, rows, state.layers[i], pass);
    layers_[i].memory_read.decode(stream, rows, state.context[i], pass);
    layers_[i].feed_forward(stream, pass);
  }
  return norm_(stream, pass);
}

ContinuingStack::ContinuingStack(Parameters& parameters, const Config& config, int64_t layers)
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

std::vector<CrossAttention::KeysValues> ContinuingStack::look_at(const at::Tensor& encoded, Pass& pass) const {
  std::vector<const CrossAttention*> cross_attentions;
  for (const auto& layer : layers_) cross_attentions.push_back(&layer.cross_attention);
  return CrossAttention::look_at(cross_attentions, encoded, pass);
}

at::Tensor ContinuingStack::operator()(at::Tensor x, const KeyMask& mask, const at::Tensor& encoded,
                                       const KeyMask& encoded_mask, Pass& pass) const {
  const auto seen = look_at(encoded, pass);
  Residual stream{std::move(x), std::nullopt};
  note(stream, "decoder.embedding", pass);
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].self_attention(stream, mask, pass);
    layers_[i].cross_attention(stream, seen[i], encoded_mask, pass);
    layers_[i].feed_forward(stream, pass);
    note(stream, "decoder." + std::to_string(i), pass);
  }
  return norm_(stream, pass);
}

at::Tensor ContinuingStack::decode(at::Tensor x, const DecodeState& state, const DecodeRows& rows, Pass& pass) const {
  Residual stream{std::move(x), std::nullopt};
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].self_attention.decode(stream, rows, state.layers[i], pass);
    layers_[i].cross_attention.decode(stream, rows, state.context[i], pass);
    layers_[i].feed_forward(stream, pass);
  }
  return norm_(stream, pass);
}

}  // namespace memformer::nn
