// How the rows of a run draw their tokens: each by its own settings, those of equal settings in one call. A row draws
// the same, to the bit, whatever rows are beside it.
// Letters: R rows of a run, S of them that still draw, V vocabulary.
#pragma once
#include <vector>

#include "core/torch.h"

namespace memformer::engine {

/// Settings of one or more rows: what is done to their logits, then how ops::sample_token draws from them.
struct Sampling {
  double temperature;
  int64_t top_k;
  double top_p;
  double floor;  ///< logits below it, relative to a row's largest, count as -infinity; -infinity: none does
  int64_t tokens, also;
  at::Tensor bias;  ///< (1, V) float64, added to the logits, then computed in float64; undefined: nothing is
  at::Tensor gaps;  ///< (1, V), added after that; undefined: nothing is
};

class RowDraws {
 public:
  /// Row r of R draws by samplings[of[r]].
  RowDraws(const std::vector<Sampling>& samplings, const std::vector<int64_t>& of, at::Device device);

  /// logits (S, V) and points (S) float64 on the device, of the first S rows. Returns (S) int64, -1 where a row can
  /// draw nothing.
  at::Tensor draw(const at::Tensor& logits, const at::Tensor& points) const;

 private:
  struct Alike {
    Sampling sampling;
    std::vector<int64_t> rows;  ///< in their order
    at::Tensor index;           ///< the same, on the device
  };
  std::vector<Alike> groups_;
};

}  // namespace memformer::engine
