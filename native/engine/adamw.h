// AdamW (Loshchilov and Hutter 2019) over a model's parameters, in one kernel of ops/adamw: clipping, update, working
// copies, zeroed gradients. Decay only where the parameter asks for it. A number that no gradient ever reached (the
// writer's in a model trained without memory, say) stays as it is, without decay; one that a later step does not reach
// has a gradient of 0 there. A step whose gradients are not finite is skipped on the device, without waiting for the
// host.
#pragma once
#include <map>
#include <set>

#include "distributed/group.h"
#include "engine/muon.h"
#include "engine/shares.h"
#include "nn/parameters.h"

namespace memformer::engine {

class AdamW {
 public:
  struct Options {
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
    bool muon = false;  ///< the matrices of layers by Muon, whose momentum stands in their exp_avg
    std::shared_ptr<distributed::Group> group;  ///< ranks that share out the moments; null: all are here
  };

  AdamW(const nn::Parameters& parameters, Options options);

  /// One update at `rate` from the gradients, scaled to a norm of at most `clip` (0: as they are), which are then
  /// dropped. `norm` () : their norm; not finite: nothing is updated. With a group every rank calls it with the same
  /// gradients, updates its share, and gets the others': the parameters are then those of an update without shares.
  /// Throws DISTRIBUTED, after which the parameters may be of neither step.
  void step(double rate, const at::Tensor& norm, double clip);

  /// exp_avg and exp_avg_sq of a parameter, and the steps made, by name; in float16 also loss_scale and good_steps: to
  /// be saved. With a group every rank calls it, and gets all ranks' numbers. Throws CONFIG for an unknown name,
  /// DISTRIBUTED.
  at::Tensor state(const std::string& name) const;
  /// Copies one of them back; with a group this rank's numbers of it. The parameters' steps are one number: the most of
  /// what is assigned between two updates, for versions that counted each parameter's own wrote 0 where no gradient
  /// came. Throws CONFIG, SHAPE.
  void assign(const std::string& name, const at::Tensor& value);

 private:
  struct Slot {
    at::Tensor values;                ///< in the parameter's shape, or (n) where this rank has a share of it
    std::optional<size_t> parameter;  ///< in parameters.all(), of what is shared out
  };
  void make_state();
  void update(double rate, const at::Tensor& norm, double clip);
  void update_loss_scale(const at::Tensor& norm);
  void gather_parameters();
  void assign_steps(const std::string& name, const at::Tensor& value);
  /// This rank's piece of a tensor in a parameter's shape.
  at::Tensor own(const at::Tensor& tensor, Piece piece) const;
  const Slot& slot(const std::string& name) const;

  Options options_;
  const nn::Parameters& parameters_;
  Shares shares_;
  at::Tensor exp_avg_, exp_avg_sq_;  // (n) of this rank's share
  at::Tensor steps_made_, rate_;     // ()
  std::map<std::string, Slot> state_;
  std::set<std::string> assigned_steps_;  // since the last update
  std::optional<Muon> muon_;
};

}  // namespace memformer::engine
