// Evaluation: the losses of consecutive segments with the memory, and with what an ablation puts in its place.
//   initial   m_0, the learned start, before every segment
//   zeroed    zeros before every segment
//   shuffled  the memory of the row above; rows that start a document restart
//   frozen    the memory after the document's first segment of text, from then on
#include "core/tensor_checks.h"
#include "nn/models/model.h"

namespace memformer::nn {
namespace {

/// flags (B) beside a part of the state (B, ...).
at::Tensor beside(const at::Tensor& flags, const at::Tensor& part) {
  std::vector<int64_t> shape(part.dim(), 1);
  shape[0] = flags.size(0);
  return flags.view(shape);
}

/// The states of G segments as rows of one batch.
State above(const std::vector<State>& states) {
  State all;
  for (size_t part = 0; part < states[0].size(); ++part) {
    std::vector<at::Tensor> parts;
    for (const auto& state : states) parts.push_back(state[part]);
    all.push_back(parts.size() == 1 ? parts[0] : at::cat(parts));
  }
  return all;
}

template <typename Change>
State each(const State& state, Change&& change) {
  State changed;
  for (const auto& part : state) changed.push_back(change(part));
  return changed;
}

}  // namespace

Ablation ablation(const std::string& name) {
  if (name == "initial") return Ablation::initial;
  if (name == "zeroed") return Ablation::zeroed;
  if (name == "shuffled") return Ablation::shuffled;
  require(name == "frozen", "CONFIG", "there is no ablation '", name, "'; known: initial, zeroed, shuffled, frozen");
  return Ablation::frozen;
}

at::Tensor Model::reads_text(const SegmentInput& segment) const {
  const auto tokens = read_tokens(segment);
  if (tokens.is_floating_point()) return at::ones({tokens.size(0)}, tokens.options().dtype(at::kBool));
  return tokens.ge(0).logical_and(tokens.ne(bos_)).any(1);
}

Scores Model::score(const std::vector<SegmentInput>& segments, State state, FrozenState held,
                    const std::vector<Ablation>& ablations, const std::function<void()>& between) const {
  const auto G = static_cast<int64_t>(segments.size()), B = segments[0].target.size(0);
  const auto wanted = [&](Ablation one) {
    return std::find(ablations.begin(), ablations.end(), one) != ablations.end();
  };
  const bool shuffled = wanted(Ablation::shuffled), frozen = wanted(Ablation::frozen);
  if (frozen && !held.holds.defined()) held = {state, at::zeros({B}, segments[0].reset.options())};

  std::vector<at::Tensor> hiddens;
  std::vector<State> neighbours, kept;  // before each segment
  std::optional<ForwardContext> last;
  for (const auto& segment : segments) {
    between();
    if (shuffled) neighbours.push_back(each(state, [](const at::Tensor& part) { return part.roll({1}, {0}); }));
    if (frozen) kept.push_back(held.state);
    auto ctx = start(segment, last ? &*last : nullptr);
    auto encoding = encode(segment, state, ctx);
    hiddens.push_back(std::move(encoding.hidden));
    state = std::move(encoding.state);
    if (frozen) {
      const auto holds = held.holds.logical_and(segment.reset.logical_not());
      for (size_t part = 0; part < state.size(); ++part)
        held.state[part] = at::where(beside(holds, state[part]), held.state[part], state[part]);
      held.holds = holds.logical_or(reads_text(segment));
    }
    last.emplace(ctx);
  }

  auto all = joined(segments);
  all.writes = false;
  const auto weights = at::ones({G}, hiddens[0].options().dtype(accumulate_type(compute_)));
  std::vector<at::Tensor> losses_of;
  at::Tensor count;
  const auto take = [&](const at::Tensor& hidden) {
    ForwardContext ctx(parameters_, compute_, 0.0, all.seed, last->site(), &*last);
    auto [total, loss, scored] = losses(all, decode(all, hidden, ctx), weights, ctx);
    losses_of.push_back(loss);
    count = scored;
  };
  between();
  take(G == 1 ? hiddens[0] : at::cat(hiddens));
  hiddens.clear();
  for (const auto which : ablations) {
    between();
    auto segment = all;
    State memory;
    switch (which) {
      case Ablation::initial:
        memory = initial_state(1);
        break;  // one row, which all of them read
      case Ablation::zeroed:
        memory = each(initial_state(1), [](const at::Tensor& part) { return at::zeros_like(part); });
        break;
      case Ablation::shuffled:
        memory = above(neighbours);
        break;
      case Ablation::frozen:
        memory = above(kept);
        break;
    }
    if (which == Ablation::initial || which == Ablation::zeroed) segment.reset.reset();
    auto ctx = start(segment, &*last);
    const auto hidden = encode(segment, memory, ctx).hidden;
    between();
    take(hidden);
  }
  return {at::stack(losses_of), count, std::move(state), std::move(held)};
}

}  // namespace memformer::nn
