// A call of any operator of the dispatcher by name: JavaScript's arguments are read on its thread, matched to the
// operator's schema on the engine's. New operators need no binding.
#pragma once
#include <variant>

#include "napi/values.h"

namespace memformer::napi {

class DispatchedCall {
 public:
  /// Throws NATIVE if there is no such operator, TypeError for an argument of no known kind.
  DispatchedCall(const std::string& name, const std::string& overload, const Napi::Array& arguments);

  /// The tensors among the arguments, in the order run() takes them.
  engine::Futures inputs() const { return inputs_; }
  /// A list counts as one: how long it will be, its caller must say.
  size_t results() const { return op_.schema().returns().size(); }
  /// Throws DEVICE_MISMATCH, which says which argument lies where, for tensors of several devices that the operator
  /// does not take.
  engine::Tensors run(const engine::Tensors& tensors) const;

 private:
  struct TensorAt {
    size_t input;
  };
  struct TensorsAt {
    size_t first, count;
  };
  using Argument = std::variant<std::monostate, TensorAt, TensorsAt, bool, double, std::string, std::vector<double>>;

  Argument read(const Napi::Value& value);
  /// "self lies on cuda:0, other on cpu" where the tensors lie on several devices, else "". A single number of the host
  /// may go anywhere as far as LibTorch is concerned, and is left out.
  std::string several_devices(const engine::Tensors& tensors) const;
  c10::IValue convert(const Argument& argument, const c10::Argument& wanted, const engine::Tensors& tensors) const;

  c10::OperatorHandle op_;
  std::vector<Argument> arguments_;
  engine::Futures inputs_;
};

}  // namespace memformer::napi
