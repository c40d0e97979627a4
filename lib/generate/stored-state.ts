/** A state as a session keeps it: in the precision that the model computes in, with the engine or in host memory. */
import { applyOperator, placed, Tensor, type DType, type NumberArray } from "../engine/tensor.ts";
import type { State, StatePart } from "../model/state.ts";
import type { SessionModel } from "./session-model.ts";

/** A part of a state in host memory, of one row. */
export interface HostPart {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: NumberArray;
}

/** A state's parts as a session keeps them: floats in the precision that the model computes in, where that is less. */
export function storedLayout({ stateLayout, config }: Pick<SessionModel, "stateLayout" | "config">): StatePart[] {
  const { precision } = config;
  const narrow = precision === "bfloat16" || precision === "float16" ? precision : undefined;
  return stateLayout.map((part) =>
    narrow !== undefined && part.dtype === "float32" ? { ...part, dtype: narrow } : part,
  );
}

/** In the precision that is kept; what was given is freed where that is another tensor. */
export function storedState(model: SessionModel, state: State): State {
  const layout = storedLayout(model);
  return state.map((tensor, i) => {
    if (layout[i]!.dtype === model.stateLayout[i]!.dtype) return tensor;
    const kept = applyOperator("aten::_to_copy", tensor, layout[i]!.dtype);
    tensor.dispose();
    return kept;
  });
}

/** From host memory. */
export function uploadedState({ device }: SessionModel, parts: readonly HostPart[]): State {
  return parts.map(({ data, shape, dtype }) => placed(Tensor.from(data, shape, dtype), device));
}

export function freeState(state: State): void {
  for (const tensor of state) tensor.dispose();
}
