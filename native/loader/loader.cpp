// A tiny addon that opens shared libraries with RTLD_GLOBAL before the main addon is loaded: LibTorch from wherever it
// lies, without environment variables. It links nothing but libdl. `process.dlopen` cannot do this: it closes what is
// no addon.
#include <dlfcn.h>
#include <node_api.h>

#include <cstdlib>
#include <string>

namespace {

std::string text(napi_env env, napi_value value) {
  size_t length = 0;
  napi_get_value_string_utf8(env, value, nullptr, 0, &length);
  std::string result(length, '\0');
  napi_get_value_string_utf8(env, value, result.data(), length + 1, &length);
  return result;
}

/// open(path): undefined when the library is open now (and stays so), else the dynamic linker's reason.
napi_value open_library(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument = nullptr;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  napi_value answer = nullptr;
  if (dlopen(text(env, argument).c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    const char* reason = dlerror();
    napi_create_string_utf8(env, reason == nullptr ? "unknown reason" : reason, NAPI_AUTO_LENGTH, &answer);
    return answer;
  }
  napi_get_undefined(env, &answer);
  return answer;
}

/// driver(): the newest CUDA version that the NVIDIA driver serves, as the driver counts it (13000 is 13.0), or why
/// there is none.
napi_value driver(napi_env env, napi_callback_info) {
  napi_value answer = nullptr;
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    napi_create_string_utf8(env, "no libcuda.so.1: there is no NVIDIA driver", NAPI_AUTO_LENGTH, &answer);
    return answer;
  }
  using get_version = int (*)(int*);
  const auto version_of = reinterpret_cast<get_version>(dlsym(library, "cuDriverGetVersion"));
  int version = 0;
  const int failure = version_of == nullptr ? -1 : version_of(&version);
  if (failure != 0 || version <= 0) {
    napi_create_string_utf8(env, "the NVIDIA driver does not tell its version", NAPI_AUTO_LENGTH, &answer);
    return answer;
  }
  napi_create_int32(env, version, &answer);  // the library stays open: it is needed next
  return answer;
}

/// prefer(name, value): an environment variable for libraries yet to be opened, unless the user has set it.
napi_value prefer(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value arguments[2];
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  setenv(text(env, arguments[0]).c_str(), text(env, arguments[1]).c_str(), /*overwrite=*/0);
  napi_value answer = nullptr;
  napi_get_undefined(env, &answer);
  return answer;
}

}  // namespace

NAPI_MODULE_INIT() {
  napi_value function = nullptr;
  napi_create_function(env, "open", NAPI_AUTO_LENGTH, open_library, nullptr, &function);
  napi_set_named_property(env, exports, "open", function);
  napi_create_function(env, "driver", NAPI_AUTO_LENGTH, driver, nullptr, &function);
  napi_set_named_property(env, exports, "driver", function);
  napi_create_function(env, "prefer", NAPI_AUTO_LENGTH, prefer, nullptr, &function);
  napi_set_named_property(env, exports, "prefer", function);
  return exports;
}
