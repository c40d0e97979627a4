// Decoding, token by token: a handle holds the caches of a model's open segments, one a slot. Its calls run on the
// engine's thread in the order they were made, and each says where its slots must stand, so that one which was skipped
// or failed is never followed by a step from the wrong place.
#include "engine/decoding.h"

#include <algorithm>

#include "core/cuda.h"
#include "napi/environment.h"
#include "napi/exports.h"
#include "napi/graph_facts.h"
#include "napi/segment_handle.h"

namespace memformer::napi {
namespace {

using engine::Futures;
using engine::Tensors;

/// Beyond its making only the engine's thread touches it.
struct HeldDecoder {
  std::shared_ptr<ModelHandle> held;
  int64_t slots;
  bool deterministic;
  std::optional<engine::Decoding> decoding = {};
  std::vector<int64_t> fed = {};  ///< tokens of each slot's open segment; -1: none is open

  /// Made by the engine's thread when it is first needed.
  engine::Decoding& opened() {
    if (!decoding) {
      decoding.emplace(held->model, slots, held->steps.graphs().enabled(), deterministic);
      fed.assign(slots, -1);
    }
    return *decoding;
  }

  /// The slot holds an open segment of `expected` tokens, and has room for `more`.
  void require_at(int64_t slot, int64_t expected, int64_t more) {
    const int64_t length = opened().length();
    require_slot(slot);
    require(fed[slot] == expected, "NATIVE", "slot ", slot, " should hold ", expected, " tokens of its segment, but ",
            fed[slot] < 0 ? "none is open" : "holds " + std::to_string(fed[slot]));
    require(fed[slot] + more < length, "SHAPE", "slot ", slot, " holds ", fed[slot],
            " tokens; the segment ends before ", more, " more");
  }
  void require_slot(int64_t slot) const {
    require(slot >= 0 && slot < slots, "CONFIG", "there is no slot ", slot, " of ", slots);
  }
};

std::shared_ptr<HeldDecoder> held_decoder(const Napi::Value& value) {
  return unwrap<HeldDecoder>(value, Kind::decoder, "decoder");
}

template <typename Work>
Napi::Value enqueue(const Napi::CallbackInfo& info, Futures inputs, size_t count, Work work) {
  auto& environment = Environment::of(info.Env());
  Futures outputs;
  const auto handles = new_futures(info.Env(), count, outputs);
  environment.engine().submit(environment.call(info[0]), std::move(inputs), outputs,
                              [decoder = held_decoder(info[1]), work = std::move(work)](const Tensors& tensors) {
                                compute_on(decoder->held->device);
                                return work(*decoder, tensors);
                              });
  return handles;
}

/// createDecoder(model, slots, deterministic): a handle.
Napi::Value create_decoder(const Napi::CallbackInfo& info) {
  return wrap(info.Env(), Kind::decoder,
              std::make_shared<HeldDecoder>(
                  HeldDecoder{model_of(info[0]), info[1].As<Napi::Number>().Int64Value(), info[2].ToBoolean()}));
}

/// dropDecoder(call, decoder): its caches are freed when the calls made before have run.
Napi::Value drop_decoder(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  environment.engine().submit(environment.call(info[0]), {}, {}, [decoder = held_decoder(info[1])](const Tensors&) {
    decoder->decoding.reset();
    return Tensors();
  });
  let_go<HeldDecoder>(info[1], Kind::decoder, "decoder");
  return info.Env().Undefined();
}

/// beginSegment(call, decoder, slots, segment, state): [logits (B, V)]
Napi::Value begin_segment(const Napi::CallbackInfo& info) {
  const auto slots = integers(info[2]);
  Futures inputs;
  const SegmentHandle segment(info[3], inputs);
  const TensorRange state(info[4], "state", inputs);
  return enqueue(info, inputs, 1, [=](HeldDecoder& decoder, const Tensors& tensors) {
    auto& decoding = decoder.opened();
    for (const auto slot : slots) {
      decoder.require_slot(slot);
      decoder.fed[slot] = -1;
    }
    const auto logits =
        decoding.begin(slots, segment.read(*decoder.held, tensors), state.on_model(*decoder.held, tensors));
    for (const auto slot : slots) decoder.fed[slot] = 0;
    return Tensors{logits};
  });
}

/// decodeStep(call, decoder, tokens, slots, positions): [logits (R, V)] after one more token in each of R slots, each
/// of which holds as many tokens as `positions` says. tokens: numbers, or [a tensor (R) int64 on the model's device].
Napi::Value decode_step(const Napi::CallbackInfo& info) {
  const auto slots = integers(info[3]), positions = integers(info[4]);
  require(!slots.empty() && slots.size() == positions.size(), "SHAPE",
          "a step takes a token, a slot and a position a row, at least one row; got ", slots.size(), " slots and ",
          positions.size(), " positions");
  const auto given = info[2].As<Napi::Array>();
  const auto first = given.Length() > 0 ? given.Get(uint32_t{0}) : info.Env().Undefined();
  const bool as_tensor = !first.IsNumber();
  const auto numbers = as_tensor ? std::vector<int64_t>() : integers(info[2]);
  return enqueue(info, as_tensor ? futures(info[2], "tokens") : Futures(), 1,
                 [=](HeldDecoder& decoder, const Tensors& tensors) {
                   const auto tokens = as_tensor ? tensors.at(0) : at::tensor(numbers, at::kLong);
                   require(tokens.dim() == 1 && tokens.size(0) == static_cast<int64_t>(slots.size()), "SHAPE",
                           "a step of ", slots.size(), " slots takes as many tokens, got ", tokens.sizes());
                   require(tokens.scalar_type() == at::kLong, "DTYPE", "a step's tokens must be int64, got ",
                           c10::toString(tokens.scalar_type()));
                   for (size_t r = 0; r < slots.size(); ++r) decoder.require_at(slots[r], positions[r], 1);
                   for (const auto slot : slots) decoder.fed[slot] = -1;
                   const auto logits = decoder.decoding->step(tokens, slots);
                   for (size_t r = 0; r < slots.size(); ++r) decoder.fed[slots[r]] = positions[r] + 1;
                   return Tensors{logits};
                 });
}

/// What the rows of a run may draw by: the numbers, and which of the tensors given are bias and gaps, -1: none.
struct AskedSampling {
  engine::Sampling numbers;
  int64_t bias, gaps;
};

AskedSampling asked_sampling(const Napi::Object& options) {
  const auto number = [&](const char* name) { return options.Get(name).As<Napi::Number>(); };
  const auto whole = [&](const char* name) { return number(name).Int64Value(); };
  const engine::Sampling numbers{number("temperature").DoubleValue(),
                                 whole("topK"),
                                 number("topP").DoubleValue(),
                                 number("floor").DoubleValue(),
                                 whole("tokens"),
                                 whole("also"),
                                 {},
                                 {}};
  return {numbers, whole("bias"), whole("gaps")};
}

/// decodeRun(call, decoder, [logits, points, bias and gaps ...], samplings, of, slots, positions, draws, takeLast):
/// [tokens (N, R), logits (Q, V)], draws[r] draws in each of R slots, by samplings[of[r]]: { temperature, topK, topP,
/// floor, tokens, also, bias, gaps }, the last two their places among the tensors, -1 for none. See
/// engine::Decoding::run.
Napi::Value decode_run(const Napi::CallbackInfo& info) {
  std::vector<AskedSampling> asked;
  const auto options = info[3].As<Napi::Array>();
  for (uint32_t i = 0; i < options.Length(); ++i) asked.push_back(asked_sampling(options.Get(i).As<Napi::Object>()));
  const auto of = integers(info[4]), slots = integers(info[5]), positions = integers(info[6]),
             draws = integers(info[7]);
  const bool take_last = info[8].As<Napi::Boolean>();
  return enqueue(
      info, futures(info[2], "logits, points, bias and gaps"), 2, [=](HeldDecoder& decoder, const Tensors& given) {
        const auto &logits = given.at(0), &points = given.at(1);
        const auto rows = static_cast<int64_t>(slots.size());
        require(logits.dim() == 2 && logits.size(0) == rows, "SHAPE", "a run of ", rows,
                " slots takes logits (R, V) of as many rows, got ", logits.sizes());
        require(points.dim() == 2 && points.size(0) > 0 && points.size(1) == rows, "SHAPE", "a run of ", rows,
                " slots takes draws (N, R), got ", points.sizes());
        const auto count = points.size(0);
        require(rows > 0 && static_cast<int64_t>(draws.size()) == rows && draws.front() == count && draws.back() > 0 &&
                    std::is_sorted(draws.rbegin(), draws.rend()),
                "SHAPE", "a run of ", count, " draws takes their number a row, the most first; got ",
                at::IntArrayRef(draws));
        std::vector<int64_t> after;
        for (int64_t r = 0; r < rows; ++r) {
          const auto taken = draws[r] - (take_last && draws[r] == count ? 0 : 1);
          decoder.require_at(slots[r], positions[r], taken);
          after.push_back(positions[r] + taken);
        }
        require(of.size() == slots.size(), "SHAPE", "a run of ", rows, " slots takes settings of as many, got ",
                of.size());
        std::vector<engine::Sampling> samplings;
        const auto row = [&](int64_t place) {  // (1, V), or undefined
          if (place < 0) return at::Tensor();
          require(given.at(place).sizes() == at::IntArrayRef({1, logits.size(1)}), "SHAPE",
                  "bias and gaps of a run are (1, V), V = ", logits.size(1), "; got ", given.at(place).sizes());
          return given.at(place);
        };
        for (const auto& [numbers, bias, gaps] : asked) {
          auto sampling = numbers;
          sampling.bias = row(bias);
          sampling.gaps = row(gaps);
          samplings.push_back(sampling);
        }
        for (const auto slot : slots) decoder.fed[slot] = -1;
        const auto drawn = decoder.decoding->run(logits, points, samplings, of, slots, draws, take_last);
        for (int64_t r = 0; r < rows; ++r) decoder.fed[slots[r]] = after[r];
        return Tensors{drawn.tokens, drawn.logits};
      });
}

/// decodePrefill(call, decoder, tokens, slot, position): [logits (1, V)] after these tokens of one slot.
Napi::Value decode_prefill(const Napi::CallbackInfo& info) {
  const auto tokens = integers(info[2]);
  const auto slot = info[3].As<Napi::Number>().Int64Value(), position = info[4].As<Napi::Number>().Int64Value();
  require(!tokens.empty(), "SHAPE", "a prefill takes at least one token");
  return enqueue(info, {}, 1, [=](HeldDecoder& decoder, const Tensors&) {
    const auto count = static_cast<int64_t>(tokens.size());
    decoder.require_at(slot, position, count);
    decoder.fed[slot] = -1;
    const auto logits = decoder.decoding->prefill(tokens, slot);
    decoder.fed[slot] = position + count;
    return Tensors{logits};
  });
}

/// endSegment(call, decoder, slots, positions, parts): the state after these slots' segments, of so many parts.
Napi::Value end_segment(const Napi::CallbackInfo& info) {
  const auto slots = integers(info[2]), positions = integers(info[3]);
  require(!slots.empty() && slots.size() == positions.size(), "SHAPE",
          "segments end in slots with a position each, got ", slots.size(), " and ", positions.size());
  return enqueue(info, {}, info[4].As<Napi::Number>().Uint32Value(), [=](HeldDecoder& decoder, const Tensors&) {
    for (size_t r = 0; r < slots.size(); ++r) decoder.require_at(slots[r], positions[r], 0);
    return decoder.decoding->end(slots);
  });
}

/// decoderGraphs(call, decoder): Promise<{ steps, refusal }>
Napi::Value decoder_graphs(const Napi::CallbackInfo& info) {
  return graph_facts(
      info, [decoder = held_decoder(info[1])] { return decoder->decoding ? &decoder->decoding->graphs() : nullptr; });
}

}  // namespace

void export_decoding(Napi::Env env, Napi::Object exports) {
  export_function<create_decoder>(env, exports, "createDecoder");
  export_function<drop_decoder>(env, exports, "dropDecoder");
  export_function<begin_segment>(env, exports, "beginSegment");
  export_function<decode_step>(env, exports, "decodeStep");
  export_function<decode_run>(env, exports, "decodeRun");
  export_function<decode_prefill>(env, exports, "decodePrefill");
  export_function<end_segment>(env, exports, "endSegment");
  export_function<decoder_graphs>(env, exports, "decoderGraphs");
}

}  // namespace memformer::napi
