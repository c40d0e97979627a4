// Incremental decoding: what the open segment of each slot leaves behind for its next token. Everything is allocated
// once; which slots a step is of, and where they stand, is device data, so a step reads nothing on the host.
// Letters: S slots, L layers, T tokens of a segment, R rows of a step, N keys, H heads, E width of a head, D width.
#pragma once
#include <memory>
#include <vector>

#include "nn/forward_context.h"
#include "nn/state.h"

namespace memformer::nn {

/// Keys and values of one layer's attention, one place a slot.
struct KeyValueCache {
  at::Tensor keys, values;  ///< (S, H, N, E)
};

/// The open segments of S slots. Model::open_slots makes one, Model::begin_segment fills a slot.
struct DecodeState {
  int64_t length;                      ///< T
  std::vector<KeyValueCache> layers;   ///< of self-attention, a layer each: N = T; none in a model without attention
  std::vector<KeyValueCache> context;  ///< of the memory, or of the encoder's output, projected once a segment
  at::Tensor contexts;                 ///< (S, L, 2, H, N, E), of which those are parts
  at::Tensor context_lengths;          ///< (S) int32, keys of the context
  at::Tensor positions;                ///< (S) int32, tokens fed: the next one's position
  at::Tensor
      hidden;  ///< (S, T, D), the last layer's normed output, where the memory is written from it; else undefined
  std::shared_ptr<const ForwardContext> weights;  ///< as they are computed with, narrowed when a segment last began
  /// What end_segment makes the next state of, (S, ...) each; empty before the first segment. A model that keeps more
  /// than keys and values of the tokens fed moves it on in place.
  State carried;

  int64_t slots() const { return positions.size(0); }
};

/// The rows of one step, several of one slot where tokens are known ahead. All (R) int32, on the device.
struct DecodeRows {
  at::Tensor slots, positions;
  at::Tensor lengths;          ///< positions + 1: the keys a row sees of its own segment
  at::Tensor context_lengths;  ///< those it sees of the context
  bool of_different_slots;     ///< no two of the same
};

}  // namespace memformer::nn
