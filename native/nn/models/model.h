// A model is a recurrence over a state: forward(segment, state) -> (loss, state). What the state is (a memory, a cache, nothing)
// only the model knows; MRBP, BPTT, evaluation and generation are written once, for every model.
#pragma once
#include "core/registry.h"
#include "nn/config.h"
#include "nn/parameters.h"
#include "nn/pass.h"

namespace memformer::nn {

using State = std::vector<at::Tensor>;

/// One segment for each of B rows.
struct SegmentInput {
  at::Tensor source;  ///< (B, T) int64, the segment before; negative: padding. Encoders also take (B, T, D): embedded already
  at::Tensor target;  ///< (B, T) int64, this segment, to be predicted; negative: padding, not scored
  at::Tensor reset;   ///< (B) bool, rows that start a document; undefined: the state is restarted already
  at::Tensor seed;    ///< () int64, decides every dropout mask; (G) for the rows of G segments above each other
  bool padded;        ///< whether there is padding anywhere
  bool training;      ///< whether dropout is on
  at::Tensor next_reset = {};  ///< (B) bool, rows that start a document with the segment that follows; the state is then restarted at once
};

/// What a run of G consecutive segments gives.
struct Outputs {
  at::Tensor total;  ///< (), the weighted sum of the losses: what has a gradient
  at::Tensor loss;   ///< (G), mean negative log-likelihood of each segment's scored targets, nats
  at::Tensor count;  ///< (G) int64, how many were scored
  State state;       ///< after the last
};

struct Encoding {
  at::Tensor hidden;  ///< (B, T, D), the normed output of the stack that writes the memory
  State state;
};

class Model {
 public:
  Model(const Config& config, uint64_t seed);
  virtual ~Model() = default;

  /// The state at time 0 of `rows` rows.
  virtual State initial_state(int64_t rows) const = 0;
  /// Consecutive segments, each from the state the one before has left: losses and the last state. Only the critical path goes segment
  /// by segment; what hangs on it (the decoder, the scores) is computed for all of them at once. weights (G) are those of the losses in
  /// their total; undefined: 1 each.
  Outputs forward(const std::vector<SegmentInput>& segments, State state, const at::Tensor& weights = {}) const;
  /// The critical path alone: the next state, and what the stack that writes it computed. forward() takes the same path.
  Encoding encode(const SegmentInput& segment, const State& state) const;
  /// What a whole step lets be seen of itself (observation.h), without gradient.
  Observation observe(const SegmentInput& segment, const State& state) const;
  /// Logits (B, V) of the token after `prefix` (B, P >= 0), the start of the segment that follows segment.source.
  /// `state` is what forward() would be given. segment.target is not looked at.
  virtual at::Tensor logits(const SegmentInput& segment, const at::Tensor& prefix, const State& state) const = 0;

  /// Moves the parameters; call once, before the first step.
  void to(at::Device device) { parameters_.to(device, compute_); }
  at::Device device() const { return parameters_.all().front().value.device(); }

  Parameters& parameters() { return parameters_; }
  const Parameters& parameters() const { return parameters_; }

 protected:
  /// The critical path of one segment.
  virtual Encoding encode(const SegmentInput& segment, const State& state, Pass& pass) const = 0;
  /// From encode()'s hidden states to those that are scored against target, for any number of segments: (G B, T, D) both.
  virtual at::Tensor decode(const SegmentInput& segments, const at::Tensor& hidden, Pass& pass) const = 0;

  Pass start(const SegmentInput& segment, const Pass* before = nullptr) const;
  /// What gradients are multiplied by inside; undefined: nothing.
  at::Tensor loss_scale() const { return parameters_.flat() ? parameters_.flat()->loss_scale : at::Tensor(); }
  at::Tensor project(const at::Tensor& hidden, Pass& pass) const;
  /// The output projection: weight (V, D), the embedding itself when tied, and a bias (V) where the configuration has one.
  void make_output(const Config& config, const at::Tensor& embedding);

  Parameters parameters_;
  int64_t bos_;

 private:
  at::ScalarType compute_;
  double dropout_;
  at::Tensor output_;
  std::optional<at::Tensor> output_bias_;
};

/// Models by name: "encoder-decoder" (the paper's), "encoder", "decoder".
Registry<std::unique_ptr<Model>, const Config&, uint64_t>& models();

}  // namespace memformer::nn
