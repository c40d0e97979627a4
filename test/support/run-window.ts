/** One window's gradient by any method, everything it gives read out. */
import {
  mrbp,
  tidy,
  type GradientMethod,
  type Memformer,
  type SegmentTensors,
  type Tensor,
  type WindowOptions,
} from "../../lib/index.ts";
import { numbers, randomWindow, relativeError, takeGradients, type WindowShape } from "./models.ts";

export interface WindowRun {
  readonly losses: number[];
  readonly counts: number[];
  readonly state: number[][];
  readonly gradient: number[][];
  readonly parameters: Map<string, Float64Array>;
}

/**
 * From `from`, by default the initial state, over a window of 4 rows with every kind of padding and resets, or of
 * another shape; `place` puts its segments somewhere.
 */
export async function runWindow(
  model: Memformer,
  method: GradientMethod,
  options: WindowOptions = {},
  from?: readonly Tensor[],
  shape: WindowShape = {},
  place: (segment: SegmentTensors, t: number) => SegmentTensors = (segment) => segment,
): Promise<WindowRun> {
  const result = tidy(() => {
    const window = randomWindow(model, shape)
      .map((segment) => model.upload(segment))
      .map(place);
    return method(model, window, from ?? model.initialState(window[0]!.batch), options);
  });
  const { losses, counts, state, gradient } = result;
  const [loss, count, next, reached] = await Promise.all([losses, counts, state, gradient].map(numbers));
  const parameters = await takeGradients(model);
  return { losses: loss!.flat(), counts: count!.flat(), state: next!, gradient: reached!, parameters };
}

/** A carried memory that is nobody's initial one. */
export async function carried(model: Memformer, batch = 4): Promise<readonly Tensor[]> {
  const result = tidy(() => {
    const window = randomWindow(model, { batch, seed: 77, ragged: false }).map((segment) => model.upload(segment));
    return mrbp(model, window, model.initialState(batch), {}).state;
  });
  await takeGradients(model);
  return result;
}

/** |a - b| / |b| of each part. */
export function errors(
  a: WindowRun,
  b: WindowRun,
): { losses: number; state: number; gradient: number; parameters: number } {
  const alone = (values: number[]): Map<string, Float64Array> => new Map([["", Float64Array.from(values)]]);
  const error = (x: number[], y: number[]): number => relativeError(alone(x), alone(y));
  return {
    losses: error(a.losses, b.losses),
    state: error(a.state.flat(), b.state.flat()),
    gradient: error(a.gradient.flat(), b.gradient.flat()),
    parameters: relativeError(a.parameters, b.parameters),
  };
}
