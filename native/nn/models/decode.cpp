// Incremental decoding, for every model: begin a segment in a slot, feed it tokens, end it.
#include "core/tensor_checks.h"
#include "nn/models/model.h"
#include "ops/decode_attention/decode_attention.h"

namespace memformer::nn {
namespace {

/// A step has no gradient, and leaves autograd's part of the dispatcher out.
struct WithoutGradient {
  at::NoGradGuard no_grad;
  at::AutoDispatchBelowADInplaceOrView below;
};

/// The rows of `part` (B, ...) into these slots of `cache` (S, ...), whose further axes are at least as long.
void put_rows(const at::Tensor& cache, const at::Tensor& slots, at::Tensor part) {
  if (part.size(0) != slots.size(0)) part = part.expand({slots.size(0), -1, -1, -1});
  const auto place = part.dim() == 4 ? cache.narrow(2, 0, part.size(2)) : cache;
  place.index_copy_(0, slots, part.to(cache.scalar_type()));
}

/// Keys and values of all layers, (B, H, N, E) each, as the one tensor (B, L, 2, H, N, E) that they are parts of;
/// undefined where they are none.
at::Tensor together(const std::vector<CrossAttention::KeysValues>& layers) {
  const auto& first = layers[0].keys;
  const int64_t from = first.storage_offset(), apart = layers[0].values.storage_offset() - from;
  for (size_t i = 0; i < layers.size(); ++i)
    for (const bool value : {false, true}) {
      const auto& part = value ? layers[i].values : layers[i].keys;
      if (!part.is_alias_of(first) || part.sizes() != first.sizes() || part.strides() != first.strides() ||
          part.storage_offset() != from + (2 * static_cast<int64_t>(i) + value) * apart)
        return {};
    }
  auto shape = first.sizes().vec(), strides = first.strides().vec();
  shape.insert(shape.begin() + 1, {static_cast<int64_t>(layers.size()), 2});
  strides.insert(strides.begin() + 1, {2 * apart, apart});
  return first.as_strided(shape, strides, from);
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
  const int64_t L = shape.layers, H = shape.heads, E = shape.width / H;
  // Zeros: what lies behind a row's keys is never read, but for kernels that multiply it by a weight of 0.
  DecodeState made;
  made.length = shape.segment;
  made.contexts = at::zeros({slots, L, 2, H, shape.context, E}, options);
  for (int64_t i = 0; i < L; ++i) {
    const auto context = made.contexts.select(1, i);
    made.context.push_back({context.select(1, 0), context.select(1, 1)});
    const auto cache = [&] { return at::zeros({slots, H, shape.segment + shape.beside, E}, options); };
    made.layers.push_back({cache(), cache()});
  }
  made.context_lengths = at::ones({slots}, counts);
  made.positions = at::zeros({slots}, counts);
  if (writes_from_decoder()) made.hidden = at::zeros({slots, shape.segment, shape.width}, options);
  return made;
}

at::Tensor Model::begin_segment(DecodeState& decoding, const at::Tensor& slots, const SegmentInput& segment,
                                const State& state) const {
  const int64_t B = slots.size(0);
  require(segment.source.size(0) == B, "SHAPE", "a segment is begun in ", B, " slots, of ", segment.source.size(0),
          " rows");
  const at::NoGradGuard guard;
  auto ctx = start(segment);
  const auto begun = start_segment(segment, state, ctx);
  decoding.weights = std::make_shared<const ForwardContext>(ctx);
  if (!begun.context.empty()) {
    const int64_t N = begun.context[0].keys.size(2), most = decoding.context[0].keys.size(2);
    require(N <= most, "SHAPE", "decoding takes sources of at most ", most, " tokens, got ", N);
    const auto [lengths, order] = visible_keys(begun.mask, B, N, decoding.positions.options());
    const auto all = order.defined() ? at::Tensor() : together(begun.context);
    if (all.defined() && all.size(0) == B) {
      decoding.contexts.narrow(4, 0, N).index_copy_(0, slots, all.to(decoding.contexts.scalar_type()));
    } else {
      for (size_t i = 0; i < begun.context.size(); ++i) {
        put_rows(decoding.context[i].keys, slots, in_order(begun.context[i].keys, order));
        put_rows(decoding.context[i].values, slots, in_order(begun.context[i].values, order));
      }
    }
    decoding.context_lengths.index_copy_(0, slots, lengths);
  }
  decoding.positions.index_fill_(0, slots, 0);
  for (size_t i = 0; i < begun.carried.size(); ++i) {
    const auto& part = begun.carried[i];
    if (decoding.carried.size() <= i) {
      auto shape = part.sizes().vec();
      shape[0] = decoding.slots();
      decoding.carried.push_back(at::zeros(shape, part.options()));
    }
    decoding.carried[i].index_copy_(0, slots, part);
  }
  auto rows = step_pass(decoding);
  begin_rows(decoding, slots.to(at::kInt), rows);
  return begun.first;
}

ForwardContext Model::step_pass(const DecodeState& decoding) const {
  ForwardContext ctx(parameters_, compute_, 0.0, {}, 0, decoding.weights.get());
  ctx.compute_row_by_row();
  return ctx;
}

DecodedRows Model::decode_hidden(DecodeState& decoding, const at::Tensor& tokens, const at::Tensor& slots,
                                 const at::Tensor& ahead, ForwardContext& ctx) const {
  const int64_t T = decoding.length;
  const auto places = ops::decode_rows(slots, decoding.positions, decoding.context_lengths, ahead, T - 1);
  const auto positions = places.select(0, 0);
  const DecodeRows rows{slots, positions, places.select(0, 1), places.select(0, 2), !ahead.defined()};
  auto decoded = decode_rows(tokens.unsqueeze(1), decoding, rows, ctx);
  if (decoding.hidden.defined()) {
    const auto hidden = decoded.normed(ctx).squeeze(1);
    decoding.hidden.view({-1, hidden.size(1)})
        .index_copy_(0, slots.to(at::kLong) * T + positions, hidden.to(decoding.hidden.scalar_type()));
  }
  return decoded;
}

at::Tensor Model::decode_step(DecodeState& decoding, const at::Tensor& tokens, const at::Tensor& slots) const {
  const WithoutGradient guard;
  auto ctx = step_pass(decoding);
  return project_rows(decode_hidden(decoding, tokens, slots, {}, ctx), ctx);
}

at::Tensor Model::prefill(DecodeState& decoding, const at::Tensor& tokens, int64_t slot) const {
  const WithoutGradient guard;
  auto ctx = step_pass(decoding);
  const int64_t P = tokens.size(0);
  const auto ahead = at::arange(P, decoding.positions.options());
  return project_rows(decode_hidden(decoding, tokens, at::full_like(ahead, slot), ahead, ctx).last(), ctx);
}

State Model::end_segment(const DecodeState& decoding, const at::Tensor& slots) const {
  const at::NoGradGuard guard;
  auto ctx = step_pass(decoding);
  return end_rows(decoding, slots, ctx);
}

State Model::end_rows(const DecodeState& decoding, const at::Tensor& slots, ForwardContext&) const {
  ForwardContext ctx(parameters_, compute_, 0.0, {});
  State carried;
  for (const auto& part : decoding.carried) carried.push_back(part.index_select(0, slots));
  if (!writes_from_decoder()) return next_state(carried, {}, {}, ctx);
  const auto lengths = decoding.positions.index_select(0, slots);
  const auto hidden = decoding.hidden.index_select(0, slots);
  return next_state(carried, hidden, KeyMask(hidden, lengths), ctx);
}

}  // namespace memformer::nn
