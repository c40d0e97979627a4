#include "ops/dropout/dropout.h"

#include "core/operator.h"
#include "core/parallel.h"
#include "core/philox.h"
#include "ops/dropout/dropout_checks.h"

namespace memformer::ops {
namespace {

constexpr int64_t kLanes = 16;  // counters worked on together: the compiler turns each round into vector code

/// keep[4 * lane + word] for kLanes counters from `first`: the ten rounds of philox.h, across lanes.
void keep_mask(uint64_t seed, uint64_t site, uint64_t first, uint32_t threshold, uint32_t* keep) {
  uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const uint64_t index = first + lane;
    c0[lane] = static_cast<uint32_t>(index);
    c1[lane] = static_cast<uint32_t>(index >> 32);
    c2[lane] = static_cast<uint32_t>(site);
    c3[lane] = static_cast<uint32_t>(site >> 32);
  }
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const uint64_t product0 = uint64_t{0xD2511F53u} * c0[lane], product1 = uint64_t{0xCD9E8D57u} * c2[lane];
      c0[lane] = static_cast<uint32_t>(product1 >> 32) ^ c1[lane] ^ key0;
      c2[lane] = static_cast<uint32_t>(product0 >> 32) ^ c3[lane] ^ key1;
      c1[lane] = static_cast<uint32_t>(product1);
      c3[lane] = static_cast<uint32_t>(product0);
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    keep[4 * lane] = c0[lane] >= threshold;
    keep[4 * lane + 1] = c1[lane] >= threshold;
    keep[4 * lane + 2] = c2[lane] >= threshold;
    keep[4 * lane + 3] = c3[lane] >= threshold;
  }
}

template <typename scalar_t>
void drop(const scalar_t* x, scalar_t* y, int64_t count, double p, uint64_t seed, uint64_t site) {
  using scale_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
  const auto threshold = static_cast<uint32_t>(p * 4294967296.0);
  const auto scale = static_cast<scale_t>(1.0 / (1.0 - p));
  constexpr int64_t kBlock = 4 * kLanes;
  parallel_for((count + kBlock - 1) / kBlock, 64, [&](int64_t begin, int64_t end) {
    uint32_t keep[kBlock];
    for (int64_t block = begin; block < end; ++block) {
      keep_mask(seed, site, static_cast<uint64_t>(block * kLanes), threshold, keep);
      const int64_t first = block * kBlock, size = std::min(kBlock, count - first);
      for (int64_t i = 0; i < size; ++i)
        y[first + i] = keep[i] ? static_cast<scalar_t>(static_cast<scale_t>(x[first + i]) * scale) : scalar_t(0);
    }
  });
}

at::Tensor dropout_cpu(const at::Tensor& x_in, double p, const at::Tensor& seed, int64_t site) {
  check_dropout(x_in, p, seed);
  const auto x = x_in.contiguous(), seeds = seed.contiguous();
  auto y = at::empty_like(x);
  const auto* of_share = seeds.const_data_ptr<int64_t>();
  const int64_t share = x.numel() / seeds.numel();
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "dropout", [&] {
    for (int64_t g = 0; g < seeds.numel(); ++g)
      drop(x.const_data_ptr<scalar_t>() + g * share, y.mutable_data_ptr<scalar_t>() + g * share, share, p,
           static_cast<uint64_t>(of_share[g]), static_cast<uint64_t>(site));
  });
  return y;
}

constexpr Registered<"memformer::dropout", decltype(dropout_cpu)> dispatched;

struct Dropout {
  struct Saved {
    double p;
    at::Tensor seed;
    int64_t site;
    auto variables() { return std::tie(seed); }
  };

  static at::Tensor forward(Saved* saved, const at::Tensor& x, double p, const at::Tensor& seed, int64_t site) {
    if (saved != nullptr) *saved = {p, seed, site};
    return dispatched(x, p, seed, site);
  }

  static at::Tensor backward(const Saved& s, const BackwardPass& pass) {
    return dispatched(pass.gradients[0], s.p, s.seed, s.site);
  }
};

}  // namespace

at::Tensor dropout(const at::Tensor& x, double p, const at::Tensor& seed, int64_t site) {
  return dispatched(x, p, seed, site);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def("dropout(Tensor x, float p, Tensor seed, int site) -> Tensor", on_cpu(&dropout_cpu));
  library.impl("dropout", with_gradient<Dropout>());
}

}  // namespace memformer::ops
