// Ranks that train together. Calls of the store run on threads of their own, for any of them may wait; collectives run
// on the engine's thread, in the order of its calls.
#include <thread>

#include "core/cuda.h"
#include "engine/reduction.h"
#include "napi/exports.h"
#include "napi/group_handle.h"
#include "napi/model_handle.h"

namespace memformer::napi {
namespace {

using distributed::Group;
using engine::Tensors;

/// Runs `work` on a thread that nobody waits for; `resolved` makes JavaScript's value of its result.
template <typename Work, typename Resolved>
void run_apart(const std::shared_ptr<Pending>& pending, Work work, Resolved resolved) {
  std::thread([pending, work = std::move(work), resolved]() mutable {
    engine::CallFailure failure;
    try {
      pending->settle([result = work(), resolved](Napi::Env env, const auto& deferred) {
        deferred.Resolve(resolved(env, result));
      });
      return;
    } catch (const Failure& error) {
      failure.code = error.code();
      failure.message = error.what();
    } catch (const std::exception& error) {
      failure.code = "NATIVE";
      failure.message = error.what();
    }
    pending->fail(failure);
  }).detach();
}

/// A promise of work(group), which an abort rejects even where the store stands still.
template <typename Work, typename Resolved>
Napi::Value promised(const Napi::CallbackInfo& info, Work work, Resolved resolved) {
  const auto handle = group_handle_of(info[0]);
  const auto pending = std::make_shared<Pending>(info.Env());
  auto& waiting = handle->pending;
  std::erase_if(waiting, [](const auto& one) { return one.expired(); });
  waiting.push_back(pending);
  run_apart(pending, [group = handle->group, work = std::move(work)] { return work(*group); }, resolved);
  return pending->promise();
}

/// joinGroup({ rank, world, host, port, prefix, hostsStore, device, startLimit, limit, period, says }): Promise<group>
Napi::Value join_group(const Napi::CallbackInfo& info) {
  const auto given = info[0].As<Napi::Object>();
  const auto number = [&](const char* name) { return given.Get(name).As<Napi::Number>().DoubleValue(); };
  const auto text = [&](const char* name) { return given.Get(name).As<Napi::String>().Utf8Value(); };
  distributed::Membership membership;
  membership.rank = static_cast<int>(number("rank"));
  membership.world = static_cast<int>(number("world"));
  membership.store = {text("host"), static_cast<int>(number("port")), text("prefix")};
  membership.hosts_store = given.Get("hostsStore").As<Napi::Boolean>();
  membership.device = at::Device(text("device"));
  membership.start_limit = number("startLimit");
  membership.limit = number("limit");
  membership.period = number("period");
  membership.says = text("says");
  auto group = std::make_shared<Group>(std::move(membership));
  Environment::of(info.Env()).before_stop([weak = std::weak_ptr(group)] {
    const auto left = weak.lock();
    if (!left) return;
    left->abort("the process is ending");
    left->leave();
  });
  const auto pending = std::make_shared<Pending>(info.Env());
  run_apart(
      pending,
      [group] {
        group->join();
        return group;
      },
      [](Napi::Env env, const std::shared_ptr<Group>& joined) {
        return wrap(env, Kind::group, std::make_shared<GroupHandle>(GroupHandle{joined, {}}));
      });
  return pending->promise();
}

/// groupSet(group, key, value): Promise<void>
Napi::Value group_set(const Napi::CallbackInfo& info) {
  const std::string key = info[1].As<Napi::String>(), value = info[2].As<Napi::String>();
  return promised(
      info,
      [key, value](Group& group) {
        group.set(key, value);
        return true;
      },
      [](Napi::Env env, bool) { return env.Undefined(); });
}

/// groupGet(group, key, seconds): Promise<string | null>, once the key is there; null: it did not come in time.
Napi::Value group_get(const Napi::CallbackInfo& info) {
  const std::string key = info[1].As<Napi::String>();
  const double seconds = info[2].As<Napi::Number>().DoubleValue();
  return promised(
      info, [key, seconds](Group& group) { return group.get(key, seconds); },
      [](Napi::Env env, const std::optional<std::string>& value) -> Napi::Value {
        if (!value) return env.Null();
        return Napi::String::New(env, *value);
      });
}

/// groupAdd(group, key, number): Promise<number>, the sum so far.
Napi::Value group_add(const Napi::CallbackInfo& info) {
  const std::string key = info[1].As<Napi::String>();
  const auto number = info[2].As<Napi::Number>().Int64Value();
  return promised(
      info, [key, number](Group& group) { return group.add(key, number); },
      [](Napi::Env env, int64_t sum) { return Napi::Number::New(env, static_cast<double>(sum)); });
}

/// groupPulses(group): { storeAge, storeFailure, ranks: { age, says }[] }
Napi::Value group_pulses(const Napi::CallbackInfo& info) {
  const auto pulses = group_of(info[0])->pulses();
  auto result = Napi::Object::New(info.Env());
  auto ranks = Napi::Array::New(info.Env());
  for (const auto& pulse : pulses.ranks) {
    auto entry = Napi::Object::New(info.Env());
    entry.Set("age", pulse.age);
    entry.Set("says", pulse.says);
    ranks.Set(ranks.Length(), entry);
  }
  result.Set("storeAge", pulses.store_age);
  result.Set("storeFailure", pulses.store_failure);
  result.Set("ranks", ranks);
  return result;
}

/// groupSay(group, words): what goes with every sign of life from now on.
Napi::Value group_say(const Napi::CallbackInfo& info) {
  group_of(info[0])->say(info[1].As<Napi::String>());
  return info.Env().Undefined();
}

/// groupAbort(group, reason)
Napi::Value group_abort(const Napi::CallbackInfo& info) {
  const auto handle = group_handle_of(info[0]);
  engine::CallFailure failure;
  failure.code = "DISTRIBUTED";
  failure.message = info[1].As<Napi::String>().Utf8Value();
  handle->group->abort(failure.message);
  for (const auto& weak : handle->pending)
    if (const auto pending = weak.lock()) pending->fail(failure);
  return info.Env().Undefined();
}

/// groupLeave(group): after its last collective has run.
Napi::Value group_leave(const Napi::CallbackInfo& info) {
  group_of(info[0])->leave();
  let_go<GroupHandle>(info[0], Kind::group, "group");
  return info.Env().Undefined();
}

/// Enqueues work(group, tensors), on the group's device. Arguments of the call: its number, the group, and others.
template <typename Work>
Napi::Value enqueue_on_group(const Napi::CallbackInfo& info, engine::Futures inputs, size_t count, Work work) {
  auto& environment = Environment::of(info.Env());
  engine::Futures outputs;
  const auto handles = new_futures(info.Env(), count, outputs);
  environment.engine().submit(environment.call(info[0]), std::move(inputs), outputs,
                              [group = group_of(info[1]), work = std::move(work)](const Tensors& tensors) {
                                compute_on(group->membership().device);
                                return work(*group, tensors);
                              });
  return handles;
}

at::Tensor copy_on(const Group& group, const at::Tensor& tensor) {
  return tensor.detach().to(group.membership().device, /*non_blocking=*/false, /*copy=*/true).contiguous();
}

/// allReduce(call, group, tensor): [sum over the ranks]
Napi::Value all_reduce(const Napi::CallbackInfo& info) {
  return enqueue_on_group(info, {future(info[2], "tensor")}, 1, [](Group& group, const Tensors& tensors) {
    const auto sum = copy_on(group, tensors[0]);
    group.all_reduce(sum, "all_reduce");
    return Tensors{sum};
  });
}

/// broadcast(call, group, tensor, root): [rank root's tensor]
Napi::Value broadcast(const Napi::CallbackInfo& info) {
  const auto root = info[3].As<Napi::Number>().Int32Value();
  return enqueue_on_group(info, {future(info[2], "tensor")}, 1, [root](Group& group, const Tensors& tensors) {
    const auto copy = copy_on(group, tensors[0]);
    group.broadcast(copy, root, "broadcast");
    return Tensors{copy};
  });
}

/// gatherRows(call, group, tensor, first, total): [all ranks' rows]
Napi::Value gather_rows(const Napi::CallbackInfo& info) {
  const auto first = info[3].As<Napi::Number>().Int64Value(), total = info[4].As<Napi::Number>().Int64Value();
  return enqueue_on_group(info, {future(info[2], "tensor")}, 1, [first, total](Group& group, const Tensors& tensors) {
    return Tensors{engine::gather_rows(group, tensors[0], first, total)};
  });
}

/// reduceGradients(call, group, models, extras): [extras summed, norm]
Napi::Value reduce_gradients(const Napi::CallbackInfo& info) {
  const auto list = info[2].As<Napi::Array>();
  std::vector<std::shared_ptr<ModelHandle>> models;
  for (uint32_t i = 0; i < list.Length(); ++i) models.push_back(model_of(list.Get(i)));
  return enqueue_on_group(info, {future(info[3], "extras")}, 2, [models](Group& group, const Tensors& tensors) {
    std::vector<const nn::Parameters*> parameters;
    for (const auto& held : models) parameters.push_back(&held->model->parameters());
    auto reduced = engine::reduce_gradients(group, parameters, tensors[0]);
    return Tensors{std::move(reduced.extras), std::move(reduced.norm)};
  });
}

}  // namespace

void export_distributed(Napi::Env env, Napi::Object exports) {
  export_function<join_group>(env, exports, "joinGroup");
  export_function<group_set>(env, exports, "groupSet");
  export_function<group_get>(env, exports, "groupGet");
  export_function<group_add>(env, exports, "groupAdd");
  export_function<group_pulses>(env, exports, "groupPulses");
  export_function<group_say>(env, exports, "groupSay");
  export_function<group_abort>(env, exports, "groupAbort");
  export_function<group_leave>(env, exports, "groupLeave");
  export_function<all_reduce>(env, exports, "allReduce");
  export_function<broadcast>(env, exports, "broadcast");
  export_function<gather_rows>(env, exports, "gatherRows");
  export_function<reduce_gradients>(env, exports, "reduceGradients");
}

}  // namespace memformer::napi
