// Replaces LibTorch's CPU allocator. Blocks are reused instead of returned to the kernel between operators (page faults
// cost more than many operators), and every byte is counted, so a peak is measured rather than guessed from RSS.
#pragma once
#include <cstdint>

namespace memformer {

struct HostMemory {
  int64_t live = 0;    ///< bytes held by tensors now
  int64_t peak = 0;    ///< the most `live` has been since reset_host_peak()
  int64_t cached = 0;  ///< bytes kept for reuse
};

/// Makes every CPU tensor of the process use the counting, caching allocator. Idempotent.
void install_host_allocator();
HostMemory host_memory();
void reset_host_peak();
/// Gives the cached blocks back to the system.
void trim_host_cache();

}  // namespace memformer
