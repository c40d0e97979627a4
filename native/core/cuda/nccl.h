// NCCL, as LibTorch carries it.
#pragma once
#include <memory>

#include "core/collectives.h"

namespace memformer {

/// See Cuda::nccl(). Throws DISTRIBUTED.
std::unique_ptr<Collectives> nccl(int device, const Seat& seat);

}  // namespace memformer
