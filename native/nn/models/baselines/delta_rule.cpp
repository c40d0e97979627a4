#include "nn/models/baselines/delta_rule.h"

#include "core/tensor_checks.h"
#include "nn/positions/heads.h"
#include "ops/head_norm/head_norm.h"

namespace memformer::nn {

using at::Tensor;

DeltaRule::DeltaRule(Parameters& parameters, const Config& config, const std::string& prefix, double residual_gain)
    : heads_(config.integer("heads")),
      norm_(parameters, prefix + ".norm", config.integer("width")),
      qkv_(parameters, prefix + ".qkv", config.integer("width"), 3 * config.integer("width"), 1.0, /*matrices=*/3),
      gates_(parameters, prefix + ".gates", config.integer("width"), 2 * heads_, 1.0, /*matrices=*/2),
      output_gate_(parameters, prefix + ".output_gate", config.integer("width"), config.integer("width")),
      out_(parameters, prefix + ".out", config.integer("width"), config.integer("width"), residual_gain) {
  const int64_t D = config.integer("width"), H = heads_;
  // The deviation of a depthwise convolution's usual start, uniform in +-1 / sqrt(width).
  convolution_ = parameters.normal(prefix + ".convolution.weight", {3 * D, kWidth},
                                   1.0 / std::sqrt(3.0 * static_cast<double>(kWidth)), Parameters::Decay::no);
  // Heads forget at rates e^A softplus(b_a) per token from about 0.001 to 1.6, the published range, evenly spaced.
  const auto place = (at::arange(H, at::kDouble) + 0.5) / static_cast<double>(H);
  decay_ = parameters.add(prefix + ".decay", (1.0 + 15.0 * place).log().to(parameters.dtype()), Parameters::Decay::no);
  scale_ = parameters.constant(prefix + ".output_norm.weight", {D / H}, 1.0);
  const auto step = 0.001 * at::pow(100.0, place);
  at::NoGradGuard no_grad;
  auto bias = gates_.parameters().second.narrow(0, 0, H);
  bias.copy_(at::expm1(step).log());  // softplus(b_a) = step
}

void DeltaRule::operator()(Residual& stream, const Tensor& lengths, Tensor& S, Tensor& tail,
                           const std::vector<Tensor>& starts, ForwardContext& ctx) const {
  const auto normed = norm_(stream, ctx);
  const int64_t T = normed.size(1), B = S.size(0);
  const auto projected = qkv_(normed, ctx).to(tail.scalar_type()).unflatten(0, {-1, B}).unbind(0);  // (B, T, 3 D)
  std::vector<Tensor> windows;
  for (size_t g = 0; g < projected.size(); ++g) {
    if (g > 0) tail = tail.masked_fill(starts[g - 1].view({-1, 1, 1}), 0.0);
    windows.push_back(at::cat({tail, projected[g]}, 1));  // (B, 3 + T, 3 D)
    tail = lengths.defined() ? behind(windows[g], lengths.narrow(0, static_cast<int64_t>(g) * B, B))
                             : windows[g].narrow(1, T, kWidth - 1);
  }
  auto inputs = of_window(windows.size() == 1 ? windows[0] : at::cat(windows), gates_(normed, ctx));
  if (lengths.defined()) {
    const auto padding = first_tokens(lengths, T).logical_not().unsqueeze(1);  // (G B, 1, T)
    inputs.log_decay = inputs.log_decay.masked_fill(padding, 0.0);
    inputs.rate = inputs.rate.masked_fill(padding, 0.0);
  }
  const auto made = gated_delta_chunks(inputs, S, starts);
  S = made.S;
  stream.branch = out_.without_bias(gated(made.o, output_gate_(normed, ctx)), ctx);
}

void DeltaRule::decode(Residual& stream, const DecodeRows& rows, const Tensor& S, const Tensor& tail,
                       ForwardContext& ctx) const {
  const auto qkv = norm_.then(qkv_, stream, ctx), gates = norm_.then(gates_, stream, ctx),
             output_gate = norm_.then(output_gate_, stream, ctx);
  const auto slots = rows.slots.to(at::kLong);
  const auto moved = [&](int64_t from, int64_t count) {
    const auto some = [&](const Tensor& x) { return x.narrow(0, from, count); };
    const auto at = some(slots);
    const auto window = at::cat({tail.index_select(0, at), some(qkv).to(tail.scalar_type())}, 1);
    const auto made = gated_delta_step(of_window(window, some(gates)), S.index_select(0, at));
    S.index_copy_(0, at, made.S);
    tail.index_copy_(0, at, window.narrow(1, 1, kWidth - 1));
    return gated(made.o, some(output_gate));
  };
  const int64_t R = qkv.size(0);
  std::vector<Tensor> outputs;
  if (rows.of_different_slots && !qkv.is_cpu())
    outputs.push_back(moved(0, R));
  else
    for (int64_t r = 0; r < R; ++r) outputs.push_back(moved(r, 1));
  stream.branch = out_.without_bias(at::cat(outputs), ctx);
}

Tensor DeltaRule::behind(const Tensor& window, const Tensor& lengths) {
  const auto last = lengths.to(at::kLong).unsqueeze(1) + at::arange(kWidth - 1, lengths.options().dtype(at::kLong));
  return window.gather(1, last.unsqueeze(2).expand({-1, -1, window.size(2)}));
}

DeltaInputs DeltaRule::of_window(const Tensor& window, const Tensor& gates) const {
  const int64_t T = window.size(1) - (kWidth - 1), H = heads_, E = window.size(2) / (3 * H);
  const auto weight = convolution_.to(window.scalar_type());
  auto sum = window.narrow(1, 0, T) * weight.select(1, 0);
  for (int64_t j = 1; j < kWidth; ++j) sum = sum + window.narrow(1, j, T) * weight.select(1, j);
  const auto normed =
      ops::head_norm(at::silu(sum), {E, 3 * H, 2 * H, 1.0 / std::sqrt(static_cast<double>(E))});  // q and k
  const auto parts = normed.unflatten(2, {3, H, E}).permute({2, 0, 3, 1, 4});                     // (3, B, H, T, E)
  const auto by_head = gates.to(window.scalar_type()).transpose(1, 2).chunk(2, 1);                // (B, H, T)
  const auto decay = decay_.to(window.scalar_type()).exp().view({H, 1}) * at::softplus(by_head[0]);
  return {parts[0], parts[1], parts[2], -decay, at::sigmoid(by_head[1])};
}

Tensor DeltaRule::gated(const Tensor& o, const Tensor& gate) const {
  const int64_t E = o.size(3);
  const auto normed = ops::head_norm(merge(o), {E, 1, 1}) * scale_.to(o.scalar_type()).repeat({heads_});
  return (normed * at::silu(gate.to(o.scalar_type()))).to(gate.scalar_type());
}

}  // namespace memformer::nn
