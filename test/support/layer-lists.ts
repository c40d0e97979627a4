/**
 * The tensors of several layers, four a layer, flat as a spec's arguments are and as the lists that an operator takes.
 */
import type { Tensor } from "../../lib/index.ts";
import type { Numbers } from "./opcheck-numbers.ts";

/** Of each layer its weight, its bias, the weight's sink and the bias's; null: not there. */
export type Layers<T = Numbers> = (T | null)[];

export function weightsOf<T>(layers: Layers<T>): T[] {
  return every(layers, 0);
}

export function biasesOf<T>(layers: Layers<T>): T[] {
  return every(layers, 1);
}

/** Weights, biases, the weights' sinks, the biases' sinks. */
export function listsOf(layers: Layers<Tensor>): [Tensor[], Tensor[], Tensor[], Tensor[]] {
  return [weightsOf(layers), biasesOf(layers), every(layers, 2), every(layers, 3)];
}

/** Of each layer the one at that place, where it is there. */
export function every<T>(layers: Layers<T>, first: number): T[] {
  return layers.filter((tensor, i): tensor is T => i % 4 === first && tensor !== null);
}
