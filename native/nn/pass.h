// The context of one pass over one segment: the dtype to compute in, dropout and its seed, and the weights in that
// dtype.
// Letters: G groups of rows (segments in one batch), D width.
#pragma once
#include <memory>
#include <unordered_map>

#include "nn/observation.h"
#include "nn/parameters.h"
#include "ops/fold_norm/fold_norm.h"

namespace memformer::nn {

/// Where a gradient is added up by the operator itself; none: autograd takes it.
using Sink = std::optional<at::Tensor>;

/// A dropout of one pass: its rate, the pass's seed () int64, and its place among the others.
struct DropoutSite {
  double rate;
  std::optional<at::Tensor> seed;
  int64_t site;
};

class Pass {
 public:
  /// dropout 0 turns it off; seed () int64 decides every mask of the pass; (G): the rows fall into G equal groups, each
  /// with its own. It computes anew what depends on weights alone, unless `before`, another pass of the same step, has
  /// done so.
  Pass(const Parameters& parameters, at::ScalarType compute, double dropout, at::Tensor seed, int64_t first_site = 0,
       const Pass* before = nullptr)
      : parameters_(parameters),
        compute_(compute),
        dropout_(dropout),
        seed_(std::move(seed)),
        site_(first_site),
        of_weights_(before == nullptr ? std::make_shared<OfWeights>() : before->of_weights_) {}

  /// Sites are numbered as they are met, so the same model code meets the same masks again when it is replayed.
  DropoutSite next_dropout() {
    if (dropout_ == 0.0) return {0.0, std::nullopt, 0};
    return {dropout_, seed_, site_++};
  }

  /// A weight for an operator that takes a sink beside it: in the dtype of the pass. Where there is no sink it is cast
  /// once a step, and the gradient flows back to the master through the cast.
  at::Tensor working(const at::Tensor& weight) {
    if (weight.scalar_type() == compute_) return weight;
    const auto& held = parameters_.held(weight);
    if (held.working.defined() && held.working.scalar_type() == compute_) return held.working;
    auto& copy = of_weights_->copies[weight.unsafeGetTensorImpl()];
    if (!copy.defined()) copy = weight.to(compute_);
    return copy;
  }
  Sink sink(const at::Tensor& weight) const {
    const auto& held = parameters_.held(weight);
    return held.sink.defined() ? Sink(held.sink) : std::nullopt;
  }

  /// What make() has folded for the layers whose first weight this is.
  template <typename Make>
  const ops::FoldedNorms& folded(const at::Tensor& first, Make&& make) {
    const auto key = first.unsafeGetTensorImpl();
    const auto found = of_weights_->folded.find(key);
    return found != of_weights_->folded.end() ? found->second : of_weights_->folded.emplace(key, make()).first->second;
  }

  /// The number of the next dropout: where a pass over the rest of the same model goes on.
  int64_t site() const { return site_; }

  /// Where what happens in the pass is noted, or null.
  Observation* observation() const { return observation_; }
  void observe(Observation* observation) { observation_ = observation; }

  /// Whether no row's numbers may depend on the rows beside it: decoding (ops/decode_linear).
  bool row_by_row() const { return row_by_row_; }
  void compute_row_by_row() { row_by_row_ = true; }

  at::ScalarType compute() const { return compute_; }
  at::Tensor cast(const at::Tensor& x) const { return x.to(compute_); }

  /// The same pass without dropout and casts, for what is computed in the parameters' dtype.
  Pass exact() const { return Pass(parameters_, parameters_.dtype(), 0.0, {}); }

 private:
  const Parameters& parameters_;
  at::ScalarType compute_;
  double dropout_;
  at::Tensor seed_;
  int64_t site_;
  Observation* observation_ = nullptr;
  bool row_by_row_ = false;
  struct OfWeights {
    std::unordered_map<at::TensorImpl*, at::Tensor> copies;
    std::unordered_map<at::TensorImpl*, ops::FoldedNorms> folded;
  };
  std::shared_ptr<OfWeights> of_weights_;
};

}  // namespace memformer::nn
