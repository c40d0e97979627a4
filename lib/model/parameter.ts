/** The parameters of a model, as those see them who write, hash and load them. */
import type { Tensor } from "../engine/tensor.ts";
import type { ModelConfig } from "./config.ts";

/** A parameter as {@link Memformer.parameters} tells of it. */
export interface Parameter {
  readonly name: string;
  readonly shape: readonly number[];
  /** Whether weight decay applies to it. */
  readonly decay: boolean;
}

/** A configuration and the parameters that fill it. */
export interface Parameterized {
  readonly config: ModelConfig;
  readonly parameters: readonly Parameter[];
  /** A parameter's values, shared with the model; the caller only reads them, and disposes of the handle. */
  ownParameter(name: string): Tensor;
}
