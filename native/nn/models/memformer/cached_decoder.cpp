// The decoder with a cache: causal layers that read the memory, and also see their own inputs of the C tokens before
// the segment, as Transformer-XL's do (baselines/relative_stack.h). The cache has the words of what is near, the memory
// what is to be kept of all that is further away. No gradient flows into the cache; the memory's flows as everywhere.
//   input = [last token of source, target without its last]   x = decoder(input, cache, m)   m' = write(m, x)
// Letters: B batch, T tokens, C places of the cache, M slots, L layers, D width.
#include "nn/memory/memory.h"
#include "nn/models/baselines/layout_state.h"
#include "nn/models/baselines/token_cache.h"
#include "nn/models/model.h"
#include "nn/models/teacher_forcing.h"

namespace memformer::nn {
namespace {

using at::Tensor;

class CachedDecoder final : public Model {
 public:
  CachedDecoder(const Config& config, uint64_t seed)
      : Model(config, seed),
        embedding_(parameters_, "embedding", config),
        stack_(parameters_, config, /*reads_memory=*/true),
        memory_(parameters_, config),
        cache_(config),
        shape_{config.integer("decoderLayers"), config.integer("heads"), config.integer("width"),
               config.integer("segmentLength"), cache_.places() + memory_.read_slots()} {
    make_output(config, embedding_.weight());
  }

  /// The memory, then the cache.
  StateLayout state_layout() const override {
    StateLayout layout{memory_.layout()};
    for (auto& part : cache_.layout(parameters_.dtype())) layout.push_back(std::move(part));
    return layout;
  }
  State initial_state(int64_t rows) const override {
    auto state = zero_state(cache_.layout(parameters_.dtype()), rows, device());
    state.insert(state.begin(), memory_.initial(rows));
    return state;
  }

  Tensor logits(const SegmentInput& segment, const Tensor& prefix, const State& state) const override {
    auto ctx = start(segment);
    const auto input = at::cat({last_token(segment.source, bos_), prefix}, 1);
    const auto before = begun(segment, state, input.size(0), ctx);
    const auto hidden = stack_(embedding_(input, ctx), {}, TokenCache::of(before.cache), ctx,
                               stack_.project_memory(before.memory, input.size(1), ctx))
                            .first;
    return project(hidden.select(1, input.size(1) - 1), ctx);
  }

 private:
  /// The state as a segment meets it.
  struct Before {
    MemoryView memory;
    State cache;
  };

  DecoderShape decoder_shape() const override { return shape_; }
  bool writes_from_decoder() const override { return true; }

  /// Carried: the memory, the cache, and the layers' inputs of the segment's tokens (B, L, T, D).
  SegmentStart start_segment(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const auto before = begun(segment, state, segment.source.size(0), ctx);
    const int64_t B = segment.source.size(0);
    auto context = stack_.project_keys_values(TokenCache::of(before.cache), ctx);
    const auto of_memory = stack_.project_memory(before.memory, /*queries=*/0, ctx);
    const auto behind = [&](const Tensor& cached, const Tensor& slots) {
      return at::cat({cached, slots.expand({B, -1, -1, -1})}, 2);
    };
    for (size_t i = 0; i < context.size(); ++i)
      context[i] = {behind(context[i].keys, of_memory[i].keys), behind(context[i].values, of_memory[i].values)};
    const auto inputs = at::zeros({B, shape_.layers, shape_.segment, shape_.width}, before.cache[0].options());
    return {std::move(context),
            KeyMask(),
            last_token(segment.source, bos_).squeeze(1).to(at::kLong),
            {before.memory.raw, before.cache[0], before.cache[1], inputs}};
  }

  DecodedRows decode_rows(const Tensor& tokens, const DecodeState& decoding, const DecodeRows& rows,
                          ForwardContext& ctx) const override {
    const auto slots = rows.slots.to(at::kLong), positions = rows.positions.to(at::kLong);
    const auto filled = decoding.carried[2].index_select(0, slots);
    const auto [hidden, inputs] = stack_.decode(embedding_(tokens, ctx), decoding, rows, filled, ctx);
    decoding.carried[3].transpose(1, 2).index_put_({slots, positions}, inputs.squeeze(2).to(parameters_.dtype()));
    return hidden;
  }

  State next_state(const State& carried, const Tensor& hidden, const KeyMask& mask,
                   ForwardContext& ctx) const override {
    const auto real = real_of(mask, carried[2].size(0), carried[3].size(2), carried[2].device());
    auto cache = cache_.next({carried[1], carried[2]}, carried[3], real);
    const auto memory = memory_.write(memory_.read({carried[0]}, {}, ctx), hidden, mask, ctx);
    return {memory, cache[0], cache[1]};
  }

  Encoding encode(const SegmentInput& segment, const State& state, ForwardContext& ctx) const override {
    const auto mask = segment.target_mask();
    const auto tokens = read_tokens(segment);
    const int64_t B = tokens.size(0), T = tokens.size(1);
    const auto real = real_of(mask, B, T, tokens.device());
    const auto before = begun(segment, state, B, ctx);
    const auto [hidden, inputs] =
        stack_(embedding_(tokens, ctx), mask.none() ? Tensor() : real, TokenCache::of(before.cache), ctx,
               stack_.project_memory(before.memory, T, ctx));
    if (!segment.writes) return {hidden, {}};
    const auto cache = cache_.restarted(cache_.next(before.cache, at::stack(inputs, 1), real), segment.next_reset);
    return {hidden, {memory_.write(before.memory, hidden, mask, ctx, segment.next_reset), cache[0], cache[1]}};
  }

  Tensor read_tokens(const SegmentInput& segment) const override {
    return shifted(last_token(segment.source, bos_), segment.target);
  }

  Tensor decode(const SegmentInput&, const Tensor& hidden, ForwardContext&) const override { return hidden; }

  Before begun(const SegmentInput& segment, const State& state, int64_t B, ForwardContext& ctx) const {
    require(state.size() == 3, "SHAPE", "the state is three tensors, memory, cache and filled; got ", state.size());
    if (segment.reset.defined()) require_parts(state_layout(), state, B);
    auto cache = of_rows({state[1], state[2]}, B);
    return {memory_.read({state[0]}, segment.reset, ctx), cache_.restarted(cache, segment.reset)};
  }

  Embedding embedding_;
  RelativeStack stack_;
  Memory memory_;
  TokenCache cache_;
  DecoderShape shape_;
};

}  // namespace

const bool cached_decoder_registered = models().add("cached-decoder", [](const Config& config, uint64_t seed) {
  return std::make_unique<CachedDecoder>(config, seed);
});

}  // namespace memformer::nn
