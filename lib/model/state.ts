/** What a model carries from segment to segment, and the layout by which everything outside the model handles it. */
import { ITEM_BYTES } from "../checkpoint/host-tensor.ts";
import type { Tensor } from "../engine/tensor.ts";
import type { DType } from "../native/addon.ts";

/**
 * The parts of a model's state in the order of its layout: its memory, a cache, or nothing. The first dimension of each
 * tensor is the rows, B.
 */
export type State = readonly Tensor[];

/** One part of a model's state. */
export interface StatePart {
  readonly name: string;
  /** Without the rows' axis. */
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** Whether gradients flow through it from segment to segment. Floating point alone may; lengths and masks do not. */
  readonly differentiable: boolean;
}

/** The parts of a state; undefined: any number of them, all differentiable. */
export type StateLayout = readonly StatePart[] | undefined;

/** Bytes of one row of a state. */
export function rowBytes(layout: readonly Pick<StatePart, "shape" | "dtype">[]): number {
  return layout.reduce(
    (sum, { shape, dtype }) => sum + shape.reduce((product, size) => product * size, ITEM_BYTES[dtype]),
    0,
  );
}

/** Of a state, the differentiable parts: what has a gradient, in the order of the layout. */
export function differentiableParts(layout: StateLayout, state: State): State {
  return layout === undefined ? state : state.filter((_, i) => layout[i]?.differentiable === true);
}

/** A state to start a graph with: its differentiable parts as leaves, the others without history. */
export function leafState(layout: StateLayout, state: State): State {
  return state.map((tensor, i) =>
    layout === undefined || layout[i]?.differentiable === true ? tensor.leaf() : tensor.detach(),
  );
}

/** `flags` (B) in a shape that broadcasts over a part of the state: [B, 1, ..., 1]. */
export function flagShape(rows: number, { shape }: Pick<StatePart, "shape">): number[] {
  return [rows, ...shape.map(() => 1)];
}
