// The optimizer.
#include "core/cuda.h"
#include "napi/devices.h"
#include "napi/environment.h"
#include "napi/exports.h"
#include "napi/group_handle.h"
#include "napi/optimizer_handle.h"

namespace memformer::napi {
namespace {

using engine::Futures;
using engine::Tensors;

/// createAdamW(model, beta1, beta2, eps, weightDecay, muon, group | null): with a group its ranks share out the
/// moments.
Napi::Value create_adamw(const Napi::CallbackInfo& info) {
  const auto number = [&](size_t i) { return info[i].As<Napi::Number>().DoubleValue(); };
  const engine::AdamW::Options options{
      number(1),
      number(2),
      number(3),
      number(4),
      info[5].As<Napi::Boolean>().Value(),
      info[6].IsNull() ? nullptr : group_of(info[6]),
  };
  return wrap(info.Env(), Kind::optimizer,
              std::make_shared<OptimizerHandle>(OptimizerHandle{model_of(info[0]), options, std::nullopt}));
}

template <typename Work>
Napi::Value enqueue_optimizer(const Napi::CallbackInfo& info, Futures inputs, size_t count, Work work) {
  auto& environment = Environment::of(info.Env());
  Futures outputs;
  const auto handles = new_futures(info.Env(), count, outputs);
  auto optimizer = unwrap<OptimizerHandle>(info[1], Kind::optimizer, "optimizer");
  environment.engine().submit(environment.call(info[0]), std::move(inputs), outputs,
                              [optimizer, work = std::move(work)](const Tensors& tensors) {
                                compute_on(optimizer->held->device);
                                return work(optimizer->adamw(), tensors);
                              });
  return handles;
}

/// dropAdamW(optimizer): freed when the calls made before have run.
Napi::Value drop_adamw(const Napi::CallbackInfo& info) {
  let_go<OptimizerHandle>(info[0], Kind::optimizer, "optimizer");
  return info.Env().Undefined();
}

/// adamwStep(call, optimizer, rate, norm, clip)
Napi::Value adamw_step(const Napi::CallbackInfo& info) {
  const double rate = info[2].As<Napi::Number>().DoubleValue();
  const double clip = info[4].As<Napi::Number>().DoubleValue();
  const auto held = unwrap<OptimizerHandle>(info[1], Kind::optimizer, "optimizer")->held;
  return enqueue_optimizer(info, {future(info[3], "norm")}, 0,
                           [rate, clip, held](engine::AdamW& adamw, const Tensors& tensors) {
                             adamw.step(rate, brought_to(held->device, tensors[0], "norm"), clip);
                             return Tensors();
                           });
}

/// adamwState(call, optimizer, name): [tensor]
Napi::Value adamw_state(const Napi::CallbackInfo& info) {
  const std::string name = info[2].As<Napi::String>();
  return enqueue_optimizer(info, {}, 1,
                           [name](engine::AdamW& adamw, const Tensors&) { return Tensors{adamw.state(name)}; });
}

/// adamwAssign(call, optimizer, name, tensor)
Napi::Value adamw_assign(const Napi::CallbackInfo& info) {
  const std::string name = info[2].As<Napi::String>();
  return enqueue_optimizer(info, {future(info[3], "tensor")}, 0, [name](engine::AdamW& adamw, const Tensors& tensors) {
    require_numbers(tensors[0], "'", name, "'");
    adamw.assign(name, tensors[0]);
    return Tensors();
  });
}

}  // namespace

void export_optimizers(Napi::Env env, Napi::Object exports) {
  export_function<create_adamw>(env, exports, "createAdamW");
  export_function<drop_adamw>(env, exports, "dropAdamW");
  export_function<adamw_step>(env, exports, "adamwStep");
  export_function<adamw_state>(env, exports, "adamwState");
  export_function<adamw_assign>(env, exports, "adamwAssign");
}

}  // namespace memformer::napi
