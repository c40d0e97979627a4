/** Who may import whom: the tables that scripts/check-layers.mjs holds the sources to. */

/**
 * TypeScript, from the lowest floor to the highest. What stands on one may import what stands below, and of its own
 * floor only its own room; the longest name that a path begins with decides.
 */
export const floors = [
  ["lib/old-names.ts"],
  ["lib/errors.ts"],
  ["lib/options.ts", "lib/io-error.ts"],
  ["lib/files/"],
  ["lib/toolchain/", "lib/checkpoint/", "lib/data/", "lib/log/"],
  ["lib/native/"],
  ["lib/engine/"],
  ["lib/model/"],
  ["lib/distributed/"],
  ["lib/gradients/", "lib/generate/", "lib/import/"],
  ["lib/model/memformer.ts"],
  ["lib/train/", "lib/evaluate/", "lib/diagnose/"],
  ["lib/run/"],
  ["lib/index.ts"],
  ["lib/experiments/"],
  ["lib/service/store.ts"],
  ["lib/service/stores/"],
  ["lib/service/"],
  ["lib/cli/"],
  ["examples/"],
  ["bench/"],
  ["test/", "native/"],
];

/** Rooms that work without the addon. */
export const pure = ["lib/files/", "lib/checkpoint/", "lib/data/", "lib/log/", "lib/import/", "lib/service/stores/"];

/** C++: what each layer of native/ may include, beside itself. */
export const below = {
  core: [],
  ops: ["core"],
  nn: ["ops", "core"],
  distributed: ["core"],
  engine: ["distributed", "nn", "ops", "core"],
  napi: ["engine", "distributed", "nn", "ops", "core"],
  loader: [],
};

/**
 * Operators that call or include others, beside ops/common, which all of them may. Through the dispatcher too: an
 * operator that is found by its name belongs to the folder that defines it.
 */
export const operatorEdges = {
  add_norm: ["dropout"],
  decode_attention_layer: ["decode_attention", "decode_attention_linear", "decode_linear", "head_norm"],
  decode_attention_linear: ["decode_attention", "decode_linear"],
  decode_feed_forward: ["decode_linear"],
  decode_linear: ["add_norm"],
  attention: ["head_norm", "rotary_qkv"],
  feed_forward: ["gelu_dropout", "linear"],
  gelu_dropout: ["dropout"],
  kv_projection: ["head_norm", "linear"],
  slot_attention: ["attention"],
};
