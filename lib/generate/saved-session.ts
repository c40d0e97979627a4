/** What a saved session of any version holds, and what it is checked for. */
import { MemformerError } from "../errors.ts";
import type { DType, NumberArray } from "../engine/tensor.ts";
import type { HostPart } from "./stored-state.ts";
import type { SamplerSettings } from "./draw.ts";

/** Everything that a session goes on with. */
export interface SessionParts {
  readonly state: readonly HostPart[];
  readonly previous: Int32Array | undefined;
  readonly current: readonly number[];
  readonly position: number;
  /** The last tokens, whose character has not been handed out. */
  readonly unfinished: readonly number[];
  /** Of the generation that began last. */
  readonly sampler: SamplerSettings | undefined;
}

/** What a session is bound to. Undefined: a session of an earlier version does not say. */
export interface SessionBinding {
  readonly weights: string | undefined;
  readonly tokenizer: { readonly name: string; readonly fingerprint: string | undefined };
}

/** The bits of a half precision number that are all set in infinity and NaN alone. */
const exponents: Partial<Record<DType, number>> = { bfloat16: 0x7f80, float16: 0x7c00 };

/** Whether numbers of a floating dtype are finite; whole ones are. */
export function allFinite(dtype: DType, numbers: NumberArray): boolean {
  const exponent = exponents[dtype];
  if (exponent !== undefined) return (numbers as Uint16Array).every((bits) => (bits & exponent) !== exponent);
  if (dtype !== "float32" && dtype !== "float64") return true;
  return (numbers as Float32Array).every((value) => Number.isFinite(value));
}

/** Of bytes that are no session. */
export function badSession(sentence: string): MemformerError {
  return new MemformerError("CHECKPOINT_FORMAT", `these bytes are not a saved session: ${sentence}`);
}

/** Of a session that this model cannot go on with. */
export function otherModel(sentence: string, details: Readonly<Record<string, unknown>>): MemformerError {
  return new MemformerError("CHECKPOINT_MISMATCH", `the session is of another model: ${sentence}`, { details });
}
