// The open segments of a model's rows, one a slot, decoded token by token. On a GPU what a call does is recorded once
// and replayed: a segment's begin and its end for one row, and for 8 where there are many, a step for 1, 2, 4, ...
// rows, filled up with rows of a slot that nobody has. A row's numbers do not depend on the others, to the bit: where
// that is asked for, rows are begun and ended each by itself, 8 of many side by side, but for the step that a segment
// begins with. Letters: B segments that begin, N draws of a run, Q rows that draw most, R rows of a step, V vocabulary.
#pragma once
#include "engine/graph_cache.h"
#include "engine/row_draws.h"
#include "nn/models/model.h"

namespace memformer::engine {

/// What a run has drawn.
struct Drawn {
  at::Tensor tokens;  ///< (N, R) int64, on the device; -1 where a row could draw nothing, and after its last draw
  at::Tensor logits;  ///< (Q, V), after the last token that was taken in: of the first Q rows, which took in that
};

/// Rows whose segments a pass begins or ends as one batch, at most: what a pass holds grows with them.
constexpr int64_t kRowsTogether = 64;
/// Rows that a GPU begins or ends side by side, where there are twice as many: recording them takes time, once.
constexpr int64_t kRowsSideBySide = 8;

class Decoding {
 public:
  /// Caches of `slots` open segments. `graphs`: whether to record. Without `deterministic`, up to kRowsTogether rows
  /// are begun and ended in one pass: to rounding the same.
  Decoding(std::shared_ptr<nn::Model> model, int64_t slots, bool graphs, bool deterministic);

  int64_t slots() const { return slots_; }
  /// Tokens of a segment.
  int64_t length() const { return state_.length; }

  /// Begins a segment in each of these slots, from the row of `segment` and `state` of the same number, which may be as
  /// on_device() takes them. Returns logits (B, V) of the first tokens.
  at::Tensor begin(const std::vector<int64_t>& slots, const nn::SegmentInput& segment, const nn::State& state);
  /// One more token in each of R slots, no two the same: tokens (R) int64, on the host or the device. Returns logits
  /// (R, V).
  at::Tensor step(const at::Tensor& tokens, const std::vector<int64_t>& slots);
  /// Draws draws[r] tokens in each of R slots, the first from `logits` (R, V), and takes in each that another follows;
  /// with `take_last` the last of the rows that draw most too. N = draws[0] >= draws[1] >= ... >= 1. points (N, R)
  /// float64, on the host or the device: where each draw falls. Row r draws by samplings[of[r]]. Nobody has to look at
  /// a token before the next is under way.
  Drawn run(const at::Tensor& logits, const at::Tensor& points, const std::vector<Sampling>& samplings,
            const std::vector<int64_t>& of, const std::vector<int64_t>& slots, const std::vector<int64_t>& draws,
            bool take_last);
  /// The same tokens as so many steps of one slot. Returns logits (1, V).
  at::Tensor prefill(const std::vector<int64_t>& tokens, int64_t slot);
  /// The state after the segments of these slots.
  nn::State end(const std::vector<int64_t>& slots);

  const GraphCache& graphs() const { return graphs_; }

 private:
  /// pass(from, count, cache) of parts of `rows` rows that are begun or ended together; one batch is not recorded.
  template <typename Pass>
  void in_parts(int64_t rows, Pass&& pass);
  /// of(from, rows) of `count` rows as in_parts gives them: of all at once, or where rows are on their own of one after
  /// the other, which may run side by side. Each result's rows in order.
  Tensors of_rows(int64_t count, const std::function<Tensors(int64_t from, int64_t rows)>& of) const;

  std::shared_ptr<nn::Model> model_;
  int64_t slots_;
  bool deterministic_;
  nn::DecodeState state_;
  GraphCache graphs_, unrecorded_;
};

}  // namespace memformer::engine
