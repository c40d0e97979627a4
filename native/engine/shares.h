// How ranks share out the numbers of a model's parameters (ZeRO-1, Rajbhandari et al. 2020): each keeps the optimizer's
// moments of its own share alone, updates that, and all gather what the others have updated. The numbers stand in one
// line, as in nn::Parameters::flat(); a share is a consecutive part of it.
#pragma once
#include "nn/parameters.h"

namespace memformer::engine {

/// Numbers [begin, end) of a parameter, in row-major order.
struct Piece {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

class Shares {
 public:
  /// whole_matrices: no matrix of a layer (nn::Parameter::matrices) is divided. Elsewhere a share ends at a multiple of
  /// nn::Parameters::kAlignment numbers of a parameter, so that vectorized updates round as without shares.
  Shares(const nn::Parameters& parameters, int rank, int world, bool whole_matrices);

  /// This rank's piece of parameters.all()[parameter]; size 0 where it has none.
  Piece of(size_t parameter) const;
  /// Where each rank's numbers end, (world): in the whole line, and among the numbers of one parameter.
  const std::vector<int64_t>& ends() const { return ends_; }
  std::vector<int64_t> ends_of(size_t parameter) const;
  /// Where a parameter begins in the line, and how long the line is; parameters may have gaps between them.
  int64_t offset(size_t parameter) const { return offsets_[parameter]; }
  int64_t size() const { return size_; }
  /// This rank's part of the line.
  Piece own() const {
    return {rank_ == 0 ? 0 : ends_[static_cast<size_t>(rank_ - 1)], ends_[static_cast<size_t>(rank_)]};
  }
  bool divided() const { return ends_.size() > 1; }

 private:
  int rank_;
  int64_t size_;
  std::vector<int64_t> offsets_, sizes_, ends_;
};

}  // namespace memformer::engine
