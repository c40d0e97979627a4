// Decoding, token by token: a handle holds the caches of a model's open segments, one a slot. Its calls run on the
// engine's thread in the order they were made, and each says where its slots must stand, so that one which was skipped
// or failed is never followed by a step from the wrong place.
#include "core/cuda.h"
#include "engine/threads.h"
#include "napi/devices.h"
#include "napi/environment.h"
#include "napi/exports.h"
#include "napi/model_handle.h"

namespace memformer::napi {
namespace {

using engine::Futures;
using engine::Tensors;

/// Beyond its making only the engine's thread touches it.
struct HeldDecoder {
  std::shared_ptr<ModelHandle> held;
  int64_t futures;
  std::optional<nn::DecodeState> state = {};
  std::vector<int64_t> fed = {};  ///< tokens of each slot's open segment; -1: none is open

  /// Made by the engine's thread when it is first needed.
  nn::DecodeState& opened() {
    if (!state) {
      state = held->model->open_slots(futures);
      fed.assign(futures, -1);
    }
    return *state;
  }

  /// The slot holds an open segment of `expected` tokens, and has room for `more`.
  void require_at(int64_t future, int64_t expected, int64_t more) {
    opened();
    require_slot(future);
    require(fed[future] == expected, "NATIVE", "slot ", future, " should hold ", expected,
            " tokens of its segment, but ", fed[future] < 0 ? "none is open" : "holds " + std::to_string(fed[future]));
    require(fed[future] + more < state->length(), "SHAPE", "slot ", future, " holds ", fed[future],
            " tokens; the segment ends before ", more, " more");
  }
  void require_slot(int64_t future) const {
    require(future >= 0 && future < futures, "CONFIG", "there is no slot ", future, " of ", futures);
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

at::Tensor on_device(const HeldDecoder& decoder, const std::vector<int64_t>& numbers, at::ScalarType type) {
  return at::tensor(numbers, at::kLong).to(decoder.held->device, type);
}

/// createDecoder(model, slots): a handle.
Napi::Value create_decoder(const Napi::CallbackInfo& info) {
  return wrap(info.Env(), Kind::decoder,
              std::make_shared<HeldDecoder>(HeldDecoder{model_of(info[0]), info[1].As<Napi::Number>().Int64Value()}));
}

/// dropDecoder(call, decoder): its caches are freed when the calls made before have run.
Napi::Value drop_decoder(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  environment.engine().submit(environment.call(info[0]), {}, {}, [decoder = held_decoder(info[1])](const Tensors&) {
    decoder->state.reset();
    return Tensors();
  });
  let_go<HeldDecoder>(info[1], Kind::decoder, "decoder");
  return info.Env().Undefined();
}

/// beginSegment(call, decoder, slots, segment, state): [logits (B, V)]
Napi::Value begin_segment(const Napi::CallbackInfo& info) {
  const auto places = integers(info[2]);
  auto inputs = futures(info[3], "segment");
  require(inputs.size() == kSegmentParts, "NATIVE", "a segment is five tensors, got ", inputs.size());
  for (auto& part : futures(info[4], "state")) inputs.push_back(std::move(part));
  return enqueue(info, inputs, 1, [places](HeldDecoder& decoder, const Tensors& tensors) {
    auto& state = decoder.opened();
    for (const auto future : places) {
      decoder.require_slot(future);
      decoder.fed[future] = -1;
    }
    const auto device = decoder.held->device;
    // Each row is computed for itself on a CPU: with the threads that one is worth, alone or in a batch.
    const auto segment = engine::on_device(segment_of(*decoder.held, tensors.data(), false), device);
    const auto rows = device.is_cpu() ? 1 : segment.source.size(0);
    engine::use_threads_for(rows * segment.source.size(1) * decoder.held->model->parameters().count());
    nn::State before;
    for (size_t i = kSegmentParts; i < tensors.size(); ++i)
      before.push_back(brought_to(device, tensors[i], "state[", i - kSegmentParts, "]"));
    const auto logits = decoder.held->model->begin_segment(state, places, segment, before);
    for (const auto future : places) decoder.fed[future] = 0;
    return Tensors{logits};
  });
}

/// decodeStep(call, decoder, tokens, slots, positions): [logits (R, V)] after one more token in each of R slots, each
/// of which holds as many tokens as `positions` says.
Napi::Value decode_step(const Napi::CallbackInfo& info) {
  const auto tokens = integers(info[2]), places = integers(info[3]), positions = integers(info[4]);
  require(!tokens.empty() && tokens.size() == places.size() && tokens.size() == positions.size(), "SHAPE",
          "a step takes a token, a slot and a position a row, at least one row; got ", tokens.size(), ", ",
          places.size(), " and ", positions.size());
  return enqueue(info, {}, 1, [=](HeldDecoder& decoder, const Tensors&) {
    for (size_t r = 0; r < places.size(); ++r) decoder.require_at(places[r], positions[r], 1);
    const auto rows = static_cast<int64_t>(places.size());
    engine::use_threads_for(rows * decoder.held->model->parameters().count());
    for (const auto future : places) decoder.fed[future] = -1;
    const auto logits = decoder.held->model->decode_step(*decoder.state, on_device(decoder, tokens, at::kLong),
                                                         on_device(decoder, places, at::kInt));
    for (size_t r = 0; r < places.size(); ++r) decoder.fed[places[r]] = positions[r] + 1;
    return Tensors{logits};
  });
}

/// decodePrefill(call, decoder, tokens, slot, position): [logits (1, V)] after these tokens of one slot.
Napi::Value decode_prefill(const Napi::CallbackInfo& info) {
  const auto tokens = integers(info[2]);
  const auto future = info[3].As<Napi::Number>().Int64Value(), position = info[4].As<Napi::Number>().Int64Value();
  require(!tokens.empty(), "SHAPE", "a prefill takes at least one token");
  return enqueue(info, {}, 1, [=](HeldDecoder& decoder, const Tensors&) {
    const auto count = static_cast<int64_t>(tokens.size());
    decoder.require_at(future, position, count);
    engine::use_threads_for(count * decoder.held->model->parameters().count());
    decoder.fed[future] = -1;
    const auto logits = decoder.held->model->prefill(*decoder.state, on_device(decoder, tokens, at::kLong), future);
    decoder.fed[future] = position + count;
    return Tensors{logits};
  });
}

/// endSegment(call, decoder, slots, positions, parts): the state after these slots' segments, of so many parts.
Napi::Value end_segment(const Napi::CallbackInfo& info) {
  const auto places = integers(info[2]), positions = integers(info[3]);
  require(!places.empty() && places.size() == positions.size(), "SHAPE",
          "segments end in slots with a position each, got ", places.size(), " and ", positions.size());
  return enqueue(info, {}, info[4].As<Napi::Number>().Uint32Value(), [=](HeldDecoder& decoder, const Tensors&) {
    for (size_t r = 0; r < places.size(); ++r) decoder.require_at(places[r], positions[r], 0);
    const auto rows = decoder.held->device.is_cpu() ? 1 : static_cast<int64_t>(places.size());
    engine::use_threads_for(rows * decoder.state->length() * decoder.held->model->parameters().count());
    return decoder.held->model->end_segment(*decoder.state, places);
  });
}

}  // namespace

void export_decoding(Napi::Env env, Napi::Object exports) {
  export_function<create_decoder>(env, exports, "createDecoder");
  export_function<drop_decoder>(env, exports, "dropDecoder");
  export_function<begin_segment>(env, exports, "beginSegment");
  export_function<decode_step>(env, exports, "decodeStep");
  export_function<decode_prefill>(env, exports, "decodePrefill");
  export_function<end_segment>(env, exports, "endSegment");
}

}  // namespace memformer::napi
