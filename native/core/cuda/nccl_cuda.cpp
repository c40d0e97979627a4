// One communicator and one stream a rank. LibTorch's own functions over NCCL rather than its ProcessGroupNCCL, whose
// watchdog asks for events while a step is being captured, and which needs NCCL's headers.
#include "core/cuda/nccl.h"

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstring>
#include <optional>
#include <vector>

#include "core/cuda/own_stream.h"
#include "core/failure.h"

// The part of torch/csrc/cuda/nccl.h that is used here. That header includes those of cuBLAS, cuSPARSE and cuSOLVER,
// which a CUDA toolkit need not have. It is the same in LibTorch 2.11 to 2.14; loading the CUDA half would fail in one
// where it is not.
namespace torch::cuda::nccl {

typedef void* ncclComm_t;
typedef struct {
  char internal[128];
} ncclUniqueId;

void get_unique_id(ncclUniqueId& id);
ncclComm_t comm_init_rank(int nranks, const ncclUniqueId& comm_id, int rank);
void all_reduce(const std::vector<at::Tensor>& inputs, std::vector<at::Tensor>& outputs, int32_t op,
                const std::vector<std::optional<c10::cuda::CUDAStream>>& streams,
                const std::vector<ncclComm_t>& user_comms);

}  // namespace torch::cuda::nccl

namespace memformer {
namespace {

namespace torch_nccl = torch::cuda::nccl;

constexpr int32_t kSum = 0;  // ncclSum

class Nccl final : public Collectives {
 public:
  Nccl(int device, const Seat& seat)
      : device_(static_cast<c10::DeviceIndex>(device)),
        rank_(seat.rank),
        stream_(own_stream(device_, Priority::greatest)) {
    const c10::cuda::CUDAGuard guard(device_);
    torch_nccl::ncclUniqueId id;
    std::string bytes;
    if (seat.rank == 0) {
      torch_nccl::get_unique_id(id);
      bytes.assign(id.internal, sizeof id.internal);
    }
    bytes = seat.share(bytes);
    require(bytes.size() == sizeof id.internal, "DISTRIBUTED", "the name of an NCCL communicator has ",
            sizeof id.internal, " bytes, got ", bytes.size());
    std::memcpy(id.internal, bytes.data(), bytes.size());
    communicator_ = torch_nccl::comm_init_rank(seat.world, id, seat.rank);
  }

  // Not destroyed: that would wait for the other ranks, and a process has one communicator until it ends.

  void all_reduce(at::Tensor tensor, Done done) override {
    const c10::cuda::CUDAGuard guard(device_);
    const auto current = c10::cuda::getCurrentCUDAStream(device_);
    order(current, stream_);
    std::vector<at::Tensor> tensors{tensor};
    torch_nccl::all_reduce(tensors, tensors, kSum, {stream_}, {communicator_});
    order(stream_, current);  // whoever frees the tensor on the current stream does so after this
    done("");
  }

  /// As a sum of one rank's numbers and zeros: LibTorch's broadcast takes its root in other places in other versions.
  void broadcast(at::Tensor tensor, int root, Done done) override {
    if (rank_ != root) tensor.zero_();
    all_reduce(tensor, std::move(done));
  }

  /// As a sum of every rank's part and zeros, over whole numbers, which no sum rounds: LibTorch's all_gather checks
  /// sizes for the GPUs of one process.
  void all_gather(at::Tensor tensor, const std::vector<int64_t>& ends, Done done) override {
    int64_t begin = 0;
    for (size_t rank = 0; rank < ends.size(); begin = ends[rank++])
      if (static_cast<int>(rank) != rank_) tensor.narrow(0, begin, ends[rank] - begin).zero_();
    const auto size = tensor.element_size();
    all_reduce(tensor.view(size == 4 ? at::kInt : size == 8 ? at::kLong : at::kByte), std::move(done));
  }

  /// Ends the kernels that wait for a rank that is gone.
  void abort() override {
    void* library = dlopen("libnccl.so.2", RTLD_LAZY | RTLD_NOLOAD);
    auto* give_up =
        reinterpret_cast<int (*)(void*)>(dlsym(library == nullptr ? RTLD_DEFAULT : library, "ncclCommAbort"));
    if (give_up != nullptr) give_up(communicator_);
  }

 private:
  /// What `after` is given from now on runs when `before` has done what it has been given.
  static void order(const c10::cuda::CUDAStream& before, const c10::cuda::CUDAStream& after) {
    cudaEvent_t event = nullptr;
    C10_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    C10_CUDA_CHECK(cudaEventRecord(event, before));
    C10_CUDA_CHECK(cudaStreamWaitEvent(after, event, 0));
    C10_CUDA_CHECK(cudaEventDestroy(event));  // freed by the driver once it has happened
  }

  c10::DeviceIndex device_;
  int rank_;
  c10::cuda::CUDAStream stream_;
  torch_nccl::ncclComm_t communicator_ = nullptr;
};

}  // namespace

std::unique_ptr<Collectives> nccl(int device, const Seat& seat) {
  try {
    return std::make_unique<Nccl>(device, seat);
  } catch (const c10::Error& error) {
    require(false, "DISTRIBUTED", "rank ", seat.rank,
            " cannot reach the others over NCCL: ", error.what_without_backtrace());
  }
  return nullptr;
}

}  // namespace memformer
