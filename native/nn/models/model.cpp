#include "nn/models/model.h"

#include "core/tensor_checks.h"
#include "nn/loss_scale.h"
#include "ops/decode_linear/decode_linear.h"
#include "ops/linear/linear.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace memformer::nn {
namespace {

/// Rows of logits held at a time, of N in all: 4 Mi numbers on a CPU; on a GPU, which fewer would leave idle, 32 Mi,
/// and more as N grows, for each chunk reads and writes the sums of the weight's gradient.
int64_t chunk_rows(int64_t N, int64_t vocabulary, bool is_cpu) {
  const auto rows = [&](int64_t mebi) {
    return std::max<int64_t>(16, (mebi << 20) / std::max<int64_t>(vocabulary, 1));
  };
  return is_cpu ? rows(4) : std::clamp(N / 8, rows(32), rows(256));
}

at::ScalarType parameter_dtype(const Config& config) {
  return config.text("precision") == "float64" ? at::kDouble : at::kFloat;
}

at::ScalarType compute_dtype(const Config& config) {
  const auto precision = config.text("precision");
  return precision == "bfloat16" ? at::kBFloat16 : precision == "float16" ? at::kHalf : parameter_dtype(config);
}

/// Segment g, whose rows that start a document are there already, and those of the one after it will be.
SegmentInput of_sequence(const std::vector<SegmentInput>& segments, size_t g) {
  auto segment = segments[g];
  if (g > 0) segment.reset.reset();
  if (g + 1 < segments.size()) segment.next_reset = segments[g + 1].reset;
  return segment;
}

}  // namespace

SegmentInput joined(const std::vector<SegmentInput>& segments) {
  if (segments.size() == 1) return segments[0];
  const auto above = [&](at::Tensor SegmentInput::* part) {
    std::vector<at::Tensor> parts;
    for (const auto& segment : segments) parts.push_back(segment.*part);
    if (part == &SegmentInput::seed) return at::stack(parts).flatten();
    return at::cat(parts, part == &SegmentInput::lengths ? 1 : 0);
  };
  const bool anywhere =
      std::any_of(segments.begin(), segments.end(), [](const auto& one) { return one.lengths.numel() == 0; });
  return {above(&SegmentInput::source),
          above(&SegmentInput::target),
          above(&SegmentInput::reset),
          above(&SegmentInput::seed),
          anywhere ? at::empty({0}, at::kInt) : above(&SegmentInput::lengths),
          segments[0].training};
}

Model::Model(const Config& config, uint64_t seed)
    : parameters_(seed, parameter_dtype(config)),
      bos_(config.integer("bos")),
      compute_(compute_dtype(config)),
      dropout_(config.number("dropout")) {}

ForwardContext Model::start(const SegmentInput& segment, const ForwardContext* before) const {
  return ForwardContext(parameters_, compute_, segment.training ? dropout_ : 0.0, segment.seed, 0, before);
}

void Model::make_output(const Config& config, const at::Tensor& embedding) {
  output_ = config.flag("tieEmbedding")
                ? embedding
                : parameters_.normal("output.weight", embedding.sizes(), 0.02, Parameters::Decay::yes, /*matrices=*/0);
  if (config.flag("outputBias")) output_bias_ = parameters_.constant("output.bias", {embedding.size(0)}, 0.0);
}

at::Tensor Model::project(const at::Tensor& hidden, ForwardContext& ctx) const {
  const auto logits = ops::linear(ctx.cast(hidden), {ctx.working(output_)}, {output_bias(ctx).value_or(at::Tensor())});
  return logits.to(parameters_.dtype());
}

at::Tensor Model::project_rows(DecodedRows rows, ForwardContext& ctx) const {
  return rows.then(ctx.working(output_), output_bias(ctx), parameters_.dtype(), ctx);
}

std::optional<at::Tensor> Model::output_bias(ForwardContext& ctx) const {
  return output_bias_ ? std::optional<at::Tensor>(ctx.working(*output_bias_)) : std::nullopt;
}

State Model::at_border(State state, at::Tensor (*change)(const at::Tensor&, const at::Tensor&)) const {
  const auto scale = loss_scale();
  if (!scale.defined()) return state;
  const auto layout = state_layout();
  for (size_t i = 0; i < state.size(); ++i)
    if (layout.at(i).differentiable) state[i] = change(state[i], scale);
  return state;
}

Model::Path Model::encode_all(const std::vector<SegmentInput>& segments, State state) const {
  std::vector<at::Tensor> hiddens, beside;
  std::optional<ForwardContext> last;
  for (size_t g = 0; g < segments.size(); ++g) {
    const auto segment = of_sequence(segments, g);
    auto ctx = start(segment, last ? &*last : nullptr);
    auto encoding = encode(segment, state, ctx);
    hiddens.push_back(encoding.hidden);
    if (encoding.beside.defined()) beside.push_back(encoding.beside);
    state = std::move(encoding.state);
    last.emplace(ctx);
  }
  return {hiddens.size() == 1 ? hiddens[0] : at::cat(hiddens), std::move(state), std::move(beside), *last};
}

Outputs Model::forward(const std::vector<SegmentInput>& segments, State state, const at::Tensor& weights) const {
  const auto G = static_cast<int64_t>(segments.size());
  const auto scale = loss_scale();
  auto path = encode_all(segments, at_border(std::move(state), divide_gradient));
  const auto all = joined(segments);
  ForwardContext ctx(parameters_, compute_, all.training ? dropout_ : 0.0, all.seed, path.last.site(), &path.last);
  const auto hidden = decode(all, path.hidden, ctx);
  // Its gradients are formed on the way forward, and have to be large enough for float16 there.
  const auto wide = hidden.options().dtype(accumulate_type(compute_));
  const auto given = weights.defined() ? weights.to(accumulate_type(compute_)) : at::ones({G}, wide);
  const auto scaled = scale.defined() ? given * scale : given;
  auto [total, loss, count] = losses(all, hidden, scaled, ctx);
  if (!path.beside.empty()) {
    const auto others = at::stack(path.beside);  // (G)
    total = total + (scaled * (others - others.detach())).sum();
  }
  return {multiply_gradient(scale.defined() ? total / scale : total, scale), loss, count,
          at_border(std::move(path.state), multiply_gradient)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> Model::losses(const SegmentInput& segments, const at::Tensor& hidden,
                                                             const at::Tensor& weights, ForwardContext& ctx) const {
  require(hidden.size(0) == segments.target.size(0) && hidden.size(1) == segments.target.size(1), "SHAPE",
          "target must be (", hidden.size(0) / weights.size(0), ", ", hidden.size(1), "), got (",
          segments.target.size(0) / weights.size(0), ", ", segments.target.size(1), ")");
  const auto flat = ctx.cast(hidden).reshape({-1, hidden.size(2)});
  return ops::linear_cross_entropy(flat, ctx.trained(output_), ctx.trained(output_bias_), segments.target.reshape({-1}),
                                   weights, chunk_rows(flat.size(0), output_.size(0), hidden.is_cpu()));
}

Encoding Model::encode(const SegmentInput& segment, const State& state) const {
  auto ctx = start(segment);
  return encode_at_border(segment, state, ctx);
}

Encoding Model::encode_at_border(const SegmentInput& segment, const State& state, ForwardContext& ctx) const {
  auto encoding = encode(segment, at_border(state, divide_gradient), ctx);
  return {multiply_gradient(encoding.hidden, loss_scale()), at_border(std::move(encoding.state), multiply_gradient)};
}

State Model::advance(const std::vector<SegmentInput>& segments, State state,
                     const std::function<void(State&)>& between) const {
  auto segment = of_sequence(segments, 0);
  std::optional<ForwardContext> ctx = start(segment);
  for (size_t g = 1; g < segments.size(); ++g) {
    const auto following = of_sequence(segments, g);
    auto next = start(following);
    ctx->run_concurrently([&] { next.begin_with(begin(following, next)); });
    state = encode_at_border(segment, state, *ctx).state;
    between(state);
    segment = following;
    ctx.emplace(std::move(next));
  }
  return encode_at_border(segment, state, *ctx).state;
}

Observation Model::observe(const SegmentInput& segment, const State& state,
                           const std::vector<std::string>& wanted) const {
  at::NoGradGuard no_grad;
  Observation seen(wanted);
  auto ctx = start(segment);
  ctx.observe(&seen);
  const auto encoding = encode(segment, state, ctx);
  seen.add("hidden", encoding.hidden);
  seen.end_reads();
  if (seen.complete()) return seen;
  decode(segment, encoding.hidden, ctx);
  return seen;
}

Registry<std::unique_ptr<Model>, const Config&, uint64_t>& models() {
  static Registry<std::unique_ptr<Model>, const Config&, uint64_t> registry("model architecture");
  return registry;
}

}  // namespace memformer::nn
