// The learned tensors of a model by name, in the order of their making. Layers hold the same tensors; nothing is copied.
#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "core/torch.h"

namespace memformer::nn {

struct Parameter {
  std::string name;
  at::Tensor value;  ///< a leaf that wants a gradient
  bool decay;        ///< whether weight decay applies: matrices yes; norms, biases, embeddings, v_bias no
};

class Parameters {
 public:
  /// All draws come from one generator seeded with `seed`. dtype is float32, or float64 for gradient checks.
  Parameters(uint64_t seed, at::ScalarType dtype);

  enum class Decay { no, yes };
  at::Tensor normal(const std::string& name, at::IntArrayRef shape, double deviation, Decay decay);
  at::Tensor constant(const std::string& name, at::IntArrayRef shape, double value);
  at::Tensor add(const std::string& name, at::Tensor value, Decay decay);

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
};

}  // namespace memformer::nn
