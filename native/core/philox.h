// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): ten rounds turn a 128-bit
// counter and a 64-bit key into four random words. Plain C++, so that the CPU and the GPU code share it.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define MEMFORMER_HOST_DEVICE __host__ __device__
#else
#define MEMFORMER_HOST_DEVICE
#endif

namespace memformer::ops {

struct PhiloxWords {
  uint32_t word[4];
};

MEMFORMER_HOST_DEVICE inline PhiloxWords philox(uint64_t seed, uint64_t index, uint64_t site) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32);
  uint32_t c2 = static_cast<uint32_t>(site), c3 = static_cast<uint32_t>(site >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c0, product1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t next0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    const uint32_t next2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c1 = static_cast<uint32_t>(product1);
    c3 = static_cast<uint32_t>(product0);
    c0 = next0;
    c2 = next2;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace memformer::ops
