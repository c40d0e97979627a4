// Training steps driven from C++, by the clock.
#include <chrono>

#include "engine/training_window.h"
#include "napi/environment.h"
#include "napi/exports.h"
#include "napi/model_handle.h"
#include "napi/optimizer_handle.h"

namespace memformer::napi {
namespace {

using engine::Tensors;

/// Until the device has done all it was given.
void wait_for(const nn::State& state) {
  for (const auto& tensor : state) tensor.flatten().narrow(0, 0, 1).to(at::kCPU);
}

/// timeWindows(call, optimizer, segments, state, weights, together, windows, rate, clip): Promise<seconds of all
/// windows>. segments: five handles each; weights: a number each.
Napi::Value time_windows(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  const auto optimizer = unwrap<OptimizerHandle>(info[1], Kind::optimizer, "optimizer");
  auto inputs = futures(info[2], "segments");
  const auto weights = numbers(info[4]);
  const size_t first = inputs.size();
  require(first == kSegmentParts * weights.size() && first > 0, "NATIVE", "a segment is five tensors, got ", first,
          " for ", weights.size());
  for (auto& part : futures(info[3], "state")) inputs.push_back(std::move(part));
  const auto together = info[5].As<Napi::Number>().Uint32Value(), windows = info[6].As<Napi::Number>().Uint32Value();
  const double rate = info[7].As<Napi::Number>().DoubleValue(), clip = info[8].As<Napi::Number>().DoubleValue();
  auto deferred = std::make_shared<Napi::Promise::Deferred>(info.Env());
  const auto promise = deferred->Promise();
  auto seconds = std::make_shared<double>(0);
  auto& engine = environment.engine();
  environment.begin(info.Env());
  engine.read(environment.call(info[0]), std::move(inputs),
              [=, &environment](const Tensors& tensors, std::shared_ptr<const engine::CallFailure> failure) {
                if (!failure) {
                  auto& held = *optimizer->held;
                  compute_on(held.device);
                  engine::TrainingWindow window{{}, weights, together};
                  for (size_t t = 0; t < weights.size(); ++t)
                    window.segments.push_back(segment_of(held, tensors.data() + kSegmentParts * t, true));
                  nn::State state(tensors.begin() + static_cast<int64_t>(first), tensors.end());
                  wait_for(state);
                  const auto start = std::chrono::steady_clock::now();
                  for (uint32_t i = 0; i < windows; ++i)
                    state = engine::train_window(held.steps, held.model->parameters(), optimizer->adamw(), window,
                                                 std::move(state), rate, clip);
                  wait_for(state);
                  *seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
                }
                environment.settle([deferred, failure, seconds](Napi::Env env) {
                  if (failure) return deferred->Reject(error(env, *failure));
                  deferred->Resolve(Napi::Number::New(env, *seconds));
                });
              });
  return promise;
}

}  // namespace

void export_driver(Napi::Env env, Napi::Object exports) { export_function<time_windows>(env, exports, "timeWindows"); }

}  // namespace memformer::napi
