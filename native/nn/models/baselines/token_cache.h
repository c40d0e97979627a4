// What Transformer-XL keeps of the tokens before a segment (relative_stack.h), as parts of a state: its layers' inputs,
// tokens alone, moved to the end, and how many there are. Padding is neither seen nor kept.
// Letters: B batch, T tokens, C places of the cache, L layers, D width.
#pragma once
#include "nn/config.h"
#include "nn/models/baselines/relative_stack.h"
#include "nn/state.h"

namespace memformer::nn {

class TokenCache {
 public:
  explicit TokenCache(const Config& config)
      : layers_(config.integer("decoderLayers")),
        places_(config.integer("cacheLength")),
        width_(config.integer("width")),
        kept_(config.flag("memory")) {}

  int64_t places() const { return places_; }
  StateLayout layout(at::ScalarType dtype) const {
    return {{"cache", {layers_, places_, width_}, dtype, false}, {"filled", {}, at::kLong, false}};
  }
  static RelativeCache of(const State& cache) { return {cache[0], cache[1]}; }

  /// The last C tokens of the cache and of the segment, inputs (B, L, T, D), real (B, T).
  State next(const State& cache, const at::Tensor& inputs, const at::Tensor& real) const {
    const auto all = at::cat({cache[0], inputs.to(cache[0].scalar_type())}, 2);  // (B, L, C + T, D)
    const auto there = at::cat({right_aligned(cache[1], places_), real}, 1);
    const auto kept = moved_right(all, there).narrow(2, real.size(1), places_);
    const auto filled = (cache[1] + real.sum(1)).clamp_max(places_);
    // What is no token is nothing, so that equal texts have equal caches.
    const auto empty = right_aligned(filled, places_).logical_not().view({-1, 1, places_, 1});
    return {kept.masked_fill(empty, 0.0).detach(), filled};
  }

  /// Rows that start (B) bool have an empty cache; all of them in a twin. Undefined: none.
  State restarted(const State& cache, const at::Tensor& starts) const {
    if (!starts.defined()) return cache;
    const auto rows = kept_ ? starts : at::ones_like(starts);
    return {cache[0].masked_fill(rows.view({-1, 1, 1, 1}), 0.0), cache[1].masked_fill(rows, 0)};
  }

 private:
  int64_t layers_, places_, width_;
  bool kept_;
};

}  // namespace memformer::nn
