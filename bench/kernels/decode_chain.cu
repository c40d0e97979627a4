// What the kernels of a decoding step take, without LibTorch and without the rest of the engine: the layers of `wiki`'s
// decoder as one recording, and each kind of kernel in a chain of its own, on random numbers. It builds in less than a
// minute, for work on the kernels. The hash of the results shows whether a change has kept their bits.
//   scripts/decode-chain.sh [ROWS ...]
// Letters: R rows, K numbers of a row, N columns or keys, H heads, E width of a head, D width.
#include <cuda_bf16.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "ops/decode_attention/decode_attention.cuh"
#include "ops/decode_linear/decode_linear.cuh"

namespace {

using namespace memformer::ops;
using Half = __nv_bfloat16;

constexpr int kLayers = 16, kHeads = 8, kE = 64, kD = kHeads * kE, kInner = 4 * kD;
constexpr int kKeys = 128, kVocabulary = 50257;
constexpr auto kDtype = memformer::cuda::Dtype::bf16;

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "decode_chain: %s\n", cudaGetErrorString(error));
  std::exit(1);
}

template <typename T>
__global__ void draw_kernel(T* to, size_t count, float size, uint64_t seed) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    uint64_t bits = (i + seed * 0x9E3779B97F4A7C15ull) * 0xBF58476D1CE4E5B9ull;
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EBull;
    to[i] = T(size * (static_cast<float>((bits ^ bits >> 31) >> 40) / (1 << 23) - 1.0f));
  }
}

/// `count` numbers on the device, even between -size and size. Nothing here is freed before the program ends.
template <typename T>
T* drawn(size_t count, float size) {
  static uint64_t seed = 0;
  T* numbers = nullptr;
  check(cudaMalloc(&numbers, count * sizeof(T)));
  draw_kernel<<<512, 256>>>(numbers, count, size, ++seed);
  check(cudaGetLastError());
  return numbers;
}

int32_t* sent(const std::vector<int32_t>& numbers) {
  int32_t* there = nullptr;
  check(cudaMalloc(&there, numbers.size() * sizeof(int32_t)));
  check(cudaMemcpy(there, numbers.data(), numbers.size() * sizeof(int32_t), cudaMemcpyHostToDevice));
  return there;
}

template <typename T>
uint64_t hash_of(const T* there, size_t count) {
  std::vector<T> numbers(count);
  check(cudaMemcpy(numbers.data(), there, count * sizeof(T), cudaMemcpyDeviceToHost));
  const auto* bytes = reinterpret_cast<const unsigned char*>(numbers.data());
  uint64_t hash = 14695981039346656037ull;  // FNV-1a
  for (size_t i = 0; i < count * sizeof(T); ++i) hash = (hash ^ bytes[i]) * 1099511628211ull;
  return hash & 0xffffff;
}

struct Layer {
  Half *qkv = drawn<Half>(3 * kD * kD, 0.08f), *out = drawn<Half>(kD * kD, 0.05f), *query = drawn<Half>(kD * kD, 0.08f),
       *read_out = drawn<Half>(kD * kD, 0.05f), *up = drawn<Half>(kInner * kD, 0.08f),
       *down = drawn<Half>(kD * kInner, 0.05f), *bias = drawn<Half>(kInner, 0.5f);
  float *norm_weight = drawn<float>(kD, 1), *norm_bias = drawn<float>(kD, 1);
  Half *keys, *values, *context_keys, *context_values;  // (slots, H, N, E)

  explicit Layer(int slots) {
    const size_t cache = static_cast<size_t>(slots) * kHeads * kKeys * kE;
    for (auto** part : {&keys, &values, &context_keys, &context_values}) *part = drawn<Half>(cache, 1);
  }
};

class Chain {
 public:
  explicit Chain(int most) : most_(most) {
    for (int i = 0; i < kLayers; ++i) layers_.emplace_back(most);
    std::vector<int32_t> slots(most);
    for (int i = 0; i < most; ++i) slots[i] = i;
    slots_ = sent(slots);
    positions_ = sent(std::vector<int32_t>(most, kKeys / 2));
    lengths_ = sent(std::vector<int32_t>(most, kKeys));
    check(cudaStreamCreate(&stream_));
  }

  void measure(int R) {
    R_ = R;
    step(true);
    check(cudaStreamSynchronize(stream_));
    std::printf("%4d  %06llx %8.1f %8.1f", R,
                static_cast<unsigned long long>(hash_of(logits_, size_t(R) * kVocabulary)),
                timed([&] { step(true); }, 1), timed([&] { step(false); }, 1));
    const auto chain = [&](const std::function<void(const Layer&, int)>& launch) {
      constexpr int kLaunches = 4 * kLayers;
      std::printf(" %6.2f", timed(
                                [&] {
                                  for (int i = 0; i < kLaunches; ++i) launch(layers_[i % kLayers], i);
                                },
                                kLaunches));
    };
    chain([&](const Layer& l, int i) { norm(l, sums_[i % 2], branch_, sums_[(i + 1) % 2]); });
    chain([&](const Layer& l, int) { product(normed_, l.qkv, nullptr, 3 * kD, kD, hidden_); });
    chain([&](const Layer& l, int) { attend(l, /*own=*/true, hidden_); });
    chain([&](const Layer& l, int) { product(read_, l.out, nullptr, kD, kD, branch_); });
    chain([&](const Layer& l, int) { attend(l, /*own=*/false, normed_); });
    chain([&](const Layer& l, int) { product(normed_, l.up, l.bias, kInner, kD, hidden_, /*gelu=*/true); });
    chain([&](const Layer& l, int) { product(hidden_, l.down, nullptr, kD, kInner, branch_); });
    std::printf(" %7.1f\n", timed([&] { output(); }, 1));
    std::fflush(stdout);
  }

 private:
  DecodeLinearParams rows_of(const void* x, int K) const {
    DecodeLinearParams p{};
    p.x = x;
    p.R = R_;
    p.K = K;
    p.settled = true;
    p.dtype = kDtype;
    return p;
  }

  void product(const Half* x, const Half* weight, const Half* bias, int N, int K, void* y, bool gelu = false,
               bool widened = false) {
    auto p = rows_of(x, K);
    p.weight = weight;
    p.bias = bias;
    p.y = y;
    p.N = N;
    p.gelu = gelu;
    p.widened = widened;
    launch_decode_linear_on_tensor_cores(p, stream_);
  }

  void norm(const Layer& layer, const float* stream, const Half* branch, float* sum) {
    auto p = rows_of(stream, kD);
    p.branch = branch;
    p.branch_bias = branch == nullptr ? nullptr : layer.bias;
    p.norm_weight = layer.norm_weight;
    p.norm_bias = layer.norm_bias;
    p.sum = sum;
    p.eps = 1e-5f;
    launch_decode_norm({p, normed_}, stream_);
  }

  void attend(const Layer& layer, bool own, const Half* from) {
    const auto cache = [](const Half* data) { return DecodeCache{data, kHeads * kKeys * kE, kKeys * kE, kE}; };
    DecodeAttentionParams p{};
    if (own)
      p.append = {from,         cos_, sin_,  slots_, positions_, nullptr, layer.keys,
                  layer.values, R_,   most_, kKeys,  kHeads,     kE,      kDtype};
    else
      p.q = from;
    p.keys = cache(own ? layer.keys : layer.context_keys);
    p.values = cache(own ? layer.values : layer.context_values);
    p.slots = slots_;
    p.lengths = own ? nullptr : lengths_;
    p.y = read_;
    p.R = R_;
    p.S = most_;
    p.N = kKeys;
    p.H = kHeads;
    p.E = kE;
    p.settled = true;
    p.dtype = kDtype;
    launch_decode_attention(p, stream_);
  }

  void output() { product(branch_, vocabulary_, nullptr, kVocabulary, kD, logits_, /*gelu=*/false, /*widened=*/true); }

  /// All layers, as the engine launches them where a row's norm is a kernel of its own.
  void step(bool with_output) {
    const float* stream = x_;
    int turn = 0;
    const auto add_and_norm = [&](const Layer& layer, const Half* branch) {
      norm(layer, stream, branch, sums_[turn]);
      if (branch == nullptr) return;
      stream = sums_[turn];
      turn ^= 1;
    };
    for (const auto& l : layers_) {
      add_and_norm(l, &l == &layers_.front() ? nullptr : branch_);
      product(normed_, l.qkv, l.bias, 3 * kD, kD, hidden_);
      attend(l, /*own=*/true, hidden_);
      product(read_, l.out, nullptr, kD, kD, branch_);
      add_and_norm(l, branch_);
      product(normed_, l.query, l.bias, kD, kD, hidden_);
      attend(l, /*own=*/false, hidden_);
      product(read_, l.read_out, nullptr, kD, kD, branch_);
      add_and_norm(l, branch_);
      product(normed_, l.up, l.bias, kInner, kD, hidden_, /*gelu=*/true);
      product(hidden_, l.down, nullptr, kD, kInner, branch_);
    }
    if (with_output) output();
  }

  /// Microseconds of a replay, over `parts`.
  double timed(const std::function<void()>& body, int parts) {
    constexpr int kReplays = 20;
    cudaGraph_t graph{};
    cudaGraphExec_t recorded{};
    cudaEvent_t begin{}, end{};
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    body();
    check(cudaStreamEndCapture(stream_, &graph));
    check(cudaGraphInstantiate(&recorded, graph, 0));
    check(cudaEventCreate(&begin));
    check(cudaEventCreate(&end));
    for (int i = 0; i < 3; ++i) check(cudaGraphLaunch(recorded, stream_));
    check(cudaEventRecord(begin, stream_));
    for (int i = 0; i < kReplays; ++i) check(cudaGraphLaunch(recorded, stream_));
    check(cudaEventRecord(end, stream_));
    check(cudaStreamSynchronize(stream_));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end));
    check(cudaGraphExecDestroy(recorded));
    check(cudaGraphDestroy(graph));
    return 1000.0 * ms / kReplays / parts;
  }

  const int most_;
  int R_ = 0;
  std::vector<Layer> layers_;
  cudaStream_t stream_{};
  int32_t *slots_, *positions_, *lengths_;
  Half* vocabulary_ = drawn<Half>(size_t{kVocabulary} * kD, 0.05f);
  float *cos_ = drawn<float>(kKeys * kE / 2, 1), *sin_ = drawn<float>(kKeys * kE / 2, 1),
        *x_ = drawn<float>(most_ * kD, 1);
  float* sums_[2] = {drawn<float>(most_ * kD, 1), drawn<float>(most_ * kD, 1)};
  Half *normed_ = drawn<Half>(most_ * kD, 1), *hidden_ = drawn<Half>(most_ * kInner, 1),
       *read_ = drawn<Half>(most_ * kD, 1), *branch_ = drawn<Half>(most_ * kD, 1);
  float* logits_ = drawn<float>(size_t(most_) * kVocabulary, 1);
};

}  // namespace

int main(int count, char** given) {
  std::vector<int> rows;
  for (int i = 1; i < count; ++i) rows.push_back(std::atoi(given[i]));
  if (rows.empty()) rows = {1, 8, 16, 32, 64, 128, 256};
  int most = 0;
  for (const int R : rows) {
    if (R < 1 || R > 4096) {
      std::fprintf(stderr, "decode_chain: rows must be numbers from 1 to 4096, got %d\n", R);
      return 2;
    }
    most = R > most ? R : most;
  }
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0));
  std::printf(
      "%s: microseconds\nrows    bits     step   layers   norm    qkv    own    out  cross     up   down  output\n",
      properties.name);
  Chain chain(most);
  for (const int R : rows) chain.measure(R);
}
