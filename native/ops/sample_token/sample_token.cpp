#include "ops/sample_token/sample_token.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/op_handle.h"
#include "ops/sample_token/sample_token_checks.h"

// A token's place in the order, likeliest first, is found by halving: what comes before the middle is set apart
// (nth_element), its mass is summed, and the half that the draw falls into is halved again. That is linear in V where
// sorting is not. Sums in another order differ in their last bits; where those could decide, the row is sorted and
// walked through as lib/generate/sample.ts does.
namespace memformer::ops {
namespace {

using at::Tensor;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Settings {
  double temperature;
  int64_t top_k;
  double top_p;
  int64_t tokens, also;
};

struct Candidate {
  double logit, mass;
  int64_t id;
};

bool likelier(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

double mass_of(const Candidate* first, const Candidate* last) {
  double sum = 0;
  for (; first != last; ++first) sum += first->mass;
  return sum;
}

/// The first candidate, likeliest first, with which the cumulated mass passes `target`; those likelier come to lie
/// before it. `whole`: the mass of all. Null where rounding, of at most `slack`, could decide.
Candidate* passing(Candidate* first, Candidate* last, double target, double whole, double slack) {
  if (whole - target <= slack) return nullptr;
  double passed = 0;
  while (last - first > 1) {
    auto* middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, likelier);
    const double upper = passed + mass_of(first, middle);
    if (std::abs(upper - target) <= slack) return nullptr;
    if (target < upper) {
      last = middle;
    } else {
      first = middle;
      passed = upper;
    }
  }
  return first;
}

/// The sums of lib/generate/sample.ts, one after the other.
int64_t walk(std::vector<Candidate>& kept, double u, double top_p) {
  std::sort(kept.begin(), kept.end(), likelier);
  const double total = mass_of(kept.data(), kept.data() + kept.size());
  size_t nucleus = 0;
  double held = 0;
  while (nucleus < kept.size() && (nucleus == 0 || held < top_p * total)) held += kept[nucleus++].mass;
  volatile double point = u * held;  // rounded here: no product fused with the subtraction below
  for (size_t i = 0; i < nucleus; ++i) {
    point = point - kept[i].mass;
    if (point < 0) return kept[i].id;
  }
  return kept[nucleus - 1].id;
}

int64_t draw(std::vector<Candidate>& kept, double u, const Settings& settings) {
  if (settings.top_k > 0 && settings.top_k < static_cast<int64_t>(kept.size())) {
    std::nth_element(kept.begin(), kept.begin() + settings.top_k, kept.end(), likelier);
    kept.resize(settings.top_k);
  }
  const double top = std::min_element(kept.begin(), kept.end(), likelier)->logit;
  for (auto& candidate : kept) candidate.mass = std::exp((candidate.logit - top) / settings.temperature);
  auto* first = kept.data();
  auto* last = first + kept.size();
  const double total = mass_of(first, last), slack = 8 * std::numeric_limits<double>::epsilon() * kept.size() * total;
  double held = total;
  if (settings.top_p < 1) {
    auto* edge = passing(first, last, settings.top_p * total, total, slack);
    if (edge == nullptr) return walk(kept, u, settings.top_p);
    last = edge + 1;
    held = mass_of(first, last);
  }
  const auto* drawn = last - first == 1 ? first : passing(first, last, u * held, held, slack);
  return drawn == nullptr ? walk(kept, u, settings.top_p) : drawn->id;
}

/// The likeliest token, the first of several; -1 where there is none.
template <typename Number>
int64_t likeliest_of(const Number* logits, int64_t V, const Settings& settings) {
  int64_t best = -1;
  double most = -kInfinity;
  for (int64_t id = 0; id < V; ++id) {
    const double logit = logits[id];
    if (!(logit < kInfinity)) return -1;
    if (logit > most && (id < settings.tokens || id == settings.also)) {
      most = logit;
      best = id;
    }
  }
  return best;
}

template <typename Number>
int64_t token_of(const Number* logits, int64_t V, double u, const Settings& settings, std::vector<Candidate>& kept) {
  if (settings.temperature == 0) return likeliest_of(logits, V, settings);
  kept.clear();
  for (int64_t id = 0; id < V; ++id) {
    const double logit = logits[id];
    if (!(logit < kInfinity)) return -1;
    if (id < settings.tokens || id == settings.also) kept.push_back({logit, 0, id});
  }
  if (kept.empty()) return -1;
  const auto best = std::min_element(kept.begin(), kept.end(), likelier);
  if (best->logit == -kInfinity) return -1;
  return draw(kept, u, settings);
}

Tensor on_cpu(const Tensor& logits, const Tensor& draws, double temperature, int64_t top_k, double top_p,
              int64_t tokens, int64_t also) {
  const Settings settings{temperature, top_k, top_p, tokens, also};
  check_sample_token(logits, draws, temperature, top_k, top_p);
  const auto numbers = (logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat)).contiguous();
  const auto points = draws.contiguous();
  const int64_t B = numbers.size(0), V = numbers.size(1);
  auto drawn = at::empty({B}, at::kLong);
  std::vector<Candidate> kept;
  kept.reserve(V);
  for (int64_t b = 0; b < B; ++b) {
    const double u = points.const_data_ptr<double>()[b];
    drawn.mutable_data_ptr<int64_t>()[b] =
        numbers.scalar_type() == at::kDouble ? token_of(numbers.const_data_ptr<double>() + b * V, V, u, settings, kept)
                                             : token_of(numbers.const_data_ptr<float>() + b * V, V, u, settings, kept);
  }
  return drawn;
}

/// The same by ATen's operators, where the logits are: sorted and cumulated there, nothing but the ids has to leave. A
/// draw within the rounding of a boundary may fall to its other side.
Tensor composed(const Tensor& logits, const Tensor& draws, double temperature, int64_t top_k, double top_p,
                int64_t tokens, int64_t also) {
  check_sample_token(logits, draws, temperature, top_k, top_p);
  const auto id = at::arange(logits.size(1), logits.options().dtype(at::kLong));
  const auto wide = logits.to(at::kDouble);
  if (wide.numel() == 0) return at::full({wide.size(0)}, -1, id.options());
  const auto allowed = at::where(id.lt(tokens).logical_or(id.eq(also)), wide, -kInfinity);
  const auto top = allowed.amax({-1}, /*keepdim=*/true);
  const auto unfit = wide.lt(kInfinity).all(-1).logical_and(top.squeeze(-1).gt(-kInfinity)).logical_not();
  if (temperature == 0) return at::where(unfit, -1, allowed.argmax(-1));
  auto [sorted, order] = allowed.sort(/*stable=*/true, -1, /*descending=*/true);
  const int64_t k = top_k == 0 ? wide.size(1) : std::min(top_k, wide.size(1));
  const auto cumulated = sorted.narrow(-1, 0, k).sub(top).div(temperature).exp().cumsum(-1);
  const auto edge = cumulated.lt(cumulated.narrow(-1, k - 1, 1).mul(top_p)).sum(-1, true).clamp_max(k - 1);
  const auto point = draws.to(logits.device()).unsqueeze(-1).mul(cumulated.gather(-1, edge));
  const auto place = at::minimum(cumulated.le(point).sum(-1, true), edge);
  return at::where(unfit, -1, order.gather(-1, place).squeeze(-1));
}

}  // namespace

Tensor sample_token(const Tensor& logits, const Tensor& draws, double temperature, int64_t top_k, double top_p,
                    int64_t tokens, int64_t also) {
  constexpr Registered<"memformer::sample_token", decltype(on_cpu)> op;
  return op(logits, draws, temperature, top_k, top_p, tokens, also);
}

TORCH_LIBRARY_FRAGMENT(memformer, library) {
  library.def(
      "sample_token(Tensor logits, Tensor draws, float temperature, int top_k, float top_p, int tokens, int also) -> "
      "Tensor");
  library.def(
      "sample_token_composed(Tensor logits, Tensor draws, float temperature, int top_k, float top_p, int tokens, int "
      "also) -> Tensor");
}
TORCH_LIBRARY_IMPL(memformer, CPU, library) { library.impl("sample_token", &on_cpu); }
TORCH_LIBRARY_IMPL(memformer, CompositeExplicitAutograd, library) {
  library.impl("sample_token", &composed);
  library.impl("sample_token_composed", &composed);
}

}  // namespace memformer::ops
