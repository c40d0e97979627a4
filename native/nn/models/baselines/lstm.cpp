// A stack of LSTM layers over the tokens, the rival without attention. Its state is each layer's hidden and cell
// vector.
//   (i, f, g, o) = W_x x_t + W_h h_{t-1} + b      c_t = s(f) c_{t-1} + s(i) tanh(g)      h_t = s(o) tanh(c_t)
// Input as in the decoder: [last token of source, target without its last]. Padding leaves a row's state as it is. The
// gates are computed in the parameters' dtype, the products in the pass's; both by LibTorch's LSTM (on a GPU cuDNN's)
// in the parameters' dtype, unless there is padding between tokens.
// Letters: B batch, T tokens, L layers, D width, R rows that are decoded, S slots.
#include "nn/models/baselines/layout_state.h"
#include "nn/models/model.h"
#include "nn/models/teacher_forcing.h"
#include "ops/decode_linear/decode_linear.h"
#include "ops/dropout/dropout.h"

namespace memformer::nn {
namespace {

using at::Tensor;

/// lstm.`i`.input.{weight (4 D, D), bias (4 D)}, lstm.`i`.hidden.weight (4 D, D); blocks i, f, g, o. The forget gate's
/// bias starts at 1: a cell keeps what it holds.
class LstmLayer {
 public:
  LstmLayer(Parameters& parameters, const std::string& prefix, int64_t width)
      : input_(parameters, prefix + ".input", width, 4 * width, 1.0, /*matrices=*/4),
        hidden_(parameters.normal(prefix + ".hidden.weight", {4 * width, width},
                                  1.0 / std::sqrt(2.0 * static_cast<double>(width)), Parameters::Decay::yes,
                                  /*matrices=*/4)) {
    at::NoGradGuard no_grad;
    input_.parameters().second.narrow(0, width, width).fill_(1.0);
  }

  /// x (B, T, D), the tokens that are there by `mask`; h, c (B, D), which it moves on. Returns (B, T, D); at padding
  /// behind a row's tokens it holds anything.
  Tensor operator()(const Tensor& x, const KeyMask& mask, Tensor& h, Tensor& c, ForwardContext& ctx) const {
    if (!mask.real()) return at_once(x, mask.lengths().value_or(Tensor()), h, c);
    const auto real = mask.none() ? Tensor() : mask.tokens(x.size(1));
    const auto products = input_(x, ctx).to(c.scalar_type()).unbind(1);  // (B, 4 D) each
    const auto weight = ctx.cast(hidden_).t();
    std::vector<Tensor> outputs;
    for (size_t t = 0; t < products.size(); ++t) {
      auto [next_h, next_c] = step(products[t], at::matmul(ctx.cast(h), weight), c);
      if (real.defined()) {
        const auto moves = real.select(1, static_cast<int64_t>(t)).unsqueeze(1);
        next_h = at::where(moves, next_h, h);
        next_c = at::where(moves, next_c, c);
      }
      h = next_h;
      c = next_c;
      outputs.push_back(h);
    }
    return at::stack(outputs, 1);
  }

  /// One token a row, x, h, c (R, D) -> the next h and c. No row's numbers depend on the others.
  std::pair<Tensor, Tensor> decode(const Tensor& x, const Tensor& h, const Tensor& c, ForwardContext& ctx) const {
    return step(input_(x, ctx), ops::decode_linear(ctx.cast(h), ctx.working(hidden_), {}, false), c);
  }

 private:
  /// All tokens at once by LibTorch's LSTM, in the parameters' dtype; lengths (B) or undefined: all are there. It knows
  /// nothing of padding: a further input of 1 says it, which opens the forget gate and closes the input's, so that the
  /// cell stays, and the hidden vector is that of a row's last token.
  Tensor at_once(const Tensor& x, const Tensor& lengths, Tensor& h, Tensor& c) const {
    constexpr double kOpen = 1e4;  // of a gate: its sigmoid is 1, and 0 where negative
    const int64_t B = x.size(0), T = x.size(1), D = x.size(2);
    const auto [weight, bias] = input_.parameters();
    auto inputs = x.to(c.scalar_type()), of_inputs = weight;
    if (lengths.defined()) {
      const int64_t further = c.is_cuda() ? 8 : 1;  // all but the first zeros: a GPU's products like a multiple of 8
      const auto padding = first_tokens(lengths, T).logical_not().to(inputs.scalar_type()).unsqueeze(2);  // (B, T, 1)
      auto columns = at::zeros({4 * D, further}, c.options());
      columns.select(1, 0).narrow(0, 0, D).fill_(-kOpen);
      columns.select(1, 0).narrow(0, D, D).fill_(kOpen);
      inputs = at::cat({inputs, at::constant_pad_nd(padding, {0, further - 1})}, 2);
      of_inputs = at::cat({weight, columns}, 1);
    }
    const std::vector<Tensor> state{h.unsqueeze(0).contiguous(), c.unsqueeze(0).contiguous()};
    std::vector<Tensor> parts{of_inputs, hidden_, bias, at::zeros_like(bias)};  // it has a second bias
    if (c.is_cuda()) parts = one_behind_the_other(parts);                       // as cuDNN wants them
    const auto [outputs, last_h, last_c] =
        at::lstm(inputs, state, parts, /*has_biases=*/true, /*num_layers=*/1, /*dropout=*/0.0,
                 /*train=*/at::GradMode::is_enabled(), /*bidirectional=*/false, /*batch_first=*/true);
    c = last_c.squeeze(0);
    if (!lengths.defined()) {
      h = last_h.squeeze(0);
      return outputs;
    }
    const auto all_h = at::cat({h.unsqueeze(1), outputs}, 1);  // (B, 1 + T, D), before the first token, and behind each
    h = all_h.gather(1, lengths.to(at::kLong).view({B, 1, 1}).expand({B, 1, D})).squeeze(1);
    return outputs;
  }

  /// The same tensors, as parts of one.
  static std::vector<Tensor> one_behind_the_other(const std::vector<Tensor>& tensors) {
    std::vector<Tensor> flat, parts;
    for (const auto& tensor : tensors) flat.push_back(tensor.flatten());
    const auto all = at::cat(flat);
    int64_t from = 0;
    for (const auto& tensor : tensors) {
      parts.push_back(all.narrow(0, from, tensor.numel()).view(tensor.sizes()));
      from += tensor.numel();
    }
    return parts;
  }

  /// Products (B, 4 D) of the input and of the hidden vector.
  static std::pair<Tensor, Tensor> step(const Tensor& of_input, const Tensor& of_hidden, const Tensor& c) {
    const auto dtype = c.scalar_type();
    if (c.is_cuda()) {  // one kernel, forward and back
      const auto made = at::_thnn_fused_lstm_cell(of_input.to(dtype), of_hidden.to(dtype), c);
      return {std::get<0>(made), std::get<1>(made)};
    }
    const auto gates = (of_input.to(dtype) + of_hidden.to(dtype)).chunk(4, -1);
    const auto next = at::sigmoid(gates[1]) * c + at::sigmoid(gates[0]) * at::tanh(gates[2]);
    return {at::sigmoid(gates[3]) * at::tanh(next), next};
  }

  Linear input_;
  Tensor hidden_;
};

class Lstm final : public Model {
 public:
  Lstm(const Config& config, uint64_t seed)
      : Model(config, seed),
        embedding_(parameters_, "embedding", config),
        kept_(config.flag("memory")),
        width_(config.integer("width")),
        segment_(config.integer("segmentLength")) {
    for (int64_t i = 0; i < config.integer("decoderLayers"); ++i)
      layers_.emplace_back(parameters_, "lstm." + std::to_string(i), width_);
    make_output(config, embedding_.weight());
  }

  StateLayout state_layout() const override {
    const auto part = [&](const char* name) {
      return StatePart{name, {static_cast<int64_t>(layers_.size()), width_}, parameters_.dtype(), true};
    };
    return {part("hidden"), part("cell")};
  }
  State initial_state(int64_t rows) const override { return zero_state(state_layout(), rows, device()); }

  Tensor logits(const SegmentInput& segment, const Tensor& prefix, const State& state) const override {
    auto ctx = start(segment);
    const auto input = at::cat({last_token(segment.source, bos_), prefix}, 1);
    auto before = begun(segment, state);
    const auto hidden = run(input, KeyMask(), before, ctx);
    return project(hidden.select(1, input.size(1) - 1), ctx);
  }

 private:
  DecoderShape decoder_shape() const override { return {0, 1, width_, segment_, 0}; }

  SegmentStart start_segment(const SegmentInput& segment, const State& state, ForwardContext&) const override {
    return {{}, KeyMask(), last_token(segment.source, bos_).squeeze(1).to(at::kLong), begun(segment, state)};
  }

  /// Rows of one slot are taken one after the other: each begins where the one before has left the state.
  DecodedRows decode_rows(const Tensor& tokens, const DecodeState& decoding, const DecodeRows& rows,
                          ForwardContext& ctx) const override {
    const auto x = embedding_(tokens, ctx).squeeze(1);  // (R, D)
    const auto slots = rows.slots.to(at::kLong);
    if (rows.of_different_slots) return moved(x, slots, decoding.carried, ctx).unsqueeze(1);
    std::vector<Tensor> outputs;
    for (int64_t r = 0; r < x.size(0); ++r)
      outputs.push_back(moved(x.narrow(0, r, 1), slots.narrow(0, r, 1), decoding.carried, ctx));
    return at::cat(outputs).unsqueeze(1);
  }

  /// The output (R, D) of the last layer; `carried` (S, L, D) of these slots (R) is moved on in place.
  Tensor moved(Tensor x, const Tensor& slots, const State& carried, ForwardContext& ctx) const {
    const auto before_h = carried[0].index_select(0, slots), before_c = carried[1].index_select(0, slots);
    std::vector<Tensor> hidden, cell;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const auto place = static_cast<int64_t>(i);
      const auto [h, c] = layers_[i].decode(x, before_h.select(1, place), before_c.select(1, place), ctx);
      hidden.push_back(h);
      cell.push_back(c);
      x = h;
    }
    carried[0].index_copy_(0, slots, at::stack(hidden, 1));
    carried[1].index_copy_(0, slots, at::stack(cell, 1));
    return x;
  }

  State next_state(const State& carried, const Tensor&, const KeyMask&, ForwardContext&) const override {
    return carried;
  }

  Encoding encode(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    auto next = begun(segment, state);
    const auto hidden = run(read_tokens(segment), segment.target_mask(), next, ctx);
    if (!segment.writes) return {hidden, {}};
    return {hidden, restarted(next, segment.next_reset)};
  }

  Tensor read_tokens(const SegmentInput& segment) const override {
    return shifted(last_token(segment.source, bos_), segment.target);
  }

  Tensor decode(const SegmentInput&, const Tensor& hidden, ForwardContext&) const override { return hidden; }

  /// tokens (B, T), those that are there by `mask` -> (B, T, D); `state` is moved on.
  Tensor run(const Tensor& tokens, const KeyMask& mask, State& state, ForwardContext& ctx) const {
    auto x = embedding_(tokens, ctx);
    const int64_t B = tokens.size(0);
    std::vector<Tensor> hidden, cell;
    for (size_t i = 0; i < layers_.size(); ++i) {
      auto h = of_layer(state[0], i, B), c = of_layer(state[1], i, B);
      x = layers_[i](x, mask, h, c, ctx);
      hidden.push_back(h);
      cell.push_back(c);
      const auto dropout = ctx.next_dropout();
      if (dropout.rate != 0.0) x = ops::dropout(x, dropout.rate, *dropout.seed, dropout.site);
    }
    state = {at::stack(hidden, 1), at::stack(cell, 1)};
    return x;
  }

  /// (B, D) of (B, L, D), or of one row that all of them start from.
  static Tensor of_layer(const Tensor& part, size_t layer, int64_t B) {
    return part.select(1, static_cast<int64_t>(layer)).expand({B, -1});
  }

  /// The state as a segment meets it.
  State begun(const SegmentInput& segment, const State& state) const {
    require(state.size() == 2, "SHAPE", "the state is two tensors, hidden and cell; got ", state.size());
    if (!segment.reset.defined()) return state;
    const std::vector<int64_t> shape{segment.reset.size(0), static_cast<int64_t>(layers_.size()), width_};
    for (const auto& part : state)
      require(part.sizes() == shape, "SHAPE", "the state must be ", at::IntArrayRef(shape), ", got ", part.sizes());
    return restarted(state, segment.reset);
  }

  /// Rows that start (B) bool begin at zero; all of them in a twin. Undefined: none.
  State restarted(const State& state, const Tensor& starts) const {
    if (!starts.defined()) return state;
    const auto rows = (kept_ ? starts : at::ones_like(starts)).view({-1, 1, 1});
    return {state[0].masked_fill(rows, 0.0), state[1].masked_fill(rows, 0.0)};
  }

  Embedding embedding_;
  std::vector<LstmLayer> layers_;
  bool kept_;
  int64_t width_, segment_;
};

}  // namespace

const bool lstm_registered =
    models().add("lstm", [](const Config& config, uint64_t seed) { return std::make_unique<Lstm>(config, seed); });

}  // namespace memformer::nn
