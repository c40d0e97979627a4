// The learned tensors of a model by name, in the order of their creation. Layers hold the same tensors; nothing is
// copied.
#pragma once
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/torch.h"
#include "nn/kept_folds.h"

namespace memformer::nn {

struct Parameter {
  std::string name;
  at::Tensor value;  ///< a leaf that wants a gradient
  bool decay;        ///< whether weight decay applies: matrices yes; norms, biases, embeddings, v_bias no
  int64_t matrices;  ///< of a layer, below each other: 1, or as many as a joint projection has; 0: no matrix of a layer
};

class Parameters {
 public:
  /// All draws come from one generator seeded with `seed`. dtype is float32, or float64 for gradient checks.
  Parameters(uint64_t seed, at::ScalarType dtype);

  enum class Decay { no, yes };
  /// matrices: Parameter::matrices of what decays.
  at::Tensor normal(const std::string& name, at::IntArrayRef shape, double deviation, Decay decay,
                    int64_t matrices = 1);
  at::Tensor constant(const std::string& name, at::IntArrayRef shape, double value);
  at::Tensor add(const std::string& name, at::Tensor value, Decay decay, int64_t matrices = 1);

  /// Moves everything to `device` into one flat buffer, and keeps working copies in `compute` where that is narrower
  /// than the masters, but not on a CPU. The tensors that layers hold stay the same objects. Call once, before anything
  /// below.
  void to(at::Device device, at::ScalarType compute);

  /// Numbers: every piece of a flat buffer begins at a multiple, where vector accesses may.
  static constexpr int64_t kAlignment = 64;

  /// What lies in flat buffers, each parameter at the same place in all. Those that decay come first; among them, and
  /// among the others, the same parameter of a stack's layers lies side by side. Between two there may be zeros.
  struct Flat {
    at::Tensor values;   ///< (n)
    at::Tensor working;  ///< (n) in the compute dtype, or undefined: the values are what is computed with
    int64_t decayed;     ///< how many numbers decay
    at::Tensor
        loss_scale;  ///< () float32, what gradients are multiplied by; of a float16 compute dtype, else undefined
    at::Tensor good_steps;  ///< () int32, optimizer steps since it last changed
  };
  const Flat& flat() const { return *flat_; }
  /// Their gradients (n), of which every parameter's grad() is a piece. Zeros, made by the first call: a model that
  /// only evaluates has none. On a GPU they are there from the start, for recorded steps add to them.
  const at::Tensor& gradients() const;
  bool has_gradients() const { return gradients_.defined(); }
  /// A parameter's piece of such a buffer, in its shape.
  at::Tensor piece(const at::Tensor& buffer, const at::Tensor& parameter) const;
  /// Where it begins there.
  int64_t offset(const at::Tensor& parameter) const { return offsets_.at(parameter.unsafeGetTensorImpl()); }

  /// What an operator with a gradient sink computes with, and the sink: its piece of gradients(), undefined until these
  /// are there. Both are undefined where a CPU computes in a narrower dtype: its matrix products of two bytes round to
  /// two bytes, as no sink may, and those of four take twice the time. Weights are then cast once a step, and the
  /// gradient flows back through the cast.
  struct Storage {
    at::Tensor working, sink;
  };
  const Storage& storage(const at::Tensor& parameter) const;

  /// Copies into a parameter, and into what is computed with. Throws CONFIG, SHAPE.
  void assign(const std::string& name, const at::Tensor& value);

  /// What is made of weights alone, for passes without gradient.
  KeptFolds& folds() const { return folds_; }
  /// Whoever writes to the values otherwise than by assign() says so here.
  void changed() const { folds_.expire(); }

  /// Throws CONFIG when there is none of that name.
  at::Tensor at(const std::string& name) const;
  bool has(const std::string& name) const { return index_.count(name) != 0; }
  const std::vector<Parameter>& all() const { return all_; }
  at::ScalarType dtype() const { return dtype_; }
  /// How many numbers they are in all.
  int64_t count() const { return count_; }

 private:
  at::Generator generator_;
  at::ScalarType dtype_;
  std::vector<Parameter> all_;
  int64_t count_ = 0;
  std::unordered_map<std::string, size_t> index_;
  std::optional<Flat> flat_;
  mutable at::Tensor gradients_;
  mutable KeptFolds folds_;
  bool sinks_ = false;  // whether operators add to gradients_ themselves
  std::unordered_map<at::TensorImpl*, int64_t> offsets_;
  mutable std::unordered_map<at::TensorImpl*, Storage> storage_;
};

}  // namespace memformer::nn
