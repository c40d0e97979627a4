#include "nn/gated_delta.h"

#include "ops/decode_linear/decode_linear.h"

namespace memformer::nn {
namespace {

using at::Tensor;

constexpr int64_t kChunk = 64;

/// (..., T, further) -> (..., n, C, further), zeros behind the tokens; `further` axes.
Tensor in_chunks(const Tensor& x, int64_t C, int64_t further) {
  const int64_t axis = x.dim() - further - 1, T = x.size(axis), missing = (C - T % C) % C;
  std::vector<int64_t> padding(2 * further + 2, 0);
  padding.back() = missing;
  const auto whole = missing == 0 ? x : at::constant_pad_nd(x, padding);
  return whole.unflatten(axis, {(T + missing) / C, C});
}

/// S x of each head: (B, H, E, E), (B, H, E) -> (B, H, E).
Tensor times(const Tensor& S, const Tensor& x) {
  const auto ones = at::ones({1, x.size(2)}, x.options());
  return ops::decode_linear((S * x.unsqueeze(2)).contiguous(), ones, {}).squeeze(-1);
}

}  // namespace

DeltaOutputs gated_delta_chunks(const DeltaInputs& inputs, const Tensor& before, const std::vector<Tensor>& starts) {
  const int64_t G = static_cast<int64_t>(starts.size()) + 1, T = inputs.q.size(2), E = inputs.q.size(3),
                C = std::min(kChunk, T);
  const auto q = in_chunks(inputs.q, C, 1), k = in_chunks(inputs.k, C, 1), v = in_chunks(inputs.v, C, 1);
  const auto b = in_chunks(inputs.rate, C, 0).unsqueeze(-1);        // (B, H, n, C, 1)
  const auto log_g = in_chunks(inputs.log_decay, C, 0).cumsum(-1);  // (B, H, n, C)
  const auto g = log_g.exp().unsqueeze(-1), last = log_g.narrow(3, C - 1, 1);
  const auto later = at::ones({C, C}, q.options().dtype(at::kBool).requires_grad(false)).triu(1);
  const auto ratio = (log_g.unsqueeze(-1) - log_g.unsqueeze(-2))
                         .masked_fill(later, -std::numeric_limits<double>::infinity())
                         .exp();  // (B, H, n, C, C) of g_t / g_i
  const auto A = (b * at::matmul(k, k.mT()) * ratio).tril(-1);
  const auto solved = at::linalg_solve_triangular(A, b * at::cat({v, g * k}, -1), /*upper=*/false, /*left=*/true,
                                                  /*unitriangular=*/true);
  const auto of_values = solved.narrow(-1, 0, E), of_keys = solved.narrow(-1, E, E);
  const auto weights = at::matmul(q, k.mT()) * ratio, queries = q * g;
  const auto keys = k * (last - log_g).exp().unsqueeze(-1), whole = last.exp().unsqueeze(-1);
  // What came so far is of all chunks of all segments at once; from chunk to chunk goes the state alone.
  const auto chunks_of = [G](const Tensor& x) {  // (B, H, ...) each, segment by segment
    std::vector<Tensor> chunks;
    for (const auto& segment : x.unflatten(0, {G, -1}).unbind(0))
      for (const auto& chunk : segment.unbind(2)) chunks.push_back(chunk);
    return chunks;
  };
  const auto values_of = chunks_of(of_values), keys_of = chunks_of(of_keys), queries_of = chunks_of(queries),
             weights_of = chunks_of(weights), written_of = chunks_of(keys), whole_of = chunks_of(whole);
  const auto n = static_cast<int64_t>(values_of.size()) / G;
  auto S = before;
  std::vector<Tensor> outputs, of_segment;
  for (int64_t g = 0; g < G; ++g) {
    if (g > 0) S = S.masked_fill(starts[g - 1].view({-1, 1, 1, 1}), 0.0);
    for (int64_t i = g * n; i < (g + 1) * n; ++i) {
      const auto u = values_of[i] - at::matmul(keys_of[i], S.mT());  // (B, H, C, E)
      of_segment.push_back(at::matmul(queries_of[i], S.mT()) + at::matmul(weights_of[i], u));
      S = whole_of[i] * S + at::matmul(u.mT(), written_of[i]);
    }
    outputs.push_back(at::cat(of_segment, 2).narrow(2, 0, T));
    of_segment.clear();
  }
  return {at::cat(outputs), S};
}

DeltaOutputs gated_delta_step(const DeltaInputs& inputs, const Tensor& S) {
  const auto q = inputs.q.squeeze(2), k = inputs.k.squeeze(2), v = inputs.v.squeeze(2);  // (B, H, E)
  const auto a = inputs.log_decay.exp();                                                 // (B, H, 1)
  const auto u = inputs.rate * (v - a * times(S, k));
  const auto next = a.unsqueeze(-1) * S + u.unsqueeze(3) * k.unsqueeze(2);
  return {times(next, q).unsqueeze(2), next};
}

}  // namespace memformer::nn
