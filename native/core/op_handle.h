// A typed call of a registered operator. Every call goes through the dispatcher, which picks CPU or CUDA, with autograd
// or without.
#pragma once
#include <algorithm>

#include "core/torch.h"

namespace memformer {

template <typename Signature>
c10::TypedOperatorHandle<Signature> find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

/// A literal as a template's argument.
template <size_t size>
struct Literal {
  char text[size];
  constexpr Literal(const char (&from)[size]) { std::copy_n(from, size, text); }
};

template <Literal name, typename Signature>
struct Registered;

/// The operator of that name as a function, found when it is first called:
///   constexpr Registered<"memformer::linear", Tensor(const Tensor&, …)> linear;
template <Literal name, typename Result, typename... Arguments>
struct Registered<name, Result(Arguments...)> {
  Result operator()(Arguments... arguments) const {
    static const auto op = find_op<Result(Arguments...)>(name.text);
    return op.call(std::forward<Arguments>(arguments)...);
  }
};

}  // namespace memformer
