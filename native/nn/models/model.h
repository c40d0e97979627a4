// A model is a recurrence over a state: forward(segment, state) -> (loss, state). What the state means (a memory, a
// cache, nothing) only the model knows; MRBP, BPTT, evaluation and generation are written once, against its layout.
// Letters: B batch, T tokens of a segment, G segments of a step, P tokens of a prefix, R rows that are decoded, A
// ablations, D width, V vocabulary.
#pragma once
#include <functional>

#include "core/registry.h"
#include "nn/attention.h"
#include "nn/config.h"
#include "nn/decoding.h"
#include "nn/forward_context.h"
#include "nn/key_mask.h"
#include "nn/parameters.h"
#include "nn/state.h"

namespace memformer::nn {

/// One segment for each of B rows.
struct SegmentInput {
  at::Tensor
      source;  ///< (B, T) int64, the segment before; negative: padding. Encoders also take (B, T, D): embedded already
  at::Tensor target;  ///< (B, T) int64, this segment, to be predicted; negative: padding, not scored
  at::Tensor reset;   ///< (B) bool, rows that start a document; undefined: the state is restarted already
  at::Tensor seed;  ///< () or (B) int64, decides every dropout mask, or each row's; of G segments above each other (G)
                    ///< or (G B)
  at::Tensor lengths;  ///< (2, B) int32, tokens before the padding of source and of target; empty, (0): padding may lie
                       ///< anywhere
  bool training;       ///< whether dropout is on
  at::Tensor next_reset =
      {};  ///< (B) bool, rows that start a document with the segment that follows; the state is then restarted at once
  bool writes = true;  ///< whether the next state is wanted; without it encode() returns an empty one

  KeyMask source_mask() const { return KeyMask(source, lengths.numel() == 0 ? at::Tensor() : lengths[0]); }
  KeyMask target_mask() const { return KeyMask(target, lengths.numel() == 0 ? at::Tensor() : lengths[1]); }
};

/// Consecutive segments as rows of one batch, in order: (G B, T).
SegmentInput joined(const std::vector<SegmentInput>& segments);

/// What a run of G consecutive segments gives.
struct Outputs {
  at::Tensor total;  ///< (), the weighted sum of the losses: what has a gradient, those beside the tokens' included
  at::Tensor loss;   ///< (G), mean negative log-likelihood of each segment's scored targets, nats
  at::Tensor count;  ///< (G) int64, how many were scored
  State state;       ///< after the last
};

/// What each segment reads in place of the memory.
enum class Ablation { initial, zeroed, shuffled, frozen };
/// Throws CONFIG for an unknown name.
Ablation ablation(const std::string& name);

/// What Ablation::frozen carries from segment to segment.
struct FrozenState {
  State state;       ///< the memory after the first segment of text; the memory itself until then
  at::Tensor holds;  ///< (B) bool: that segment has been read
};

/// Losses of G consecutive segments with the memory, and with each ablation of it.
struct Scores {
  at::Tensor loss;   ///< (1 + A, G), nats: with the memory, then for each ablation
  at::Tensor count;  ///< (G) int64
  State state;       ///< after the last segment
  FrozenState held;  ///< likewise; empty without Ablation::frozen
};

/// What a segment that is begun gives its slots, for each of B rows.
struct SegmentStart {
  std::vector<CrossAttention::KeysValues> context;  ///< what each layer reads
  KeyMask mask;                                     ///< of the context
  at::Tensor first;                                 ///< (B) int64, the token before the segment's first
  State carried;                                    ///< what next_state() will be given
};

/// Sizes of a decoder's caches.
struct DecoderShape {
  int64_t layers, heads, width;
  int64_t segment;     ///< tokens
  int64_t context;     ///< keys that each layer reads beside them, at most
  int64_t beside = 0;  ///< further places of the layers' own caches: of a memory that is read as tokens
};

struct Encoding {
  at::Tensor hidden;  ///< (B, T, D), the normed output of the stack that writes the memory
  State state;
  /// (), a loss beside that of the tokens, of parameters that no other loss reaches, a mean over the scored targets;
  /// undefined: none. Its gradient is taken with the segment's weight, its value is part of no loss.
  at::Tensor beside = {};
};

class Model {
 public:
  Model(const Config& config, uint64_t seed);
  virtual ~Model() = default;

  /// The parts of the state: one memory, several tensors, or none.
  virtual StateLayout state_layout() const = 0;
  /// The state at time 0 of `rows` rows.
  virtual State initial_state(int64_t rows) const = 0;
  /// Consecutive segments, each from the state the one before has left: losses and the last state. Only the critical
  /// path goes segment by segment; what hangs on it (the decoder, the scores) is computed for all of them at once.
  /// weights (G) are those of the losses in their total; undefined: 1 each.
  Outputs forward(const std::vector<SegmentInput>& segments, State state, const at::Tensor& weights = {}) const;
  /// The critical path alone: the next state, and what the stack that writes it computed. forward() takes the same
  /// path.
  Encoding encode(const SegmentInput& segment, const State& state) const;
  /// The state after G consecutive segments, by the critical path alone. between() is called with the state that the
  /// next of them meets, rows that start a document at their start already, and may change it. What a segment begins
  /// with may be computed while the one before it is read.
  State advance(const std::vector<SegmentInput>& segments, State state,
                const std::function<void(State&)>& between) const;
  /// Scores G consecutive segments, without gradient and dropout. Only the memory's own path goes segment by segment:
  /// an ablation reads memories that are known by then, so its G segments are one batch. held: empty before the first
  /// segment. `between` is called before each part of the work, and may throw.
  Scores score(
      const std::vector<SegmentInput>& segments, State state, FrozenState held, const std::vector<Ablation>& ablations,
      const std::function<void()>& between = [] {}) const;
  /// What a whole step lets be seen of itself (observation.h), without gradient; `wanted`: of these names, empty: all.
  Observation observe(const SegmentInput& segment, const State& state,
                      const std::vector<std::string>& wanted = {}) const;
  /// Logits (B, V) of the token after `prefix` (B, P >= 0), the start of the segment that follows segment.source.
  /// `state` is what forward() would be given. segment.target is not looked at.
  virtual at::Tensor logits(const SegmentInput& segment, const at::Tensor& prefix, const State& state) const = 0;

  // Decoding, written once for every model in models/decode.cpp: the same numbers as logits(), token by token, without
  // computing anything twice. Without gradient.
  /// Caches of `slots` open segments. Throws CONFIG for a model that does not generate.
  DecodeState open_slots(int64_t slots) const;
  /// Begins a segment in each of these slots (B) int64, from the row of `segment` and `state` of the same number;
  /// segment.target is not looked at. Returns the token (B) int64 that each is begun with, for decode_step.
  at::Tensor begin_segment(DecodeState& decoding, const at::Tensor& slots, const SegmentInput& segment,
                           const State& state) const;
  /// The next token of each of R rows, in slots of their own: tokens (R) int64, slots (R) int32 -> logits (R, V) of
  /// those that follow. It reads nothing on the host, and a row's numbers do not depend on the others, to
  /// the bit. No slot may hold more than T - 1 tokens.
  at::Tensor decode_step(DecodeState& decoding, const at::Tensor& tokens, const at::Tensor& slots) const;
  /// The next P >= 1 tokens of one slot at once -> logits (1, V): the same as P steps, to the bit.
  at::Tensor prefill(DecodeState& decoding, const at::Tensor& tokens, int64_t slot) const;
  /// The state after the segments of these slots (B) int64: what was fed and the one token that follows it.
  State end_segment(const DecodeState& decoding, const at::Tensor& slots) const;

  /// Moves the parameters; call once, before the first step.
  void to(at::Device device) { parameters_.to(device, compute_); }
  at::Device device() const { return parameters_.all().front().value.device(); }

  /// Comes before a recorded step is replayed: what it reads and does not make itself is of the weights as they are.
  void prepare_replay() const { parameters_.folds().refresh(); }

  Parameters& parameters() { return parameters_; }
  const Parameters& parameters() const { return parameters_; }

 protected:
  /// The part of a segment's critical path that depends on its tokens alone, for ctx.begin_with(); null: none.
  virtual std::shared_ptr<const Residual> begin(const SegmentInput&, ForwardContext&) const { return nullptr; }
  /// The critical path of one segment.
  virtual Encoding encode(const SegmentInput& segment, const State& state, ForwardContext& ctx) const = 0;
  /// The critical path of G consecutive segments.
  struct Path {
    at::Tensor hidden;               ///< (G B, T, D), one segment above the other
    State state;                     ///< after the last
    std::vector<at::Tensor> beside;  ///< Encoding::beside of each, or none
    ForwardContext last;             ///< of the last pass
  };
  /// Segment by segment, unless a model can do better.
  virtual Path encode_all(const std::vector<SegmentInput>& segments, State state) const;
  /// From encode()'s hidden states to those that are scored against target, for any number of segments: (G B, T, D)
  /// both.
  virtual at::Tensor decode(const SegmentInput& segments, const at::Tensor& hidden, ForwardContext& ctx) const = 0;

  // What decoding is made of; a model that does not generate leaves it, and throws CONFIG.
  virtual DecoderShape decoder_shape() const { throw no_decoding(); }
  /// Whether the memory is written from what the decoder computes.
  virtual bool writes_from_decoder() const { return false; }
  virtual SegmentStart start_segment(const SegmentInput&, const State&, ForwardContext&) const { throw no_decoding(); }
  /// tokens (R, 1) int64.
  virtual DecodedRows decode_rows(const at::Tensor&, const DecodeState&, const DecodeRows&, ForwardContext&) const {
    throw no_decoding();
  }
  /// What goes into the layers' caches of these slots (B) int32 before the segment's first token.
  virtual void begin_rows(const DecodeState&, const at::Tensor&, ForwardContext&) const {}
  /// The state after the segments of these slots (B) int64: next_state() of what they carry, unless a model makes it
  /// of their caches.
  virtual State end_rows(const DecodeState& decoding, const at::Tensor& slots, ForwardContext& ctx) const;
  /// From what start_segment() carried, and hidden (B, n, D) where writes_from_decoder().
  virtual State next_state(const State&, const at::Tensor&, const KeyMask&, ForwardContext&) const {
    throw no_decoding();
  }

  /// The tokens (B, T) that encode() reads, negative: padding.
  virtual at::Tensor read_tokens(const SegmentInput& segment) const { return segment.source; }

  ForwardContext start(const SegmentInput& segment, const ForwardContext* before = nullptr) const;
  /// What gradients are multiplied by inside; undefined: nothing.
  at::Tensor loss_scale() const { return parameters_.flat().loss_scale; }
  /// The state as it crosses the model's border (loss_scale.h): `change` of its differentiable parts, the others as
  /// they are.
  State at_border(State state, at::Tensor (*change)(const at::Tensor&, const at::Tensor&)) const;
  /// Logits (..., V) of hidden (..., D), normed.
  at::Tensor project(const at::Tensor& hidden, ForwardContext& ctx) const;
  /// The output projection: weight (V, D), the embedding itself when tied, and a bias (V) where the configuration has
  /// one.
  void make_output(const Config& config, const at::Tensor& embedding);

  Parameters parameters_;
  int64_t bos_;

 private:
  /// encode() as the outside sees it: the state is that of the model's border.
  Encoding encode_at_border(const SegmentInput& segment, const State& state, ForwardContext& ctx) const;
  /// total (), loss (G), count (G) of hidden states (G B, T, D) against the segments' targets; weights (G).
  std::tuple<at::Tensor, at::Tensor, at::Tensor> losses(const SegmentInput& segments, const at::Tensor& hidden,
                                                        const at::Tensor& weights, ForwardContext& ctx) const;
  /// (B) bool: rows with a token that is neither padding nor BOS.
  at::Tensor reads_text(const SegmentInput& segment) const;

  /// Logits (R, V) of a step's rows.
  at::Tensor project_rows(DecodedRows rows, ForwardContext& ctx) const;
  std::optional<at::Tensor> output_bias(ForwardContext& ctx) const;

  static Failure no_decoding() { return {"CONFIG", "this model does not generate"}; }
  ForwardContext step_pass(const DecodeState& decoding) const;
  /// The output of the last layer for tokens (R) in slots (R), each `ahead` (R) int32 of where its slot stands, or
  /// undefined: 0.
  DecodedRows decode_hidden(DecodeState& decoding, const at::Tensor& tokens, const at::Tensor& slots,
                            const at::Tensor& ahead, ForwardContext& ctx) const;

  at::ScalarType compute_;
  double dropout_;
  at::Tensor output_;
  std::optional<at::Tensor> output_bias_;
};

/// Models by name: "encoder-decoder" (the paper's), "encoder", "decoder"; the baselines "lstm", "transformer-xl",
/// "compressive-transformer", "rmt", "gated-delta".
Registry<std::unique_ptr<Model>, const Config&, uint64_t>& models();

}  // namespace memformer::nn
