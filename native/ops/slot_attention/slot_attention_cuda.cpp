#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <map>
#include <tuple>

#include "core/cuda/dtype_of.h"
#include "core/cuda/packed.h"
#include "core/gradient_sink.h"
#include "core/op_handle.h"
#include "core/torch.h"
#include "ops/slot_attention/slot_attention.cuh"
#include "ops/slot_attention/slot_attention_composed.h"

// Narrow dtypes without a mask: LibTorch's flash attention over the tokens, as many of each row as `lengths` says, and
// a kernel for what a slot has with itself. The backward of flash attention computes a = exp(logit - lse) and dL/dlogit
// = a (g.v - g.y): with y and lse of the whole softmax in place of those over the tokens alone, these are the gradients
// wanted. Where it fits, a kernel of ours takes g.y and computes the same, adding to the gradient of the query that a
// slot has from itself. All else is composed of LibTorch's operators.
namespace memformer::ops {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
using cuda::is_aligned;
using cuda::packed;

constexpr int64_t kWide = 8;         // numbers an access of flash attention takes
constexpr int64_t kMostWidth = 192;  // of a head: flash attention's backward has wider ones on few devices

/// (B, N, D) -> (B, H, N, E), a view where flash attention can read x in place.
Tensor heads_of(const Tensor& x, int64_t heads) {
  const bool readable = x.stride(2) == 1 && x.stride(1) % kWide == 0 && x.stride(0) % kWide == 0 && is_aligned(x);
  return (readable ? x : packed(x)).view({x.size(0), x.size(1), heads, x.size(2) / heads}).transpose(1, 2);
}

/// (B, H, N, E) -> (B, N, D)
Tensor rows_of(const Tensor& x) {
  return packed(x.transpose(1, 2)).view({x.size(0), x.size(2), x.size(1) * x.size(3)});
}

bool fits(const Tensor& query, const Tensor& key, const Optional& mask, int64_t heads) {
  const bool narrow = query.scalar_type() == at::kBFloat16 || query.scalar_type() == at::kHalf;
  const int64_t E = query.size(2) / heads;
  return narrow && !is_defined(mask) && E % kWide == 0 && E <= kMostWidth && query.numel() > 0 && key.numel() > 0;
}

SlotSizes sizes_of(const Tensor& query, int64_t heads) {
  return {query.size(0), query.size(1), static_cast<int>(heads), static_cast<int>(query.size(2) / heads)};
}

/// (B + 1) int32: where each of B rows of `length` numbers begins, and the end. Kept for the next call of those sizes,
/// for it never changes; what is made while a step is being recorded is not, for its memory is the recording's.
Tensor row_starts(int64_t B, int64_t length, at::Device device) {
  thread_local std::map<std::tuple<int64_t, int64_t, int>, Tensor> kept;
  constexpr size_t kMost = 64;
  const std::tuple<int64_t, int64_t, int> key{B, length, device.index()};
  if (const auto found = kept.find(key); found != kept.end()) return found->second;
  const auto starts = at::arange(0, (B + 1) * length, length, at::TensorOptions(device).dtype(at::kInt));
  if (c10::cuda::currentStreamCaptureStatusMayInitCtx() == c10::cuda::CaptureStatus::None) {
    if (kept.size() >= kMost) kept.clear();
    kept.emplace(key, starts);
  }
  return starts;
}

struct OverTokens {
  Tensor y;    // (B, M, D)
  Tensor lse;  // float32, (b, h, m) with these strides
  int64_t lse_b, lse_h;
};

/// Flash attention of the slots over the tokens. Rows of length 0 have no y and no lse worth reading.
OverTokens over_tokens(const Tensor& query, const Tensor& key, const Tensor& value, const Optional& lengths,
                       int64_t heads, double scale) {
  const int64_t B = query.size(0), M = query.size(1), T = key.size(1), E = query.size(2) / heads;
  if (!is_defined(lengths)) {
    const auto made = at::_scaled_dot_product_flash_attention(heads_of(query, heads), heads_of(key, heads),
                                                              heads_of(value, heads), 0.0,
                                                              /*is_causal=*/false, /*return_debug_mask=*/false, scale);
    return {rows_of(std::get<0>(made)), std::get<1>(made).contiguous(), heads * M, M};
  }
  const auto flat = [&](const Tensor& x) { return packed(x).view({-1, heads, E}); };
  const auto made = at::_flash_attention_forward(flat(query), flat(key), flat(value), row_starts(B, M, query.device()),
                                                 row_starts(B, T, query.device()), M, T, 0.0, /*is_causal=*/false,
                                                 /*return_debug_mask=*/false, scale, std::nullopt, std::nullopt,
                                                 lengths->contiguous());
  return {std::get<0>(made).contiguous().view(query.sizes()), std::get<1>(made).contiguous(), M,
          B * M};  // lse is (H, B M)
}

std::tuple<Tensor, Tensor> forward_cuda(const Tensor& query_in, const Tensor& self_key_in, const Tensor& own_in,
                                        const Tensor& key, const Tensor& value, const Optional& mask, int64_t heads,
                                        double scale, const Optional& lengths_in) {
  const c10::cuda::CUDAGuard device(query_in.device());
  if (!fits(query_in, key, mask, heads))
    return slot_attention_composed::forward(query_in, self_key_in, own_in, key, value, mask, heads, scale, lengths_in);
  const auto query = packed(query_in), self_key = packed(self_key_in), own = packed(own_in);
  const auto lengths = is_defined(lengths_in) ? Optional(lengths_in->contiguous()) : std::nullopt;
  const auto tokens = over_tokens(query, key, value, lengths, heads, scale);
  auto y = at::empty(own.sizes(), own.options()),
       lse = at::empty({query.size(0), heads, query.size(1)}, tokens.lse.options());
  SlotMixParams params{};
  params.query = query.const_data_ptr();
  params.self_key = self_key.const_data_ptr();
  params.own = own.const_data_ptr();
  params.y_tokens = tokens.y.const_data_ptr();
  params.token_lse = tokens.lse.const_data_ptr<float>();
  params.lse_b = tokens.lse_b;
  params.lse_h = tokens.lse_h;
  params.lengths = is_defined(lengths) ? lengths->const_data_ptr<int>() : nullptr;
  params.y = y.mutable_data_ptr();
  params.lse = lse.mutable_data_ptr<float>();
  params.size = sizes_of(query, heads);
  params.scale = static_cast<float>(scale);
  params.narrow = cuda::dtype_of(query);
  params.dtype = cuda::dtype_of(own);
  launch_slot_mix(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {y, lse};
}

bool fits_long_queries(const Tensor& query, const Tensor& key) {
  constexpr Registered<"memformer::cross_attention_queries_fits", bool(const Tensor&, const Tensor&)> op;
  return op(query, key);
}

using LongQueries = void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                         const Tensor&, const Tensor&, const Tensor&, double, const Optional&);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward_cuda(const Tensor& grad_in, const Tensor& query_in,
                                                                 const Tensor& self_key_in, const Tensor& own_in,
                                                                 const Tensor& key, const Tensor& value,
                                                                 const Optional& mask, const Tensor& y_in,
                                                                 const Tensor& lse_in, int64_t heads, double scale,
                                                                 const Optional& lengths) {
  const c10::cuda::CUDAGuard device(query_in.device());
  const at::AutoDispatchBelowADInplaceOrView below;
  const auto query = packed(query_in);
  const bool narrow = fits(query, key, mask, heads),
             fused = narrow && fits_long_queries(heads_of(query, heads), heads_of(key, heads));
  // The backward of LibTorch's flash attention takes no lengths.
  if (!fused && (!narrow || is_defined(lengths)))
    return slot_attention_composed::backward(grad_in, query_in, self_key_in, own_in, key, value, mask, y_in, lse_in,
                                             heads, scale, lengths);
  const auto grad = packed(grad_in), self_key = packed(self_key_in), own = packed(own_in), y = packed(y_in);
  const auto lse = lse_in.contiguous();
  const auto like = [](const Tensor& x) { return at::empty(x.sizes(), x.options()); };
  auto self_grad_query = like(query), grad_self_key = like(query), grad_own = like(own);
  const bool wide = own.scalar_type() != query.scalar_type();
  const auto query_heads = heads_of(query, heads), key_heads = heads_of(key, heads),
             value_heads = heads_of(value, heads);
  const auto narrow_grad = wide ? like(query) : grad, narrow_y = wide && !fused ? like(query) : y,
             delta = fused ? like(lse) : Tensor();
  SlotSelfBackwardParams params{};
  params.grad = grad.const_data_ptr();
  params.y = y.const_data_ptr();
  params.query = query.const_data_ptr();
  params.self_key = self_key.const_data_ptr();
  params.own = own.const_data_ptr();
  params.lse = lse.const_data_ptr<float>();
  params.grad_query = self_grad_query.mutable_data_ptr();
  params.grad_self_key = grad_self_key.mutable_data_ptr();
  params.grad_own = grad_own.mutable_data_ptr();
  params.narrow_grad = wide ? narrow_grad.mutable_data_ptr() : nullptr;
  params.narrow_y = wide && !fused ? narrow_y.mutable_data_ptr() : nullptr;
  params.delta = fused ? delta.mutable_data_ptr<float>() : nullptr;
  params.size = sizes_of(query, heads);
  params.scale = static_cast<float>(scale);
  params.narrow = cuda::dtype_of(query);
  params.dtype = cuda::dtype_of(own);
  launch_slot_self_backward(params, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  if (fused) {
    constexpr Registered<"memformer::cross_attention_queries_backward", LongQueries> op;
    const auto grad_key = like(key), grad_value = like(value);
    op(heads_of(narrow_grad, heads), query_heads, key_heads, value_heads, lse, delta, heads_of(self_grad_query, heads),
       heads_of(grad_key, heads), heads_of(grad_value, heads), scale, lengths);
    return {self_grad_query, grad_self_key, grad_own, grad_key, grad_value};
  }
  // Without dropout the random state is not read; undefined cumulative lengths: every row has all its tokens.
  const auto [grad_query, grad_key, grad_value] = at::_scaled_dot_product_flash_attention_backward(
      heads_of(narrow_grad, heads), query_heads, key_heads, value_heads, heads_of(narrow_y, heads), lse, Tensor(),
      Tensor(), query.size(1), key.size(1), 0.0, /*is_causal=*/false, Tensor(), Tensor(), scale);
  return {self_grad_query.add_(rows_of(grad_query)), grad_self_key, grad_own, rows_of(grad_key), rows_of(grad_value)};
}

}  // namespace

TORCH_LIBRARY_IMPL(memformer, CUDA, library) {
  library.impl("slot_attention_forward", &forward_cuda);
  library.impl("slot_attention_backward", &backward_cuda);
}

}  // namespace memformer::ops
