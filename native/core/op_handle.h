// The typed call of a registered operator: everyone calls through the dispatcher, which picks CPU or CUDA, autograd or
// not.
#pragma once
#include "core/torch.h"

namespace memformer {

template <typename Signature>
c10::TypedOperatorHandle<Signature> find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace memformer
