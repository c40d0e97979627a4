// AdamW (Loshchilov and Hutter 2019) over a model's parameters. Decay only where the parameter asks for it. A step
// whose gradients are not finite is skipped on the device, without waiting for the host. Parameters that stand apart,
// on a CPU, take LibTorch's fused kernel, and one that no gradient reached stays as it is; flat ones, on a GPU, take
// one kernel of ops/adamw for everything: clipping, update, working copies, zeroed gradients.
#pragma once
#include <map>

#include "engine/muon.h"
#include "nn/parameters.h"

namespace memformer::engine {

class AdamW {
 public:
  struct Options {
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
    bool muon = false;  ///< the matrices of layers by Muon, whose momentum stands in their exp_avg
  };

  AdamW(const nn::Parameters& parameters, Options options);

  /// One update at `rate` from the gradients, scaled to a norm of at most `clip` (0: as they are), which are then
  /// dropped. `norm` () : their norm; not finite: nothing is updated.
  void step(double rate, const at::Tensor& norm, double clip);

  /// exp_avg and exp_avg_sq of a parameter, and the steps made, by name; in float16 also loss_scale and good_steps: to
  /// be saved, and to be copied into when loaded.
  std::map<std::string, at::Tensor> state() const;

 private:
  struct Group {
    Tensors parameters, exp_avgs, exp_avg_sqs, steps;
    double decay;
  };
  void make_state();
  void step(Group& group, double rate, const at::Tensor& found_inf, const std::optional<at::Tensor>& divisor);
  void step_flat(double rate, const at::Tensor& norm, double clip);

  Options options_;
  const nn::Parameters& parameters_;
  std::vector<Group> groups_;                            // where parameters are apart
  at::Tensor exp_avg_, exp_avg_sq_, steps_made_, rate_;  // where they are flat
  std::map<std::string, at::Tensor> state_;
  std::optional<Muon> muon_;
};

}  // namespace memformer::engine
