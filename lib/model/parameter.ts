/** The parameters of a model, as those see them who write, hash and load them. */
import type { Tensor } from "../engine/tensor.ts";

/** A parameter as {@link Memformer.parameters} tells of it. */
export interface Parameter {
  readonly name: string;
  readonly shape: readonly number[];
  /** Whether weight decay applies to it. */
  readonly decay: boolean;
}

/** What tells a model from others: plain JSON, a checkpoint's config.json. */
export interface ModelDescription {
  /** "float64": parameters are kept in float64, else in float32. Default "float32". */
  readonly precision?: string;
}

/** A configuration and the parameters that fill it. */
export interface Parameterized {
  readonly config: ModelDescription;
  readonly parameters: readonly Parameter[];
  /** A parameter's values, shared with the model; the caller only reads them, and disposes of the handle. */
  ownParameter(name: string): Tensor;
}
