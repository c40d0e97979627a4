// The learned tensors of a model by name, in the order of their creation. Layers hold the same tensors; nothing is
// copied.
#pragma once
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/torch.h"

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

  /// Moves everything to `device` into flat buffers, and keeps working copies in `compute` where that is narrower than
  /// the masters. The tensors that layers hold stay the same objects. Call once, before the first pass.
  void to(at::Device device, at::ScalarType compute);

  /// Numbers: every piece of a flat buffer begins at a multiple, where vector accesses may.
  static constexpr int64_t kAlignment = 64;

  /// What lies in flat buffers after to(), each parameter at the same place in all. Those that decay come
  /// first; among them, and among the others, the same parameter of a stack's layers lies side by side.
  struct Flat {
    at::Tensor values, gradients;  ///< (n)
    at::Tensor working;            ///< (n) in the compute dtype, or undefined: the values are what is computed with
    int64_t decayed;               ///< how many numbers decay
    at::Tensor
        loss_scale;  ///< () float32, what gradients are multiplied by; of a float16 compute dtype, else undefined
    at::Tensor good_steps;  ///< () int32, optimizer steps since it last changed
  };
  const std::optional<Flat>& flat() const { return flat_; }
  /// A parameter's piece of such a buffer, in its shape.
  at::Tensor piece(const at::Tensor& buffer, const at::Tensor& parameter) const;
  /// Where it begins there.
  int64_t offset(const at::Tensor& parameter) const { return offsets_.at(parameter.unsafeGetTensorImpl()); }

  /// What an operator with a gradient sink computes with, and the sink: its gradient buffer. Both undefined before
  /// to().
  struct Storage {
    at::Tensor working, sink;
  };
  const Storage& storage(const at::Tensor& parameter) const;

  /// Copies into a parameter, and into what is computed with. Throws CONFIG, SHAPE.
  void assign(const std::string& name, const at::Tensor& value);

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
  std::unordered_map<at::TensorImpl*, int64_t> offsets_;
  std::unordered_map<at::TensorImpl*, Storage> storage_;
};

}  // namespace memformer::nn
