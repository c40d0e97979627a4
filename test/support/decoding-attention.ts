/** Shapes and caches of a decoding step's attentions, for the specs of the operators that are, or hold, one. */
import { applyOperator, type Tensor } from "../../lib/index.ts";
import { cast, drawn, maker, type DType, type Place } from "./decoding-rows.ts";

export interface AttentionShape {
  readonly R: number;
  readonly H: number;
  readonly E: number;
  /** Slots, and places of one. */
  readonly S: number;
  readonly N: number;
}

/** Row r's slot and how many keys lie there before its own; a row is the same whatever rows are beside it. */
export const slotOf = (r: number, S: number): number => (r * 7 + 3) % S;
export const positionOf = (r: number, N: number): number => (r * 29 + N - 1) % N;

/** Those that are one kernel on a GPU, and neighbours that are not: another width, more rows, other heads. */
export const largeAttentions: readonly AttentionShape[] = [
  { R: 1, H: 8, E: 64, S: 3, N: 128 },
  { R: 1, H: 8, E: 64, S: 2, N: 1 },
  { R: 3, H: 8, E: 64, S: 9, N: 130 },
  { R: 8, H: 8, E: 64, S: 11, N: 300 },
  { R: 5, H: 4, E: 64, S: 5, N: 4000 },
  { R: 2, H: 4, E: 64, S: 4, N: 65 },
  { R: 8, H: 4, E: 64, S: 8, N: 129 },
  { R: 9, H: 8, E: 64, S: 10, N: 20 },
  { R: 2, H: 12, E: 64, S: 4, N: 33 },
  { R: 2, H: 16, E: 32, S: 4, N: 33 },
];

/** Keys, values (S, H, N, E), and the angles' cosines and sines (N, E / 2) in the dtype of sums. */
export function drawCaches({ H, E, S, N }: AttentionShape, dtype: DType, place: Place) {
  const make = maker(dtype, place),
    sums: DType = dtype === "float64" ? "float64" : "float32",
    angles = drawn(31, (N * E) / 2, Math.PI);
  return {
    keys: make(29, [S, H, N, E], 2),
    values: make(30, [S, H, N, E]),
    cos: place(cast(angles.map(Math.cos), [N, E / 2], sums)),
    sin: place(cast(angles.map(Math.sin), [N, E / 2], sums)),
  };
}

/** With copies of the caches, for an operator writes to them. */
export function ownCaches<Given extends { readonly keys: Tensor; readonly values: Tensor }>(given: Given): Given {
  const copy = (tensor: Tensor): Tensor => applyOperator("aten::clone", tensor, null);
  return { ...given, keys: copy(given.keys), values: copy(given.values) };
}
