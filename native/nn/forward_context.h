// The context of one pass over one segment: the dtype to compute in, dropout and its seed, and the weights in that
// dtype.
// Letters: G groups of rows (segments in one batch), D width.
#pragma once
#include <functional>
#include <memory>
#include <unordered_map>

#include "core/trained.h"
#include "nn/observation.h"
#include "nn/parameters.h"
#include "ops/fold_layer_norm/fold_layer_norm.h"

namespace memformer::nn {

/// A dropout of one pass: its rate, the pass's seed () int64, and its place among the others.
struct DropoutSite {
  double rate;
  std::optional<at::Tensor> seed;
  int64_t site;
};

struct Residual;  // layers.h

class ForwardContext {
 public:
  /// dropout 0 turns it off; seed () int64 decides every mask of the pass; (G): the rows fall into G equal groups, each
  /// with its own. It computes anew what depends on weights alone, unless `before`, another pass of the same step, has
  /// done so. In grad mode it makes room for the parameters' gradients.
  ForwardContext(const Parameters& parameters, at::ScalarType compute, double dropout, at::Tensor seed,
                 int64_t first_site = 0, const ForwardContext* before = nullptr)
      : parameters_(parameters),
        compute_(compute),
        dropout_(dropout),
        seed_(std::move(seed)),
        site_(first_site),
        weight_cache_(before == nullptr ? std::make_shared<WeightCache>() : before->weight_cache_) {
    if (at::GradMode::is_enabled()) parameters_.gradients();
  }

  /// Sites are numbered as they are met, so the same model code meets the same masks again when it is replayed.
  DropoutSite next_dropout() {
    if (dropout_ == 0.0) return {0.0, std::nullopt, 0};
    return {dropout_, seed_, site_++};
  }

  /// A weight for an operator that takes a sink beside it: in the dtype of the pass. Where there is no sink it is cast
  /// once a step, and the gradient flows back to the master through the cast.
  at::Tensor working(const at::Tensor& weight) {
    if (weight.scalar_type() == compute_) return weight;
    const auto& storage = parameters_.storage(weight);
    if (storage.working.defined() && storage.working.scalar_type() == compute_) return storage.working;
    auto& copy = weight_cache_->copies[weight.unsafeGetTensorImpl()];
    if (!copy.defined()) copy = weight.to(compute_);
    return copy;
  }
  /// Where a weight's gradient is added up by the operator itself; none: autograd takes it.
  std::optional<at::Tensor> sink(const at::Tensor& weight) const {
    const auto& storage = parameters_.storage(weight);
    return storage.sink.defined() ? std::optional(storage.sink) : std::nullopt;
  }
  /// Both; undefined, and no sink, for a weight that there is not.
  Trained trained(const at::Tensor& weight) { return {working(weight), sink(weight)}; }
  Trained trained(const std::optional<at::Tensor>& weight) { return weight ? trained(*weight) : Trained{}; }

  /// What make() has folded for the layers whose first weight this is, in this step.
  template <typename Make>
  const ops::FoldedLinear& cached_fold(const at::Tensor& first, Make&& make) {
    const auto key = first.unsafeGetTensorImpl();
    const auto found = weight_cache_->folds.find(key);
    return found != weight_cache_->folds.end() ? found->second
                                               : weight_cache_->folds.emplace(key, make()).first->second;
  }

  /// What is kept between passes without gradient.
  KeptFolds& folds() const { return parameters_.folds(); }

  /// The number of the next dropout: where a pass over the rest of the same model goes on.
  int64_t site() const { return site_; }

  /// Where what happens in the pass is noted, or null.
  Observation* observation() const { return observation_; }
  void observe(Observation* observation) { observation_ = observation; }

  /// The first layer's self-attention, computed in advance by Model::begin; null: it is not.
  const std::shared_ptr<const Residual>& begun() const { return begun_; }
  void begin_with(std::shared_ptr<const Residual> begun) { begun_ = std::move(begun); }
  /// Work that may run at the same time as the pass's layers, once; empty: none. It needs nothing of this pass.
  const std::function<void()>& concurrent_work() const { return concurrent_work_; }
  void run_concurrently(std::function<void()> work) { concurrent_work_ = std::move(work); }

  /// Whether no row's numbers may depend on the rows beside it: decoding (ops/decode_linear).
  bool row_by_row() const { return row_by_row_; }
  void compute_row_by_row() { row_by_row_ = true; }

  at::ScalarType compute() const { return compute_; }
  at::Tensor cast(const at::Tensor& x) const { return x.to(compute_); }

  /// The same pass without dropout and casts, for what is computed in the parameters' dtype.
  ForwardContext exact() const { return ForwardContext(parameters_, parameters_.dtype(), 0.0, {}); }

 private:
  const Parameters& parameters_;
  at::ScalarType compute_;
  double dropout_;
  at::Tensor seed_;
  int64_t site_;
  Observation* observation_ = nullptr;
  std::shared_ptr<const Residual> begun_;
  std::function<void()> concurrent_work_;
  bool row_by_row_ = false;
  struct WeightCache {
    std::unordered_map<at::TensorImpl*, at::Tensor> copies;
    std::unordered_map<at::TensorImpl*, ops::FoldedLinear> folds;
  };
  std::shared_ptr<WeightCache> weight_cache_;
};

}  // namespace memformer::nn
