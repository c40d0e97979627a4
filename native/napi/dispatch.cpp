#include "napi/dispatch.h"

#include "core/cuda.h"

namespace memformer::napi {
namespace {

c10::OperatorHandle find(const std::string& name, const std::string& overload) {
  const auto op = c10::Dispatcher::singleton().findSchema({name, overload});
  require(op.has_value(), "NATIVE", "there is no operator '", name, overload.empty() ? "" : ".", overload, "'");
  return *op;
}

c10::TypePtr inside_optional(const c10::TypePtr& type) {
  return type->kind() == c10::TypeKind::OptionalType ? type->castRaw<c10::OptionalType>()->getElementType() : type;
}

at::Device device_named(const std::string& name) {
  try {
    return at::Device(name);
  } catch (const c10::Error&) {
    throw Failure("CONFIG", "there is no device \"" + name + "\"; known: cpu, cuda, cuda:N");
  }
}

/// Whether a failure of LibTorch's is one of devices that do not go together.
bool speaks_of_devices(const std::string& message) {
  for (const char* word : {"device", "meta", "backend"})
    if (message.find(word) != std::string::npos) return true;
  return false;
}

}  // namespace

DispatchedCall::DispatchedCall(const std::string& name, const std::string& overload, const Napi::Array& arguments)
    : op_(find(name, overload)) {
  for (uint32_t i = 0; i < arguments.Length(); ++i) arguments_.push_back(read(arguments[i]));
}

DispatchedCall::Argument DispatchedCall::read(const Napi::Value& value) {
  if (value.IsNull() || value.IsUndefined()) return std::monostate();
  if (value.IsBoolean()) return value.As<Napi::Boolean>().Value();
  if (value.IsNumber()) return value.As<Napi::Number>().DoubleValue();
  if (value.IsString()) return value.As<Napi::String>().Utf8Value();
  if (value.IsExternal()) {
    inputs_.push_back(future(value, "argument"));
    return TensorAt{inputs_.size() - 1};
  }
  if (!value.IsArray())
    throw Napi::TypeError::New(
        value.Env(),
        "an operator's argument must be a tensor, number, boolean, string, null or an array of tensors or numbers");
  const auto array = value.As<Napi::Array>();
  if (array.Length() > 0 && array.Get(0u).IsExternal()) {
    const TensorsAt at{inputs_.size(), array.Length()};
    for (auto& element : futures(value, "argument")) inputs_.push_back(std::move(element));
    return at;
  }
  std::vector<double> numbers;
  for (uint32_t i = 0; i < array.Length(); ++i) numbers.push_back(array.Get(i).As<Napi::Number>().DoubleValue());
  return numbers;
}

c10::IValue DispatchedCall::convert(const Argument& argument, const c10::Argument& wanted,
                                    const engine::Tensors& tensors) const {
  const auto type = inside_optional(wanted.type());
  if (std::holds_alternative<std::monostate>(argument)) return wanted.default_value().value_or(c10::IValue());
  if (const auto* tensor = std::get_if<TensorAt>(&argument)) return tensors[tensor->input];
  if (const auto* range = std::get_if<TensorsAt>(&argument))
    return c10::List<at::Tensor>(at::ArrayRef<at::Tensor>(tensors.data() + range->first, range->count));
  if (const auto* flag = std::get_if<bool>(&argument)) return *flag;
  if (const auto* text = std::get_if<std::string>(&argument)) {
    if (type->kind() == c10::TypeKind::DeviceObjType) {
      const auto device = device_named(*text);
      compute_on(device);
      return device;
    }
    if (type->kind() != c10::TypeKind::StringType)
      return static_cast<int64_t>(dtype(*text));  // ScalarType is an int in schemas
    return *text;
  }
  if (const auto* number = std::get_if<double>(&argument)) {
    const bool whole = std::isfinite(*number) && *number == std::floor(*number);
    if (type->kind() == c10::TypeKind::FloatType) return *number;
    if (type->kind() == c10::TypeKind::NumberType && !whole) return *number;
    require(whole, "NATIVE", op_.schema().name(), ": ", wanted.name(), " must be a whole number, got ", *number);
    return static_cast<int64_t>(*number);
  }
  const auto& numbers = std::get<std::vector<double>>(argument);
  const auto element =
      type->kind() == c10::TypeKind::ListType ? type->castRaw<c10::ListType>()->getElementType() : nullptr;
  if (element && element->kind() == c10::TypeKind::TensorType && numbers.empty()) return c10::List<at::Tensor>();
  if (element && element->kind() == c10::TypeKind::FloatType) return c10::List<double>(numbers);
  return c10::List<int64_t>(std::vector<int64_t>(numbers.begin(), numbers.end()));
}

std::string DispatchedCall::several_devices(const engine::Tensors& tensors) const {
  std::ostringstream text;
  std::optional<at::Device> first;
  bool several = false;
  const auto say = [&](const std::string& name, const at::Tensor& tensor) {
    if (!tensor.defined() || (tensor.dim() == 0 && tensor.is_cpu())) return;
    text << (first ? ", " : "") << name << (first ? " on " : " lies on ") << tensor.device().str();
    several = several || (first && *first != tensor.device());
    if (!first) first = tensor.device();
  };
  for (size_t i = 0; i < std::min(arguments_.size(), op_.schema().arguments().size()); ++i) {
    const auto& name = op_.schema().arguments()[i].name();
    if (const auto* one = std::get_if<TensorAt>(&arguments_[i])) say(name, tensors[one->input]);
    if (const auto* list = std::get_if<TensorsAt>(&arguments_[i]))
      for (size_t j = 0; j < list->count; ++j) say(name + "[" + std::to_string(j) + "]", tensors[list->first + j]);
  }
  return several ? text.str() : "";
}

engine::Tensors DispatchedCall::run(const engine::Tensors& tensors) const {
  const auto& schema = op_.schema();
  require(arguments_.size() <= schema.arguments().size(), "NATIVE", schema.name(), " takes ", schema.arguments().size(),
          " arguments, got ", arguments_.size());
  const auto devices = several_devices(tensors);
  const auto refuse = [&] {
    require(false, "DEVICE_MISMATCH", schema.name(), ": all tensors must lie on one device; ", devices);
  };
  // LibTorch checks its own, but lets "meta" tensors take others with them; a kernel of ours started on a GPU would
  // read host memory.
  const bool without_numbers = std::any_of(tensors.begin(), tensors.end(),
                                           [](const auto& tensor) { return tensor.defined() && tensor.is_meta(); });
  if (!devices.empty() && (without_numbers || schema.name().starts_with("memformer::"))) refuse();
  torch::jit::Stack stack;
  for (size_t i = 0; i < schema.arguments().size(); ++i)
    stack.push_back(convert(i < arguments_.size() ? arguments_[i] : Argument(), schema.arguments()[i], tensors));
  try {
    op_.callBoxed(stack);
  } catch (const c10::Error& error) {
    if (!devices.empty() && speaks_of_devices(error.what_without_backtrace())) refuse();
    throw;
  }
  engine::Tensors results;
  for (auto& value : stack) {
    require(value.isTensor() || value.isTensorList(), "NATIVE", schema.name(),
            " returns something that is not a tensor");
    if (value.isTensor())
      results.push_back(value.toTensor());
    else
      for (auto& element : value.toTensorVector()) results.push_back(std::move(element));
  }
  return results;
}

}  // namespace memformer::napi
