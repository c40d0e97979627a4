// A typed call of a registered operator. Every call goes through the dispatcher, which picks CPU or CUDA, with autograd
// or without.
#pragma once
#include "core/torch.h"

namespace memformer {

template <typename Signature>
c10::TypedOperatorHandle<Signature> find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace memformer
