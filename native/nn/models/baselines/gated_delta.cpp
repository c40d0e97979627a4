// Gated DeltaNet (Yang et al., 2024), pre-LayerNorm: layers whose memory is a matrix per head, each followed by a
// feed-forward layer. Its state is these matrices, and the last inputs of the convolutions.
//   q, k, v = silu(convolution(W x))      q and k divided by their norm per head      convolution: causal, width 4
//   a = exp(-e^A softplus(W_a x + b_a))      b = sigmoid(W_b x + b_b)      one each per head and token
//   branch = W_o (weight rms(o) silu(W_g x))      o: of the gated delta rule (nn/gated_delta.h)
// Input as in the decoder: [last token of source, target without its last]. Padding is as if it were not there. The
// rule and the convolution are computed in the parameters' dtype, the projections in the pass's. Letters: B batch, T
// tokens, L layers, D width, H heads, E = D / H, R rows that are decoded, S slots.
#include "nn/gated_delta.h"
#include "nn/models/baselines/real_first.h"
#include "nn/models/model.h"
#include "nn/models/teacher_forcing.h"
#include "nn/positions/heads.h"
#include "nn/stacks.h"
#include "ops/head_norm/head_norm.h"

namespace memformer::nn {
namespace {

using at::Tensor;

/// Of the convolution: as many tokens it reads, all but one of them earlier.
constexpr int64_t kWidth = 4;

/// `prefix`.{norm, qkv, gates, output_gate, out}, .convolution.weight (3 D, 4), .decay (H), .output_norm.weight (E)
class DeltaRule {
 public:
  DeltaRule(Parameters& parameters, const Config& config, const std::string& prefix, double gain)
      : heads_(config.integer("heads")),
        norm_(parameters, prefix + ".norm", config.integer("width")),
        qkv_(parameters, prefix + ".qkv", config.integer("width"), 3 * config.integer("width"), 1.0, /*matrices=*/3),
        gates_(parameters, prefix + ".gates", config.integer("width"), 2 * heads_, 1.0, /*matrices=*/2),
        output_gate_(parameters, prefix + ".output_gate", config.integer("width"), config.integer("width")),
        out_(parameters, prefix + ".out", config.integer("width"), config.integer("width"), gain) {
    const int64_t D = config.integer("width"), H = heads_;
    // The deviation of a depthwise convolution's usual start, uniform in +-1 / sqrt(width).
    convolution_ = parameters.normal(prefix + ".convolution.weight", {3 * D, kWidth},
                                     1.0 / std::sqrt(3.0 * static_cast<double>(kWidth)), Parameters::Decay::no);
    // Heads forget at rates e^A softplus(b_a) per token from about 0.001 to 1.6, the published range, evenly spaced.
    const auto place = (at::arange(H, at::kDouble) + 0.5) / static_cast<double>(H);
    decay_ =
        parameters.add(prefix + ".decay", (1.0 + 15.0 * place).log().to(parameters.dtype()), Parameters::Decay::no);
    scale_ = parameters.constant(prefix + ".output_norm.weight", {D / H}, 1.0);
    const auto step = 0.001 * at::pow(100.0, place);
    at::NoGradGuard no_grad;
    auto bias = gates_.parameters().second.narrow(0, 0, H);
    bias.copy_(at::expm1(step).log());  // softplus(b_a) = step
  }

  /// lengths (B) int32 or undefined: T. S (B, H, E, E) and tail (B, 3, 3 D) are moved on.
  void operator()(Residual& stream, const Tensor& lengths, Tensor& S, Tensor& tail, ForwardContext& ctx) const {
    const auto normed = norm_(stream, ctx);
    const int64_t T = normed.size(1);
    const auto window = at::cat({tail, qkv_(normed, ctx).to(tail.scalar_type())}, 1);  // (B, 3 + T, 3 D)
    auto inputs = of_window(window, gates_(normed, ctx));
    if (lengths.defined()) {
      const auto padding = first_tokens(lengths, T).logical_not().unsqueeze(1);  // (B, 1, T)
      inputs.log_decay = inputs.log_decay.masked_fill(padding, 0.0);
      inputs.rate = inputs.rate.masked_fill(padding, 0.0);
      const auto last = lengths.to(at::kLong).unsqueeze(1) + at::arange(kWidth - 1, lengths.options().dtype(at::kLong));
      tail = window.gather(1, last.unsqueeze(2).expand({-1, -1, window.size(2)}));
    } else {
      tail = window.narrow(1, T, kWidth - 1);
    }
    const auto made = gated_delta_chunks(inputs, S);
    S = made.S;
    stream.branch = out_.without_bias(gated(made.o, output_gate_(normed, ctx)), ctx);
  }

  /// One token a row, x (R, 1, D), of these slots (R); S (S, H, E, E) and tail (S, 3, 3 D) are moved on in place. On a
  /// CPU row by row: what a vector unit computes of a number depends on where among others it lies.
  void decode(Residual& stream, const DecodeRows& rows, const Tensor& S, const Tensor& tail,
              ForwardContext& ctx) const {
    const auto qkv = norm_.then(qkv_, stream, ctx), gates = norm_.then(gates_, stream, ctx),
               output_gate = norm_.then(output_gate_, stream, ctx);
    const auto slots = rows.slots.to(at::kLong);
    const auto moved = [&](int64_t from, int64_t count) {
      const auto some = [&](const Tensor& x) { return x.narrow(0, from, count); };
      const auto at = some(slots);
      const auto window = at::cat({tail.index_select(0, at), some(qkv).to(tail.scalar_type())}, 1);
      const auto made = gated_delta_step(of_window(window, some(gates)), S.index_select(0, at));
      S.index_copy_(0, at, made.S);
      tail.index_copy_(0, at, window.narrow(1, 1, kWidth - 1));
      return gated(made.o, some(output_gate));
    };
    const int64_t R = qkv.size(0);
    std::vector<Tensor> outputs;
    if (rows.of_different_slots && !qkv.is_cpu())
      outputs.push_back(moved(0, R));
    else
      for (int64_t r = 0; r < R; ++r) outputs.push_back(moved(r, 1));
    stream.branch = out_.without_bias(at::cat(outputs), ctx);
  }

 private:
  /// window (B, 3 + T, 3 D), the last T of which are the tokens'; gates (B, T, 2 H).
  DeltaInputs of_window(const Tensor& window, const Tensor& gates) const {
    const int64_t T = window.size(1) - (kWidth - 1), H = heads_, E = window.size(2) / (3 * H);
    const auto weight = convolution_.to(window.scalar_type());
    auto sum = window.narrow(1, 0, T) * weight.select(1, 0);
    for (int64_t j = 1; j < kWidth; ++j) sum = sum + window.narrow(1, j, T) * weight.select(1, j);
    const auto normed =
        ops::head_norm(at::silu(sum), {E, 3 * H, 2 * H, 1.0 / std::sqrt(static_cast<double>(E))});  // q and k
    const auto parts = normed.unflatten(2, {3, H, E}).permute({2, 0, 3, 1, 4});                     // (3, B, H, T, E)
    const auto by_head = gates.to(window.scalar_type()).transpose(1, 2).chunk(2, 1);                // (B, H, T)
    const auto decay = decay_.to(window.scalar_type()).exp().view({H, 1}) * at::softplus(by_head[0]);
    return {parts[0], parts[1], parts[2], -decay, at::sigmoid(by_head[1])};
  }

  /// o (B, H, T, E), gate (B, T, D) -> (B, T, D).
  Tensor gated(const Tensor& o, const Tensor& gate) const {
    const int64_t E = o.size(3);
    const auto normed = ops::head_norm(merge(o), {E, 1, 1}) * scale_.to(o.scalar_type()).repeat({heads_});
    return (normed * at::silu(gate.to(o.scalar_type()))).to(gate.scalar_type());
  }

  int64_t heads_;
  LayerNorm norm_;
  Linear qkv_, gates_, output_gate_, out_;
  Tensor convolution_, decay_, scale_;
};

struct Layer {
  DeltaRule delta_rule;
  FeedForward feed_forward;
};

class GatedDelta final : public Model {
 public:
  GatedDelta(const Config& config, uint64_t seed)
      : Model(config, seed),
        embedding_(parameters_, "embedding", config),
        layers_([&] {
          std::vector<Layer> made;
          const int64_t count = config.integer("decoderLayers"), D = config.integer("width");
          const double gain = residual_gain(config, config.text("residualStart"), count, 2);
          for (int64_t i = 0; i < count; ++i) {
            const auto prefix = "decoder." + std::to_string(i);
            made.push_back(
                {DeltaRule(parameters_, config, prefix + ".delta_rule", gain),
                 FeedForward(parameters_, prefix + ".feed_forward", D, config.integer("feedForward"), gain)});
          }
          return made;
        }()),
        norm_(parameters_, "decoder.norm", config.integer("width")),
        kept_(config.flag("memory")),
        heads_(config.integer("heads")),
        width_(config.integer("width")),
        segment_(config.integer("segmentLength")) {
    make_output(config, embedding_.weight());
  }

  StateLayout state_layout() const override {
    const auto L = static_cast<int64_t>(layers_.size()), E = width_ / heads_;
    return {{"matrices", {L, heads_, E, E}, parameters_.dtype(), true},
            {"tail", {L, kWidth - 1, 3 * width_}, parameters_.dtype(), true}};
  }
  State initial_state(int64_t rows) const override {
    State state;
    for (const auto& part : state_layout()) {
      auto shape = part.shape;
      shape.insert(shape.begin(), rows);
      state.push_back(at::zeros(shape, embedding_.weight().options().requires_grad(false)));
    }
    return state;
  }

  Tensor logits(const SegmentInput& segment, const Tensor& prefix, const State& state) const override {
    auto ctx = start(segment);
    const auto input = at::cat({last_token(segment.source, bos_), prefix}, 1);
    auto before = begun(segment, state);
    const auto hidden = run(input, {}, before, ctx);
    return project(hidden.select(1, input.size(1) - 1), ctx);
  }

 private:
  DecoderShape decoder_shape() const override { return {0, 1, width_, segment_, 0}; }

  SegmentStart start_segment(const SegmentInput& segment, const State& state, ForwardContext&) const override {
    return {{}, KeyMask(), last_token(segment.source, bos_).squeeze(1).to(at::kLong), begun(segment, state)};
  }
  Tensor decode_rows(const Tensor& tokens, const DecodeState& decoding, const DecodeRows& rows,
                     ForwardContext& ctx) const override {
    Residual stream{embedding_(tokens, ctx), std::nullopt};
    for (size_t i = 0; i < layers_.size(); ++i) {
      const auto of_layer = [&](const Tensor& part) { return part.select(1, static_cast<int64_t>(i)); };
      layers_[i].delta_rule.decode(stream, rows, of_layer(decoding.carried[0]), of_layer(decoding.carried[1]), ctx);
      layers_[i].feed_forward(stream, ctx);
    }
    return norm_(stream, ctx);
  }
  State next_state(const State& carried, const Tensor&, const KeyMask&, ForwardContext&) const override {
    return carried;
  }

  Encoding encode(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const RealFirst rows(segment.target_mask());
    auto next = begun(segment, state);
    const auto hidden = rows.back(run(rows(read_tokens(segment)), rows.lengths(), next, ctx));
    if (!segment.writes) return {hidden, {}};
    return {hidden, restarted(next, segment.next_reset)};
  }

  Tensor read_tokens(const SegmentInput& segment) const override {
    return shifted(last_token(segment.source, bos_), segment.target);
  }

  Tensor decode(const SegmentInput&, const Tensor& hidden, ForwardContext&) const override { return hidden; }

  /// tokens (B, T), the first lengths (B) of a row being there (undefined: all) -> (B, T, D), normed; `state` is moved
  /// on.
  Tensor run(const Tensor& tokens, const Tensor& lengths, State& state, ForwardContext& ctx) const {
    Residual stream{embedding_(tokens, ctx), std::nullopt};
    std::vector<Tensor> matrices, tails;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const auto of_layer = [&](const Tensor& part) {
        const auto one = part.select(1, static_cast<int64_t>(i));
        auto shape = one.sizes().vec();
        shape[0] = tokens.size(0);  // of one row, which all of them start from
        return one.expand(shape);
      };
      auto S = of_layer(state[0]), tail = of_layer(state[1]);
      layers_[i].delta_rule(stream, lengths, S, tail, ctx);
      layers_[i].feed_forward(stream, ctx);
      matrices.push_back(S);
      tails.push_back(tail);
    }
    state = {at::stack(matrices, 1), at::stack(tails, 1)};
    return norm_(stream, ctx);
  }

  /// The state as a segment meets it.
  State begun(const SegmentInput& segment, const State& state) const {
    const auto layout = state_layout();
    require(state.size() == layout.size(), "SHAPE", "the state is two tensors, matrices and tail; got ", state.size());
    if (!segment.reset.defined()) return state;
    for (size_t i = 0; i < layout.size(); ++i) {
      auto shape = layout[i].shape;
      shape.insert(shape.begin(), segment.reset.size(0));
      require(state[i].sizes() == shape, "SHAPE", "the state's ", layout[i].name, " must be ", at::IntArrayRef(shape),
              ", got ", state[i].sizes());
    }
    return restarted(state, segment.reset);
  }

  /// Rows that start (B) bool begin at zero; all of them in a twin. Undefined: none.
  State restarted(const State& state, const Tensor& starts) const {
    if (!starts.defined()) return state;
    const auto rows = kept_ ? starts : at::ones_like(starts);
    return {state[0].masked_fill(rows.view({-1, 1, 1, 1, 1}), 0.0),
            state[1].masked_fill(rows.view({-1, 1, 1, 1}), 0.0)};
  }

  Embedding embedding_;
  std::vector<Layer> layers_;
  LayerNorm norm_;
  bool kept_;
  int64_t heads_, width_, segment_;
};

}  // namespace

const bool gated_delta_registered = models().add(
    "gated-delta", [](const Config& config, uint64_t seed) { return std::make_unique<GatedDelta>(config, seed); });

}  // namespace memformer::nn
