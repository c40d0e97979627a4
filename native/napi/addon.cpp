// The addon: what JavaScript sees, on one page. lib/native/addon.ts is its other half.
#include "napi/environment.h"
#include "napi/exports.h"

namespace {

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  memformer::napi::Environment::attach(env);
  memformer::napi::export_runtime(env, exports);
  memformer::napi::export_tensors(env, exports);
  memformer::napi::export_models(env, exports);
  memformer::napi::export_model_steps(env, exports);
  memformer::napi::export_decoding(env, exports);
  memformer::napi::export_optimizers(env, exports);
  memformer::napi::export_distributed(env, exports);
  memformer::napi::export_profile(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(memformer, initialize)
