#include "core/cuda.h"

#include <dlfcn.h>
#include <torch/version.h>

#include <mutex>

#include "core/failure.h"

namespace memformer {
namespace {

std::mutex opening;
std::atomic<Cuda*> opened{nullptr};

/// "2.13" of "2.13.0+cpu": LibTorch keeps its binary interface within a minor version.
std::string minor_version(const std::string& version) {
  return version.substr(0, version.find('.', version.find('.') + 1));
}

template <typename Function>
Function* symbol(void* library, const char* name, const std::string& path) {
  auto* found = reinterpret_cast<Function*>(dlsym(library, name));
  require(found != nullptr, "LOAD_FAILED", path, " is not a CUDA half of memformer: it has no ", name);
  return found;
}

}  // namespace

Cuda* cuda() { return opened.load(); }

void compute_on(at::Device device) {
  if (!device.is_cuda()) return;
  require(cuda() != nullptr, "NO_CUDA", "the CUDA half has not been opened");
  cuda()->enter(device.has_index() ? device.index() : 0);
}

void open_cuda(const std::string& path) {
  std::lock_guard lock(opening);
  if (opened.load() != nullptr) return;
  // Local: its symbols are for nobody else; LibTorch's are there already, for all.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    const char* reason = dlerror();
    require(false, "LOAD_FAILED", "the CUDA half does not load: ", reason == nullptr ? "unknown reason" : reason);
  }
  const int interface = symbol<int()>(library, "memformer_cuda_interface", path)();
  require(interface == kCudaInterface, "LOAD_FAILED", path, " speaks version ", interface,
          " of the CUDA interface, this addon version ", kCudaInterface, ": build both anew");
  const std::string version = symbol<const char*()>(library, "memformer_cuda_libtorch", path)();
  require(minor_version(version) == minor_version(TORCH_VERSION), "LIBTORCH_MISMATCH", path, " was built for LibTorch ",
          version, ", this addon for ", TORCH_VERSION);
  const char *code = "NO_CUDA", *reason = nullptr;
  auto* half = symbol<Cuda*(const char**, const char**)>(library, "memformer_cuda_open", path)(&code, &reason);
  require(half != nullptr, code, reason == nullptr ? "no CUDA device" : reason);
  opened.store(half);
}

}  // namespace memformer
