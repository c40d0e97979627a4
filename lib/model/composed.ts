/** The base of a model whose steps you compose of operators in TypeScript; the engine holds its parameters. */
import type { Segment } from "../data/segment.ts";
import { MemformerError } from "../errors.ts";
import { placed, Tensor, tidy, type NumberArray } from "../engine/tensor.ts";
import { guarded, nextCall, waited } from "../native/calls.ts";
import { resolveDevice, type Device, type DeviceName } from "../native/cuda.ts";
import { wholeSeed } from "../options.ts";
import { HeldParameters, type MadeModel } from "./held-parameters.ts";
import type { ModelDescription } from "./parameter.ts";
import { filledSpecs, type ParameterSpec } from "./parameter-spec.ts";
import type { State, StatePart, Step, StepOptions, TrainableModel } from "./recurrence.ts";
import { uploadTo, type SegmentTensors } from "./segment-tensors.ts";

/** How {@link composedParameters} makes them. */
export interface ComposedOptions {
  /** "float32" or "float64". Default "float32". */
  readonly precision?: "float32" | "float64";
  /** Of the draws. Default 0. */
  readonly seed?: number;
  /** Where to compute. Default "auto". */
  readonly device?: DeviceName;
}

/** What {@link composedParameters} and {@link Memformer.share} give to the constructor of a {@link ComposedModel}. */
export interface ComposedParameters {
  /** @internal */
  readonly made: Pick<MadeModel, "model" | "parameters">;
  readonly device: Device;
  /** Of its configuration. */
  readonly precision: string;
  /** What its parameters and their gradients are kept in. */
  readonly dtype: "float32" | "float64";
}

/** Makes the parameters of a {@link ComposedModel}. Throws MemformerError CONFIG for none, and for a name met twice. */
export async function composedParameters(
  specs: readonly ParameterSpec[],
  { precision = "float32", seed = 0, device: name = "auto" }: ComposedOptions = {},
): Promise<ComposedParameters> {
  if (specs.length === 0) throw new MemformerError("CONFIG", "a model needs at least one parameter, got none");
  const filled = filledSpecs(specs);
  wholeSeed(seed, "model");
  const device = resolveDevice(name),
    call = nextCall(),
    settings = { precision, bos: 0, dropout: 0 };
  const made = await waited((addon) => addon.createModel(call, "composed", settings, seed, device, filled));
  return { made, device, precision, dtype: precision };
}

/**
 * A model of your own. A subclass gives `stateLayout` and `forward`, which computes with {@link applyOperator} on the
 * parameters that {@link weight} gives; Trainer, AdamW, evaluate and every gradient method take it.
 */
export abstract class ComposedModel<Description extends ModelDescription = ModelDescription>
  extends HeldParameters
  implements TrainableModel
{
  readonly config: Description;
  abstract readonly stateLayout: readonly StatePart[];

  /** `config`: plain JSON that tells this model from others of its class; the precision is added. */
  constructor(parts: ComposedParameters, config: Description) {
    super(parts.device, parts.made);
    this.config = { ...config, precision: parts.precision };
  }

  /** One segment with a graph to the parameters and the given state. It is called inside {@link tidy}. */
  abstract forward(segment: SegmentTensors, state: State, options?: StepOptions & { readonly graph?: boolean }): Step;

  advance(segment: SegmentTensors, state: State, options?: StepOptions): State {
    return tidy(() => this.forward(segment, state, options).state.map((tensor) => tensor.detach()));
  }

  /** Zeros of the layout, false for a mask; override it for another start. */
  initialState(rows: number): State {
    return this.stateLayout.map(({ shape, dtype }) => {
      const count = shape.reduce((product, size) => product * size, rows);
      return placed(Tensor.from(zeros(dtype, count), [rows, ...shape], dtype), this.device);
    });
  }

  /** The segment on the model's device. Override it to check tokens against a vocabulary. */
  upload(segment: Segment): SegmentTensors {
    return uploadTo(this.device, segment);
  }

  /** A parameter to compute with: a backward pass adds to its gradient. */
  protected weight(name: string): Tensor {
    return new Tensor(guarded((addon) => addon.parameterLeaf(nextCall(), this.handle, name))[0]!);
  }
}

function zeros(dtype: StatePart["dtype"], count: number): NumberArray {
  switch (dtype) {
    case "float64":
      return new Float64Array(count);
    case "float32":
      return new Float32Array(count);
    case "int64":
      return new BigInt64Array(count);
    case "int32":
      return new Int32Array(count);
    case "float16":
    case "bfloat16":
      return new Uint16Array(count);
    default:
      return new Uint8Array(count);
  }
}
