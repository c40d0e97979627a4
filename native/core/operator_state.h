// Of core/operator.h: what an operator's forward pass leaves for its backward pass, and lists of tensors of all kinds.
#pragma once
#include <tuple>
#include <utility>

#include "core/torch.h"

namespace memformer {

/// How many tensors a tensor or a tuple is; of a list: 0.
template <typename T>
constexpr size_t tensors_in = 0;
template <>
inline constexpr size_t tensors_in<at::Tensor> = 1;
template <typename... T>
constexpr size_t tensors_in<std::tuple<T...>> = sizeof...(T);

inline bool requires_gradient(const at::Tensor& tensor) { return tensor.requires_grad(); }
inline bool requires_gradient(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() && tensor->requires_grad();
}
inline bool requires_gradient(at::TensorList tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& one) { return one.requires_grad(); });
}

inline void append(std::vector<at::Tensor>& list, at::Tensor&& tensor) { list.push_back(std::move(tensor)); }
inline void append(std::vector<at::Tensor>& list, std::vector<at::Tensor>&& tensors) {
  list.insert(list.end(), std::make_move_iterator(tensors.begin()), std::make_move_iterator(tensors.end()));
}
template <typename... T>
void append(std::vector<at::Tensor>& list, std::tuple<T...>&& all) {
  std::apply([&](T&... each) { (append(list, std::move(each)), ...); }, all);
}

/// An operator's Saved, on its way from the forward pass to the backward pass. Its variables become saved variables,
/// which autograd checks for changes in place and frees after the backward pass; the node keeps the rest.
template <typename Saved>
class OperatorState {
  using Tensor = at::Tensor;
  using Context = torch::autograd::AutogradContext;
  using Variables = decltype(std::declval<Saved&>().variables());

  struct Kept : torch::CustomClassHolder {
    explicit Kept(Saved&& from) : saved(std::move(from)) {}
    Saved saved;
  };

  /// Whether there is anything but tensors in it; the length of a list is.
  template <typename... T>
  static constexpr bool has_rest(const std::tuple<T&...>*) {
    return sizeof(Saved) != (0 + ... + (std::is_same_v<T, std::vector<Tensor>> ? 0 : sizeof(T)));
  }
  static constexpr bool kHasRest = has_rest(static_cast<const Variables*>(nullptr));

 public:
  Saved* saved() { return &saved_; }

  /// The variables leave Saved: a result that the node kept would keep the node.
  void keep(Context& context) {
    torch::autograd::variable_list list;
    list.reserve(std::tuple_size_v<Variables>);
    visit(saved_, [&](Tensor& tensor) { list.push_back(std::move(tensor)); });
    context.save_for_backward(std::move(list));
    if constexpr (kHasRest)
      context.saved_data[kKey] = c10::IValue::make_capsule(c10::make_intrusive<Kept>(std::move(saved_)));
  }

  /// A copy: autograd may go back twice.
  static Saved of(Context& context) {
    auto list = context.get_saved_variables();
    Saved saved;
    if constexpr (kHasRest) saved = static_cast<const Kept&>(*context.saved_data[kKey].toCapsule()).saved;
    visit(saved, [next = list.begin()](Tensor& tensor) mutable { tensor = std::move(*next++); });
    return saved;
  }

 private:
  static constexpr const char* kKey = "saved";

  template <typename Visit>
  static void visit(Saved& saved, Visit&& visit) {
    std::apply([&](auto&... each) { (visit_tensors(each, visit), ...); }, saved.variables());
  }
  template <typename Visit>
  static void visit_tensors(Tensor& tensor, Visit& visit) {
    visit(tensor);
  }
  template <typename Visit>
  static void visit_tensors(std::vector<Tensor>& tensors, Visit& visit) {
    for (auto& tensor : tensors) visit(tensor);
  }
  template <typename Visit>
  static void visit_tensors(std::optional<Tensor>& optional, Visit& visit) {
    auto tensor = std::move(optional).value_or(Tensor());
    visit(tensor);
    optional = tensor.defined() ? std::optional(std::move(tensor)) : std::nullopt;
  }

  Saved saved_{};
};

}  // namespace memformer
