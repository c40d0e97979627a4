#include "engine/decoding.h"

#include <algorithm>

#include "engine/segment_inputs.h"
#include "engine/threads.h"

namespace memformer::engine {
namespace {

at::Tensor rows_of(const at::Tensor& part, int64_t axis, int64_t from, int64_t count) {
  return part.defined() && part.numel() > 0 ? part.narrow(axis, from, count) : part;
}

nn::SegmentInput rows_of(const nn::SegmentInput& segment, int64_t from, int64_t count) {
  auto some = segment;
  some.source = rows_of(segment.source, 0, from, count);
  some.target = rows_of(segment.target, 0, from, count);
  some.reset = rows_of(segment.reset, 0, from, count);
  some.lengths = rows_of(segment.lengths, 1, from, count);
  return some;
}

/// Kernels read by the pack what lies at a multiple of this, and sums of numbers in packs have an order of their own: a
/// row has the same bits among others where it lies as well as by itself.
constexpr uintptr_t kAlignment = 256;

at::Tensor aligned(const at::Tensor& rows) {
  if (!rows.defined() || !rows.is_cuda() || rows.numel() == 0) return rows;
  return reinterpret_cast<uintptr_t>(rows.const_data_ptr()) % kAlignment == 0 ? rows : rows.clone();
}

nn::SegmentInput aligned(nn::SegmentInput segment) {
  for (auto* part : {&segment.source, &segment.target, &segment.reset, &segment.lengths}) *part = aligned(*part);
  return segment;
}

/// int64, on the host.
at::Tensor some_of(const std::vector<int64_t>& slots, int64_t from, int64_t count) {
  return at::tensor(at::IntArrayRef(slots).slice(from, count), at::kLong);
}

at::Tensor together(const Tensors& parts) { return parts.size() == 1 ? parts[0] : at::cat(parts); }

/// The rows of each tensor, which `parts` have some of, in order.
Tensors joined(const std::vector<Tensors>& parts) {
  Tensors all;
  for (size_t i = 0; i < parts[0].size(); ++i) {
    Tensors rows;
    for (const auto& part : parts) rows.push_back(part[i]);
    all.push_back(together(rows));
  }
  return all;
}

/// The least power of two that is not below.
int64_t bucket_of(int64_t rows) {
  int64_t bucket = 1;
  while (bucket < rows) bucket *= 2;
  return bucket;
}

}  // namespace

Decoding::Decoding(std::shared_ptr<nn::Model> model, int64_t slots, bool graphs, bool deterministic)
    : model_(std::move(model)),
      slots_(slots),
      deterministic_(deterministic),
      state_(model_->open_slots(slots + (model_->device().is_cuda() ? 1 : 0))) {
  graphs_.enable(graphs);
  unrecorded_.enable(false);
}

template <typename Pass>
void Decoding::in_parts(int64_t rows, Pass&& pass) {
  const bool many = model_->device().is_cuda() && rows >= 2 * kRowsSideBySide;
  for (int64_t from = 0, count; from < rows; from += count) {
    const int64_t left = rows - from;
    if (!deterministic_)
      count = std::min(kRowsTogether, left);
    else  // what is carried has a tensor of all slots, which the first row makes, alone
      count = many && left >= kRowsSideBySide && !state_.carried.empty() ? kRowsSideBySide : 1;
    pass(from, count, deterministic_ || count == 1 ? graphs_ : unrecorded_);
  }
}

Tensors Decoding::of_rows(int64_t count, const std::function<Tensors(int64_t from, int64_t rows)>& of) const {
  if (!deterministic_ || count == 1) return of(0, count);
  std::vector<Tensors> rows(static_cast<size_t>(count));
  cuda()->side_by_side(count, [&](int64_t row) { rows[static_cast<size_t>(row)] = of(row, 1); });
  return joined(rows);
}

at::Tensor Decoding::begin(const std::vector<int64_t>& slots, const nn::SegmentInput& segment, const nn::State& state) {
  const auto device = model_->device();
  use_threads_for(segment.source.size(1) * model_->parameters().count());
  model_->prepare_replay();
  Tensors first;
  in_parts(static_cast<int64_t>(slots.size()), [&](int64_t from, int64_t count, GraphCache& cache) {
    const std::vector<nn::SegmentInput> some{rows_of(segment, from, count)};
    auto inputs = inputs_of(some);
    for (const auto& part : state) inputs.push_back({part.narrow(0, from, count), part.scalar_type()});
    inputs.push_back({some_of(slots, from, count), at::kLong});
    first.push_back(cache.run(device, "begin", inputs, [&](const Tensors& given) {
      const auto given_segment = segments_from(given, some)[0];
      return of_rows(count, [&](int64_t row, int64_t rows) {
        nn::State before;
        for (auto part = given.begin() + kSegmentParts; part != given.end() - 1; ++part)
          before.push_back(aligned(rows_of(*part, 0, row, rows)));
        return Tensors{model_->begin_segment(state_, aligned(rows_of(given.back(), 0, row, rows)),
                                             aligned(rows_of(given_segment, row, rows)), before)};
      });
    })[0]);
  });
  return step(together(first), slots);
}

at::Tensor Decoding::step(const at::Tensor& tokens, const std::vector<int64_t>& slots) {
  const auto device = model_->device();
  const auto rows = static_cast<int64_t>(slots.size());
  use_threads_for(rows * model_->parameters().count());
  auto fed = tokens;
  auto places = slots;
  if (device.is_cuda()) {
    places.resize(bucket_of(rows), slots_);  // the slot that nobody has
    const auto filler = static_cast<int64_t>(places.size()) - rows;
    if (filler > 0) fed = at::cat({tokens, at::zeros({filler}, tokens.options())});
  }
  const Inputs inputs{{fed, at::kLong}, {at::tensor(places, at::kLong), at::kInt}};
  const auto logits = graphs_.run(device, "step", inputs, [&](const Tensors& given) {
    return Tensors{model_->decode_step(state_, given[0], given[1])};
  })[0];
  return logits.narrow(0, 0, rows);
}

Drawn Decoding::run(const at::Tensor& logits, const at::Tensor& points, const std::vector<Sampling>& samplings,
                    const std::vector<int64_t>& of, const std::vector<int64_t>& slots,
                    const std::vector<int64_t>& draws, bool take_last) {
  const RowDraws row_draws(samplings, of, model_->device());
  const auto places = points.to(model_->device(), /*non_blocking=*/true);
  const auto count = points.size(0), rows = static_cast<int64_t>(slots.size());
  const auto drawing = [&](int64_t n) {  // rows of draw n: the first ones
    return std::count_if(draws.begin(), draws.end(), [n](int64_t own) { return own > n; });
  };
  auto last = logits;
  Tensors tokens;
  for (int64_t n = 0; n < count; ++n) {
    const auto some = drawing(n);
    const auto drawn = row_draws.draw(last, places[n].narrow(0, 0, some));
    tokens.push_back(some == rows ? drawn : at::constant_pad_nd(drawn, {0, rows - some}, -1));
    const auto next = n + 1 < count ? drawing(n + 1) : take_last ? some : 0;
    if (next == 0) continue;
    // A row that could draw nothing fails by itself, and the others go on.
    last = step(drawn.narrow(0, 0, next).clamp_min(0), {slots.begin(), slots.begin() + next});
  }
  return {at::stack(tokens), last};
}

at::Tensor Decoding::prefill(const std::vector<int64_t>& tokens, int64_t slot) {
  use_threads_for(static_cast<int64_t>(tokens.size()) * model_->parameters().count());
  return model_->prefill(state_, at::tensor(tokens, at::kLong).to(model_->device()), slot);
}

nn::State Decoding::end(const std::vector<int64_t>& slots) {
  use_threads_for(length() * model_->parameters().count());
  model_->prepare_replay();
  std::vector<Tensors> parts;
  in_parts(static_cast<int64_t>(slots.size()), [&](int64_t from, int64_t count, GraphCache& cache) {
    const Inputs inputs{{some_of(slots, from, count), at::kLong}};
    parts.push_back(cache.run(model_->device(), "end", inputs, [&](const Tensors& given) {
      return of_rows(count, [&](int64_t row, int64_t rows) {
        return Tensors(model_->end_segment(state_, aligned(rows_of(given[0], 0, row, rows))));
      });
    }));
  });
  return joined(parts);
}

}  // namespace memformer::engine
