// The contents of a group's handle.
#pragma once
#include <atomic>

#include "distributed/group.h"
#include "napi/environment.h"
#include "napi/values.h"

namespace memformer::napi {

/// A promise that a thread of its own settles, or an abort, whichever comes first.
class Pending {
 public:
  explicit Pending(Napi::Env env) : deferred_(Napi::Promise::Deferred::New(env)), door_(Environment::of(env).door()) {
    Environment::of(env).begin(env);
  }
  Napi::Promise promise() const { return deferred_.Promise(); }

  /// Any thread. `settle` resolves or rejects, on the event loop.
  void settle(std::function<void(Napi::Env, const Napi::Promise::Deferred&)> settle) {
    if (settled_.exchange(true)) return;
    door_->settle([deferred = deferred_, settle = std::move(settle)](Napi::Env env) { settle(env, deferred); });
  }
  void fail(const engine::CallFailure& failure) {
    settle([failure](Napi::Env env, const auto& deferred) { deferred.Reject(error(env, failure)); });
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::shared_ptr<Environment::Door> door_;
  std::atomic<bool> settled_{false};
};

/// What JavaScript holds: a group, and who waits for its store.
struct GroupHandle {
  std::shared_ptr<distributed::Group> group;
  std::vector<std::weak_ptr<Pending>> pending;  // of JavaScript's thread
};

inline std::shared_ptr<GroupHandle> group_handle_of(const Napi::Value& value) {
  return unwrap<GroupHandle>(value, Kind::group, "group");
}

inline std::shared_ptr<distributed::Group> group_of(const Napi::Value& value) { return group_handle_of(value)->group; }

}  // namespace memformer::napi
