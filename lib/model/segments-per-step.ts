/**
 * How many segments a step of MRBP or of evaluation goes over on a GPU: small products leave one idle, and activations
 * take memory.
 */
import { architectures } from "./architectures/index.ts";
import type { ModelConfig } from "./config.ts";

/** Numbers of width in a step, beyond which a GPU gains no more: 65,536 tokens of width 512. */
const enough = 2 ** 25;
/** Of a parameter: master, gradient, AdamW's two moments, and what is computed with. */
const parameterBytes = 18;

/**
 * What the step is for: the share of the device memory left after the parameters that it may take, and what a segment
 * holds of it. Evaluation runs beside training, and keeps no activations but the segments' memories.
 */
const purposes = {
  training: { share: 3 / 5, bytes: "activationBytes" },
  scoring: { share: 1 / 5, bytes: "scoringBytes" },
} as const;

export type Purpose = keyof typeof purposes;

/** A model, and segments of B rows of T tokens for it. */
export interface StepShape {
  readonly config: ModelConfig;
  /** Numbers learned. */
  readonly parameters: number;
  readonly batch: number;
  readonly length: number;
  /** Of the device's memory. */
  readonly deviceBytes: number;
}

/**
 * As many consecutive segments as make a step that is large enough, and as the purpose's share of the memory holds; 1
 * at least.
 */
export function segmentsPerStep(
  purpose: Purpose,
  { config, parameters, batch, length, deviceBytes }: StepShape,
): number {
  const { share, bytes } = purposes[purpose];
  const wanted = Math.ceil(enough / (batch * length * config.width));
  const each = architectures[config.architecture][bytes](config, batch, length);
  const fitting = Math.floor((share * (deviceBytes - parameterBytes * parameters)) / each);
  return Math.max(1, Math.min(wanted, fitting));
}
