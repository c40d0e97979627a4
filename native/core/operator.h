// An operator with a gradient, and its way through autograd. It is a struct Op of
//   Saved      a struct of what the backward pass needs; variables() ties the tensors among it
//   forward    (Saved*, arguments…) -> its results: a tensor, or a tuple or vector of them. Checks the arguments and
//              fills Saved; a null Saved: there is no gradient to come
//   backward   (const Saved&, const BackwardPass&) -> the gradients of the first arguments: a tensor, or a tuple of
//              tensors and, of lists, vectors. Undefined: none. The arguments that follow are not differentiable.
// and, where the defaults do not fit, of
//   results                     (what forward gave, arguments…) -> what the caller gets of it
//   kDifferentiableResults      so many of the results, the first ones; default: all
//   kMaterializesGradients      false: the gradient of a result that nobody used is undefined; default: zeros
// `define<Op>(library, schema)` registers it. Both ways, with and without gradient, call the same forward.
#pragma once
#include <cstring>

#include "core/op_handle.h"
#include "core/operator_state.h"
#include "core/torch.h"

namespace memformer {

/// What the backward pass gets from autograd.
class BackwardPass {
 public:
  BackwardPass(const torch::autograd::AutogradContext& context, const torch::autograd::variable_list& gradients)
      : gradients(gradients), context_(context) {}

  const torch::autograd::variable_list& gradients;  ///< of the results

  /// The gradient of a result, none where nobody used the result or there is no such one.
  std::optional<at::Tensor> optional(size_t result) const {
    const bool given = result < gradients.size() && gradients[result].defined();
    return given ? std::optional(gradients[result]) : std::nullopt;
  }
  /// Whether the gradient of this argument is asked for. Counted are the arguments that are there.
  bool needs(size_t argument) const { return context_.needs_input_grad(argument); }

 private:
  const torch::autograd::AutogradContext& context_;
};

template <typename Op, typename Forward = decltype(Op::forward)>
class Operator;

template <typename Op, typename Results, typename... Arguments>
class Operator<Op, Results(typename Op::Saved*, Arguments...)> {
  using Tensor = at::Tensor;
  using Context = torch::autograd::AutogradContext;
  using variable_list = torch::autograd::variable_list;
  using Saved = typename Op::Saved;
  using State = OperatorState<Saved>;
  using Gradients = decltype(Op::backward(std::declval<const Saved&>(), std::declval<const BackwardPass&>()));
  using Outputs = std::conditional_t<std::is_same_v<Results, Tensor>, Tensor, variable_list>;
  /// All arguments, so that autograd does not look into them.
  using All = std::tuple<const std::decay_t<Arguments>&...>;
  using Differentiable = std::make_index_sequence<tensors_in<Gradients>>;

  struct Node : torch::autograd::Function<Node> {
    template <typename... Inputs>
    static Outputs forward(Context* context, const All& all, const Inputs&...) {
      at::AutoDispatchBelowADInplaceOrView below;
      State state;
      auto outputs = outputs_of(
          std::apply([&](const auto&... arguments) { return Op::forward(state.saved(), arguments...); }, all));
      state.keep(*context);
      if constexpr (requires { Op::kMaterializesGradients; })
        context->set_materialize_grads(Op::kMaterializesGradients);
      if constexpr (requires { Op::kDifferentiableResults; })
        context->mark_non_differentiable({outputs.begin() + Op::kDifferentiableResults, outputs.end()});
      return outputs;
    }

    static variable_list backward(Context* context, const variable_list& gradients) {
      at::AutoDispatchBelowADInplaceOrView below;
      variable_list sent;
      sent.reserve(1 + tensors_in<Gradients>);
      sent.emplace_back();  // of All
      append(sent, Op::backward(State::of(*context), BackwardPass(*context, gradients)));
      return sent;
    }
  };

 public:
  /// With a gradient where one is asked for.
  static auto call(Arguments... arguments) {
    const auto finished = [&](Results&& results) {
      if constexpr (requires { Op::results(std::move(results), arguments...); })
        return Op::results(std::move(results), arguments...);
      else
        return std::move(results);
    };
    const All all(arguments...);
    return [&]<size_t... first>(std::index_sequence<first...>) {
      if (at::GradMode::is_enabled() && (requires_gradient(std::get<first>(all)) || ...))
        return finished(results_of(Node::apply(all, std::get<first>(all)...)));
      at::AutoDispatchBelowADInplaceOrView below;
      return finished(Op::forward(nullptr, arguments...));
    }(Differentiable());
  }

 private:
  static Outputs outputs_of(Results&& results) {
    if constexpr (tensors_in<Results> == 0 || std::is_same_v<Results, Tensor>) {
      return std::move(results);
    } else {
      variable_list outputs;
      outputs.reserve(tensors_in<Results>);
      append(outputs, std::move(results));
      while (!outputs.back().defined()) outputs.pop_back();
      return outputs;
    }
  }

  static Results results_of(Outputs&& outputs) {
    if constexpr (std::is_same_v<Results, Outputs>) {
      return std::move(outputs);
    } else {
      return [&]<size_t... i>(std::index_sequence<i...>) {
        return Results{i < outputs.size() ? std::move(outputs[i]) : Tensor()...};
      }(std::make_index_sequence<tensors_in<Results>>());
    }
  }
};

/// That of the registered operator.
template <typename Op>
using Signature = std::remove_pointer_t<decltype(&Operator<Op>::call)>;

/// Registered under its dispatch key: a kernel for a CPU; one for every device; an operator with a gradient whose
/// kernels are registered under its own name.
template <typename Kernel>
torch::CppFunction on_cpu(Kernel kernel) {
  return torch::dispatch(c10::DispatchKey::CPU, kernel);
}
template <typename Kernel>
torch::CppFunction on_every_device(Kernel kernel) {
  return torch::dispatch(c10::DispatchKey::CompositeExplicitAutograd, kernel);
}
template <typename Op>
torch::CppFunction with_gradient() {
  return torch::dispatch(c10::DispatchKey::Autograd, &Operator<Op>::call);
}

namespace operator_detail {

template <auto function, typename Signature = decltype(function)>
struct WithoutGradient;
template <auto function, typename Result, typename... Arguments>
struct WithoutGradient<function, Result (*)(Arguments...)> {
  static Result call(Arguments... arguments) {
    const at::AutoGradMode off(false);
    return function(std::forward<Arguments>(arguments)...);
  }
};

}  // namespace operator_detail

/// Declares the operator of this schema: `function`, which calls operators with a gradient, on every device, with
/// autograd and below it.
template <auto function>
void define(torch::Library& library, const char* schema) {
  library.def(schema);
  const std::string name(schema, std::strchr(schema, '('));
  library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::Autograd, function));
  library.impl(name.c_str(), on_every_device(&operator_detail::WithoutGradient<function>::call));
}

/// Declares Op, whose kernels are registered under names of their own.
template <typename Op>
void define(torch::Library& library, const char* schema) {
  define<&Operator<Op>::call>(library, schema);
}

}  // namespace memformer
