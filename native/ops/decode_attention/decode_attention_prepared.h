// The arguments of decode_attention and decode_self_attention, checked, as their kernels read them: for every operator
// that attends before it does something else.
#pragma once
#include "core/cuda/dtype_of.h"
#include "core/torch.h"
#include "ops/decode_attention/decode_attention.cuh"
#include "ops/decode_attention/decode_attention_checks.h"

namespace memformer::ops {

inline at::Tensor contiguous_or_none(const std::optional<at::Tensor>& tensor) {
  return is_defined(tensor) ? tensor->contiguous() : at::Tensor();
}

template <typename T = void>
const T* pointer_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<const T*>(tensor.const_data_ptr()) : nullptr;
}

/// Parameters without y, and the tensors that they point to.
class PreparedDecodeAttention {
 public:
  using Tensor = at::Tensor;
  using Optional = std::optional<at::Tensor>;

  DecodeAttentionParams params{};

  /// As decode_attention's.
  static PreparedDecodeAttention of_queries(const Tensor& q_in, const Tensor& keys_in, const Tensor& values_in,
                                            const Optional& slots_in, const Optional& lengths_in,
                                            const Optional& bias_in, bool settled) {
    check_decode_attention(q_in, keys_in, values_in, slots_in, lengths_in, bias_in);
    const auto rows = [](const Tensor& x) { return x.stride(3) == 1 ? x : x.contiguous(); };
    const auto q = q_in.contiguous(), bias = contiguous_or_none(bias_in), lengths = contiguous_or_none(lengths_in);
    PreparedDecodeAttention made(q, rows(keys_in), rows(values_in), contiguous_or_none(slots_in), settled);
    made.params.q = q.const_data_ptr();
    made.params.lengths = pointer_or_null<int32_t>(lengths);
    made.params.bias = pointer_or_null(bias);
    made.held_ = {q, lengths, bias};
    return made;
  }

  /// As decode_self_attention's.
  static PreparedDecodeAttention of_own_token(const Tensor& qkv_in, const Optional& cos_in, const Optional& sin_in,
                                              const Tensor& slots_in, const Tensor& positions_in, const Tensor& keys,
                                              const Tensor& values, bool settled) {
    check_decode_append(qkv_in, cos_in, sin_in, slots_in, positions_in, keys, values);
    const auto qkv = qkv_in.contiguous(), positions = positions_in.contiguous();
    const auto cos = contiguous_or_none(cos_in), sin = contiguous_or_none(sin_in);
    PreparedDecodeAttention made(qkv, keys, values, slots_in.contiguous(), settled);
    auto& p = made.params;
    p.append = {qkv.const_data_ptr(),
                pointer_or_null(cos),
                pointer_or_null(sin),
                p.slots,
                positions.const_data_ptr<int32_t>(),
                nullptr,
                keys.mutable_data_ptr(),
                values.mutable_data_ptr(),
                p.R,
                p.S,
                p.N,
                p.H,
                p.E,
                p.dtype};
    made.held_ = {qkv, positions, cos, sin};
    return made;
  }

 private:
  PreparedDecodeAttention(const Tensor& rows, Tensor keys, Tensor values, Tensor slots, bool settled)
      : keys_(std::move(keys)), values_(std::move(values)), slots_(std::move(slots)) {
    const int64_t N = keys_.size(2), most = kMostDecodeScores / at::elementSize(accumulate_type(rows.scalar_type()));
    require(N <= most, "CONFIG", "decode_attention: a GPU's kernel takes at most ", most, " keys, got ", N);
    const auto cache = [](const Tensor& x) {
      return DecodeCache{x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
    };
    params.keys = cache(keys_);
    params.values = cache(values_);
    params.slots = pointer_or_null<int32_t>(slots_);
    params.R = rows.size(0);
    params.S = keys_.size(0);
    params.N = N;
    params.H = static_cast<int>(keys_.size(1));
    params.E = static_cast<int>(keys_.size(3));
    params.dtype = cuda::dtype_of(rows);
    params.settled = settled;
  }

  Tensor keys_, values_, slots_;
  std::vector<Tensor> held_;
};

}  // namespace memformer::ops
