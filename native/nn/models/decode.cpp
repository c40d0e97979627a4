// Incremental decoding, for every model: begin a segment in a slot, feed it tokens, end it.
#include "core/tensor_checks.h"
#include "nn/models/model.h"

namespace memformer::nn {
namespace {

/// A step has no gradient, and leaves autograd's part of the dispatcher out.
struct WithoutGradient {
  at::NoGradGuard no_grad;
  at::AutoDispatchBelowADInplaceOrView below;
};

SegmentInput row_of(const SegmentInput& segment, int64_t row) {
  const auto narrowed = [&](const at::Tensor& part) { return part.defined() ? part.narrow(0, row, 1) : part; };
  auto one = segment;
  one.source = narrowed(segment.source);
  one.target = narrowed(segment.target);
  one.reset = narrowed(segment.reset);
  if (segment.lengths.numel() > 0) one.lengths = segment.lengths.narrow(1, row, 1);
  return one;
}

State row_of(const State& state, int64_t row) {
  State one;
  for (const auto& part : state) one.push_back(part.narrow(0, row, 1));
  return one;
}

/// The rows of `part` (B, ...) into these slots of `cache` (S, ...), whose further axes are at least as long.
void put_rows(const at::Tensor& cache, const at::Tensor& slots, at::Tensor part) {
  if (part.size(0) != slots.size(0)) part = part.expand({slots.size(0), -1, -1, -1});
  const auto place = part.dim() == 4 ? cache.narrow(2, 0, part.size(2)) : cache;
  place.index_copy_(0, slots, part.to(cache.scalar_type()));
}

/// Brings each row's visible keys to the front: (B) int32, how many they are, and (B, N) their order, undefined where
/// they lie there already.
std::pair<at::Tensor, at::Tensor> visible_keys(const KeyMask& mask, int64_t B, int64_t N,
                                               const at::TensorOptions& options) {
  if (mask.none()) return {at::full({B}, N, options), {}};
  if (mask.lengths()) return {mask.lengths()->clamp_min(1), {}};
  const auto visible = mask.attention(/*causal=*/false)->view({B, N});
  return {visible.sum(1, false, at::kInt), visible.to(at::kByte).argsort(/*stable=*/true, 1, /*descending=*/true)};
}

at::Tensor in_order(const at::Tensor& part, const at::Tensor& order) {
  if (!order.defined()) return part;
  return part.gather(2, order.view({order.size(0), 1, -1, 1}).expand_as(part));
}

}  // namespace

DecodeState Model::open_slots(int64_t slots) const {
  const at::NoGradGuard guard;
  const auto shape = decoder_shape();
  const auto options = at::TensorOptions(device()).dtype(compute_), counts = options.dtype(at::kInt);
  const auto caches = [&](int64_t N) {
    std::vector<KeyValueCache> made;
    // Zeros: what lies behind a row's keys is never read, but for kernels that multiply it by a weight of 0.
    const auto cache = [&] { return at::zeros({slots, shape.heads, N, shape.width / shape.heads}, options); };
    for (int64_t i = 0; i < shape.layers; ++i) made.push_back({cache(), cache()});
    return made;
  };
  DecodeState made;
  made.context = caches(shape.context);
  made.layers = caches(shape.segment);
  made.context_lengths = at::ones({slots}, counts);
  made.positions = at::zeros({slots}, counts);
  if (writes_from_decoder()) made.hidden = at::zeros({slots, shape.segment, shape.width}, options);
  return made;
}

at::Tensor Model::begin_segment(DecodeState& decoding, const std::vector<int64_t>& slots, const SegmentInput& segment,
                                const State& state) const {
  const auto B = static_cast<int64_t>(slots.size());
  require(segment.source.size(0) == B, "SHAPE", "a segment is begun in ", B, " slots, of ", segment.source.size(0),
          " rows");
  if (device().is_cpu() && B > 1) {
    std::vector<at::Tensor> logits;
    for (int64_t b = 0; b < B; ++b)
      logits.push_back(begin_segment(decoding, {slots[b]}, row_of(segment, b), row_of(state, b)));
    return at::cat(logits);
  }
  const at::NoGradGuard guard;
  auto ctx = start(segment);
  const auto begun = start_segment(segment, state, ctx);
  decoding.weights = std::make_shared<const ForwardContext>(ctx);
  const auto index = at::tensor(slots, at::kLong).to(device());
  const int64_t N = begun.context[0].keys.size(2), most = decoding.context[0].keys.size(2);
  require(N <= most, "SHAPE", "decoding takes sources of at most ", most, " tokens, got ", N);
  const auto [lengths, order] = visible_keys(begun.mask, B, N, decoding.positions.options());
  for (size_t i = 0; i < begun.context.size(); ++i) {
    put_rows(decoding.context[i].keys, index, in_order(begun.context[i].keys, order));
    put_rows(decoding.context[i].values, index, in_order(begun.context[i].values, order));
  }
  decoding.context_lengths.index_copy_(0, index, lengths);
  decoding.positions.index_fill_(0, index, 0);
  for (size_t i = 0; i < begun.carried.size(); ++i) {
    const auto& part = begun.carried[i];
    if (decoding.carried.size() <= i) {
      auto shape = part.sizes().vec();
      shape[0] = decoding.slots();
      decoding.carried.push_back(at::zeros(shape, part.options()));
    }
    decoding.carried[i].index_copy_(0, index, part);
  }
  return decode_step(decoding, begun.first, index.to(at::kInt));
}

ForwardContext Model::step_pass(const DecodeState& decoding) const {
  ForwardContext ctx(parameters_, compute_, 0.0, {}, 0, decoding.weights.get());
  ctx.compute_row_by_row();
  return ctx;
}

at::Tensor Model::decode_hidden(DecodeState& decoding, const at::Tensor& tokens, const at::Tensor& slots,
                                const at::Tensor& ahead, ForwardContext& ctx) const {
  auto positions = decoding.positions.index_select(0, slots);
  if (ahead.defined()) positions = positions + ahead;
  const DecodeRows rows{slots, positions, positions + 1, decoding.context_lengths.index_select(0, slots)};
  const auto hidden = decode_rows(tokens.unsqueeze(1), decoding, rows, ctx);
  if (decoding.hidden.defined()) {
    const int64_t T = decoding.length();
    decoding.hidden.view({-1, hidden.size(2)})
        .index_copy_(0, slots.to(at::kLong) * T + positions, hidden.squeeze(1).to(decoding.hidden.scalar_type()));
  }
  decoding.positions.index_add_(0, slots, at::ones_like(slots));
  return hidden;
}

at::Tensor Model::decode_step(DecodeState& decoding, const at::Tensor& tokens, const at::Tensor& slots) const {
  const WithoutGradient guard;
  auto ctx = step_pass(decoding);
  return project(decode_hidden(decoding, tokens, slots, {}, ctx).squeeze(1), ctx);
}

at::Tensor Model::prefill(DecodeState& decoding, const at::Tensor& tokens, int64_t slot) const {
  const WithoutGradient guard;
  auto ctx = step_pass(decoding);
  const int64_t P = tokens.size(0);
  const auto ahead = at::arange(P, decoding.positions.options());
  const auto hidden = decode_hidden(decoding, tokens, at::full_like(ahead, slot), ahead, ctx);
  return project(hidden.select(0, P - 1), ctx);
}

State Model::end_segment(const DecodeState& decoding, const std::vector<int64_t>& slots) const {
  const auto B = static_cast<int64_t>(slots.size());
  if (device().is_cpu() && B > 1) {
    std::vector<std::vector<at::Tensor>> parts(decoding.carried.size());
    for (const auto slot : slots) {
      auto of_slot = end_segment(decoding, {slot});
      for (size_t i = 0; i < parts.size(); ++i) parts[i].push_back(std::move(of_slot[i]));
    }
    State all;
    for (const auto& part : parts) all.push_back(at::cat(part));
    return all;
  }
  const at::NoGradGuard guard;
  ForwardContext ctx(parameters_, compute_, 0.0, {});
  const auto index = at::tensor(slots, at::kLong).to(device());
  State carried;
  for (const auto& part : decoding.carried) carried.push_back(part.index_select(0, index));
  if (!writes_from_decoder()) return next_state(carried, {}, {}, ctx);
  const auto lengths = decoding.positions.index_select(0, index);
  const auto hidden = decoding.hidden.index_select(0, index);
  return next_state(carried, hidden, KeyMask(hidden, lengths), ctx);
}

}  // namespace memformer::nn
